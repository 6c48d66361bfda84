# SPDX-License-Identifier: LGPL-2.1-or-later
"""The walker from the registers of a CPU, across stacks drawn in memory."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Optional, cast

import pytest
from msgspec.structs import replace

from drgn_tools.arch.x86.encoding import Encoding
from drgn_tools.arch.x86.frame_pointer_rules import UnwindRules
from drgn_tools.arch.x86.pt_regs import REGS_64
from drgn_tools.kernel.stack_memory import StackMemory
from drgn_tools.kernel.tasks import Task
from drgn_tools.unwind.base import End, Recover, Walk, nothing_rewritten
from drgn_tools.unwind.frame_pointer import FramePointerWalker, walk_from_regs

TASK = 0xFFFF_C900_0010_0000
IRQ = 0xFFFF_C900_0000_4000
NMI = 0xFFFF_FE00_0000_2000
SIZE = 4096
KERNEL_CS = 0x10
USER_CS = 0x33
RULES = UnwindRules(Encoding.LSB, REGS_64, 0, 40)
TASK_PT_REGS = TASK + SIZE - 168
LAST_FRAME = TASK_PT_REGS - 16


class Cpu:
    """Stacks of one CPU, written word by word."""

    def __init__(self) -> None:
        self.memory = {begin: bytearray(SIZE) for begin in (TASK, IRQ, NMI)}
        self.kinds = {TASK: "task", IRQ: "irq", NMI: "nmi"}
        self.next_sp: dict[int, int] = {}
        self.hidden_regs: dict[int, int] = {}
        self.holes: dict[int, tuple[tuple[int, int], ...]] = {}
        self.regs(TASK_PT_REGS, cs=USER_CS, ip=0x401000)
        self.frame(LAST_FRAME, 0, 0xA9)

    def put(self, addr: int, *words: int) -> int:
        begin = addr & -SIZE
        for i, word in enumerate(words):
            at = addr - begin + 8 * i
            self.memory[begin][at : at + 8] = word.to_bytes(8, "little")
        return addr

    def frame(self, addr: int, saved_bp: int, ret: int) -> int:
        return self.put(addr, saved_bp, ret)

    def regs(self, addr: int, **values: int) -> int:
        begin = addr & -SIZE
        for name, offset, size in REGS_64.fields:
            at = addr - begin + offset
            self.memory[begin][at : at + size] = values.get(name, 0).to_bytes(size, "little")
        return addr

    def find(self, addr: int) -> Optional[StackMemory]:
        begin = addr & -SIZE
        if begin not in self.memory:
            return None
        return StackMemory(
            begin,
            SIZE,
            begin,
            bytes(self.memory[begin]),
            self.holes.get(begin, ()),
            self.kinds[begin],
            self.next_sp.get(begin),
            self.hidden_regs.get(begin),
        )

    def walk(
        self,
        ip: int,
        sp: int,
        bp: int,
        cs: int = KERNEL_CS,
        recover: Recover = nothing_rewritten,
    ) -> Walk:
        registers = {"ip": ip, "sp": sp, "bp": bp, "cs": cs, "flags": 0}
        return walk_from_regs(registers, self.find, TASK + SIZE, RULES, recover)


def seen(walk: Walk) -> list[tuple[str, int]]:
    return [(step.stack, step.ip) for step in walk.steps]


def test_user_mode_is_not_walked() -> None:
    assert Cpu().walk(0x401000, 0x7FFF_0000, 0, cs=USER_CS) == Walk((), End.USER_REGS)


def test_frames_below_the_stack_pointer_are_stale_and_skipped() -> None:
    # A function that has just been entered: bp is still its caller's.
    cpu = Cpu()
    caller = cpu.frame(TASK + 2048, LAST_FRAME, 0xA1)
    stale = cpu.frame(TASK + 1024, caller, 0xA0)
    assert seen(cpu.walk(0xF0, sp=TASK + 1500, bp=stale)) == [
        ("task", 0xA1),
        ("task", 0xA9),
        ("task", 0x401000),
    ]


def test_irq_stack_leads_to_the_task_stack_where_it_was_left() -> None:
    # IRQ:   top word: the task's sp     <- switched there
    #        frame {-> task frame}
    # TASK:  frame of asm_sysvec_...: saved bp is encoded -> pt_regs
    cpu = Cpu()
    regs = cpu.regs(TASK + 3000 & -8, ip=0xFA11, cs=KERNEL_CS, bp=LAST_FRAME)
    entry = cpu.frame(TASK + 2048, regs | 1, 0xA2)
    on_irq = cpu.frame(IRQ + 2048, entry, 0xA1)
    cpu.put(IRQ + SIZE - 8, TASK + 2000)
    cpu.next_sp[IRQ] = TASK + 2000
    walk = cpu.walk(0xF0, sp=IRQ + 2000, bp=on_irq)
    assert walk.end is End.USER_REGS
    assert seen(walk) == [
        ("irq", 0xA1),
        ("task", 0xA2),
        ("task", 0xFA11),
        ("task", 0xA9),
        ("task", 0x401000),
    ]


def test_an_nmi_that_hit_an_interrupt_that_hit_a_syscall() -> None:
    cpu = Cpu()
    task_regs = cpu.regs(TASK + 3072, ip=0xB0, cs=KERNEL_CS, bp=LAST_FRAME)
    task_frame = cpu.frame(TASK + 2048, task_regs | 1, 0xA2)
    irq_frame = cpu.frame(IRQ + 3072, task_frame, 0xA1)
    nmi_regs = cpu.regs(NMI + SIZE - 168, ip=0xC0, cs=KERNEL_CS, bp=irq_frame, sp=IRQ + 3000)
    nmi_frame = cpu.frame(NMI + 2048, nmi_regs | 1, 0xA0)
    cpu.next_sp = {NMI: IRQ + 3000, IRQ: TASK + 2000}
    walk = cpu.walk(0xF0, sp=NMI + 2000, bp=nmi_frame)
    assert seen(walk)[:5] == [
        ("nmi", 0xA0),
        ("nmi", 0xC0),
        ("irq", 0xA1),
        ("task", 0xA2),
        ("task", 0xB0),
    ]
    assert walk.end is End.USER_REGS


def test_an_empty_stack_on_the_way_is_passed() -> None:
    # The frame pointer leads from the NMI stack to the task's, by way of an irq
    # stack that nothing is on yet.
    cpu = Cpu()
    nmi_frame = cpu.frame(NMI + 2048, LAST_FRAME, 0xA0)
    cpu.next_sp = {NMI: IRQ + 4000, IRQ: TASK + 2000}
    assert seen(cpu.walk(0xF0, sp=NMI + 2000, bp=nmi_frame))[:2] == [("nmi", 0xA0), ("task", 0xA9)]


def test_no_stack_is_visited_twice() -> None:
    cpu = Cpu()
    frame = cpu.frame(NMI + 2048, IRQ + 1024, 0xA0)
    cpu.frame(IRQ + 1024, NMI + 3072, 0xA1)
    cpu.next_sp = {NMI: IRQ + 1000, IRQ: NMI + 3000}
    walk = cpu.walk(0xF0, sp=NMI + 2000, bp=frame)
    assert (walk.end, walk.bad_addr, seen(walk)) == (
        End.ERROR,
        NMI + 3072,
        [("nmi", 0xA0), ("irq", 0xA1)],
    )


def test_a_stack_that_overflowed_is_not_visited_again() -> None:
    cpu = Cpu()
    frame = cpu.frame(NMI + 2048, IRQ + 1024, 0xA0)
    cpu.frame(IRQ + 1024, TASK + 2048, 0xA1)
    cpu.frame(TASK + 2048, IRQ + 2048, 0xA2)
    cpu.frame(IRQ + 2048, 0, 0xA3)
    cpu.next_sp = {NMI: IRQ - 8, IRQ: TASK + 2000, TASK: IRQ + 2000}
    walk = cpu.walk(0xF0, sp=NMI + 2000, bp=frame)
    assert (walk.end, walk.bad_addr, walk.overflowed, seen(walk)) == (
        End.ERROR,
        IRQ + 2048,
        "irq",
        [("nmi", 0xA0), ("irq", 0xA1), ("task", 0xA2)],
    )


def test_frames_may_lie_lower_on_the_next_stack_but_not_on_the_same() -> None:
    cpu = Cpu()
    low = cpu.frame(TASK + 64, LAST_FRAME, 0xA1)
    high = cpu.frame(NMI + 3072, low, 0xA0)
    cpu.next_sp[NMI] = TASK + 8
    assert cpu.walk(0xF0, sp=NMI + 3000, bp=high).end is End.USER_REGS
    below = cpu.frame(NMI + 2048, high, 0xA2)
    cpu.frame(high, below, 0xA0)
    assert cpu.walk(0xF0, sp=NMI + 2000, bp=below).end is End.ERROR


def test_a_call_of_null_shows_its_caller() -> None:
    # sp -> return address of the caller; bp is still the caller's frame.
    cpu = Cpu()
    caller = cpu.frame(TASK + 2048, LAST_FRAME, 0xA1)
    cpu.put(TASK + 2000, 0xCA11)
    assert seen(cpu.walk(0, sp=TASK + 2000, bp=caller)) == [
        ("task", 0xCA11),
        ("task", 0xA1),
        ("task", 0xA9),
        ("task", 0x401000),
    ]


def under_an_oops(cpu: Cpu, sp: int, regs: int) -> Walk:
    """Walk from a handler, which stands on the pt_regs of a call of NULL."""
    caller = cpu.frame(TASK + 3072, LAST_FRAME, 0xA1)
    cpu.regs(regs, ip=0, cs=KERNEL_CS, sp=sp, bp=caller)
    handler = cpu.frame(TASK + 1024, regs | 1, 0xA0)
    return cpu.walk(0xF0, sp=TASK + 1000, bp=handler)


def test_a_call_of_null_shows_its_caller_also_under_the_oops_that_followed() -> None:
    # The pt_regs of the fault end right where the caller's return address lies.
    cpu = Cpu()
    ret = cpu.put(TASK + 3000, 0xCA11)
    walk = under_an_oops(cpu, ret, ret - 168)
    assert [ip for _, ip in seen(walk)] == [0xA0, 0, 0xCA11, 0xA1, 0xA9, 0x401000]
    caller = walk.steps[2]
    assert (caller.found_at, caller.regs, caller.exact) == (ret, None, False)


@pytest.mark.parametrize("above_regs", [-8, 8 - 168, 4096])
def test_a_call_of_null_whose_stack_pointer_is_no_place_for_a_caller_is_an_error(
    above_regs: int,
) -> None:
    # Inside of the registers, or off the stack.
    cpu = Cpu()
    regs = TASK + 2000
    walk = under_an_oops(cpu, regs + 168 + above_regs, regs)
    assert (walk.end, walk.bad_addr) == (End.ERROR, regs + 168 + above_regs)
    assert [ip for _, ip in seen(walk)] == [0xA0, 0]


def test_recovery_is_asked_of_the_caller_of_a_call_of_null() -> None:
    asked = []

    def recover(addr: int, addr_p: int) -> int:
        asked.append((addr, addr_p))
        return addr

    cpu = Cpu()
    ret = cpu.put(TASK + 3000, 0xCA11)
    caller = cpu.frame(TASK + 3072, LAST_FRAME, 0xA1)
    cpu.regs(ret - 168, ip=0, cs=KERNEL_CS, sp=ret, bp=caller)
    handler = cpu.frame(TASK + 1024, (ret - 168) | 1, 0xA0)
    cpu.walk(0xF0, sp=TASK + 1000, bp=handler, recover=recover)
    assert asked == [
        (0xA0, handler + 8),
        (0, ret - 168 + 128),
        (0xCA11, ret),
        (0xA1, caller + 8),
        (0xA9, LAST_FRAME + 8),
    ]


@pytest.mark.parametrize(
    ("sp", "first_asked"), [(0, (1 << 64) - 8), (TASK + 2001, TASK + 1993), (TASK + 8, TASK)]
)
def test_the_pretended_frame_of_a_call_of_null_is_below_sp_as_an_address(
    sp: int, first_asked: int
) -> None:
    cpu = Cpu()
    asked = []

    def find(addr: int) -> Optional[StackMemory]:
        asked.append(addr)
        return cpu.find(addr)

    registers = {"ip": 0, "sp": sp, "bp": 0, "cs": KERNEL_CS, "flags": 0}
    walk_from_regs(registers, find, TASK + SIZE, RULES)
    assert asked[0] == first_asked


def test_a_stack_pointer_at_the_very_bottom_has_not_overflowed() -> None:
    cpu = Cpu()
    frame = cpu.frame(TASK + 2048, LAST_FRAME, 0xA1)
    walk = cpu.walk(0xF0, sp=TASK, bp=frame)
    assert (walk.end, walk.overflowed, len(walk.steps)) == (End.USER_REGS, None, 3)


def test_the_walker_of_a_kernel_has_its_rules() -> None:
    cpu = Cpu()
    caller = cpu.frame(TASK + 2048, LAST_FRAME, 0xA1)
    sp = cpu.frame(TASK + 1024, caller, 0xA0) - RULES.frame_bp_offset
    stack = StackMemory(TASK, SIZE, sp, bytes(cpu.memory[TASK][sp - TASK :]))
    task = cast(Task, SimpleNamespace(thread_sp=sp))
    walker = FramePointerWalker(RULES)
    assert walker.encoding == "lsb"
    assert FramePointerWalker(replace(RULES, encoding=Encoding.MSB)).encoding == "msb"
    walk = walker.walk_sleeping(task, stack, lambda addr, addr_p: addr + 1)
    assert [step.ip for step in walk.steps] == [0xA1, 0xA2, 0xAA, 0x401000]
    signature = walker.signature(task, stack, lambda of: lambda addr, addr_p: addr)
    assert signature is not None
    assert signature.ips == (0xA0, 0xA1, 0xA9)


def test_the_walker_of_a_kernel_walks_from_the_registers_and_recovers() -> None:
    cpu = Cpu()
    caller = cpu.frame(TASK + 2048, LAST_FRAME, 0xA1)
    registers = {"ip": 0xF0, "sp": TASK + 2000, "bp": caller, "cs": KERNEL_CS, "flags": 0}
    task = cast(Task, SimpleNamespace(stack_addr=TASK))
    walker = FramePointerWalker(replace(RULES, thread_size_bytes=SIZE))
    walk = walker.walk_running(task, registers, cpu.find, lambda addr, addr_p: addr + 1)
    assert walk.end is End.USER_REGS
    assert seen(walk) == [("task", 0xA2), ("task", 0xAA), ("task", 0x401000)]


def overflowed(sp: int, cpu: Optional[Cpu] = None) -> Walk:
    """#DF: sp of the interrupted code is below its stack, so it is on none."""
    cpu = cpu or Cpu()
    outer = cpu.frame(TASK + 96, LAST_FRAME, 0xA1)
    regs = cpu.regs(NMI + SIZE - 168, ip=0xC0, cs=KERNEL_CS, bp=outer, sp=sp)
    frame = cpu.frame(NMI + 2048, regs | 1, 0xA0)
    cpu.next_sp[NMI] = sp
    return cpu.walk(0xF0, sp=NMI + 2000, bp=frame)


@pytest.mark.parametrize("sp", [TASK - 8, TASK - SIZE])
def test_a_stack_that_overflowed_is_shown_where_its_frame_pointer_is(sp: int) -> None:
    walk = overflowed(sp)
    assert (walk.end, walk.overflowed) == (End.USER_REGS, "task")
    assert seen(walk) == [
        ("nmi", 0xA0),
        ("nmi", 0xC0),
        ("task", 0xA1),
        ("task", 0xA9),
        ("task", 0x401000),
    ]


def test_a_stack_that_overflowed_has_done_so_also_if_a_part_of_it_is_missing() -> None:
    cpu = Cpu()
    cpu.holes[TASK] = ((LAST_FRAME, LAST_FRAME + 16),)
    walk = overflowed(TASK - 8, cpu)
    assert (walk.end, walk.bad_addr, walk.overflowed) == (End.NOT_IN_DUMP, LAST_FRAME + 8, "task")


def test_a_stack_that_overflowed_has_done_so_also_if_nothing_is_found_on_it() -> None:
    walk = Cpu().walk(0xF0, sp=TASK - 8, bp=TASK + SIZE - 8)
    assert walk == Walk((), End.EMPTY, overflowed="task")


@pytest.mark.parametrize("sp", [TASK - SIZE - 8, 0, TASK + SIZE])
def test_a_stack_pointer_that_left_its_stack_otherwise_ends_the_walk(sp: int) -> None:
    walk = overflowed(sp)
    assert (walk.end, walk.overflowed) == (End.ERROR, None)
    assert seen(walk) == [("nmi", 0xA0), ("nmi", 0xC0)]


def test_a_cpu_whose_own_stack_pointer_is_in_the_guard_page_is_shown() -> None:
    # The registers of the double fault itself, as a crash kernel gets them.
    cpu = Cpu()
    outer = cpu.frame(TASK + 96, LAST_FRAME, 0xA1)
    walk = cpu.walk(0xF0, sp=TASK - 200, bp=outer)
    assert (walk.end, walk.overflowed) == (End.USER_REGS, "task")
    assert [ip for _, ip in seen(walk)] == [0xA1, 0xA9, 0x401000]


@pytest.mark.parametrize("cpu_sp", [NMI + 2000, NMI + SIZE - 8])
def test_calls_of_null_that_lead_back_end_the_walk(cpu_sp: int) -> None:
    # The registers' sp and bp lead to these registers again.
    cpu = Cpu()
    regs = NMI + 2560
    cpu.regs(regs, ip=0, cs=KERNEL_CS, sp=NMI + 2304, bp=regs | 1)
    frame = cpu.frame(NMI + 2048, regs | 1, 0xA0)
    walk = cpu.walk(0xF0, sp=cpu_sp, bp=frame)
    assert walk.end is End.ERROR
    assert walk.bad_addr == NMI + 2304


def test_a_call_of_null_without_a_frame_pointer_skips_to_the_first_frame() -> None:
    # __unwind_start(): next_bp is NULL, so the pretended frame is below the first one.
    cpu = Cpu()
    cpu.put(TASK + 2000, 0xCA11)
    assert cpu.walk(0, sp=TASK + 2000, bp=0).steps == ()


# ---- a double fault of x86-32: no frame pointer leads to its pt_regs

OUTERMOST = NMI + 3000 & -8


def double_fault(cpu: Cpu, sp: int, saved_bp: int = 0, **regs: int) -> Walk:
    """The last frame on its stack, and below it the pt_regs that are a variable of that function."""
    outer = cpu.frame(TASK + 2048, LAST_FRAME, 0xA1)
    values = {"ip": 0xC0, "cs": KERNEL_CS, "bp": outer, "sp": sp, **regs}
    cpu.hidden_regs[NMI] = cpu.regs(NMI + 2048, **values)
    cpu.next_sp[NMI] = sp
    cpu.frame(OUTERMOST, saved_bp, 0xA0)
    return cpu.walk(0xF0, sp=NMI + 2000, bp=OUTERMOST)


@pytest.mark.parametrize(
    ("sp", "overflowed"),
    [(TASK + 2000, None), (TASK - 8, "task"), (TASK - SIZE - 8, None), (0x1000, None), (0, None)],
)
def test_a_double_fault_shows_its_callers_wherever_its_stack_pointer_is(
    sp: int, overflowed: Optional[str]
) -> None:
    walk = double_fault(Cpu(), sp)
    assert (walk.end, walk.overflowed) == (End.USER_REGS, overflowed)
    assert seen(walk) == [
        ("nmi", 0xA0),
        ("nmi", 0xC0),
        ("task", 0xA1),
        ("task", 0xA9),
        ("task", 0x401000),
    ]
    assert [step.regs for step in walk.steps] == [None, NMI + 2048, None, None, TASK_PT_REGS]


def test_a_double_fault_of_user_mode_ends_there() -> None:
    walk = double_fault(Cpu(), 0x7FFF_0000, cs=USER_CS)
    assert (walk.end, seen(walk)) == (End.USER_REGS, [("nmi", 0xA0), ("nmi", 0xC0)])


def test_a_double_fault_that_leads_back_to_its_own_stack_ends() -> None:
    walk = double_fault(Cpu(), 0x1000, bp=OUTERMOST)
    assert (walk.end, walk.bad_addr) == (End.ERROR, 0)
    assert seen(walk) == [("nmi", 0xA0), ("nmi", 0xC0), ("nmi", 0xA0)]


def test_a_double_fault_whose_frame_pointer_is_lost_too_is_an_error() -> None:
    walk = double_fault(Cpu(), 0x1000, bp=0x2000)
    assert (walk.end, walk.bad_addr) == (End.ERROR, 0x2000)
    assert seen(walk) == [("nmi", 0xA0), ("nmi", 0xC0)]


def test_a_frame_pointer_goes_before_hidden_regs() -> None:
    walk = double_fault(Cpu(), TASK + 2000, saved_bp=TASK + 2048)
    assert [ip for _, ip in seen(walk)] == [0xA0, 0xA1, 0xA9, 0x401000]


def test_only_from_hidden_regs_may_a_stack_pointer_be_lost() -> None:
    # Those of an interrupt on the same stack, encoded, lie below.
    cpu = Cpu()
    regs = cpu.regs(NMI + 1024, ip=0xB0, cs=KERNEL_CS, bp=TASK + 2048)
    below = cpu.frame(NMI + 512, regs | 1, 0xB1)
    double_fault(cpu, 0x1000)
    walk = cpu.walk(0xF0, sp=NMI + 512, bp=below)
    assert (walk.end, seen(walk)) == (End.ERROR, [("nmi", 0xB1), ("nmi", 0xB0)])


def test_a_frame_is_not_followed_to_a_stack_whose_stack_pointer_is_lost() -> None:
    cpu = Cpu()
    cpu.next_sp[NMI] = 0x1000
    frame = cpu.frame(NMI + 2048, TASK + 2048, 0xA0)
    walk = cpu.walk(0xF0, sp=NMI + 2000, bp=frame)
    assert (walk.end, seen(walk)) == (End.ERROR, [("nmi", 0xA0)])


def test_recovery_is_asked_of_where_a_double_fault_happened() -> None:
    cpu = Cpu()
    double_fault(cpu, 0x1000)
    walk = cpu.walk(0xF0, NMI + 2000, OUTERMOST, recover=lambda addr, addr_p: addr + 1)
    assert [ip for _, ip in seen(walk)] == [0xA1, 0xC1, 0xA2, 0xAA, 0x401000]
