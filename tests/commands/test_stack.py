# SPDX-License-Identifier: LGPL-2.1-or-later
"""``stack``: which stacks, on the command line and in the REPL."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from drgn_tools.commands.main import main
from drgn_tools.records import TaskStack, Verdict

from ..support.command_line import joined, refused
from ..support.fabricated import TASKS
from ..support.repl import Repl


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["stack", "-k"], "stack of which task?"),
        (["stack", "-c", "a", "1", "--all"], "--all is every task: leave it out, or 1"),
        (["stack", "-c", "a", "--on-cpu", "--all"], "leave it out, or --on-cpu"),
        (["stack", "README.md", "LICENSE"], "'README.md' and 'LICENSE' are both files"),
        (
            ["stack", "-c", "a", "0xffff888000000000ffff"],
            "does not name a task: give a PID (51), a range",
        ),
        (["stack", "-c", "a", "1_0"], "'1_0' does not name a task"),
        (["stack", "-c", "a", "1,,2"], "'' does not name a task"),
        (["stack", "-c", "a", "1-"], "'1-' does not name a task"),
        (["stack", "-c", "a", "0x"], "'0x' does not name a task"),
        (["stack", "-c", "a", "9-5"], "'9-5' is an empty range: give 5-9"),
        (["stack", "-c", "a", "9999999"], "'9999999' is not a PID: the largest is 4194303"),
        (["stack", "-c", "a", "00000051"], "not the address of a task; as a PID it is 81"),
        (["stack", "-c", "a", "--columns", "pid"], "add --format table, csv or json"),
    ],
    ids=joined,
)
def test_a_usage_error_is_one_line_and_opens_nothing(
    argv: Sequence[str], says: str, nothing_opens: None, capsys: pytest.CaptureFixture[str]
) -> None:
    refused(argv, says, capsys)


def test_stack_of_an_unknown_task_shows_none(
    fabricated: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["stack", "-c", "vmcore", "51", "99999"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "drgn-tools: error: no task with pid 99999 in /var/crash/vmcore\n"


@pytest.mark.parametrize(
    "which",
    ["51", "0x33", f"{TASKS[10].task:#x}", f"{TASKS[10].task:x}", f"0X{TASKS[10].task:X}"],
)
def test_stack_takes_pids_and_addresses(
    which: str, fabricated: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["stack", "-c", "vmcore", which]) == 0
    assert capsys.readouterr().out.startswith("PID: 51  ")


def test_stack_of_several_tasks(fabricated: None, capsys: pytest.CaptureFixture[str]) -> None:
    main(["stack", "-c", "vmcore", "51", "1"])
    blocks = capsys.readouterr().out.split("\n\n")
    assert [block.split("  ")[0] for block in blocks] == ["PID: 51", "PID: 1"]
    main(["stack", "-c", "vmcore", "--all", "--format", "jsonl"])
    assert len(capsys.readouterr().out.splitlines()) == len(TASKS)


# ---- in the REPL


def test_repl_stack_draws_and_keeps_the_record(terminal: Repl, interrupted: TaskStack) -> None:
    drawn = terminal.type(f"%stack {interrupted.pid}")
    assert drawn == str(interrupted)
    assert terminal.type("(len(_), _[0].pid)") == f"(1, {interrupted.pid})"


def test_repl_stack_of_nothing_draws_all_that_are_unreliable(
    terminal: Repl, stacks: list[TaskStack]
) -> None:
    expected = [str(s) for s in stacks if s.verdict is Verdict.UNRELIABLE]
    note, drawn = terminal.type("%stack").split("\n", 1)
    assert note == "no task crashed this kernel; these stacks are unreliable"
    assert drawn == "\n\n".join(expected)


def test_repl_stack_takes_the_filters_of_tasks(terminal: Repl, stacks: list[TaskStack]) -> None:
    expected = [str(s) for s in stacks if s.comm.startswith("w-kfault-")]
    assert len(expected) > 3
    assert terminal.type("%stack --comm 'w-kfault-*'") == "\n\n".join(expected)


def test_repl_stack_says_that_no_task_matches(terminal: Repl) -> None:
    assert (
        terminal.type("%stack --comm nobody")
        == "drgn-tools: warning: no task matches --comm nobody"
    )
    assert terminal.type("_") == "[]"
