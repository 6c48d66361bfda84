# SPDX-License-Identifier: LGPL-2.1-or-later
"""``tasks``: which tasks, in what order, ``--check``, and rows that come while a dump is read."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from drgn_tools.commands.main import main
from drgn_tools.records import KernelAudit, TaskStack, Verdict

from ..support.command_line import joined, offer, pids, refused
from ..support.fabricated import (
    AUDIT,
    KERNEL,
    ORC_KERNEL,
    ORC_TASK,
    RUNNING,
    SLEEPER,
    TASKS,
    UNREADABLE,
)
from ..support.repl import Repl


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["tasks", "-c", "a", "--format", "folded"], "no format 'folded'"),
        (["tasks", "-c", "a", "--pid", "x"], "not 'x'; use --comm for a name"),
        (["tasks", "-c", "a", "--pid", "1,,2"], "not ''; use --comm for a name"),
        (["tasks", "-c", "a", "--pid", "1,9-5"], "'9-5' is an empty range: give 5-9"),
        (
            ["tasks", "-c", "a", "--function", "f+0x8"],
            "leave it out of 'f+0x8', as in --function f",
        ),
        (["tasks", "-c", "a", "--state", "Q"], "'Q' is not a state"),
        (["tasks", "-c", "a", "--state", ""], "'' is not a state"),
        (
            ["tasks", "-c", "a", "--verdict", "bad"],
            "'bad' is not a verdict: the verdicts are reliable",
        ),
        (["tasks", "-c", "a", "--sort", "dept"], "no column 'dept': did you mean depth?"),
        (["tasks", "-c", "a", "--sort", "pid,,cpu"], "not 'pid,,cpu'"),
        (["tasks", "-c", "a", "--columns", "pdi"], "no column 'pdi': did you mean pid?"),
        (["tasks", "-c", "a", "--columns", "regs", "--format", "csv"], "no column 'regs'"),
    ],
    ids=joined,
)
def test_a_usage_error_is_one_line_and_opens_nothing(
    argv: Sequence[str], says: str, nothing_opens: None, capsys: pytest.CaptureFixture[str]
) -> None:
    refused(argv, says, capsys)


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ([], [task.pid for task in TASKS]),
        (["--pid", "1"], [1]),
        (["--pid", "1,50-52", "--pid", "60"], [1, 51, 52, 60]),
        (["--comm", "kworker/1[0-2]:0"], [10, 11, 12]),
        (["--comm", "init", "--comm", "zombie"], [1, 60]),
        (["--state", "DZ"], [54, 60]),
        (["--state", "D,Z"], [54, 60]),
        (["--function", "handle_userfault"], [51]),
        (["--function", "*_thread"], list(range(10, 19))),
        (["--pid", "0x33,50-0x34"], [51, 52]),
        (["51-52", "0x1"], [1, 51, 52]),
        (["51", "--pid", "1"], [1, 51]),
        (["--function", "vfs_*", "--state", "R"], [52]),
        (["--verdict", "unknown"], [57, 61, 58]),
        (["--verdict", "unknown,reliable", "--comm", "reader"], [58]),
        (["--sort", "-depth", "--pid", "50-60"], [55, 51, 52, 56, 53, 58, 59, 54, 57, 60]),
        (["--sort", "depth", "--pid", "54-60"], [54, 57, 60, 59, 58, 56, 55]),
        (["--sort", "verdict,-pid", "--pid", "50-60"], [55, 54, 53, 52, 51, 58, 57, 60, 59, 56]),
        (["--sort=-task", "51-53"], [53, 52, 51]),
        (["init,50-52", "kworker/1[01]:0"], [1, 10, 11, 51, 52]),
        (["50-60", "--state", "R", "--function", "vfs_*"], [52]),
        ([f"{TASKS[10].task:x}"], [TASKS[10].pid]),
        ([f"{TASKS[10].task:#x},1"], [1, TASKS[10].pid]),
        (["--on-cpu"], [57, 61]),
        (["--sort", "verdict", "--pid", "50-60"], [51, 52, 53, 54, 55, 57, 58, 56, 59, 60]),
    ],
    ids=joined,
)
def test_tasks_are_chosen_and_ordered(
    options: Sequence[str],
    found: list[int],
    fabricated: None,
    capsys: pytest.CaptureFixture[str],
) -> None:
    main(["tasks", "-c", "vmcore", "--format", "json", *options])
    assert pids(capsys.readouterr().out) == found


def test_what_csv_has_is_whole_in_a_table_that_no_terminal_shows(
    demo_core: str, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["tasks", demo_core, "--format", "csv"])
    records = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    main(["tasks", demo_core])
    rows = capsys.readouterr().out.splitlines()[1:]
    assert len(rows) == len(records)
    for row, record in zip(rows, records):
        assert record["comm"] in row
        assert record["function"].partition("+")[0] in row
        assert record["why"] in row


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["51", "99", "0x60"], "there is no task 99\ndrgn-tools: warning: there is no task 96\n"),
        (["51", f"{TASKS[10].task + 64:x}"], f"there is no task {TASKS[10].task + 64:#x}\n"),
        (["51", "--state", "D", "54"], ""),
        (["99"], "no task matches 99\n"),
        (["D"], "no task matches D: --state D chooses by the state\n"),
        (
            ["unreliable"],
            "no task matches unreliable: --verdict unreliable chooses by the verdict\n",
        ),
        (
            ["vfs_*"],
            "no task matches 'vfs_*': --function 'vfs_*' chooses by functions on the stack\n",
        ),
        (["t/nofile"], "no task matches t/nofile, and there is no such file\n"),
        (["nobody/*"], "no task matches 'nobody/*'\n"),
        (["/dev/null"], "no task matches /dev/null: it is a file, but another kernel was chosen\n"),
    ],
    ids=joined,
)
def test_who_is_not_there_is_named(
    words: list[str], says: str, sound: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["tasks", "-c", "vmcore", "-q", *words]) == 0
    assert capsys.readouterr().err == (f"drgn-tools: warning: {says}" if says else "")


@pytest.mark.parametrize(
    ("tasks", "problems", "options", "code"),
    [
        ([SLEEPER], (), [], 0),
        ([SLEEPER], (), ["--check"], 0),
        (TASKS[10:11], (), [], 0),
        (TASKS[10:11], (), ["--check"], 1),
        (TASKS[10:11], (), ["--check", "--state", "D"], 0),
        ([ORC_TASK], (), [], 0),
        ([ORC_TASK], (), ["--check"], 5),
        ([ORC_TASK], (), ["--check", "--verdict", "unreliable"], 5),
        ([ORC_TASK, SLEEPER], (), ["--check", "--pid", "1"], 0),
        ([ORC_TASK, *TASKS[11:12]], (), ["--check"], 1),
        ([RUNNING], (), ["--check"], 0),
        ([UNREADABLE], (), [], 5),
        ([UNREADABLE], (), ["--check"], 5),
        ([UNREADABLE, SLEEPER], (), ["--pid", "1"], 0),
        ([SLEEPER], ("a hole",), [], 5),
        ([UNREADABLE, *TASKS[10:11]], (), ["--check"], 1),
        ([], (), [], 0),
    ],
)
def test_exit_code(
    tasks: Sequence[TaskStack],
    problems: tuple[str, ...],
    options: list[str],
    code: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    offer(monkeypatch, KernelAudit(KERNEL, tuple(tasks), problems))
    assert main(["tasks", "-c", "vmcore", *options]) == code


def test_check_says_what_could_not_be_judged(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    offer(monkeypatch, KernelAudit(ORC_KERNEL, (ORC_TASK, ORC_TASK, UNREADABLE, RUNNING)))
    assert main(["tasks", "-k", "--check", "-q"]) == 5
    assert capsys.readouterr().err == (
        "drgn-tools: warning: 3 tasks could not be judged: 2 orc_unclear "
        "(this kernel uses the ORC unwinder, but its symbols do not say where the ORC tables are), 1 unreadable\n"
    )


@pytest.mark.parametrize("style", ["json", "jsonl", "csv"])
def test_rows_come_while_the_dump_is_read(
    style: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class UnderWay:
        kernel = KERNEL

        def __init__(self) -> None:
            self.problems: list[str] = []

        def __iter__(self) -> Iterator[TaskStack]:
            for task in TASKS:
                yield task
                rows.append(capsys.readouterr().out.count("\n"))
            self.problems.append("the list is damaged")

    rows: list[int] = []
    offer(monkeypatch, AUDIT)
    monkeypatch.setattr("drgn_tools.analysis.audit.audit_under_way", lambda *_, **__: UnderWay())
    assert main(["tasks", "-c", "vmcore", "--format", style]) == 5
    out, err = capsys.readouterr()
    # JSON is one behind, for the comma.
    assert rows[2:] == [1] * (len(TASKS) - 2)
    assert "the list is damaged" in err
    assert ("the list is damaged" in out) == (style == "json")


# ---- in the REPL


def test_repl_says_that_no_task_matches(terminal: Repl) -> None:
    assert "warning: no task matches 999999" in terminal.type("%tasks 999999")
    assert terminal.type("_") == "[]"
    # No word is a file here.
    warning = terminal.type("%tasks t/nofile").splitlines()[0]
    assert warning == "drgn-tools: warning: no task matches t/nofile"


def test_repl_tasks_lists_every_task_once(terminal: Repl, stacks: list[TaskStack]) -> None:
    header, *rows = terminal.type("%tasks").splitlines()
    assert header.split()[:5] == ["PID", "COMM", "S", "CPU", "VERDICT"]
    assert [int(row.split()[0]) for row in rows] == [s.pid for s in stacks]
    assert terminal.type("len(_)") == str(len(stacks))


def test_repl_pipes(terminal: Repl, stacks: list[TaskStack]) -> None:
    unreliable = [s for s in stacks if s.verdict is Verdict.UNRELIABLE]
    rows = terminal.type("%tasks | grep unreliable").splitlines()
    assert [int(row.split()[0]) for row in rows] == [s.pid for s in unreliable]
    assert len(terminal.type("%tasks | head -1").splitlines()) == 1


def test_repl_redirects(terminal: Repl, stacks: list[TaskStack], tmp_path: Path) -> None:
    file = tmp_path / "tasks"
    assert terminal.type(f"%tasks > {file}") == ""
    assert len(file.read_text().splitlines()) == 1 + len(stacks)
