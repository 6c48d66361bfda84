# SPDX-License-Identifier: LGPL-2.1-or-later
"""``hung``: on the bundled vmcore, whose tasks hang in ways that are known, on the command line and in the REPL."""

from __future__ import annotations

import html
import json
from typing import Any

import drgn
import pytest
from drgn.commands import run_command
from msgspec.structs import replace

from drgn_tools import hung_tasks
from drgn_tools.analysis.hangups import Blocked, Holder, RootKind, hangups_of
from drgn_tools.analysis.hung import HungReport
from drgn_tools.commands import plugin  # noqa: F401  (registers the commands)
from drgn_tools.commands.main import main
from drgn_tools.kernel.waiting.records import Wait, WaitKind
from drgn_tools.render.hung import hung_line, hung_lines

from ..support.fabricated import HOSTILE_COMM, task

HOLDERS = {"w-mutex": "init", "w-inode-lock": "w-kfault-file", "w-futex-pi": "lab-trigger"}
"""Of the workload in the bundled vmcore: who waits for what another holds (tests/lab/user/tasks.c)."""


def ask(demo_core: str, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = main(["hung", "-c", demo_core, *words])
    out, err = capsys.readouterr()
    return code, out, err


def test_who_holds_what(demo_program: drgn.Program) -> None:
    report = hung_tasks(demo_program)
    held = {
        each.stack.comm: each.holder.task.comm
        for each in report.blocked
        if each.holder is not None and each.holder.task is not None
    }
    assert held == HOLDERS
    assert report.deadlocks == ()
    # Nobody whom the lock does not name is said to hold it.
    assert all(each.wait is not None for each in report.blocked if each.holder is not None)


def test_exit_codes(demo_core: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert ask(demo_core, capsys)[0] == 0
    assert ask(demo_core, capsys, "--check")[0] == 1
    # Everything there has run in the last hour.
    code, out, _ = ask(demo_core, capsys, "--check", "--longer", "3600", "--format", "csv")
    assert (code, len(out.splitlines())) == (0, 1)
    # Who only sleeps is no finding.
    words = ("--check", "--all", "--comm", "w-pause")
    assert ask(demo_core, capsys, *words)[0] == 0


def test_filters_choose_tasks_and_not_chains(
    demo_core: str, capsys: pytest.CaptureFixture[str]
) -> None:
    _, out, _ = ask(demo_core, capsys, "--comm", "w-mutex", "--format", "json")
    report: dict[str, Any] = json.loads(out)
    assert [found["comm"] for found in report["tasks"]] == ["w-mutex"]
    assert len(report["hangups"]) == 5
    _, out, err = ask(demo_core, capsys, "--comm", "w-pause")
    assert "no task of --comm w-pause hangs" in err
    _, _, err = ask(demo_core, capsys, "w-nobody")
    assert "w-nobody" in err and "warning" in err
    assert out.startswith("CPU 0: ")


def test_another_order_is_a_table_alone(demo_core: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--sort", "-not_run_s", "--columns", "not_run_s,comm")
    _, out, _ = ask(demo_core, capsys, *words)
    heading, *rows = out.splitlines()
    assert heading.split() == ["FOR", "COMM"]
    seconds = [float(row.split()[0]) for row in rows]
    assert seconds == sorted(seconds, reverse=True)
    assert len(seconds) == 5


def test_mistakes(demo_core: str, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (
        ["--longer", "x"],
        ["--longer", "-1"],
        ["--verdict", "reliable"],
        ["--sort", "x"],
    ):
        assert ask(demo_core, capsys, *words)[0] == 2


def test_help_names_only_what_hung_has(capsys: pytest.CaptureFixture[str]) -> None:
    main(["hung", "--help"])
    text = capsys.readouterr().out
    assert "verdict" not in text and "the kernel's order" not in text
    assert "--pid and --state take lists" in text


def test_repl(demo_program: drgn.Program, capsys: pytest.CaptureFixture[str]) -> None:
    found = run_command(demo_program, "hung --comm w-mutex")
    assert [each.blocked.stack.comm for each in found] == ["w-mutex"]
    assert "held by init (1)" in capsys.readouterr().out


def _report(*blocked: Blocked) -> HungReport:
    return HungReport(blocked, tuple(hangups_of(blocked)), ())


def _lines(report: HungReport) -> str:
    return "\n".join(hung_lines(report, list(report.tasks()), None))


def test_a_name_that_a_terminal_would_obey_is_escaped() -> None:
    hostile = task(1, comm=HOSTILE_COMM, state="D")
    wait = Wait(WaitKind.MUTEX, 0xFFFF_8880_0000_1000, 0, holder=hostile.task)
    report = _report(Blocked(hostile, wait, "\x1b[2J", Holder(hostile.task, hostile)))
    text = _lines(report)
    assert "\x1b" not in text and "\\x1b" in text
    assert len(text.splitlines()) == 4  # heading, empty, title, row


def test_a_long_circle_is_cut_in_its_title_only() -> None:
    count = 30
    stacks = [task(number, state="D") for number in range(1, count + 1)]
    stacks = [replace(stack, task=0xFFFF_8880_0000_0000 + 0x1000 * stack.pid) for stack in stacks]
    blocked = [
        Blocked(
            stack,
            Wait(WaitKind.MUTEX, 0x1000 * stack.pid, 0, holder=after.task),
            holder=Holder(after.task, after),
        )
        for stack, after in zip(stacks, [*stacks[1:], stacks[0]])
    ]
    report = _report(*blocked)
    text = _lines(report)
    assert "deadlock of 30 tasks: " in text and "(22 more)" in text
    assert sum(line.lstrip().split(" ")[0].isdigit() for line in text.splitlines()) == count
    assert hung_line(report) == "30 tasks hang: 30 in or behind 1 deadlock"


def test_a_narrow_terminal_cuts_no_holder() -> None:
    stacks = [task(number, comm=f"long-worker-{number}", state="D") for number in (100, 200, 300)]
    stacks = [replace(stack, task=0xFFFF_8880_0000_0000 + 0x1000 * stack.pid) for stack in stacks]
    blocked = [
        Blocked(
            stack,
            Wait(WaitKind.RWSEM, stack.task + 8, 0, holder=after.task, mode="write"),
            holder=Holder(after.task, after),
        )
        for stack, after in zip(stacks, [*stacks[1:], stacks[0]])
    ]
    report = _report(*blocked)
    lines = list(hung_lines(report, list(report.tasks()), 80))
    assert max(map(len, lines)) <= 80
    assert "\u2026" not in "".join(lines)
    # Each is named once as a holder; the headline names the first of the circle once more.
    whole = "\n".join(lines)
    assert sorted(whole.count(f"{each.comm} ({each.pid})") for each in stacks) == [2, 2, 3]
    begins = [number for number, line in enumerate(lines) if line[:3].isdigit()]
    assert begins == [4, 6, 8] and len(lines) == 11


def test_the_total_tells_who_has_exited_from_who_is_there() -> None:
    owner, gone = task(1, state="S"), task(2, state="Z")
    address = iter(range(0xFFFF_8880_0000_0000, 0xFFFF_8880_0001_0000, 0x1000))
    stacks = [replace(task(pid, state="D"), task=next(address)) for pid in (3, 4, 5, 6)]
    holders = [Holder(8, owner), Holder(16, gone), Holder(24), None]
    waits = [Wait(WaitKind.MUTEX, 0x1000 * stack.pid, 0) for stack in stacks]
    report = _report(
        *(Blocked(*each[:2], holder=each[2]) for each in zip(stacks, waits, holders)),
    )
    assert hung_line(report) == (
        "4 tasks hang: 1 behind a known task, 2 behind a task that has exited, 1 behind something"
        " that does not record its holder"
    )


def test_a_report_prints_as_what_the_command_shows(
    demo_program: drgn.Program,
    demo_core: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)  # the command's output goes to no terminal
    report = hung_tasks(demo_program)
    _, out, err = ask(demo_core, capsys)
    assert str(report) == f"{out}{err.splitlines()[-1]}"
    # In a notebook, arrows and hostile names are text.
    assert html.unescape(report._repr_html_()).count(str(report)) == 1
    circle = _report(
        Blocked(
            each := task(1, comm="<b>", state="D"),
            Wait(WaitKind.MUTEX, 8, 0),
            None,
            Holder(each.task, each),
        )
    )
    assert "&lt;b&gt; (1) waits for what it holds itself" in circle._repr_html_()
    assert "<b>" not in circle._repr_html_()
    assert str(circle.blocked[0]) == "<b> (1), asleep (D): mutex 8, held by <b> (1)"


def test_nothing_hangs() -> None:
    report = _report(Blocked(task(1, state="S")))
    assert hung_line(report) == "no task hangs"
    assert report.hangups == ()


def test_a_lock_that_is_free_by_now() -> None:
    wait = Wait(WaitKind.MUTEX, 0xFFFF_8880_0000_1000, 0, is_free=True)
    report = _report(Blocked(task(1, state="D"), wait, "rtnl_mutex"))
    assert report.hangups[0].kind is RootKind.WAIT
    assert "mutex rtnl_mutex, which is free (its first waiter has been woken)" in _lines(report)
