# SPDX-License-Identifier: LGPL-2.1-or-later
"""The fast path against the walker: a stack that has a signature has that of its walk.

This is the one place where the two are compared. Stacks are drawn at random, damaged at
random, and shown to one FastPath in turn, which then knows where the frames of the others lie.
"""

from __future__ import annotations

from collections import Counter
from itertools import product
from types import SimpleNamespace
from typing import NamedTuple, Optional, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from drgn_tools.arch.x86.encoding import Encoding
from drgn_tools.arch.x86.frame_pointer_rules import UnwindRules
from drgn_tools.arch.x86.pt_regs import REGS_32, REGS_64, SHORT_KERNEL_REGS_32
from drgn_tools.kernel.stack_memory import NotInDump, StackMemory
from drgn_tools.kernel.tasks import Task
from drgn_tools.unwind.base import End, Recover, Signature, nothing_rewritten
from drgn_tools.unwind.fast_path import FastPath, _Found
from drgn_tools.unwind.frame_pointer import FramePointerWalker, walk_task_stack

from ..support.drawn_stack import KERNEL_CS, USER_CS, Drawing

SIZE_BYTES = 2048
LAST_RET = 0xA1
ADDRESSES = (0xA0, LAST_RET, 0xA2)
"""Few, so that special forms of the last frame, which repeat its address, come up."""


# ---- what is drawn. All that belongs together is drawn as one: hypothesis is slow for each draw.


MACHINES = {
    "64-lsb": UnwindRules(Encoding.LSB, REGS_64, 0, 40),
    "64-lsb-fred": UnwindRules(Encoding.LSB, REGS_64, 16, 40),
    "64-msb": UnwindRules(Encoding.MSB, REGS_64, 0, 40),
    "64-msb-fred": UnwindRules(Encoding.MSB, REGS_64, 16, 40),
    "32-msb": UnwindRules(Encoding.MSB, REGS_32, 8, 16),
    "32-msb-vm86": UnwindRules(Encoding.MSB, REGS_32, 16, 12),
    "32-lsb": UnwindRules(Encoding.LSB, REGS_32, 8, 16),
    "32-lsb-vm86": UnwindRules(Encoding.LSB, REGS_32, 16, 12),
    "32-lsb-short": UnwindRules(Encoding.LSB, SHORT_KERNEL_REGS_32, 8, 16),
}
every_kernel = pytest.mark.parametrize("rules", MACHINES.values(), ids=MACHINES)


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
BASES = (*["usual"] * 5, "end of lower half", "upper half", "end of memory", "misaligned")
VIEWS = (*["whole"] * 6, "hole", "cut", "misaligned", "other sp", "sp below")

tops = st.sampled_from(
    [
        *[Top("syscall"), Top("kthread")] * 2,
        *[Top("interrupt"), Top("in kernel")],
        *[Top(*both) for both in product(("syscall", "kthread"), ("realigned", "ftrace"))],
    ]
)
items = st.sampled_from([Item(*i) for i in product((False, False, True), (0, 1, 2, 3, 5))])
ips = st.sampled_from(list(product(ADDRESSES, repeat=4)))
damages = st.sampled_from([Damage(*d) for d in product(range(25), KINDS, range(25))])
views = st.sampled_from([View(*v) for v in product(BASES, VIEWS, range(1, 60, 3))])
Stack = tuple[tuple[int, ...], list[Damage], View]
stacks: st.SearchStrategy[Stack] = st.tuples(ips, st.lists(damages, max_size=2), views)

ordinary_tops = st.sampled_from([Top("syscall"), Top("kthread"), Top("interrupt")])
# A frame with the address of the last one may be a special form of it.
ordinary_ips = ips.filter(lambda ips: LAST_RET not in ips)


class Drawn:
    """A stack of one kernel, and the addresses of the words that matter to a walk."""

    def __init__(
        self,
        rules: UnwindRules,
        top: Top,
        items: list[Item],
        ips: tuple[int, ...],
        base: Optional[int] = None,
    ) -> None:
        d = Drawing(
            rules.regs,
            rules.encoding,
            rules.top_padding_bytes,
            SIZE_BYTES,
            rules.frame_bp_offset,
            base,
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
        for item, ip in zip(items, ips):
            gap = item.gap_words * d.word_bytes
            if item.is_regs:
                self._regs(self._lowest - d.layout.kernel_mode_bytes - gap, ip)
            else:
                self._frame(self._lowest - 2 * d.word_bytes - gap, ip)
        d.inactive(self._lowest, self._outer, ADDRESSES[2])
        first = d.sp + d.rules.frame_bp_offset
        self.words += [first, first + d.word_bytes]

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


def upper_half(rules: UnwindRules) -> int:
    """Where the upper half of the address space begins."""
    return 1 << 8 * rules.regs.word_bytes - 1


def seen_by_the_walk(stack: StackMemory, sp: int, rules: UnwindRules) -> Optional[Signature]:
    """Return the signature of what the walker sees; ``None`` if something in it is unusual."""
    walk = walk_task_stack(stack, sp, rules)
    if walk.end not in (End.USER_REGS, End.LAST_FRAME):
        return None
    if any(not s.regs and (s.found_at or 0) % rules.regs.word_bytes for s in walk.steps):
        return None  # the record of such a stack has the flag "unaligned"
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
    )


# ---- the comparison


def no_recovery() -> Recover:
    return nothing_rewritten


class Counting(FastPath):
    """Counts how often the frame pointers of a stack were followed, as no frame layout was that of it."""

    followed = 0

    def _frame_by_frame(self, data: bytes, base: int) -> Optional[_Found]:
        self.followed += 1
        return super()._frame_by_frame(data, base)


@every_kernel
def test_signature_of_any_stack_is_that_of_its_walk_whatever_was_seen_before(
    rules: UnwindRules,
) -> None:
    half = upper_half(rules)
    bases = {
        "usual": None,
        "end of lower half": half - SIZE_BYTES,
        "upper half": half,
        "end of memory": 2 * half - SIZE_BYTES,
        "misaligned": half + rules.regs.word_bytes // 2,
    }
    counts: Counter[str] = Counter()

    @given(tops, st.lists(items, max_size=4), st.lists(stacks, min_size=1, max_size=5))
    def compare(top: Top, items: list[Item], alike: list[Stack]) -> None:
        knows_the_others = Counting(rules)
        first = Drawn(rules, top, items, (0xA0,) * 4).drawing
        knows_the_others.signature(first.task_stack(), first.sp, no_recovery)
        for ips, damaged, view in alike:
            drawn = Drawn(rules, top, items, ips, bases[view.base])
            for what in damaged:
                drawn.damage(what)
            stack, sp = drawn.seen(view)
            by_walk = seen_by_the_walk(stack, sp, rules)
            followed = knows_the_others.followed
            found = knows_the_others.signature(stack, sp, no_recovery)
            assert found is None or found == by_walk
            assert found == FastPath(rules).signature(stack, sp, no_recovery)
            counts["stacks"] += 1
            counts["usual walks"] += by_walk is not None
            counts["signatures"] += found is not None
            if found is not None:
                counts["laid out as another"] += knows_the_others.followed == followed

    compare()
    # Some have none, though nothing is wrong with them; others have one; some of these by another's.
    # How many depends on what hypothesis draws, which changes with what else is imported.
    assert counts["stacks"] > counts["usual walks"] > counts["signatures"]
    assert counts["signatures"] > counts["laid out as another"] >= 10


@every_kernel
def test_ordinary_stacks_have_a_signature(rules: UnwindRules) -> None:
    @given(
        ordinary_tops, st.lists(st.lists(items, max_size=4), min_size=1, max_size=3), ordinary_ips
    )
    def compare(top: Top, stacks: list[list[Item]], ips: tuple[int, ...]) -> None:
        fast_path = FastPath(rules)
        for items in stacks:
            d = Drawn(rules, top, items, ips).drawing
            found = fast_path.signature(d.task_stack(), d.sp, no_recovery)
            assert found is not None
            assert found == seen_by_the_walk(d.task_stack(), d.sp, d.rules)

    compare()


# ---- one by one


@every_kernel
@pytest.mark.parametrize("gap_words", range(4))
def test_special_last_frame_is_seen_where_the_stack_before_had_an_ordinary_one(
    rules: UnwindRules, gap_words: int
) -> None:
    signature = FastPath(rules).signature
    for ip, repeats_bp in product((0xA0, LAST_RET), (False, True)):
        d = Drawn(rules, Top("kthread"), [Item(False, gap_words)], (ip,)).drawing
        if repeats_bp:
            d.put(d.last_frame - gap_words * d.word_bytes, d.last_frame)
        by_walk = seen_by_the_walk(d.task_stack(), d.sp, rules)
        assert by_walk is not None
        is_special = len(by_walk.ips) == 2
        assert signature(d.task_stack(), d.sp, no_recovery) == (None if is_special else by_walk)


@pytest.mark.parametrize("target", ["below", "itself", "overlap", "off the stack"])
@every_kernel
def test_frame_pointer_that_does_not_lead_up_has_none(rules: UnwindRules, target: str) -> None:
    ordinary = Drawn(rules, Top("kthread"), [Item(False, 20), Item(False, 20)], (0xA0, 0xA2))
    d = ordinary.drawing
    upper = d.last_frame - 22 * d.word_bytes
    bp = {
        "below": upper - 22 * d.word_bytes,
        "itself": upper,
        "overlap": upper + d.word_bytes,
        "off the stack": d.end + 4096,
    }[target]
    signature = FastPath(rules).signature
    assert signature(d.task_stack(), d.sp, no_recovery) is not None
    d.put(upper, bp)
    assert signature(d.task_stack(), d.sp, no_recovery) is None
    assert FastPath(rules).signature(d.task_stack(), d.sp, no_recovery) is None


def test_first_frame_may_lie_where_the_stack_pointer_is() -> None:
    rules = replace(MACHINES["64-lsb"], frame_bp_offset=0)
    d = Drawn(rules, Top("syscall"), [Item(False, 3)], (0xA0,)).drawing
    found = FastPath(rules).signature(d.task_stack(), d.sp, no_recovery)
    assert found is not None
    assert found == seen_by_the_walk(d.task_stack(), d.sp, rules)


def test_bp_of_registers_must_not_lead_into_them() -> None:
    d = interrupted()
    walk = d.walk()
    (regs,) = [step.regs for step in walk.steps if step.regs and not step.user_mode]
    knows_it = Counting(d.rules)
    assert knows_it.signature(d.task_stack(), d.sp, no_recovery) is not None
    assert knows_it.signature(d.task_stack(), d.sp, no_recovery) is not None
    assert knows_it.followed == 1
    # r13 and r12, which lie one above the other, look like a frame below the one that bp led to.
    bp_at = regs + d.reg_offset("bp")
    d.put(regs + d.reg_offset("r13"), d.word(bp_at), 0xA0)
    d.put(bp_at, regs + d.reg_offset("r13"))
    assert d.walk().end is End.ERROR
    assert knows_it.signature(d.task_stack(), d.sp, no_recovery) is None
    assert FastPath(d.rules).signature(d.task_stack(), d.sp, no_recovery) is None


def test_first_frame_pointer_that_looks_encoded_has_none() -> None:
    # As offsetof(struct inactive_task_frame, bp) of damaged types: the walk skips such registers.
    d = Drawing(bp_offset=41)
    d.frame(d.last_frame, 0, LAST_RET)
    d.sp = d.regs(d.last_frame - 512, ip=0xFA11, cs=KERNEL_CS, bp=d.last_frame) - 40
    assert [step.ip for step in d.walk().steps] == [LAST_RET]
    assert FastPath(d.rules).signature(d.task_stack(), d.sp, no_recovery) is None


def interrupted() -> Drawing:
    """A system call that was interrupted and lost its CPU."""
    items = [Item(False, 3), Item(True, 5), Item(False, 6)]
    return Drawn(MACHINES["64-lsb-fred"], Top("syscall"), items, (0xA3, 0xFA11, 0xA2)).drawing


def test_stack_with_a_hole_or_without_its_end_has_none() -> None:
    d = interrupted()
    stack, signature = d.task_stack(), FastPath(d.rules).signature
    assert signature(stack, d.sp, no_recovery) is not None
    assert signature(replace(stack, holes=((d.end - 8, d.end),)), d.sp, no_recovery) is None
    assert signature(replace(stack, data=stack.data[:-8]), d.sp, no_recovery) is None


@pytest.mark.parametrize("kernel", [name for name in MACHINES if "lsb" in name])
def test_lsb_stack_may_lie_anywhere(kernel: str) -> None:
    rules = MACHINES[kernel]
    for base in (upper_half(rules) - SIZE_BYTES, upper_half(rules)):
        d = Drawn(rules, Top("syscall"), [Item(False, 3)], (0xA0,), base).drawing
        assert FastPath(rules).signature(d.task_stack(), d.sp, no_recovery) is not None


@pytest.mark.parametrize("kernel", [name for name in MACHINES if "msb" in name])
def test_msb_stack_whose_pointers_all_look_encoded_has_none(kernel: str) -> None:
    # A kernel whose stacks lie below the highest bit; from that bit on there is one.
    rules = MACHINES[kernel]
    half = upper_half(rules)
    used = Drawn(rules, Top("syscall"), [Item(False, 3)], (0xA0,)).drawing
    first_with_one = half - (used.sp - used.base)
    for base, has_one in (
        (half - SIZE_BYTES, False),
        (first_with_one - used.word_bytes, False),
        (first_with_one, True),
        (half, True),
    ):
        d = Drawn(rules, Top("syscall"), [Item(False, 3)], (0xA0,), base).drawing
        found = FastPath(rules).signature(d.task_stack(), d.sp, no_recovery)
        assert (found is not None) is has_one
        if found is not None:
            assert found == seen_by_the_walk(d.task_stack(), d.sp, rules)
    assert Drawn(rules, Top("syscall"), [], (), half - SIZE_BYTES).drawing.walk().steps == ()


def signature_of_task(
    d: Drawing, trampolines: frozenset[int], recover: Recover
) -> Optional[Signature]:
    walker = FramePointerWalker(d.rules, trampolines)
    task = cast(Task, SimpleNamespace(thread_sp=d.sp))
    return walker.signature(
        task, d.task_stack(), lambda of: recover if of is task else nothing_rewritten
    )


def test_signature_has_the_addresses_that_recovery_finds() -> None:
    d = interrupted()
    walk, asked = d.walk_and_note()
    found = FastPath(d.rules).signature(d.task_stack(), d.sp, no_recovery)
    assert found is not None
    asked_again = []

    def recover(addr: int, addr_p: int) -> int:
        asked_again.append((addr, addr_p))
        return addr + 1

    recovered = signature_of_task(d, frozenset(found.ips), recover)
    assert recovered is not None
    assert asked_again == asked
    assert recovered.ips == tuple(step.ip for step in walk.steps if not step.user_mode)
    assert replace(recovered, ips=found.ips) == found

    def missing(addr: int, addr_p: int) -> int:
        raise NotInDump(addr_p)

    assert signature_of_task(d, frozenset(found.ips), missing) is None


def test_recovery_below_an_interrupt_of_user_mode() -> None:
    items = [Item(False, 3)]
    d = Drawn(MACHINES["64-lsb"], Top("interrupt"), items, (0xA0, 0xA3)).drawing
    plain = FastPath(d.rules).signature(d.task_stack(), d.sp, no_recovery)
    assert plain is not None and plain.ips and plain.user_mode
    found = signature_of_task(d, frozenset(plain.ips), lambda addr, addr_p: addr + 1)
    assert found is not None
    assert found.ips == tuple(ip + 1 for ip in plain.ips)


def test_recovery_is_asked_of_trampolines_only() -> None:
    d = interrupted()
    found = signature_of_task(d, frozenset(), lambda addr, addr_p: 0xB0)
    assert found is not None
    assert found.ips == (0xA2, 0xA2, 0xFA11, 0xA3, LAST_RET)
    recovered = signature_of_task(d, frozenset({0xA3}), lambda addr, addr_p: 0xB0)
    assert recovered is not None and recovered.ips == (0xA2, 0xA2, 0xFA11, 0xB0, LAST_RET)
