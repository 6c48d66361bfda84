# SPDX-License-Identifier: LGPL-2.1-or-later
"""The ``%`` commands: drgn's REPL through a terminal, and drgn's API for commands."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Callable

import drgn
import pytest
from drgn.commands import CommandError, run_command

from drgn_tools import TaskStack, Verdict
from drgn_tools.analysis.flatten import TaskRegs
from drgn_tools.analysis.grouping import StackGroup
from drgn_tools.analysis.waiting import waiting_function
from drgn_tools.commands import plugin  # noqa: F401  (registers the commands)

from ..support.documents import missing_lines, typed_in
from ..support.repl import ROOT, SAID, Repl

# ---- the REPL, through a terminal


@pytest.mark.parametrize(
    ("call", "says"),
    [
        ('"deepest_stacks.py", "-n", "many"', "error: "),
        ('"syscalls.py", "--help"', "Which system calls are the tasks in"),
        ('"syscalls.py", "read"', "w-pipe-read"),
    ],
)
def test_repl_goes_on_after_a_script_of_contrib(terminal: Repl, call: str, says: str) -> None:
    folder = ROOT / "contrib"
    call = call.replace('"', f'"{folder}/', 1)
    assert says in terminal.type(f"execscript({call})")
    assert terminal.type("1 + 1") == "2"


def test_repl_says_once_where_types_come_from(terminal: Repl) -> None:
    assert terminal.banner.count("BTF") == 1
    assert SAID in terminal.banner
    assert "Traceback" not in terminal.banner


def test_repl_drgns_own_helpers_work_without_debuginfo(
    terminal: Repl, stacks: list[TaskStack], interrupted: TaskStack
) -> None:
    pids = {s.pid for s in stacks} - {0}
    assert terminal.type("len(list(for_each_task()))") == str(len(pids))
    comm = terminal.type(f"find_task({interrupted.pid}).comm.string_().decode()")
    assert comm == repr(interrupted.comm)


def test_repl_task_stack_needs_no_program_and_shows_the_drawing(
    terminal: Repl, interrupted: TaskStack
) -> None:
    # Plain drgn: nothing is imported.
    assert terminal.type(f"task_stack({interrupted.pid})") == str(interrupted)
    assert terminal.type(f"task_stack(find_task({interrupted.pid}))") == str(interrupted)
    assert terminal.type("kernel_info().types") == "'btf'"
    assert terminal.type("from drgn_tools import *") == ""
    assert terminal.type("len(list(task_stacks())) == len(audit_kernel())") == "True"


@pytest.mark.parametrize(
    ("line", "answer"),
    [
        ("%stack 4000000", "drgn: error: no task with pid 4000000 in "),
        ("%tasks --no-such-option", "drgn: error: there is no option --no-such-option"),
        ("%tasks --state Q", "drgn: error: 'Q' is not a state: "),
        ("%regs --format tabel", "drgn: error: regs has no format 'tabel': did you mean table?"),
    ],
)
def test_repl_a_mistake_is_one_line(terminal: Repl, line: str, answer: str) -> None:
    said = terminal.type(line)
    assert said.startswith(answer)
    assert len(said.splitlines()) == 1


def test_repl_help_lists_the_options_and_does_not_leave(terminal: Repl) -> None:
    assert terminal.type("%tasks --help").startswith("usage: %tasks [options] [TASK ...]")
    assert "--check" not in terminal.type("%tasks -h | cat")
    assert terminal.type("1 + 1") == "2"


def test_repl_runs_the_scripts_of_contrib(terminal: Repl) -> None:
    answer = terminal.type(f"execscript({str(ROOT / 'contrib' / 'syscalls.py')!r})")
    assert answer.splitlines()[0].split() == ["PID", "COMM", "S", "NR", "SYSCALL", "ARGUMENTS"]


def test_the_examples_of_the_document_print_what_it_shows(demo_core: str, tmp_path: Path) -> None:
    examples = typed_in("docs/repl.md")
    assert sum(bool(sample) for _, sample in examples) >= 5
    terminal = Repl("-c", demo_core, history=tmp_path)
    for line, sample in examples:
        said = terminal.type(line.replace("/tmp/", f"{tmp_path}/"))
        if any("Error: " in text for text in sample):  # the document folds this line
            assert " ".join(sample) in said, line
        else:
            assert missing_lines(tuple(sample), said) == [], line
            assert "Traceback" not in said, line
    assert terminal.close() == 0


# ---- commands, by drgn's API


@pytest.mark.parametrize(
    ("command", "kind"),
    [("tasks", TaskStack), ("stack", TaskStack), ("regs", TaskRegs), ("groups", StackGroup)],
)
def test_commands_return_their_records(
    run: Callable[..., tuple[list[object], str]], command: str, kind: type
) -> None:
    records, out = run(command)
    assert records
    assert {type(record) for record in records} == {kind}
    assert out


def test_commands_return_their_records_when_nobody_reads_on(
    demo_program: drgn.Program, stacks: list[TaskStack]
) -> None:
    # Far more than a pipe holds.
    for command in (
        "tasks --frames --format json | head -1",
        "tasks --frames --format json | true",
    ):
        assert run_command(demo_program, command) == stacks


def test_commands_take_the_options_of_the_command_line(
    run: Callable[..., tuple[list[TaskStack], str]], stacks: list[TaskStack], interrupted: TaskStack
) -> None:
    records, out = run("tasks --verdict unreliable --sort depth --format json --frames")
    document = json.loads(out)
    assert document["schema"] == "drgn-tools.tasks/1"
    assert [task["pid"] for task in document["tasks"]] == [s.pid for s in records]
    assert {s.pid for s in records} == {s.pid for s in stacks if s.verdict is Verdict.UNRELIABLE}
    records, _ = run(f"stack 0x{interrupted.task:x} {interrupted.pid}")
    assert records == [interrupted, interrupted]
    frame = waiting_function(interrupted)
    assert frame is not None and frame.symbol is not None
    records, _ = run(f"tasks --function {frame.symbol.name} --comm '*'")
    assert interrupted in records
    assert run("groups --format folded")[1].splitlines()[0].count(" ") == 1


def test_commands_raise_command_errors(demo_program: drgn.Program) -> None:
    with pytest.raises(CommandError, match=r"^no task with pid 4000000 in "):
        run_command(demo_program, "stack 4000000")


def test_commands_are_for_kernels_only() -> None:
    with pytest.raises(CommandError, match="not found"):
        run_command(drgn.Program(), "tasks")
