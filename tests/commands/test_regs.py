# SPDX-License-Identifier: LGPL-2.1-or-later
"""``regs``: which registers, on the command line and in the REPL."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest

from drgn_tools.commands.main import main
from drgn_tools.records import TaskStack

from ..support.command_line import joined, refused
from ..support.repl import Repl


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["regs", "-c", "a", "--format", "text"], "no format 'text'"),
        (["regs", "-c", "a", "1", "1-x"], "'1-x' does not name a task"),
        (["regs", "-c", "a", "--mode", "both"], "--mode"),
        (["regs", "-c", "a", "--max-tasks", "0"], "--max-tasks takes a number"),
    ],
    ids=joined,
)
def test_a_usage_error_is_one_line_and_opens_nothing(
    argv: Sequence[str], says: str, nothing_opens: None, capsys: pytest.CaptureFixture[str]
) -> None:
    refused(argv, says, capsys)


def test_regs_of_one_mode(fabricated: None, capsys: pytest.CaptureFixture[str]) -> None:
    main(["regs", "-c", "vmcore", "--format", "json", "--mode", "kernel", "--pid", "1-60"])
    regs = json.loads(capsys.readouterr().out)["regs"]
    assert [(found["pid"], found["user_mode"]) for found in regs] == [(51, False), (52, False)]


def test_repl_regs(terminal: Repl, stacks: list[TaskStack]) -> None:
    header, *rows = terminal.type("%regs --mode kernel").splitlines()
    assert header.split()[:3] == ["PID", "COMM", "PT_REGS"]
    addresses = [f"{r.address:x}" for s in stacks for r in s.regs if not r.user_mode]
    assert [address in row for address, row in zip(addresses, rows)] == [True] * len(rows)
    assert len(rows) == len(addresses)
