# SPDX-License-Identifier: LGPL-2.1-or-later
"""The pager: when there is one, what goes through it, and how it ends."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest

from drgn_tools.terminal.console import Console
from drgn_tools.terminal.pager import pager_command, paging

from ..support.terminal import Terminal


@pytest.mark.parametrize(
    ("environment", "command"),
    [
        ({}, "less"),
        ({"PAGER": "more -d"}, "more -d"),
        ({"PAGER": "more", "DRGN_TOOLS_PAGER": "LESS=S less"}, "LESS=S less"),
        ({"PAGER": "more", "DRGN_TOOLS_PAGER": ""}, None),
        ({"PAGER": " cat "}, None),
        ({"PAGER": "no-such-pager"}, None),
        ({"PAGER": "less 'x"}, None),
        ({"TERM": "dumb"}, None),
    ],
)
def test_which_pager(
    environment: dict[str, str], command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("PAGER", "DRGN_TOOLS_PAGER", "TERM"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    installed = ("less", "more", "cat")
    monkeypatch.setattr("shutil.which", lambda program: program if program in installed else None)
    assert pager_command() == command


def test_there_is_none_where_nobody_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DRGN_TOOLS_PAGER", "false")
    out = io.StringIO()
    monkeypatch.setattr("sys.stdout", out)
    with paging(Console()):
        print("rows")
    assert out.getvalue() == "rows\n"


# ---- on a terminal


def test_notes_and_rows_go_through_it_in_their_order(demo_core: str, tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    environment = {"DRGN_TOOLS_PAGER": f"cat > {seen}"}
    words = ["-m", "drgn_tools", "tasks", demo_core, "97", "999999"]
    shown, code = Terminal(words, environment=environment).finish()
    head, table, row, *warnings, count = seen.read_text().splitlines()
    assert "Linux 6.12" in head
    assert table.startswith("PID  COMM")
    assert "\x1b[31munreliable\x1b[0m" in row
    assert warnings == ["drgn-tools: warning: there is no task 999999"]
    assert count == "1 task: 0 reliable, 1 unreliable, 0 unknown"
    assert code == 0
    assert "unreliable" not in shown


def test_an_error_needs_no_pager(tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    environment = {"DRGN_TOOLS_PAGER": f"cat > {seen}"}
    words = ["-m", "drgn_tools", "tasks", "-c", str(tmp_path / "none")]
    shown, code = Terminal(words, environment=environment).finish()
    assert shown.startswith("drgn-tools: error: ")
    assert code == 3
    assert not seen.exists()


@pytest.mark.parametrize("option", [["--no-pager"], []], ids=["option", "variable"])
def test_no_pager(option: list[str], demo_core: str, tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    pager = f"cat > {seen}" if option else ""
    words = ["-m", "drgn_tools", "tasks", demo_core, "97", *option]
    shown, code = Terminal(words, environment={"DRGN_TOOLS_PAGER": pager}).finish()
    assert "w-kfault-write" in shown
    assert code == 0
    assert not seen.exists()


needs_less = pytest.mark.skipif(
    not any(os.access(f"{folder}/less", os.X_OK) for folder in os.get_exec_path()),
    reason="needs less",
)


@needs_less
def test_less_shows_a_short_text_and_goes(demo_core: str) -> None:
    shown, code = Terminal(["-m", "drgn_tools", "stack", demo_core, "97"], rows=90).finish()
    assert 'COMMAND: "w-kfault-write"' in shown
    assert "┌ page fault from kernel mode" in shown
    assert code == 0


@needs_less
@pytest.mark.parametrize(
    ("key", "expected"), [(b"q", {141}), (b"\x03", {130, 141})], ids=["q", "Ctrl-C"]
)
def test_less_is_left_before_the_end(key: bytes, expected: set[int], demo_core: str) -> None:
    # More than fits into a pipe: it is being written when the reader goes away. less goes on after
    # Ctrl-C; on a busy machine its end may be seen before the signal.
    words = ["-m", "drgn_tools", "tasks", demo_core, "--frames", "--format", "json"]
    terminal = Terminal(words, rows=20)
    terminal.wait_for(b'"schema"')
    terminal.type(key)
    shown, code = terminal.finish(keys=b"q")
    assert "Traceback" not in shown
    assert "Exception ignored" not in shown
    assert code in expected
