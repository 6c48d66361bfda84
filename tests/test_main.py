# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the process imports, which is half of the time that a short command takes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LOADED = """
import sys
from drgn_tools.__main__ import main
code = main()
print(code, *sys.modules, file=sys.stderr)
"""


def modules_after(*argv: str, stdin: str = "", disabled: str = "") -> set[str]:
    """The modules that a command line has imported."""
    env = {**os.environ, "DRGN_DISABLE_PLUGINS": disabled}
    done = subprocess.run(
        [sys.executable, "-c", LOADED, *argv],
        cwd=ROOT,
        env=env,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    code, *modules = done.stderr.splitlines()[-1].split()
    assert code == "0"
    return set(modules)


@pytest.mark.parametrize("disabled", ["", "something", "*"])
def test_a_command_does_without_those_of_the_repl(demo_core: str, disabled: str) -> None:
    modules = modules_after("tasks", "-c", demo_core, disabled=disabled)
    assert "drgn" in modules
    assert (
        not {"drgn.commands._crash", "drgn_tools.commands.plugin", "drgn.helpers.linux"} & modules
    )
    assert not {"numpy", "distributed", "pyarrow"} & modules


def test_the_shell_has_them(demo_core: str) -> None:
    modules = modules_after("shell", "-c", demo_core, stdin="1")
    assert {"drgn.commands._crash", "drgn_tools.commands.plugin"} <= modules


def test_plugins_of_others_are_loaded(demo_core: str, tmp_path: Path) -> None:
    plugin = tmp_path / "theirs.py"
    plugin.write_text("import this\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DRGN_PLUGINS", f"theirs={plugin}")
        assert "this" in modules_after("tasks", "-c", demo_core)


def test_help_needs_no_drgn() -> None:
    assert "_drgn" not in modules_after("--help")
