# SPDX-License-Identifier: LGPL-2.1-or-later
"""Fixtures: the bundled vmcore, and the lab's dumps where the lab has been run.

Property tests draw the same examples in each run. ``pytest --hypothesis-profile explore`` draws
others, and more of them; ``make mutants`` takes the profile ``mutants``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import drgn
import pytest
from hypothesis import HealthCheck, Phase, settings

from drgn_tools import open_program

from .lab.arm64_livepatch import cached_arm64_livepatch
from .lab.cache import cache_dir
from .lab.debian_live import cached_live_of
from .lab.dump import Dump, cached_dump
from .lab.hung import HungDump, cached_hung
from .lab.live import LiveRun
from .lab.livepatch import LivepatchDump, cached_livepatch
from .lab.variants import Variant

LAB_VARIABLE = "DRGN_TOOLS_LAB_DUMPS"
"""Folder with the lab's dumps (``make lab``). Set, a dump that is missing fails; unset, it skips."""


LAB_TIMEOUT_S = 3600
"""A test of the lab may look at each of its dumps, and run guests and fleets."""

# A busy machine is slow to draw examples: that is no fault of a test.
settings.register_profile(
    "repeatable",
    max_examples=200,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile(
    "explore", settings.get_profile("repeatable"), max_examples=20_000, derandomize=False
)
# That a mutant is caught is enough: the smallest example that does it is not wanted.
settings.register_profile(
    "mutants", settings.get_profile("repeatable"), max_examples=40, phases=[Phase.generate]
)
settings.load_profile("repeatable")


def pytest_configure(config: pytest.Config) -> None:
    # Of the terminal that the tests run in, or of pytest-xdist: tables would have its width, and not that of a pipe.
    os.environ.pop("COLUMNS", None)
    config.addinivalue_line("markers", "lab: needs the lab's dumps (make test-lab)")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give the tests of the lab the time that they need."""
    for item in items:
        if item.get_closest_marker("lab") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(LAB_TIMEOUT_S))


@pytest.fixture(scope="session")
def demo_core() -> str:
    """Path of the vmcore in the package, unpacked; ``DRGN_TOOLS_DEMO_CORE`` names another."""
    given = os.environ.get("DRGN_TOOLS_DEMO_CORE")
    if given:
        return given
    from drgn_tools.data import demo_vmcore
    from drgn_tools.program.unpack import unpacked

    return str(unpacked(str(demo_vmcore())))


@pytest.fixture(scope="session")
def demo_program(demo_core: str) -> drgn.Program:
    """The bundled vmcore, opened with nothing beside it."""
    return open_program(core=demo_core)


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    # Tests leave the user's cache alone, but unpack the demo core only once; what the
    # lab made stays where it is.
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DRGN_TOOLS_LAB_CACHE", str(cache_dir()))
        if "XDG_CACHE_HOME" not in os.environ:
            patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


def lab_file(name: str) -> Path:
    """A file of the lab's dumps, or skip (lab not run) or fail (lab run, file missing)."""
    folder = os.environ.get(LAB_VARIABLE)
    if not folder:
        pytest.skip(f"needs the lab's dumps: make test-lab (no {LAB_VARIABLE})")
    path = Path(folder) / name
    if not path.exists():
        pytest.fail(f"the lab was meant to run, but {path} is missing")
    return path


def lab_vmlinux(variant: str) -> str:
    """Path of the vmlinux of a lab dump, in the lab's cache."""
    facts = json.loads(lab_file(f"{variant}.json").read_text())
    vmlinux = str(facts["vmlinux"])
    if not os.path.exists(vmlinux):
        pytest.fail(f"the lab was meant to run, but {vmlinux} is missing")
    return vmlinux


GROUPS_VARIABLE = "DRGN_TOOLS_LAB_GROUPS"
"""Groups of lab variants beyond the core whose dumps must be in the lab's cache."""


def need_group(group: str) -> None:
    """Skip where a group of lab variants was not asked for."""
    if group not in os.environ.get(GROUPS_VARIABLE, "").split():
        pytest.skip(f"needs the lab's group {group} (not in {GROUPS_VARIABLE})")


def lab_run(variant: Variant) -> LiveRun:
    """What a live guest found with this very project in it; skip or fail as lab_dump() does."""
    need_group(variant.group)
    run = cached_live_of(variant)
    if run is None:
        pytest.fail(f"the lab was meant to run {variant.name}, but it is not in its cache")
    return run


def lab_dump(variant: Variant) -> Dump:
    """A dump in the lab's cache, or skip (group not asked for) or fail (asked for, missing)."""
    need_group(variant.group)
    dump = cached_dump(variant)
    if dump is None:
        pytest.fail(f"the lab was meant to make {variant.name}, but it is not in its cache")
    return dump


def lab_livepatch(variant: Variant) -> LivepatchDump:
    """The dumps of a machine with a live patch; skip or fail as lab_dump() does."""
    need_group(variant.group)
    cached = cached_arm64_livepatch if variant.kernel.arch == "aarch64" else cached_livepatch
    dump = cached(variant)
    if dump is None:
        pytest.fail(f"the lab was meant to make {variant.name}, but it is not in its cache")
    return dump


def lab_hung(variant: Variant) -> HungDump:
    """The dump of a machine that hangs; skip or fail as lab_dump() does."""
    need_group(variant.group)
    dump = cached_hung(variant)
    if dump is None:
        pytest.fail(f"the lab was meant to make {variant.name}, but it is not in its cache")
    return dump
