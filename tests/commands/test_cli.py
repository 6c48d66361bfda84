# SPDX-License-Identifier: LGPL-2.1-or-later
"""The command line, mostly in this process and on records made by hand: what it says, where, and the exit code."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Callable, Optional

import drgn
import pytest

from drgn_tools import __version__
from drgn_tools.analysis import fields
from drgn_tools.analysis.queries import SORT_KEYS, STATES
from drgn_tools.commands.cli import COMMANDS, main
from drgn_tools.errors import InputError, TaskNotFoundError, TypesError
from drgn_tools.records import KernelAudit, Reason, TaskStack, Verdict
from drgn_tools.terminal.console import Console

from ..support.fabricated import (
    AUDIT,
    FAULTING,
    HOSTILE,
    KERNEL,
    ORC_KERNEL,
    ORC_TASK,
    RUNNING,
    SLEEPER,
    TASKS,
    UNREADABLE,
)

ROOT = Path(__file__).parents[2]
SOUND = KernelAudit(KERNEL, tuple(task for task in TASKS if task.reason is not Reason.UNREADABLE))
"""Nothing that could not be read."""


def offer(monkeypatch: pytest.MonkeyPatch, audit: KernelAudit) -> None:
    """Let the command line find *audit* in whatever it opens."""

    def audit_kernel(
        prog: object, progress: Optional[Callable[[int], None]], max_tasks: Optional[int]
    ) -> KernelAudit:
        for done in range(len(audit)):
            if progress is not None:
                progress(done + 1)
        return audit

    def task_stack(prog: object, which: int) -> TaskStack:
        for task in audit:
            if which in (task.pid, task.task):
                return task
        raise TaskNotFoundError(f"no task with pid {which} in {audit.kernel.source}")

    monkeypatch.setattr("drgn_tools.program.open.open_program", lambda **_: object())
    for name in ("audit_kernel", "audit_under_way"):
        monkeypatch.setattr(f"drgn_tools.analysis.audit.{name}", audit_kernel)
    monkeypatch.setattr("drgn_tools.analysis.audit.task_stack", task_stack)
    monkeypatch.setattr("drgn_tools.analysis.audit.kernel_info", lambda prog: audit.kernel)
    crashed = next((task for task in audit if "crashed" in task.flags), None)
    monkeypatch.setattr("drgn_tools.analysis.audit.crashed_stack", lambda prog: crashed)


@pytest.fixture
def fabricated(monkeypatch: pytest.MonkeyPatch) -> None:
    offer(monkeypatch, AUDIT)


@pytest.fixture
def sound(monkeypatch: pytest.MonkeyPatch) -> None:
    offer(monkeypatch, SOUND)


@pytest.fixture
def nothing_opens(monkeypatch: pytest.MonkeyPatch) -> None:
    def open_program(**_: object) -> None:
        pytest.fail("a dump was opened")

    monkeypatch.setattr("drgn_tools.program.open.open_program", open_program)


def pids(text: str) -> list[int]:
    return [task["pid"] for task in json.loads(text)["tasks"]]


def joined(value: object) -> str:
    """The id of a test: its command line."""
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


# ---- mistakes


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        ([], "COMMAND"),
        (["nonsense"], "'nonsense'"),
        (["tasks"], "give -c VMCORE, -k for the running kernel, or --qemu SOCKET"),
        (["tasks", "-c", "a", "-k"], "-c and -k exclude each other"),
        (["-k", "tasks", "--qemu", "a"], "-k and --qemu exclude each other"),
        (["tasks", "-c"], "-c/--core"),
        (["tasks", "-c", "a", "--format", "jsn"], "no format 'jsn': did you mean json?"),
        (["tasks", "-c", "a", "--format", "folded"], "no format 'folded'"),
        (["regs", "-c", "a", "--format", "text"], "no format 'text'"),
        (["shell", "-c", "a", "--format", "json"], "shell has no --format"),
        (["tasks", "-c", "a", "-c", "b"], "-c a and -c b: give one"),
        (["tasks", "-c", "a", "--format", "JSN"], "did you mean json? there are table, json,"),
        (["groups", "-c", "a", "--by-comm"], "--by-comm is of --format folded"),
        (["tasks", "-c", "a", "--pid", "x"], "'x' is no list of PIDs"),
        (["tasks", "-c", "a", "--pid", "1,,2"], "'1,,2' is no list of PIDs"),
        (["tasks", "-c", "a", "--pid", "1-"], "'1-' is no list of PIDs"),
        (["tasks", "-c", "a", "--pid", "1_0"], "'1_0' is no list of PIDs"),
        (["tasks", "-c", "a", "--pid", "0x"], "'0x' is no list of PIDs"),
        (["tasks", "-c", "a", "--pid", "1,9-5"], "'1,9-5' has an empty range"),
        (["regs", "-c", "a", "1", "x"], "'x' is no list of PIDs"),
        (
            ["tasks", "-c", "a", "--function", "f+0x8"],
            "leave it out of 'f+0x8', as in --function f",
        ),
        (["tasks", "-c", "a", "--state", "Q"], "'Q' is no state"),
        (["tasks", "-c", "a", "--state", ""], "'' is no state"),
        (["tasks", "-c", "a", "--verdict", "bad"], "'bad' is no verdict: there are reliable"),
        (["tasks", "-c", "a", "--sort", "size"], "--sort"),
        (["tasks", "-c", "a", "extra"], "extra"),
        (["tasks", "-c", "a", "--frame"], "--frame"),
        (["tasks", "-c", "a", "--log-level", "loud"], "--log-level"),
        (["stack", "-k"], "stack of which task?"),
        (["stack", "-c", "a", "1", "--all"], "one of these"),
        (["stack", "-c", "a", "--on-cpu", "--all"], "one of these"),
        (["stack", "README.md"], "'README.md' is a file, and no task"),
        (["stack", "-c", "a", "1", "--comm", "x"], "one of these"),
        (["stack", "-c", "a", "x"], "'x' is neither a PID nor the address of a task"),
        (["stack", "-c", "a", "0xffff888000000000ffff"], "neither a PID nor the address"),
        (["stack", "-c", "a", "1_0"], "neither a PID"),
        (["regs", "-c", "a", "--mode", "both"], "--mode"),
        (["demo", "-c", "a"], "demo brings its own vmcore"),
        (["tasks", "-k", "--watch", "0"], "--watch takes seconds"),
        (["tasks", "-k", "--watch", "soon"], "--watch takes seconds"),
        (["tasks", "-k", "--watch", "nan"], "--watch takes seconds"),
        (["tasks", "-c", "a", "--watch", "1"], "nothing changes in a vmcore"),
        (["tasks", "-k", "--until-reliable"], "--until-reliable is of --watch"),
        (["tasks", "-k", "--watch", "1", "--frames"], "--frames and --sort are of the list"),
        (["tasks", "-k", "--watch", "1", "--format", "csv"], "there are table and jsonl"),
        (["regs", "-c", "a", "--max-tasks", "0"], "--max-tasks takes a number"),
    ],
    ids=joined,
)
def test_a_usage_error_is_one_line_and_opens_nothing(
    argv: Sequence[str], says: str, nothing_opens: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(argv) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("drgn-tools: error: ")
    assert err.count("\n") == 1
    assert says in err


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InputError("vmcore: not a vmcore"), 3),
        (TypesError("vmcore: no BTF, and no -s"), 4),
        (TaskNotFoundError("no task with pid 5 in vmcore"), 2),
    ],
    ids=["input", "types", "task"],
)
def test_an_error_is_one_line_and_has_its_exit_code(
    error: Exception,
    code: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def open_program(**_: object) -> None:
        raise error

    monkeypatch.setattr("drgn_tools.program.open.open_program", open_program)
    for options in ([], ["-q"]):
        assert main(["tasks", "-c", "vmcore", *options]) == code
        assert capsys.readouterr() == ("", f"drgn-tools: error: {error}\n")


def test_a_bug_is_one_line_and_its_traceback_is_for_debug(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def open_program(**_: object) -> None:
        raise KeyError("evil\x1b[31m\nname")

    monkeypatch.setattr("drgn_tools.program.open.open_program", open_program)
    assert main(["tasks", "-c", "vmcore"]) == 70
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("drgn-tools: bug: KeyError: ")
    assert "test_cli.py:" in err
    assert err.count("\n") == 1
    assert "\x1b" not in err

    assert main(["tasks", "-c", "vmcore", "--log-level", "debug"]) == 70
    assert "Traceback (most recent call last):" in capsys.readouterr().err


def test_stack_of_an_unknown_task_shows_none(
    fabricated: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["stack", "-c", "vmcore", "51", "99999"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "drgn-tools: error: no task with pid 99999 in /var/crash/vmcore\n"


# ---- options


def test_options_of_all_commands_may_stand_before_and_after(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[dict[str, Any]] = []

    def open_program(**kwargs: Any) -> None:
        seen.append(kwargs)
        raise InputError("enough")

    monkeypatch.setattr("drgn_tools.program.open.open_program", open_program)
    main(["-c", "core", "-s", "a", "--vmcoreinfo", "v", "tasks", "-s", "b", "-q"])
    main(["tasks", "-c", "core", "-s", "a", "-s", "b", "--vmcoreinfo", "v"])
    for given in seen:
        del given["progress"]
    assert seen[0] == seen[1]
    assert seen[0]["core"] == "core"
    assert seen[0]["symbols"] == ["a", "b"]


def test_what_stands_after_the_command_wins(
    fabricated: None, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["--format", "json", "tasks", "-k", "--format", "csv"])
    assert capsys.readouterr().out.startswith("task,pid,")
    main(["--format", "csv", "tasks", "-k"])
    assert capsys.readouterr().out.startswith("task,pid,")


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
        (["--sort", "depth", "--pid", "50-60"], [55, 51, 52, 56, 53, 58, 59, 54, 57, 60]),
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


@pytest.mark.parametrize("key", SORT_KEYS)
def test_sorting_loses_no_task(
    key: str, fabricated: None, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["tasks", "-c", "vmcore", "--format", "json", "--sort", key])
    assert sorted(pids(capsys.readouterr().out)) == sorted(task.pid for task in TASKS)


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


def test_regs_of_one_mode(fabricated: None, capsys: pytest.CaptureFixture[str]) -> None:
    main(["regs", "-c", "vmcore", "--format", "json", "--mode", "kernel", "--pid", "1-60"])
    regs = json.loads(capsys.readouterr().out)["regs"]
    assert [(found["pid"], found["user_mode"]) for found in regs] == [(51, False), (52, False)]


def test_groups_most_frequent_first(fabricated: None, capsys: pytest.CaptureFixture[str]) -> None:
    main(["groups", "-c", "vmcore", "--format", "json"])
    groups = json.loads(capsys.readouterr().out)["groups"]
    assert groups[0]["pids"] == list(range(10, 19))
    main(["groups", "-c", "vmcore", "--format", "folded", "--by-comm", "--pid", "10-19"])
    assert capsys.readouterr().out.startswith("kworker/10:0;ret_from_fork_asm;kthread;")


@pytest.mark.parametrize(
    "options", [["--format", "json"], ["--format", "csv", "--frames"], ["--format", "github"]]
)
def test_demo_is_tasks_in_every_format_but_the_table(
    options: list[str], fabricated: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["demo", *options]) == main(["tasks", "-c", "vmcore", *options])
    out = capsys.readouterr().out
    assert out[: len(out) // 2] == out[len(out) // 2 :]


def test_demo_shows_what_cannot_be_trusted_first_and_where_to_go_next(
    fabricated: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["drgn-tools"])
    main(["demo"])
    out = capsys.readouterr().out
    verdicts = re.findall(r" (unreliable|unknown|reliable) ", out.split("One of")[0])
    assert verdicts == ["unknown", *["unreliable"] * 6, *["unknown"] * 2, *["reliable"] * 13]
    assert "PID: 51  TGID: 42" in out
    commands = [line.split() for line in out.splitlines() if line.startswith("  drgn-tools ")]
    assert [words[1] for words in commands] == ["stack", "regs", "groups", "tasks"]
    for words in commands:
        assert main(words[1:]) in (0, 5)


# ---- what goes where


@pytest.mark.parametrize("style", ["json", "jsonl", "csv", "table", "github"])
@pytest.mark.parametrize("command", [["tasks"], ["stack", "--all"], ["regs"], ["groups"]])
def test_nothing_but_the_result_is_on_stdout(
    command: list[str], style: str, fabricated: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command, "-c", "vmcore", "--format", style]) == 5
    loud = capsys.readouterr()
    assert main([*command, "-c", "vmcore", "--format", style, "-q"]) == 5
    quiet = capsys.readouterr()
    assert loud.out == quiet.out
    assert KERNEL.release in loud.err
    assert "22 tasks: 13 reliable, 6 unreliable, 3 unknown" in loud.err
    assert KERNEL.release not in quiet.err


def test_quiet_still_says_what_could_not_be_read(
    fabricated: None, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["tasks", "-c", "vmcore", "-q"])
    assert capsys.readouterr().err == (
        "drgn-tools: warning: the task list loops at 0xff11000002600000\n"
        "drgn-tools: warning: 1 of the stacks could not be read to the end (unreadable)\n"
    )


def test_the_note_of_a_kernel_is_said_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    offer(monkeypatch, KernelAudit(ORC_KERNEL, (ORC_TASK,) * 3))
    assert main(["tasks", "-k"]) == 0
    out, err = capsys.readouterr()
    assert err.count("ORC unwinder") == 1
    assert "ORC" not in out
    assert out.count("not_encoded") == 3


# ---- exit codes


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
        "drgn-tools: warning: 3 tasks could not be judged: 2 not_encoded "
        "(this kernel uses the ORC unwinder, not encoded frame pointers), 1 unreadable\n"
    )


@pytest.mark.parametrize("command", ["tasks", "regs", "groups", "demo"])
def test_filters_that_match_nothing_are_quoted(
    command: str, sound: None, capsys: pytest.CaptureFixture[str]
) -> None:
    source = [] if command == "demo" else ["-c", "vmcore"]
    assert main([command, *source, "-q", "--pid", "99999", "--comm", "no one"]) == 0
    assert capsys.readouterr().err == (
        "drgn-tools: warning: no task matches --pid 99999 --comm 'no one'\n"
    )


def test_demo_draws_only_what_was_selected(sound: None, capsys: pytest.CaptureFixture[str]) -> None:
    for pid in ("52", "53"):
        main(["demo", "--pid", pid])
        assert re.findall(r"^PID: (\d+)", capsys.readouterr().out, re.MULTILINE) == [pid]
    main(["demo", "--pid", "1"])
    assert "PID: " not in capsys.readouterr().out


def test_help_has_examples_and_exit_codes_and_tells_every_command(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert "examples:" in text
    assert "exit codes:" in text
    for command in COMMANDS:
        assert command in text
        assert main([command, "--help"]) == 0
        assert f"usage: drgn-tools {command}" in capsys.readouterr().out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"drgn-tools {__version__}\n"


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


# ---- a person at the terminal


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_is_shown_on_a_terminal_and_taken_away(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter(range(100))
    monkeypatch.setattr(time, "monotonic", lambda: next(now))
    stream = Terminal()
    console = Console(stream=stream)
    console.progress("1 tasks")
    console.note("done")
    assert stream.getvalue() == "\r1 tasks\x1b[K\r\x1b[Kdone\n"


@pytest.mark.parametrize(("quiet", "stream"), [(True, Terminal()), (False, io.StringIO())])
def test_progress_is_for_nobody_else(
    quiet: bool, stream: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = iter(range(100))
    monkeypatch.setattr(time, "monotonic", lambda: next(now))
    console = Console(quiet, stream)
    console.progress("1 tasks")
    console.end_progress()
    assert stream.getvalue() == ""


def test_the_table_is_as_wide_as_columns_says(
    sound: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for columns, width in (("300", 300), ("20", 100)):
        monkeypatch.setenv("COLUMNS", columns)
        main(["tasks", "-c", "vmcore", "--pid", "51-52"])
        out = capsys.readouterr().out
        assert max(map(len, out.splitlines())) <= width
        assert ("preempted by the timer interrupt in vfs_read+0x8f" in out) == (width == 300)


# ---- shell


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
    assert b"from drgn_tools import crashed_stack, kernel_info, task_stack, task_stacks" in text
    assert b"PID: 1  TASK: " in text
    assert b"PID  COMM" in text
    assert b"Traceback" not in text


# ---- a process of its own

PROGRAM = """
import sys, time
from unittest import mock
from drgn_tools.commands.cli import main
from drgn_tools.records import KernelAudit
from tests.support.fabricated import KERNEL, TASKS

def audit_kernel(prog, progress, max_tasks):
    {body}
    return KernelAudit(KERNEL, TASKS * {times})

with mock.patch("drgn_tools.program.open.open_program"), \\
     mock.patch("drgn_tools.analysis.audit.audit_under_way", audit_kernel):
    sys.exit(main(sys.argv[1:]))
"""


def start(*argv: str, body: str = "pass", times: int = 1, **kwargs: Any) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM.format(body=body, times=times), *argv],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        **kwargs,
    )


@pytest.mark.parametrize("style", ["table", "json", "jsonl", "csv"])
def test_a_reader_that_leaves_early_is_no_error(style: str) -> None:
    process = start("tasks", "-c", "vmcore", "--frames", "--format", style, "-q", times=300)
    assert process.stdout is not None and process.stderr is not None
    assert process.stdout.readline()
    process.stdout.close()
    err = process.stderr.read()
    assert process.wait(60) == 141
    assert err == b""


def test_help_into_a_pipe_that_nobody_reads() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    process = subprocess.run(
        [sys.executable, "-m", "drgn_tools", "--help"],
        cwd=ROOT,
        stdout=writer,
        stderr=subprocess.PIPE,
        check=False,
    )
    os.close(writer)
    assert (process.returncode, process.stderr) == (141, b"")


def test_ctrl_c_ends_it_without_a_word() -> None:
    body = 'print("here", file=sys.stderr, flush=True); time.sleep(60)'
    # Who was started in the background ignores it, and so would what it starts.
    heeding = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    process = start("tasks", "-c", "vmcore", body=body, preexec_fn=heeding)
    assert process.stderr is not None
    assert process.stderr.readline() == b"here\n"
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (130, b"", b"")


def test_ctrl_c_while_it_is_imported() -> None:
    code = """
import sys
class Interrupt:
    def find_spec(self, name, *_):
        if name == "drgn_tools.commands.arguments":
            raise KeyboardInterrupt
sys.meta_path.insert(0, Interrupt())
from drgn_tools.__main__ import main
assert "drgn_tools.records" not in sys.modules
sys.exit(main())
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, b"", b"")


def test_a_full_disk_is_said() -> None:
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full")
    with open("/dev/full", "wb") as full:
        process = subprocess.run(
            [sys.executable, "-c", PROGRAM.format(body="pass", times=1), "tasks", "-k", "-q"],
            cwd=ROOT,
            stdout=full,
            stderr=subprocess.PIPE,
            check=False,
        )
    assert process.returncode == 74
    assert process.stderr.startswith(b"drgn-tools: error: cannot write the result: ")
    assert process.stderr.count(b"\n") == 1


DEMO_LINES = (
    "demo", "demo --format json", "tasks -c CORE", "stack --all -c CORE", "regs -c CORE",
    "groups --format folded -c CORE", "shell -c CORE", "--help", "tasks --help", "--version",
)  # fmt: skip


def in_a_shell(line: str, core: str, redirect: str) -> subprocess.CompletedProcess[bytes]:
    """Run a command line, its streams as *redirect* says."""
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full")
    words = [sys.executable, "-m", "drgn_tools", *line.replace("CORE", core).split()]
    return subprocess.run(
        f"{shlex.join(words)} {redirect}",
        shell=True,
        cwd=ROOT,
        input=b"print(len(list(task_stacks(prog))))",
        capture_output=True,
        check=False,
    )


@pytest.mark.parametrize("line", DEMO_LINES)
def test_a_closed_stdout_is_said(line: str, demo_core: str) -> None:
    process = in_a_shell(line, demo_core, ">&-")
    assert process.returncode == 74
    assert process.stderr.startswith(b"drgn-tools: error: cannot write the result: ")
    assert process.stderr.count(b"\n") == 1


# What a script cannot write is its own error.
@pytest.mark.parametrize("line", [line for line in DEMO_LINES if not line.startswith("shell")])
def test_a_full_disk_is_said_of_everything(line: str, demo_core: str) -> None:
    process = in_a_shell(line, demo_core, ">/dev/full")
    assert process.returncode == 74
    *_, last = process.stderr.splitlines()
    assert last.startswith(b"drgn-tools: error: cannot write the result: ")
    assert b"Exception ignored" not in process.stderr


@pytest.mark.parametrize("line", (*DEMO_LINES, "nonsense", "tasks -c /no/such/core"))
@pytest.mark.parametrize("redirect", ["2>/dev/full", "2>&-"], ids=["full", "closed"])
def test_a_stderr_that_takes_nothing_changes_nothing(
    line: str, redirect: str, demo_core: str
) -> None:
    usual = in_a_shell(line, demo_core, "")
    mute = in_a_shell(line, demo_core, redirect)
    assert (mute.returncode, mute.stdout) == (usual.returncode, usual.stdout)
    assert mute.stderr == b""


def test_a_terminal_without_unicode_gets_what_it_can_show() -> None:
    process = start("stack", "-c", "x", "--all", env={**os.environ, "PYTHONIOENCODING": "ascii"})
    out, err = process.communicate(timeout=60)
    assert b"Traceback" not in err
    assert out.isascii()
    assert b"| RAX: " in out


def test_help_needs_neither_drgn_nor_tabulate() -> None:
    code = (
        "import sys; from drgn_tools.commands.cli import main; main(['--help']);"
        "sys.exit(bool({'drgn', 'tabulate'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=False)
    assert done.returncode == 0


def test_the_hostile_task_cannot_reach_a_terminal(
    fabricated: None, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in (["tasks", "--frames"], ["stack", "--all"], ["regs"], ["groups"]):
        main([*command, "-c", "vmcore"])
        out, err = capsys.readouterr()
        assert HOSTILE.comm not in out
        assert all(line.isprintable() for line in (out + err).split("\n"))


def test_the_verdicts_of_the_fabricated_kernel_are_all_there() -> None:
    assert {task.verdict for task in TASKS} == set(Verdict)


# ---- docs/commands.md

MANUAL = (ROOT / "docs" / "commands.md").read_text()


@pytest.mark.parametrize("command", COMMANDS)
def test_the_manual_has_every_option(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    main([command, "--help"])
    for option in set(re.findall(r"--[a-z-]+", capsys.readouterr().out)):
        assert option in MANUAL


def test_the_manual_has_every_word_of_the_contract() -> None:
    words = {*Reason, *Verdict, *STATES, *SORT_KEYS}
    for record in (fields.KERNEL, fields.TASK_WITH_FRAMES, fields.FRAME, fields.REGS, fields.GROUP):
        words.update(record)
    for word in words:
        assert re.search(rf"[`\[ ]{re.escape(str(getattr(word, 'value', word)))}[`\] ]", MANUAL), (
            word
        )


def test_the_manual_and_the_help_have_the_same_exit_codes(
    capsys: pytest.CaptureFixture[str],
) -> None:
    main(["--help"])
    help_text = capsys.readouterr().out.split("exit codes:")[1]
    in_help = set(re.findall(r"(?:^  |; )(\d+) ", help_text, re.MULTILINE))
    assert in_help == set(re.findall(r"^\| (\d+) \|", MANUAL, re.MULTILINE))
    assert in_help == {"0", "1", "2", "3", "4", "5", "70", "74", "130", "141"}


# ---- a kernel that runs


def offer_looks(monkeypatch: pytest.MonkeyPatch, *looks: Sequence[TaskStack]) -> list[float]:
    """Let each audit find the next of *looks*; gives the list of sleeps between them."""
    rest = iter(looks)
    slept: list[float] = []
    offer(monkeypatch, SOUND)
    monkeypatch.setattr(
        "drgn_tools.analysis.audit.audit_kernel",
        lambda prog, **_: KernelAudit(KERNEL, tuple(next(rest))),
    )
    monkeypatch.setattr("time.sleep", slept.append)
    return slept


def now_reliable(task: TaskStack) -> TaskStack:
    return replace(task, verdict=Verdict.RELIABLE, reason=None, why=None, brief=None)


def test_watch_ends_when_all_were_reliable_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    slept = offer_looks(
        monkeypatch, [SLEEPER, FAULTING], [SLEEPER, FAULTING], [SLEEPER, now_reliable(FAULTING)]
    )
    assert main(["tasks", "-k", "--watch", "7", "--until-reliable", "--check"]) == 0
    captured = capsys.readouterr()
    lines = [line.split(None, 1)[1] for line in captured.out.splitlines()]
    assert lines == [
        "unreliable       51  reader            page fault in rep_stos_alternative+0x40",
        "reliable         51  reader            was unreliable for 0 s",
    ]
    assert len(slept) == 2
    assert all(0 < seconds <= 7 for seconds in slept)
    assert captured.err.count("unwinder: frame pointers") == 1
    assert "2 tasks: 2 reliable" in captured.err


def test_watch_in_json_has_an_object_for_each_change(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    offer_looks(monkeypatch, [SLEEPER, FAULTING], [now_reliable(SLEEPER)])
    argv = ["tasks", "-k", "--watch", "1", "--until-reliable", "--format", "jsonl", "-q"]
    assert main(argv) == 0
    changes = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(c["pid"], c["verdict"], c["before"]) for c in changes] == [
        (51, "unreliable", None),
        (51, None, "unreliable"),
    ]
    assert all(
        list(c) == ["time", "task", "pid", "comm", "verdict", "reason", "why", "before", "seconds"]
        for c in changes
    )


def test_watch_that_is_interrupted_says_so_by_its_exit_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    offer_looks(monkeypatch, [FAULTING])

    def interrupted(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("time.sleep", interrupted)
    assert main(["tasks", "-k", "--watch", "1"]) == 130
    assert "page fault" in capsys.readouterr().out
