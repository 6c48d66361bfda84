# SPDX-License-Identifier: LGPL-2.1-or-later
"""Verdicts and flags of tasks whose walks a test makes up, on the kernel of the demo dump."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Callable, Optional

import drgn
import pytest
from msgspec.structs import replace

from drgn_tools import Reason, TaskStack, Verdict, open_program, task_stacks
from drgn_tools.arch.registry import layout_of
from drgn_tools.engine.task_records import TaskRecords
from drgn_tools.kernel.stack_memory import FindStack, StackMemory
from drgn_tools.kernel.task_list import TaskList
from drgn_tools.kernel.tasks import Task
from drgn_tools.kernel.text import KernelText
from drgn_tools.unwind.base import End, Recover, Signature, Step, Walk, Walker
from drgn_tools.unwind.recovery import probe_recovery

from ..support.overlay import overlay


class MadeUp(Walker):
    """Every task has the same walk and the same signature."""

    name = "made up"
    kernel_regs_are_unreliable = True

    def __init__(self, walk: Walk) -> None:
        self.walk = walk
        self.walks = 0

    def walk_sleeping(self, task: Task, stack: StackMemory, recover: Recover) -> Walk:
        self.walks += 1
        return self.walk

    def walk_running(
        self, task: Task, registers: Mapping[str, int], find_stack: FindStack, recover: Recover
    ) -> Walk:
        return self.walk

    def signature(
        self, task: Task, stack: StackMemory, recovery_of: Callable[[Task], Recover]
    ) -> Optional[Signature]:
        return Signature(tuple(step.ip for step in self.walk.steps), (), False, ())


class MissesFrames(MadeUp):
    """As drgn's walker, it may."""

    may_miss_frames = True


class Machine:
    """The demo dump's kernel with such a walker; perhaps with the rules of before v5.8."""

    def __init__(self, prog: drgn.Program) -> None:
        self.prog = prog
        self.layout = layout_of(prog)
        self.list = TaskList(prog, self.layout.task)
        self.tasks = {task.comm: task for task in self.list}
        self.text = KernelText(prog)
        self.user = self.tasks["w-nanosleep"]
        self.kthread = self.tasks["kthreadd"]

    def records(self, walker: Walker, old_rules: bool = False) -> TaskRecords:
        layout = replace(self.layout, has_old_reliable_rules=old_rules)
        recover = probe_recovery(self.prog)
        return TaskRecords(self.prog, layout, walker, None, recover, self.text, {})

    def call(self, symbol: str) -> Step:
        ip = self.prog.symbol(symbol).address + 1
        return Step(ip, False, 0x8008, regs=None, user_mode=False, stack="task", raw_regs=None)

    def running(self) -> Task:
        return next(task for task in self.list if self.list.is_running(task) and task.has_stack)


@pytest.fixture(scope="module")
def machine(demo_program: drgn.Program) -> Machine:
    return Machine(demo_program)


# ---- stacks without user registers, before v5.8


def end_unclear(record: TaskStack) -> bool:
    assert record.verdict is (Verdict.UNKNOWN if record.reason else Verdict.RELIABLE)
    assert record.reason in (None, Reason.END_UNCLEAR)
    return record.reason is Reason.END_UNCLEAR


def test_stack_of_a_user_task_without_user_regs_is_unclear_under_the_old_rules_only(
    machine: Machine,
) -> None:
    walk = Walk((machine.call("schedule"),), End.LAST_FRAME)
    for old_rules in (True, False):
        records = machine.records(MadeUp(walk), old_rules)
        assert end_unclear(records.sleeping(machine.user, is_idle=False)) is old_rules
        assert not end_unclear(records.sleeping(machine.user, is_idle=True))
        assert not end_unclear(records.sleeping(machine.kthread, is_idle=False))


@pytest.mark.parametrize("user_first", [True, False])
def test_user_task_and_kernel_thread_with_equal_stacks_have_templates_of_their_own(
    machine: Machine, user_first: bool
) -> None:
    walker = MadeUp(Walk((machine.call("schedule"),), End.LAST_FRAME))
    records = machine.records(walker, old_rules=True)
    order = (machine.user, machine.kthread) if user_first else (machine.kthread, machine.user)
    for _ in range(2):
        for task in order:
            assert end_unclear(records.sleeping(task, is_idle=False)) is (task is machine.user)
    assert walker.walks == 2


def test_equal_stacks_are_walked_once(machine: Machine) -> None:
    walker = MadeUp(Walk((machine.call("schedule"),), End.LAST_FRAME))
    records = machine.records(walker)
    first = records.sleeping(machine.user, is_idle=False)
    second = records.sleeping(machine.kthread, is_idle=False)
    assert walker.walks == 1
    assert first.frames == second.frames != ()


# ---- walks that end early


@pytest.mark.parametrize("end", End)
def test_running_task_whose_walk_breaks_off_ends_early(machine: Machine, end: End) -> None:
    steps = () if end is End.EMPTY else (machine.call("schedule"),)
    record = machine.records(MadeUp(Walk(steps, end))).running(machine.running())
    breaks_off = end in (End.ERROR, End.NOT_IN_DUMP, End.UNWIND_DATA_UNCLEAR, End.EMPTY)
    assert record.flags == (("ends_early",) if breaks_off else ())
    assert record.reason is Reason.RUNNING


@pytest.mark.parametrize("end", [End.NOT_IN_DUMP, End.UNWIND_DATA_UNCLEAR])
def test_sleeping_task_says_that_frames_are_missing(machine: Machine, end: End) -> None:
    # The reason says so if the last frame decides, but not if an inner one does. A fuzzer found it.
    walk = Walk((machine.call("schedule"),), end)
    last_decides = machine.records(MadeUp(walk)).sleeping(machine.user, is_idle=False)
    assert last_decides.verdict is Verdict.UNKNOWN
    assert last_decides.flags == ()
    walk = Walk((machine.call("schedule"),) * 100, end)
    inner_decides = machine.records(MadeUp(walk)).sleeping(machine.user, is_idle=False)
    assert inner_decides.reason is Reason.TOO_MANY_ENTRIES
    assert inner_decides.flags == ("ends_early",)
    assert "... the unwinder could not go on" in str(inner_decides)
    assert "could not go on" not in str(last_decides)
    for has_more in (False, True):
        walk = Walk((machine.call("schedule"),), End.ERROR, has_more=has_more)
        after_error = machine.records(MadeUp(walk)).sleeping(machine.user, is_idle=False)
        assert after_error.flags == (("ends_early",) if has_more else ())


def user_regs(machine: Machine) -> Step:
    """What user mode entered with, as drgn's walker finds it."""
    raw = bytes(machine.layout.regs.size_bytes)
    return Step(0x401000, True, 0x9080, regs=0x9000, user_mode=True, stack="task", raw_regs=raw)


@pytest.mark.parametrize(
    ("outermost", "end", "walker", "early"),
    [
        ("entry_SYSCALL_64", End.USER_REGS, MissesFrames, False),
        ("asm_exc_page_fault", End.USER_REGS, MissesFrames, False),
        ("schedule", End.USER_REGS, MissesFrames, True),
        ("schedule", End.USER_REGS, MadeUp, False),
        ("schedule", End.UNKNOWN, MissesFrames, False),
    ],
)
def test_stack_of_drgns_walker_ends_early_without_entry_code_below_user_mode(
    machine: Machine, outermost: str, end: End, walker: type[MadeUp], early: bool
) -> None:
    steps = (machine.call("schedule"), machine.call(outermost))
    if end is End.USER_REGS:
        steps = (*steps, user_regs(machine))
    records = machine.records(walker(Walk(steps, end)))
    record = records.sleeping(machine.user, is_idle=False)
    assert ("ends_early" in record.flags) is early


def test_drgns_walk_of_no_kernel_frame_ends_early(machine: Machine) -> None:
    walker = MissesFrames(Walk((user_regs(machine),), End.USER_REGS))
    assert machine.records(walker).sleeping(machine.user, is_idle=False).flags == ("ends_early",)


# ---- the interrupted function's caller


def test_caller_that_the_walk_has_is_not_shown_again(demo_core: str) -> None:
    # The return address of the interrupted function is that of the frame above: who called
    # it was not skipped.
    prog = open_program(core=demo_core)
    skipped = [
        (task, regs)
        for task in task_stacks(prog)
        for regs in task.regs
        if regs.caller is not None and not task.on_cpu
    ]
    assert skipped
    for task, regs in skipped:
        assert regs.caller is not None
        (at,) = (i for i, frame in enumerate(task.frames) if frame.regs == regs.address)
        outer, sp = task.frames[at + 1].ip, regs["sp"]
        place = next(
            addr for addr in range(sp, sp + 512, 8) if prog.read_u64(addr) == regs.caller.ip
        )
        overlay(prog, place, outer.to_bytes(8, "little"))
        (again,) = (s for s in task_stacks(prog) if s.task == task.task)
        assert again.frames == task.frames
        assert [r.caller for r in again.regs if r.address == regs.address] == [None]
