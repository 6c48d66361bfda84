# SPDX-License-Identifier: LGPL-2.1-or-later
"""The walker of arm64 on stacks drawn in bytes: one test for each rule and each way a walk ends.

A stack is drawn from its top: lines run from high addresses to low.
"""

from __future__ import annotations

import random
from typing import Any, Optional

import pytest

from drgn_tools.arch.arm64.pt_regs import REGS, Arm64Regs
from drgn_tools.kernel.stack_memory import StackMemory
from drgn_tools.kernel.tasks import Task
from drgn_tools.records import Reason, Verdict
from drgn_tools.unwind.arm64 import Arm64Walker
from drgn_tools.unwind.arm64_rules import Arm64Rules
from drgn_tools.unwind.base import End, Fault, Recover, Signature, Walk, nothing_rewritten
from drgn_tools.verdict.reliable import judge

BASE = 0xFFFF_8000_8010_0000
SIZE = 16384
IRQ_BASE = 0xFFFF_8000_8000_0000
OVERFLOW_BASE = 0xFFFF_0000_3F00_0000
PAC_MASK = 0xFFF0_0000_0000_0000
TRAMPOLINE = 0xFFFF_8000_1234_0000
EL1H, EL0T = 0x5, 0x0

OLD_REGS = Arm64Regs(
    word_bytes=8, size_bytes=336, fields=REGS.fields, stackframe_offset=304, has_metadata=False
)
"""As of v6.12: struct pt_regs has a u64 stackframe[2]."""


def text(number: int) -> int:
    """A return address."""
    return 0xFFFF_8000_1000_0000 + number


class Drawing:
    """A stack, written word by word."""

    def __init__(
        self, regs: Arm64Regs = REGS, base: int = BASE, size: int = SIZE, kind: str = "task"
    ) -> None:
        self.layout = regs
        self.base, self.size, self.kind = base, size, kind
        self.memory = bytearray(size)
        self.pt_regs = base + size - regs.size_bytes
        self.final = self.pt_regs + regs.stackframe_offset
        self.fp = self.pc = 0
        self.sp = base
        self.had_signature = False

    def put(self, addr: int, *words: int) -> int:
        """Write words upward from *addr*; give *addr* back."""
        for i, word in enumerate(words):
            at = addr - self.base + 8 * i
            self.memory[at : at + 8] = word.to_bytes(8, "little")
        return addr

    def regs(self, addr: int, pstate: int, **values: int) -> int:
        """A struct pt_regs with these registers; gives the address of its frame record."""
        values = {"pstate": pstate, **values}
        for name, offset, size in self.layout.fields:
            at = addr - self.base + offset
            self.memory[at : at + size] = values.get(name, 0).to_bytes(size, "little")
        record = addr + self.layout.stackframe_offset
        if self.layout.has_metadata:
            return self.put(record, 0, 0, 1 if pstate == EL0T else 2)
        return self.put(record, values.get("x29", 0), values.get("pc", 0))

    def top(self, user_mode: bool = True) -> int:
        """task_pt_regs(), as entry code or copy_thread() leaves them."""
        record = self.regs(self.pt_regs, EL0T if user_mode else EL1H, pc=0x40_1000, x0=7)
        if self.layout.has_metadata:
            return self.put(record, 0, 0, 1)
        return self.put(record, 0, 0)

    def stack(self, holes: tuple[tuple[int, int], ...] = ()) -> StackMemory:
        return StackMemory(self.base, self.size, self.base, bytes(self.memory), holes, self.kind)

    def task(self, kthread: bool = False) -> Task:
        values: dict[str, Any] = dict.fromkeys(Task.__struct_fields__, 0)
        values.update(stack_addr=self.base, thread_sp=self.sp, thread_fp=self.fp)
        values.update(thread_pc=self.pc, kthread=kthread, has_stack=True)
        return Task(**values)

    def walk(
        self,
        recover: Recover = nothing_rewritten,
        kthread: bool = False,
        holes: tuple[tuple[int, int], ...] = (),
        pac_mask: int = 0,
    ) -> Walk:
        walker = Arm64Walker(rules(self.layout, pac_mask))
        walk = walker.walk_sleeping(self.task(kthread), self.stack(holes), recover)
        # The fast path has the same answer, or none.
        signature = walker.signature(self.task(kthread), self.stack(holes), lambda _: recover)
        if signature is not None:
            assert signature == in_short(walk, self.layout)
        self.had_signature = signature is not None
        return walk


def in_short(walk: Walk, layout: Arm64Regs) -> Signature:
    """The signature of a walk that is complete."""
    assert walk.end in (End.USER_REGS, End.LAST_FRAME)
    kernel = [step for step in walk.steps if not step.user_mode]
    return Signature(
        tuple(step.ip for step in kernel),
        tuple(i for i, step in enumerate(kernel) if step.regs is not None),
        len(kernel) < len(walk.steps),
        tuple(
            (step.regs, layout.read(step.raw_regs))
            for step in walk.steps
            if step.regs is not None and step.raw_regs is not None
        ),
    )


def rules(regs: Arm64Regs = REGS, pac_mask: int = 0) -> Arm64Rules:
    return Arm64Rules(regs, SIZE, pac_mask, frozenset({TRAMPOLINE}))


def ips(walk: Walk) -> list[int]:
    return [step.ip for step in walk.steps]


def verdict(walk: Walk) -> tuple[Verdict, Optional[Reason]]:
    found = judge(walk, lambda _: False, True, needs_kernel_text=False)
    return found.verdict, found.reason


def in_a_syscall(d: Drawing) -> None:
    # FINAL record in pt_regs
    # lr text(2) | fp -> FINAL
    # lr text(1) | fp -> above     <- cpu_context.fp; cpu_context.pc = text(0)
    final = d.top()
    outer = d.put(d.pt_regs - 64, final, text(2))
    d.fp, d.pc = d.put(outer - 128, outer, text(1)), text(0)


@pytest.mark.parametrize("regs", [REGS, OLD_REGS], ids=["metadata", "before-6.13"])
def test_a_task_in_a_syscall_ends_at_its_user_registers(regs: Arm64Regs) -> None:
    d = Drawing(regs)
    in_a_syscall(d)
    walk = d.walk()
    assert ips(walk) == [text(0), text(1), text(2), 0x40_1000]
    assert walk.end is End.USER_REGS
    assert [step.found_at for step in walk.steps[:3]] == [None, d.fp + 8, d.pt_regs - 56]
    last = walk.steps[-1]
    assert (last.regs, last.user_mode, last.exact) == (d.pt_regs, True, True)
    assert last.raw_regs is not None and regs.read(last.raw_regs)["x0"] == 7
    assert verdict(walk) == (Verdict.RELIABLE, None)
    assert d.had_signature


@pytest.mark.parametrize("regs", [REGS, OLD_REGS], ids=["metadata", "before-6.13"])
def test_a_kernel_thread_ends_at_the_final_record(regs: Arm64Regs) -> None:
    d = Drawing(regs)
    final = d.top(user_mode=False)
    d.fp, d.pc = d.put(d.pt_regs - 64, final, text(1)), text(0)
    walk = d.walk(kthread=True)
    assert (ips(walk), walk.end) == ([text(0), text(1)], End.LAST_FRAME)
    # The first task of a CPU has nothing but zeros there, as if of user mode.
    d.regs(d.pt_regs, EL0T)
    assert d.walk(kthread=True).end is End.LAST_FRAME


def test_a_task_that_never_ran_has_one_frame() -> None:
    # copy_thread(): cpu_context.fp = &childregs->stackframe, cpu_context.pc = ret_from_fork
    d = Drawing()
    d.fp, d.pc = d.top(), text(0)
    assert ips(d.walk()) == [text(0), 0x40_1000]


def interrupted(d: Drawing) -> int:
    """Draw a task that was interrupted in the kernel; gives the address of these pt_regs."""
    # FINAL
    # lr text(4) | fp -> FINAL            the caller of the interrupted function
    # pt_regs: pc text(3), x29 -> above; lr (x30) is text(99)
    # lr text(2) | fp -> its record       entry code called a handler
    # lr text(1) | fp -> above
    outer = d.put(d.pt_regs - 64, d.top(), text(4))
    regs = outer - 512
    record = d.regs(regs, EL1H, pc=text(3), x29=outer, x30=text(99))
    handler = d.put(regs - 64, record, text(2))
    d.fp, d.pc = d.put(handler - 64, handler, text(1)), text(0)
    return regs


@pytest.mark.parametrize("regs", [REGS, OLD_REGS], ids=["metadata", "before-6.13"])
def test_an_interrupt_in_the_kernel_is_a_frame_and_the_saved_lr_is_not(regs: Arm64Regs) -> None:
    d = Drawing(regs)
    at = interrupted(d)
    walk = d.walk()
    assert ips(walk) == [text(0), text(1), text(2), text(3), text(4), 0x40_1000]
    step = walk.steps[3]
    assert (step.regs, step.exact, step.user_mode) == (at, True, False)
    assert step.raw_regs is not None and regs.read(step.raw_regs)["x30"] == text(99)
    assert verdict(walk) == (Verdict.UNRELIABLE, Reason.KERNEL_MODE_REGS)
    assert d.had_signature


def test_before_metadata_only_registers_that_say_the_same_are_registers() -> None:
    d = Drawing(OLD_REGS)
    at = interrupted(d)
    for name in ("pc", "x29", "pstate"):
        offset = next(offset for field, offset, _ in OLD_REGS.fields if field == name)
        other = Drawing(OLD_REGS)
        interrupted(other)
        other.put(at + offset, 0x40_2000 if name != "pstate" else EL0T)
        walk = other.walk()
        # The kernel goes through the record all the same.
        assert ips(walk) == ips(d.walk())
        assert [step.regs for step in walk.steps[:-1]] == [None] * 5


# ---- how it ends otherwise


def test_a_frame_pointer_must_be_aligned_and_lead_up_the_stack() -> None:
    d = Drawing()
    in_a_syscall(d)
    record = d.fp
    for bad in (record + 4, record, record - 8, d.base - 16, d.base + d.size - 8, 0, 0xDEAD_BEE0):
        d.put(record, bad)
        walk = d.walk()
        assert (ips(walk), walk.end, walk.bad_addr) == ([text(0), text(1)], End.ERROR, bad)
        assert walk.fault is None
        assert verdict(walk) == (Verdict.UNRELIABLE, Reason.BROKEN_CHAIN)


def test_records_may_touch_but_not_overlap() -> None:
    d = Drawing()
    final = d.top()
    upper = d.put(d.pt_regs - 16, final, text(2))
    d.fp, d.pc = d.put(upper - 16, upper, text(1)), text(0)
    assert d.walk().end is End.USER_REGS
    d.put(upper - 16, upper - 8, text(1))
    assert d.walk().end is End.ERROR


@pytest.mark.parametrize("kind", [0, 1, 3, 1 << 32 | 2])
def test_a_record_without_a_return_address_must_be_one_of_the_kernels(kind: int) -> None:
    # FINAL counts only where it belongs.
    d = Drawing()
    d.top()
    record = d.put(d.pt_regs - 64, 0, 0, kind)
    d.fp, d.pc = record, text(0)
    walk = d.walk()
    assert (ips(walk), walk.end) == ([text(0)], End.ERROR)
    assert (walk.bad_addr, walk.fault) == (record, Fault.BAD_FRAME_RECORD)
    assert verdict(walk) == (Verdict.UNRELIABLE, Reason.BAD_FRAME_RECORD)


def test_registers_must_lie_on_the_stack_as_a_whole_and_above_what_was_consumed() -> None:
    # A PT_REGS record so low that its pt_regs would begin below the stack, or in the frame below it.
    d = Drawing()
    outer = d.put(d.pt_regs - 64, d.top(), text(2))
    below = d.put(d.base + 8, 0, 0, 2)
    d.fp, d.pc = below, text(0)
    assert (ips(d.walk()), d.walk().end) == ([text(0)], End.ERROR)
    regs = outer - 512
    record = d.regs(regs, EL1H, pc=text(1), x29=outer)
    d.fp = d.put(regs - 8, record, 0xBAD)  # its second word is x0 of these registers
    assert d.walk().end is End.ERROR
    d.fp = d.put(regs - 16, record, text(9))
    assert ips(d.walk())[:3] == [text(0), text(9), text(1)]


def test_the_end_of_the_stack_is_off_the_stack() -> None:
    d = Drawing()
    d.fp, d.pc = d.put(d.base + d.size - 16, 0, 0), text(0)
    # A record of two words fits, one of three does not.
    walk = d.walk()
    assert (walk.end, walk.fault) == (End.ERROR, None)


def test_a_hole_in_the_memory_ends_the_walk_as_what_it_is() -> None:
    d = Drawing()
    in_a_syscall(d)
    outer = d.pt_regs - 64
    page = outer & -4096
    walk = d.walk(holes=((page, page + 4096),))
    assert (ips(walk), walk.end, walk.bad_addr) == ([text(0)], End.NOT_IN_DUMP, d.fp)


# ---- return addresses


def test_authentication_codes_are_stripped_from_return_addresses() -> None:
    d = Drawing()
    in_a_syscall(d)
    plain = ips(d.walk(pac_mask=PAC_MASK))
    d.put(d.fp + 8, text(1) & ~PAC_MASK | 0x12B0_0000_0000_0000 & PAC_MASK | 1 << 55)
    assert ips(d.walk(pac_mask=PAC_MASK)) == plain
    # Of an address of user mode the bits below the tag are zeros: GENMASK(54, vabits_actual).
    d.put(d.fp + 8, 0x1230_0000_0000_4000)
    assert ips(d.walk(pac_mask=PAC_MASK))[1] == 0x1200_0000_0000_4000


def test_originals_are_asked_for_by_the_frame_pointer_of_the_caller() -> None:
    d = Drawing()
    in_a_syscall(d)
    outer = d.pt_regs - 64
    d.put(d.fp + 8, TRAMPOLINE)
    asked = []

    def recover(addr: int, fp: int) -> int:
        asked.append((addr, fp))
        return text(42)

    assert ips(d.walk(recover))[:3] == [text(0), text(42), text(2)]
    assert asked == [(TRAMPOLINE, outer)] * 2  # of the walk and of the fast path
    assert d.had_signature


def test_an_original_that_is_not_found_ends_the_walk() -> None:
    d = Drawing()
    in_a_syscall(d)
    d.put(d.fp + 8, TRAMPOLINE)
    walk = d.walk(lambda addr, fp: 0)
    assert (ips(walk), walk.end) == ([text(0)], End.ERROR)
    assert verdict(walk) == (Verdict.UNRELIABLE, Reason.ADDRESS_NOT_RECOVERED)


def test_an_original_that_is_a_trampoline_is_left_at_that() -> None:
    # A function that the function graph tracer traces jumps to one with a kretprobe: this keeps return_to_handler as
    # the original. The kernel has asked the tracer before, and does not ask again.
    d = Drawing()
    in_a_syscall(d)
    d.put(d.fp + 8, TRAMPOLINE)
    walk = d.walk(lambda addr, fp: TRAMPOLINE)
    assert ips(walk) == [text(0), TRAMPOLINE, text(2), 0x40_1000]
    assert verdict(walk) == (Verdict.RELIABLE, None)
    assert d.had_signature


def test_a_return_address_need_not_be_kernel_text() -> None:
    d = Drawing()
    in_a_syscall(d)
    d.put(d.fp + 8, 0xBAD)
    assert verdict(d.walk()) == (Verdict.RELIABLE, None)


def test_as_many_entries_as_live_patching_has_are_too_many() -> None:
    for entries, expected in ((99, Verdict.RELIABLE), (100, Verdict.UNRELIABLE)):
        d = Drawing()
        fp = d.top()
        for number in range(1, entries):
            fp = d.put(d.pt_regs - 16 * number, fp, text(number))
        d.fp, d.pc = fp, text(0)
        assert verdict(d.walk())[0] is expected


# ---- on a CPU: more stacks


class Machine:
    """A task on a CPU that is on its irq stack, or overflow stack."""

    def __init__(self, regs: Arm64Regs = REGS) -> None:
        self.task = Drawing(regs)
        self.irq = Drawing(regs, IRQ_BASE, SIZE, "irq")
        self.overflow = Drawing(regs, OVERFLOW_BASE, 4096, "overflow")

    def find(self, addr: int) -> Optional[StackMemory]:
        for d in (self.task, self.irq, self.overflow):
            if d.base <= addr < d.base + d.size:
                return d.stack()
        return None

    def walk(self, fp: int, pc: int, pstate: int = EL1H) -> Walk:
        registers = {"x29": fp, "pc": pc, "sp": fp, "pstate": pstate}
        walker = Arm64Walker(rules(self.task.layout))
        return walker.walk_running(self.task.task(), registers, self.find, nothing_rewritten)


def test_a_cpu_goes_from_its_irq_stack_to_the_stack_of_the_task() -> None:
    m = Machine()
    interrupted(m.task)
    # call_on_irq_stack() leaves a record at the top of the irq stack.
    top = m.irq.put(IRQ_BASE + SIZE - 16, m.task.fp, text(20))
    fp = m.irq.put(top - 64, top, text(21))
    walk = m.walk(fp, text(22))
    assert ips(walk) == [text(21), text(20), text(1), text(2), text(3), text(4), 0x40_1000]
    assert [step.stack for step in walk.steps][:3] == ["irq", "irq", "task"]
    assert walk.end is End.USER_REGS


def test_no_stack_is_gone_back_to() -> None:
    m = Machine()
    m.task.top()
    back = m.task.put(m.task.pt_regs - 64, IRQ_BASE + SIZE - 64, text(2))
    m.irq.put(IRQ_BASE + SIZE - 64, m.task.final, text(3))
    fp = m.irq.put(IRQ_BASE + 64, back, text(1))
    walk = m.walk(fp, text(0))
    assert (ips(walk), walk.end) == ([text(1), text(2)], End.ERROR)
    assert walk.bad_addr == IRQ_BASE + SIZE - 64


def test_a_stack_that_overflowed_is_named() -> None:
    # __bad_stack: pt_regs at the top of the overflow stack, with the x29 and pc of the code that had no stack.
    m = Machine()
    in_a_syscall(m.task)
    record = m.overflow.regs(m.overflow.pt_regs, EL1H, pc=text(9), x29=m.task.fp, sp=BASE - 32)
    fp = m.overflow.put(m.overflow.pt_regs - 64, record, text(8))
    walk = m.walk(fp, text(7))
    assert ips(walk) == [text(8), text(9), text(1), text(2), 0x40_1000]
    assert walk.overflowed == "task"


def test_a_cpu_in_user_mode_has_nothing_on_its_stacks() -> None:
    assert Machine().walk(0, 0x40_0000, EL0T) == Walk((), End.USER_REGS)


@pytest.mark.parametrize("regs", [REGS, OLD_REGS], ids=["metadata", "before-6.13"])
def test_garbage_ends(regs: Arm64Regs) -> None:
    # Words that lead somewhere on the stack, or are records of the kernel's kinds.
    chance = random.Random(18)
    ends = set()
    for _ in range(300):
        d = Drawing(regs)
        for at in range(0, d.size, 8):
            word = chance.choice((0, 0, 1, 2, text(1), BASE + 8 * chance.randrange(SIZE // 8)))
            d.put(BASE + at, word)
        d.fp, d.pc = BASE + 8 * chance.randrange(SIZE // 8), text(0)
        walk = d.walk()
        ends.add((walk.end, walk.fault))
        addresses = [step.found_at for step in walk.steps if step.found_at is not None]
        assert addresses == sorted(addresses)
    assert (End.ERROR, None) in ends
