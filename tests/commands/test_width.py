# SPDX-License-Identifier: LGPL-2.1-or-later
"""A terminal of 80 columns: what every command prints about the vmcore in the package fits into it."""

from __future__ import annotations

import pytest

from drgn_tools.commands.main import main

WIDTH = 80

TABLES = (
    "tasks",
    "tasks --frames",
    "groups",
    "regs",
    "stack --all --format table",
    "stack --all --raw --format table",
    "livepatch --function pipe_read",
    "livepatch --function pipe_read --function do_wait,1",
    "livepatch --function vfs_read --all",
    "hung",
    "hung --all",
)


def lines_of(line: str, capsys: pytest.CaptureFixture[str]) -> list[str]:
    assert main([*line.split(), "--quiet"]) in (0, 5)
    return capsys.readouterr().out.splitlines()


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(WIDTH))


@pytest.mark.parametrize("line", TABLES)
def test_a_table_fits(
    line: str, narrow: None, demo_core: str, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = lines_of(f"{line} -c {demo_core}", capsys)
    assert len(lines) > 1
    assert [line for line in lines if len(line) > WIDTH] == []


def test_a_stack_fits_with_its_head_and_word_by_word(
    demo_core: str, capsys: pytest.CaptureFixture[str]
) -> None:
    drawn = lines_of(f"stack 97 -c {demo_core}", capsys)
    raw = lines_of(f"stack 97 --raw -c {demo_core}", capsys)
    assert any("COMMAND: " in line for line in drawn)
    assert any("pt_regs.ip rep_movs_alternative+0x4a" in line for line in raw)
    assert [line for line in (*drawn, *raw) if len(line) > WIDTH] == []


def test_the_words_of_the_demo_fit(narrow: None, capsys: pytest.CaptureFixture[str]) -> None:
    lines = lines_of("demo", capsys)
    assert "A real vmcore" in lines[0]
    # A command to copy stays in one line; it has the path of the package.
    assert [line for line in lines if len(line) > WIDTH and " -c " not in line] == []
