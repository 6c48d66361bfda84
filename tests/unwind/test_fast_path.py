# SPDX-License-Identifier: LGPL-2.1-or-later
"""The fast path against the walker: a stack that has a signature has that of its walk.

This is the one place where the two are compared. Stacks are drawn at random, damaged at
random, and shown to one FastPath in turn, which then knows where the frames of the others lie.
"""

from __future__ import annotations

from collections import Counter
from itertools import product
from typing import NamedTuple, Optional

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from drgn_tools.arch.x86.encoding import Encoding
from drgn_tools.arch.x86.frame_pointer_rules import UnwindRules
from drgn_tools.arch.x86.pt_regs import REGS_32, REGS_64, X86Regs
from drgn_tools.kernel.stack_memory import NotInDump, StackMemory
from drgn_tools.unwind.base import End, Signature
from drgn_tools.unwind.fast_path import FastPath
from drgn_tools.unwind.frame_pointer import walk_task_stack

from ..support.drawn_stack import KERNEL_CS, USER_CS, Drawing

SIZE_BYTES = 2048
LAST_RET = 0xA1
ADDRESSES = (0xA0, LAST_RET, 0xA2)
"""Few, so that special forms of the last frame, which repeat its address, come up."""


# ---- what is drawn. All that belongs together is drawn as one: hypothesis is slow for each draw.


class Machine(NamedTuple):
    """What of a kernel decides where things lie on its stacks."""

    regs: X86Regs
    encoding: Encoding
    padding: int
    bp_offset: int

    @property
    def half(self) -> int:
        """Where the upper half of the address space begins."""
        return 1 << 8 * self.regs.word_bytes - 1


MACHINES = {
    "64-lsb": Machine(REGS_64, Encoding.LSB, 0, 40),
    "64-lsb-fred": Machine(REGS_64, Encoding.LSB, 16, 40),
    "64-msb": Machine(REGS_64, Encoding.MSB, 0, 40),
    "64-msb-fred": Machine(REGS_64, Encoding.MSB, 16, 40),
    "32-msb": Machine(REGS_32, Encoding.MSB, 8, 16),
    "32-msb-vm86": Machine(REGS_32, Encoding.MSB, 16, 12),
    "32-lsb": Machine(REGS_32, Encoding.LSB, 8, 16),
    "32-lsb-vm86": Machine(REGS_32, Encoding.LSB, 16, 12),
}
every_machine = pytest.mark.parametrize("machine", MACHINES.values(), ids=MACHINES)


class Top(NamedTuple):
    """What lies at the end of a stack."""

    regs: str
    """syscall, kthread; interrupt: encoded pt_regs of user mode; in kernel: of kernel mode."""
    last_frame: str = "ordinary"
    """ordinary, realigned by gcc, or as a function tracer (ftrace) leaves it."""


class Item(NamedTuple):
    """An ordinary frame, or the pt_regs of an interrupt in the kernel, below what it leads to."""

    is_regs: bool
    gap_words: int
    ip: int


class Damage(NamedTuple):
    """One word of a stack, and what is put there instead."""

    place: int
    """Index of the word, as all others modulo how many there are."""
    kind: str
    other: int
    """Index of another word, of a bit, or of one of :data:`ADDRESSES`."""


class View(NamedTuple):
    """Where a stack lies, and what of it is there."""

    base: str
    kind: str
    number: int


KINDS = (
    "pointer", "encoded pointer", "other word", "one word on", "one byte on", "bit", "null",
    "return address", "user cs", "kernel cs",
)  # fmt: skip
BASES = ("usual", "usual", "usual", "end of lower half", "upper half", "end of memory")
VIEWS = (*["whole"] * 6, "hole", "cut", "misaligned", "other sp", "sp below")

tops = st.sampled_from(
    [
        *[Top("syscall"), Top("kthread")] * 2,
        *[Top("interrupt"), Top("in kernel")],
        *[Top(*both) for both in product(("syscall", "kthread"), ("realigned", "ftrace"))],
    ]
)
items = st.sampled_from([Item(*i) for i in product((False, False, True), range(5), ADDRESSES)])
damages = st.sampled_from([Damage(*d) for d in product(range(25), KINDS, range(25))])
views = st.sampled_from([View(*v) for v in product(BASES, VIEWS, range(1, 60, 3))])
stacks = st.tuples(st.lists(damages, max_size=2), views)

ordinary_tops = st.sampled_from([Top("syscall"), Top("kthread"), Top("interrupt")])
# The address of the last frame, again, may be a special form of it.
ordinary_items = items.filter(lambda item: item.ip != LAST_RET)


class Drawn:
    """A stack on one machine, and the addresses of the words that matter to a walk."""

    def __init__(
        self, machine: Machine, top: Top, items: list[Item], base: Optional[int] = None
    ) -> None:
        d = Drawing(
            machine.regs, machine.encoding, machine.padding, SIZE_BYTES, machine.bp_offset, base
        )
        self.drawing, self.words = d, [d.pt_regs + d.reg_offset("cs")]
        self._outer, self._lowest = 0, d.pt_regs  # what the next frame leads to, and ends below
        if top.regs == "in kernel":
            self._outer = d.last_frame
            self._regs(d.pt_regs, ADDRESSES[0])
        elif top.regs != "kthread":
            d.user_regs(bp=0x7FFC_0000)
        if top.regs == "interrupt":
            self._outer = d.encode(d.pt_regs)
        elif top.regs != "in kernel":
            self._last_frame(top.last_frame)
        for item in items:
            gap = item.gap_words * d.word_bytes
            if item.is_regs:
                self._regs(self._lowest - d.layout.size_bytes - gap, item.ip)
            else:
                self._frame(self._lowest - 2 * d.word_bytes - gap, item.ip)
        d.inactive(self._lowest, self._outer, ADDRESSES[2])
        self.words += [d.sp + machine.bp_offset, d.sp + machine.bp_offset + d.word_bytes]

    def _frame(self, addr: int, ip: int, *above: int) -> None:
        d = self.drawing
        d.put(addr, self._outer, ip, *above)
        # And the word above: a special form of the last frame looks there.
        self.words += [addr + i * d.word_bytes for i in range(3)]
        self._outer = self._lowest = addr

    def _regs(self, addr: int, ip: int) -> None:
        d = self.drawing
        d.regs(addr, bp=self._outer, ip=ip, cs=KERNEL_CS)
        self.words += [addr + d.reg_offset(name) for name in ("bp", "ip", "cs", "flags")]
        self._outer, self._lowest = d.encode(addr), addr

    def _last_frame(self, form: str) -> None:
        d = self.drawing
        self._frame(d.last_frame, LAST_RET)
        self._outer = 0
        if form == "realigned":
            self._frame(d.last_frame - d.rules.gcc_realign_words * d.word_bytes, LAST_RET)
        elif form == "ftrace":
            self._frame(d.last_frame - 3 * d.word_bytes, LAST_RET, 0)
        self._outer = self._lowest

    def damage(self, what: Damage) -> None:
        """Put something else in the place of one word."""
        d = self.drawing
        addr = self.words[what.place % len(self.words)]
        other = self.words[what.other % len(self.words)]
        value = {
            "pointer": other,
            "encoded pointer": d.encode(other),
            "other word": d.word(other),
            "one word on": d.word(addr) + d.word_bytes,
            "one byte on": d.word(addr) + 1,
            "bit": d.word(addr) ^ 1 << what.other % (8 * d.word_bytes),
            "null": 0,
            "return address": ADDRESSES[what.other % len(ADDRESSES)],
            "user cs": USER_CS,
            "kernel cs": KERNEL_CS,
        }[what.kind]
        d.put(addr, value % (1 << 8 * d.word_bytes))

    def seen(self, view: View) -> tuple[StackMemory, int]:
        """The stack as a reader gives it, and ``thread.sp``."""
        d, number = self.drawing, view.number
        if view.kind == "misaligned":
            d.sp += number % d.word_bytes
        stack, sp = d.task_stack(), d.sp
        if view.kind == "hole":
            begin = self.words[number % len(self.words)]
            stack = replace(stack, holes=((begin, begin + 1),))
        elif view.kind == "cut":
            stack = replace(stack, data=stack.data[:-number])
        elif view.kind == "other sp":
            sp += (-d.word_bytes, d.word_bytes, -1, 1)[number % 4]
        elif view.kind == "sp below":
            # What is read begins with the stack.
            sp = d.base - number
            stack = replace(stack, data_addr=d.base, data=bytes(d.memory))
        return stack, sp


def seen_by_the_walk(stack: StackMemory, sp: int, rules: UnwindRules) -> Optional[Signature]:
    """Return the signature of what the walker sees; ``None`` if its walk is not complete."""
    walk = walk_task_stack(stack, sp, rules)
    if walk.end not in (End.USER_REGS, End.LAST_FRAME):
        return None
    in_kernel = [step for step in walk.steps if not step.user_mode]
    return Signature(
        ips=tuple(step.ip for step in in_kernel),
        kernel_regs=tuple(i for i, step in enumerate(in_kernel) if step.regs is not None),
        user_mode=walk.steps[-1].user_mode,
        regs=tuple(
            (step.regs, rules.regs.read(step.raw_regs))
            for step in walk.steps
            if step.regs is not None and step.raw_regs is not None
        ),
        ip_offsets=tuple(step.found_at - sp for step in in_kernel if step.found_at is not None),
    )


# ---- the comparison


@every_machine
def test_signature_of_any_stack_is_that_of_its_walk_whatever_was_seen_before(
    machine: Machine,
) -> None:
    bases = {
        "usual": None,
        "end of lower half": machine.half - SIZE_BYTES,
        "upper half": machine.half,
        "end of memory": 2 * machine.half - SIZE_BYTES,
    }
    counts: Counter[str] = Counter()

    @given(tops, st.lists(items, max_size=4), st.lists(stacks, min_size=1, max_size=5))
    def compare(top: Top, items: list[Item], alike: list[tuple[list[Damage], View]]) -> None:
        rules = Drawn(machine, top, items).drawing.rules
        knows_the_others = FastPath(rules)
        last: Optional[Signature] = None
        for damaged, view in alike:
            drawn = Drawn(machine, top, items, bases[view.base])
            for what in damaged:
                drawn.damage(what)
            stack, sp = drawn.seen(view)
            by_walk = seen_by_the_walk(stack, sp, rules)
            found = knows_the_others.signature(stack, sp)
            assert found is None or found == by_walk
            assert found == FastPath(rules).signature(stack, sp)
            counts["stacks"] += 1
            counts["complete walks"] += by_walk is not None
            counts["signatures"] += found is not None
            if found is not None and last is not None:
                counts["laid out as another"] += found.ip_offsets is last.ip_offsets
            last = found or last

    compare()
    # Some have none, though their walk is complete; many have one; some of these by another's.
    assert counts["stacks"] > counts["complete walks"] > counts["signatures"]
    assert counts["signatures"] > counts["stacks"] // 6
    assert counts["laid out as another"] > counts["stacks"] // 20


@every_machine
def test_ordinary_stacks_have_a_signature(machine: Machine) -> None:
    @given(ordinary_tops, st.lists(st.lists(ordinary_items, max_size=5), min_size=1, max_size=3))
    def compare(top: Top, stacks: list[list[Item]]) -> None:
        fast_path: Optional[FastPath] = None
        for items in stacks:
            d = Drawn(machine, top, items).drawing
            fast_path = fast_path or FastPath(d.rules)
            found = fast_path.signature(d.task_stack(), d.sp)
            assert found is not None
            assert found == seen_by_the_walk(d.task_stack(), d.sp, d.rules)

    compare()


# ---- one by one


def interrupted(regs: X86Regs = REGS_64, encoding: Encoding = Encoding.LSB) -> Drawing:
    """A system call that was interrupted and lost its CPU."""
    machine = Machine(regs, encoding, 16, 2 * regs.word_bytes)
    items = [Item(False, 3, 0xA3), Item(True, 5, 0xFA11), Item(False, 6, 0xA2)]
    return Drawn(machine, Top("syscall"), items).drawing


def test_stack_with_a_hole_or_without_its_end_has_none() -> None:
    d = interrupted()
    stack, signature = d.task_stack(), FastPath(d.rules).signature
    assert signature(stack, d.sp) is not None
    assert signature(replace(stack, holes=((d.end - 8, d.end),)), d.sp) is None
    assert signature(replace(stack, data=stack.data[:-8]), d.sp) is None


@pytest.mark.parametrize("machine", [m for m in MACHINES.values() if m.encoding is Encoding.MSB])
def test_msb_stack_whose_pointers_all_look_encoded_has_none(machine: Machine) -> None:
    # A kernel whose stacks lie below the highest bit; in the half above it there is one.
    for base, has_one in ((machine.half - SIZE_BYTES, False), (machine.half, True)):
        d = Drawn(machine, Top("syscall"), [Item(False, 3, 0xA0)], base).drawing
        found = FastPath(d.rules).signature(d.task_stack(), d.sp)
        assert (found is not None) is has_one
        assert (d.walk().end is End.USER_REGS) is has_one


def test_signature_has_the_addresses_that_recovery_finds() -> None:
    d = interrupted()
    walk, asked = d.walk_and_note()
    found = FastPath(d.rules).signature(d.task_stack(), d.sp)
    assert found is not None
    asked_again = []

    def recover(addr: int, addr_p: int) -> int:
        asked_again.append((addr, addr_p))
        return addr + 1

    recovered = found.recovered(d.sp, set(found.ips), recover)
    assert recovered is not None
    assert asked_again == asked
    assert recovered.ips == tuple(step.ip for step in walk.steps if not step.user_mode)
    assert replace(recovered, ips=found.ips) == found

    def missing(addr: int, addr_p: int) -> int:
        raise NotInDump(addr_p)

    assert found.recovered(d.sp, set(found.ips), missing) is None


def test_recovery_is_asked_of_trampolines_only() -> None:
    d = interrupted()
    found = FastPath(d.rules).signature(d.task_stack(), d.sp)
    assert found is not None
    assert found.ips == (0xA2, 0xA2, 0xFA11, 0xA3, LAST_RET)
    recovered = found.recovered(d.sp, {0xA3}, lambda addr, addr_p: 0xB0)
    assert recovered is not None and recovered.ips == (0xA2, 0xA2, 0xFA11, 0xB0, LAST_RET)
