# SPDX-License-Identifier: LGPL-2.1-or-later
"""drgn's unwinder as a walker, on the demo dump, where the walk of frame pointers says what is there."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Optional, cast

import drgn
import pytest
from msgspec.structs import replace

from drgn_tools import TaskStack, open_program, task_stacks
from drgn_tools.arch.registry import layout_of
from drgn_tools.arch.x86.layout import X86Layout
from drgn_tools.arch.x86.pt_regs import REGS_64
from drgn_tools.kernel.stack_memory import NotInDump, StackMemory
from drgn_tools.kernel.task_list import TaskList
from drgn_tools.kernel.tasks import Task
from drgn_tools.kernel.text import KernelText
from drgn_tools.unwind import drgn_fallback
from drgn_tools.unwind.base import End, Walk, nothing_rewritten
from drgn_tools.unwind.drgn_fallback import DrgnWalker
from drgn_tools.unwind.recovery import probe_recovery

from ..support.overlay import exclude


class Machine:
    """The demo dump, walked by drgn; and its records, by frame pointers."""

    def __init__(self, prog: drgn.Program) -> None:
        self.prog = prog
        self.layout = layout_of(prog)
        self.text = KernelText(prog)
        self.walker = DrgnWalker(prog, self.layout, self.text.is_kernel_text)
        tasks = TaskList(prog, self.layout.task)
        self.tasks = {task.comm: task for task in tasks if task.has_stack}
        self.running = [task for task in self.tasks.values() if tasks.is_running(task)]
        self.records = {record.task: record for record in task_stacks(prog)}

    def walk(self, task: Task, walker: Optional[DrgnWalker] = None) -> Walk:
        nothing = StackMemory(0, 0, 0, b"")
        return (walker or self.walker).walk_sleeping(task, nothing, nothing_rewritten)

    def sleeping(self) -> list[tuple[Task, TaskStack]]:
        tasks = [task for task in self.tasks.values() if task not in self.running]
        return [(task, self.records[task.addr]) for task in tasks]


@pytest.fixture(scope="module")
def machine(demo_core: str) -> Machine:
    return Machine(open_program(core=demo_core))


def test_sleeping_tasks_have_the_frames_that_frame_pointers_lead_to(machine: Machine) -> None:
    trampolines = probe_recovery(machine.prog).trampolines
    interrupted = rewritten = 0
    for task, record in machine.sleeping():
        walk = machine.walk(task)
        assert len(walk.steps) == len(record.frames)
        for step, frame in zip(walk.steps, record.frames):
            # drgn does not look up what was rewritten.
            assert step.ip == frame.ip or step.ip in trampolines
            rewritten += step.ip in trampolines
            assert step.exact is (frame.regs is not None)
            assert (step.user_mode, step.stack) == (frame.user_mode, "task")
            interrupted += step.exact and not step.user_mode
    assert interrupted and rewritten


def test_registers_of_user_mode_are_found_and_no_others(machine: Machine) -> None:
    ends = set()
    for task, record in machine.sleeping():
        walk = machine.walk(task)
        ends.add(walk.end)
        assert walk.end is (End.USER_REGS if record.frames[-1].user_mode else End.UNKNOWN)
        found = [
            (step.regs, machine.layout.regs.read(step.raw_regs), step.found_at)
            for step in walk.steps
            if step.raw_regs is not None
        ]
        ip_offset = machine.layout.regs.ip_offset
        assert found == [
            (regs.address, regs.registers, regs.address + ip_offset)
            for regs in record.regs
            if regs.user_mode
        ]
    assert ends == {End.USER_REGS, End.UNKNOWN}


def test_running_task_is_walked_from_its_cpu_which_is_no_step(machine: Machine) -> None:
    assert machine.running
    for task in machine.running:
        sps: list[int] = []

        def find_stack(sp: int, sps: list[int] = sps) -> Optional[StackMemory]:
            sps.append(sp)
            return StackMemory(0, 0, 0, b"", kind=f"stack {len(sps)}")

        registers = machine.layout.arch.cpu_registers(machine.prog, task)
        assert registers is not None
        walk = machine.walker.walk_running(task, registers, find_stack, nothing_rewritten)
        at_cpu, *others = machine.records[task.addr].frames
        assert at_cpu.ip == registers["ip"]
        assert [step.ip for step in walk.steps] == [frame.ip for frame in others]
        assert [step.stack for step in walk.steps] == [f"stack {i}" for i in range(1, len(sps) + 1)]
        assert sps == sorted(set(sps))
        assert (
            registers["sp"] < sps[0]
            and sps[-1] < task.stack_addr + machine.layout.thread_size_bytes
        )
        assert (walk.end, {step.exact for step in walk.steps}) == (End.UNKNOWN, {False})


@pytest.mark.parametrize("error", [LookupError(), NotInDump(0), None])
def test_frame_of_a_running_task_on_no_known_stack(
    machine: Machine, error: Optional[Exception]
) -> None:
    def find_stack(sp: int) -> Optional[StackMemory]:
        if error is not None:
            raise error
        return None

    task = machine.running[0]
    registers = machine.layout.arch.cpu_registers(machine.prog, task)
    assert registers is not None
    walk = machine.walker.walk_running(task, registers, find_stack, nothing_rewritten)
    assert {step.stack for step in walk.steps} == {"unknown"}


def test_task_in_user_mode_is_not_walked(machine: Machine) -> None:
    walk = machine.walker.walk_running(
        machine.running[0], {"cs": 0x33}, lambda sp: None, nothing_rewritten
    )
    assert walk == Walk((), End.USER_REGS)


@pytest.mark.parametrize("answer", [False, None])
def test_walk_ends_before_what_is_not_known_as_text(
    machine: Machine, answer: Optional[bool]
) -> None:
    task = machine.tasks["kthreadd"]
    whole = machine.walk(task)
    asked: list[int] = []

    def is_kernel_text(ip: int) -> Optional[bool]:
        asked.append(ip)
        return True if len(asked) < 3 else answer

    walk = machine.walk(task, DrgnWalker(machine.prog, machine.layout, is_kernel_text))
    assert walk.steps == whole.steps[:2] != whole.steps
    assert asked == [step.ip for step in whole.steps[:3]]


def test_task_that_drgn_cannot_unwind_has_no_frames_but_those_of_user_mode(
    machine: Machine,
) -> None:
    sleeper = machine.tasks["w-nanosleep"]
    (user_regs,) = (step for step in machine.walk(sleeper).steps if step.user_mode)
    assert machine.walk(replace(sleeper, addr=8)) == Walk((user_regs,), End.USER_REGS)
    assert machine.walk(replace(machine.tasks["kthreadd"], addr=8)) == Walk((), End.UNKNOWN)


def test_entry_registers_that_are_not_in_the_dump_leave_the_end_unknown(demo_core: str) -> None:
    machine = Machine(open_program(core=demo_core))
    task = machine.tasks["w-nanosleep"]
    whole = machine.walk(task)
    exclude(machine.prog, machine.layout.task_pt_regs(task.stack_addr), 8)
    assert machine.walk(task) == Walk(whole.steps[:-1], End.UNKNOWN)


# ---- frames that drgn might give


def frame(pc: int, interrupted: bool = False, is_inline: bool = False) -> SimpleNamespace:
    return SimpleNamespace(pc=pc, sp=0x9000 + pc, interrupted=interrupted, is_inline=is_inline)


def walker_of(monkeypatch: pytest.MonkeyPatch, *frames: SimpleNamespace) -> DrgnWalker:
    """A walker to which drgn gives these; of all else there is nothing in the dump."""
    monkeypatch.setattr(drgn_fallback, "create_modules", lambda prog: None)
    monkeypatch.setattr(drgn_fallback, "Object", lambda *_: None)
    monkeypatch.setattr(drgn_fallback, "read_or_none", lambda *_: None)
    prog = cast(drgn.Program, SimpleNamespace(stack_trace=lambda thread: frames))
    layout = SimpleNamespace(regs=REGS_64, task_pt_regs=lambda stack_addr: 0)
    return DrgnWalker(prog, cast(X86Layout, layout), lambda ip: True)


TASK = cast(Task, SimpleNamespace(addr=0, stack_addr=0))


def test_interrupted_frames_are_exact_but_the_one_where_a_sleeping_task_left_its_cpu(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    frames = [frame(0xA0 + i, interrupted=i != 3) for i in range(4)]
    walker = walker_of(monkeypatch, *frames)
    walk = walker.walk_sleeping(TASK, StackMemory(0, 0, 0, b""), nothing_rewritten)
    assert [(step.ip, step.exact) for step in walk.steps] == [
        (0xA0, False),
        (0xA1, True),
        (0xA2, True),
        (0xA3, False),
    ]
    registers = {"cs": 0x10}
    running = walker.walk_running(TASK, registers, lambda sp: None, nothing_rewritten)
    assert running.steps == tuple(replace(step, stack="unknown") for step in walk.steps[1:])


def test_inlined_functions_are_no_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    frames = [frame(0xA0), frame(0xA0, is_inline=True), frame(0xA1)]
    walker = walker_of(monkeypatch, *frames)
    walk = walker.walk_sleeping(TASK, StackMemory(0, 0, 0, b""), nothing_rewritten)
    assert [step.ip for step in walk.steps] == [0xA0, 0xA1]
