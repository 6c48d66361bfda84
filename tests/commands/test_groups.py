# SPDX-License-Identifier: LGPL-2.1-or-later
"""``groups``: identical stacks, on the command line and in the REPL."""

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
        (["groups", "-c", "a", "--by-comm"], "--by-comm works only with --format folded"),
    ],
    ids=joined,
)
def test_a_usage_error_is_one_line_and_opens_nothing(
    argv: Sequence[str], says: str, nothing_opens: None, capsys: pytest.CaptureFixture[str]
) -> None:
    refused(argv, says, capsys)


def test_groups_most_frequent_first(fabricated: None, capsys: pytest.CaptureFixture[str]) -> None:
    main(["groups", "-c", "vmcore", "--format", "json"])
    groups = json.loads(capsys.readouterr().out)["groups"]
    assert groups[0]["pids"] == list(range(10, 19))
    main(["groups", "-c", "vmcore", "--format", "folded", "--by-comm", "--pid", "10-19"])
    assert capsys.readouterr().out.startswith("kworker/10:0;ret_from_fork_asm;kthread;")


def test_repl_groups(terminal: Repl, stacks: list[TaskStack]) -> None:
    assert terminal.type("%groups").splitlines()[0].split()[0] == "COUNT"
    assert terminal.type("sum(group.count for group in _)") == str(len(stacks))
