# SPDX-License-Identifier: LGPL-2.1-or-later
"""Imports point down the list of layers, never up, and the maps name the layers that there are."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import drgn_tools

PACKAGE = Path(drgn_tools.__file__).parent
ROOT = PACKAGE.parent

LAYERS = (
    "commands",
    "fleet",
    "render",
    "terminal",
    "analysis",
    "engine",
    "verdict",
    "unwind",
    "program",
    "arch",
    "kernel",
    "debuginfo",
)
"""The folders from the top down. A module may import from its own and from those below."""

TOP_LEVEL = {path.stem for path in PACKAGE.glob("[!_]*.py")}
"""Modules that lie in no folder: below all layers, whoever is above may use them."""

FLEET_LAYERS = (("run", "report"), ("dataset",))
"""Of fleet/ in itself: a run writes a dataset, a report reads one, neither needs the other."""

FRONT_DOOR = "analysis"
"""What the package itself offers comes from there, and only the layers from it up may ask for it."""

IMPORT_ANYTHING = {Path("__init__.py"), Path("__main__.py")}
"""The front door, and what hands over to the command line."""

NO_CODE = "data"

GUESSES_OF_THE_MACHINE = re.compile(
    r"word_bytes\s*[!=]=|address_size\(\)\s*[!=]=|[!=]=\s*\w*word_bytes"
)
MAY_ASK_THE_MACHINE = ("arch", "debuginfo")

MODULES = sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py"))


class Import(NamedTuple):
    line: int
    target: str
    """Below the package: ``kernel.tasks``, or ``kernel`` for a name that is no module of it."""


def imports_of(module: Path, source: str) -> Iterator[Import]:
    """Every import of this package in a module: relative and absolute, in functions, for types."""
    package = ("drgn_tools", *module.parts[:-1])
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            base = ".".join(filter(None, (base, node.module)))
            # "from .. import kernel" names the layer only here.
            names = [f"{base}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            parts = name.split(".")
            if parts[0] == "drgn_tools":
                yield Import(node.lineno, ".".join(parts[1:]))


def level_of(name: str) -> int:
    """How far down something below the package lies; 0 is the top."""
    if name in LAYERS:
        return LAYERS.index(name)
    if name in TOP_LEVEL or name in (NO_CODE, "__version__"):
        return len(LAYERS)
    return LAYERS.index(FRONT_DOOR)


def points_up_in_fleet(folder: str, target: str) -> bool:
    """Does one folder of fleet/ import from another that does not lie below it?"""
    levels = {name: level for level, names in enumerate(FLEET_LAYERS) for name in names}
    if folder == target or not {folder, target} <= levels.keys():
        return False
    return levels[target] <= levels[folder]


def faults_of(module: Path, source: str) -> list[str]:
    """The imports of a module that point up, a sentence each."""
    parts = module.with_suffix("").parts
    faults = []
    for line, target in imports_of(module, source):
        to = target.split(".")
        up = level_of(to[0]) < level_of(parts[0])
        if parts[0] == to[0] == "fleet" and len(to) > 1:
            up = up or points_up_in_fleet(parts[1], to[1])
        if up:
            faults.append(f"{module}:{line} imports {target or 'the package itself'}")
    return faults


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_imports_point_down(module: Path) -> None:
    if module in IMPORT_ANYTHING:
        return
    assert faults_of(module, (PACKAGE / module).read_text()) == []


@pytest.mark.parametrize(
    ("module", "source", "up"),
    [
        ("kernel/tasks.py", "from ..engine.frames import Frames", True),
        ("kernel/tasks.py", "from .. import engine", True),
        ("kernel/tasks.py", "import drgn_tools.engine.frames", True),
        ("kernel/tasks.py", "from drgn_tools.engine import frames", True),
        ("kernel/tasks.py", "def f():\n    from ..engine import frames", True),
        ("kernel/tasks.py", "if TYPE_CHECKING:\n    from ..engine import frames", True),
        ("kernel/tasks.py", "from .. import task_stacks", True),
        ("kernel/tasks.py", "import drgn_tools", True),
        ("render/views.py", "from .. import task_stacks, __version__", False),
        ("kernel/tasks.py", "from .. import __version__", False),
        (
            "kernel/tasks.py",
            "from . import text\nfrom ..memory import UNUSABLE\nimport drgn",
            False,
        ),
        ("arch/x86/stacks.py", "from ...kernel.tasks import Task\nfrom ..base import Arch", False),
        ("arch/x86/stacks.py", "from ...unwind.base import Walk", True),
        ("memory.py", "from .kernel import tasks", True),
        ("memory.py", "from .errors import InputError", False),
        ("fleet/run/one.py", "from ..dataset.schema import X\nfrom .job import Y", False),
        ("fleet/report/page.py", "from ..dataset.views import X", False),
        ("fleet/dataset/views.py", "from ..run.job import X", True),
        ("fleet/dataset/views.py", "from ..report import page", True),
        ("fleet/report/page.py", "from ..run.job import X", True),
        ("fleet/run/one.py", "from ..report.page import X", True),
    ],
)
def test_every_kind_of_import_is_seen(module: str, source: str, up: bool) -> None:
    assert bool(faults_of(Path(module), source)) is up


def test_every_folder_is_a_layer() -> None:
    assert {module.parts[0] for module in MODULES if module.parts[1:]} == {*LAYERS, NO_CODE}
    in_fleet = {module.parts[1] for module in MODULES if module.parts[0] == "fleet"}
    assert in_fleet - {"__init__.py"} == {name for layer in FLEET_LAYERS for name in layer}


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_what_the_machine_is_arch_says(module: Path) -> None:
    if module.parts[0] in MAY_ASK_THE_MACHINE:
        return
    lines = (PACKAGE / module).read_text().splitlines()
    assert [line for line in lines if GUESSES_OF_THE_MACHINE.search(line)] == []


# ---- the maps


def test_the_docstring_of_the_package_has_the_layers_as_they_are() -> None:
    assert drgn_tools.__doc__ is not None
    *named, rest = re.findall(r"^    (\w+(?: {2,}|, )\S.*)$", drgn_tools.__doc__, re.M)
    assert [line.split()[0] for line in named] == list(LAYERS)
    assert set(rest.split(", ")) == TOP_LEVEL


def test_contributing_has_the_layers_as_they_are() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    assert re.findall(r"^\| `(\w+)/` \|", text, re.M) == list(LAYERS)
    (rest,) = re.findall(r"^\| (`\w+\.py`.*?) \|", text, re.M)
    assert set(re.findall(r"`(\w+)\.py`", rest)) == TOP_LEVEL
