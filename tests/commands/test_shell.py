# SPDX-License-Identifier: LGPL-2.1-or-later
"""``shell``: drgn's REPL on a terminal, or a script from standard input."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Callable

import drgn
import pytest

from drgn_tools.commands.main import main

from ..support.command_line import ROOT, joined, refused


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["--format", "json", "shell", "-c", "a"], "shell has no --format"),
        (["shell", "-c", "a", "--format", "json"], "there is no option --format"),
    ],
    ids=joined,
)
def test_a_usage_error_is_one_line_and_opens_nothing(
    argv: Sequence[str], says: str, nothing_opens: None, capsys: pytest.CaptureFixture[str]
) -> None:
    refused(argv, says, capsys)


@pytest.fixture
def script(
    monkeypatch: pytest.MonkeyPatch, sound: None, capsys: pytest.CaptureFixture[str]
) -> Callable[[str], tuple[object, str, str]]:
    """Feeds a script to ``shell``: exit code, stdout, stderr."""
    monkeypatch.setattr("drgn_tools.program.open.open_program", lambda **_: drgn.Program())

    def run(text: str) -> tuple[object, str, str]:
        monkeypatch.setattr("sys.stdin", io.StringIO(text))
        monkeypatch.setattr("sys.argv", sys.argv)
        return (main(["shell", "-c", "vmcore", "-q"]), *capsys.readouterr())

    return run


def test_shell_runs_a_script_from_stdin(script: Callable[[str], tuple[object, str, str]]) -> None:
    text = "print(type(prog).__name__, task_stack.__name__, task_stacks.__name__, __name__)"
    assert script(text) == (0, "Program task_stack task_stacks __main__\n", "")


@pytest.mark.parametrize(("text", "says"), [("1/0", "ZeroDivisionError"), ("(", "SyntaxError")])
def test_a_script_that_fails_is_no_bug_of_ours(
    text: str, says: str, script: Callable[[str], tuple[object, str, str]]
) -> None:
    code, out, err = script(text)
    assert (code, out) == (1, "")
    assert says in err
    assert "bug" not in err
    assert "shell.py" not in err


def test_a_script_chooses_its_exit_code(script: Callable[[str], tuple[object, str, str]]) -> None:
    with pytest.raises(SystemExit) as end:
        script("raise SystemExit(3)")
    assert end.value.code == 3


def test_shell_is_drgns_repl_on_a_terminal(demo_core: str, tmp_path: Path) -> None:
    ours, theirs = os.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "drgn_tools", "shell", "-c", demo_core],
        cwd=ROOT,
        env={**os.environ, "TERM": "dumb", "HOME": str(tmp_path), "XDG_STATE_HOME": str(tmp_path)},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    with contextlib.closing(os.fdopen(ours, "rb+", buffering=0)) as terminal:
        terminal.write(b"task_stack(1)\n%tasks --pid 1\nexit()\n")
        text = b""
        # The terminal's other end is closed when the REPL has ended.
        with contextlib.suppress(OSError):
            while chunk := terminal.read(4096):
                text += chunk
    assert process.wait(60) == 0
    imported = (
        b"from drgn_tools import crashed_stack, declare, hung_tasks, kernel_info,"
        b" livepatch_answers, task_stack, task_stacks"
    )
    assert imported in b" ".join(text.split())
    assert b"PID: 1  TASK: " in text
    assert b"PID  COMM" in text
    assert b"Traceback" not in text
