# SPDX-License-Identifier: LGPL-2.1-or-later
"""The kernel of a dump is probed once and kept in its Program."""

from __future__ import annotations

from typing import NoReturn

import drgn
import pytest

from drgn_tools import Reason, Verdict, audit_kernel, open_program, task_stack
from drgn_tools.arch.registry import layout_of
from drgn_tools.engine import kernel
from drgn_tools.engine.kernel import kernel_of
from drgn_tools.engine.task_records import WalkedStacks
from drgn_tools.kernel.per_cpu import per_cpu
from drgn_tools.kernel.tasks import Task

from ..support.overlay import overlay
from ..support.wrong_answers import wrong_of_task


def test_the_kernel_of_a_dump_is_made_once(demo_core: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[drgn.Program] = []

    class Counted(kernel.Kernel):
        def __init__(self, prog: drgn.Program) -> None:
            made.append(prog)
            super().__init__(prog)

    monkeypatch.setattr(kernel, "Kernel", Counted)
    one, other = open_program(core=demo_core), open_program(core=demo_core)
    first = [task_stack(one, 1) for _ in range(3)]
    audit = audit_kernel(one)
    assert first[0] == first[1] == first[2]
    assert first[0] in audit.tasks
    assert task_stack(other, 1) == first[0]
    assert made == [one, other]


def test_a_running_kernel_is_looked_at_anew_each_time(
    demo_core: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernel, "is_live", lambda prog: True)
    prog = open_program(core=demo_core)
    assert kernel_of(prog) is not kernel_of(prog)


@pytest.mark.parametrize(("runs", "reads"), [(0, 1), (1, 2), (4, 5), (99, 5)])
def test_the_walk_of_a_task_that_runs_meanwhile_is_not_used(
    runs: int, reads: int, demo_core: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernel, "is_live", lambda prog: True)
    prog = open_program(core=demo_core)
    found_kernel = kernel_of(prog)
    task = next(t for t in found_kernel.tasks if t.has_stack and not t.on_cpu)
    nvcsw = drgn.Object(prog, "struct task_struct *", task.addr).nvcsw
    records = found_kernel._records
    walk, calls = records.walked, 0

    def walk_of_a_task_that_runs(task: Task, on_cpu: bool) -> WalkedStacks | None:
        nonlocal calls
        calls += 1
        found = walk(task, on_cpu)
        if calls <= runs:
            overlay(prog, nvcsw.address_, (nvcsw.value_() + calls).to_bytes(8, "little"))
        return found

    monkeypatch.setattr(records, "walked", walk_of_a_task_that_runs)
    both = found_kernel.walked(task)
    assert calls == reads
    assert (both is None) == (runs == 99)
    if both is not None:
        record, walked = both
        assert [f.ip for f in record.frames] == [s.ip for s in walked.walk.steps]


def test_problems_are_those_of_the_last_audit_however_many_there_were(demo_core: str) -> None:
    prog = open_program(core=demo_core)
    assert audit_kernel(prog).problems == ()
    # The first process on the list leads nowhere.
    init_task = prog["init_task"]
    first = init_task.tasks.next.value_()
    overlay(prog, first, (0xDEAD_0000_0000_0100).to_bytes(8, "little"))
    damaged = [audit_kernel(prog).problems for _ in range(2)]
    assert damaged[0] == damaged[1]
    assert len(damaged[0]) == 1 and "the task list is damaged" in damaged[0][0]


def test_tasks_without_a_stack_are_reliable_and_empty(demo_core: str) -> None:
    # stack_refcount 0: as free_task_struct() leaves a zombie (CONFIG_THREAD_INFO_IN_TASK).
    prog = open_program(core=demo_core)
    before = task_stack(prog, 1)
    place = layout_of(prog).task.stack_refcount
    assert before.frames and place is not None
    overlay(prog, before.task + place[0], bytes(place[1]))
    after = task_stack(prog, 1)
    assert (after.verdict.value, after.frames, after.flags) == ("reliable", (), ("no_stack",))


def test_a_task_that_only_a_run_queue_calls_running_does_not_get_the_registers_of_its_cpu(
    demo_core: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From seed 110 of the dump i386-nopae: it had the stack of whatever the CPU was running."""
    whole = audit_kernel(open_program(core=demo_core))
    # One that drgn, too, would take for the one on that CPU.
    running = next(s for s in whole if s.on_cpu and s.cpu_registers)
    sleeper = next(s for s in whole if not s.on_cpu and s.cpu == running.cpu and len(s.frames) > 4)
    prog = open_program(core=demo_core)
    rq = per_cpu(prog["runqueues"], running.cpu)
    overlay(prog, rq.curr.address_, sleeper.task.to_bytes(8, "little"))
    found = {s.task: s for s in audit_kernel(prog)}
    now = found[sleeper.task]
    assert (now.verdict, now.reason, now.on_cpu) == (Verdict.UNKNOWN, Reason.RUNNING, True)
    assert (now.frames, now.cpu_registers) == ((), None)
    assert "or the run queue is damaged" in (now.why or "")
    assert task_stack(prog, sleeper.pid) == now
    found_anew = kernel_of(prog)
    assert found_anew.walked(next(t for t in found_anew.tasks if t.addr == sleeper.task)) is None
    for stack in whole:
        if stack is not running and stack is not sleeper:
            assert found[stack.task] == stack
    # It says itself that it is on a CPU. Its registers are found by the run queue on x86-64.
    assert found[running.task].verdict is Verdict.UNKNOWN
    assert list(wrong_of_task(running, found[running.task])) == []
    kernel_found = kernel_of(prog)
    task = next(t for t in kernel_found.tasks if t.addr == sleeper.task)
    monkeypatch.setattr(type(kernel_found.layout.arch), "cpu_registers", cpu_registers_of_another)
    assert kernel_found.walked(task) is None


def cpu_registers_of_another(*given: object) -> NoReturn:
    raise AssertionError("the registers of the CPU are those of another task")
