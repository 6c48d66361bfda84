# SPDX-License-Identifier: LGPL-2.1-or-later
"""The fast path of ORC finds what the walk finds, or nothing."""

from __future__ import annotations

from typing import Optional

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drgn_tools.arch.x86.orc_entry import OrcEntry, OrcType
from drgn_tools.arch.x86.orc_tables import UnwindDataUnclear
from drgn_tools.kernel.stack_memory import NotInDump, StackMemory
from drgn_tools.kernel.tasks import Task
from drgn_tools.unwind.base import End, Fault, Recover, Signature, nothing_rewritten
from drgn_tools.unwind.orc import OrcWalker

from ..support.drawn_orc import (
    END,
    FORK,
    PARTIAL,
    REGS,
    RETHOOK,
    UNDEFINED,
    DrawnOrc,
    call,
    call_by_bp,
)
from ..support.drawn_stack import KERNEL_CS, USER_CS

SIZE = 8192
WORDS = 96
"""Words of the drawn stacks, from thread.sp on."""


def no_recovery(task: Task) -> Recover:
    return nothing_rewritten


def check(
    d: DrawnOrc, walker: OrcWalker, recover: Recover = nothing_rewritten
) -> Optional[Signature]:
    """Compare the signature of a stack, if it has one, with its walk."""
    stack = d.stack_from(d.sp)
    signature = walker.signature(d.task(), stack, lambda task: recover)
    walk = walker.walk_sleeping(d.task(), stack, recover)
    if signature is None:
        return None
    kernel = [step for step in walk.steps if not step.user_mode]
    assert walk.end is (End.USER_REGS if signature.user_mode else End.LAST_FRAME)
    assert signature.ips == tuple(step.ip for step in kernel)
    assert signature.kernel_regs == tuple(i for i, s in enumerate(kernel) if s.regs is not None)
    found = [(s.regs, s.raw_regs) for s in walk.steps if s.regs is not None]
    assert [address for address, _ in signature.regs] == [address for address, _ in found]
    for (_, registers), (_, raw) in zip(signature.regs, found):
        assert raw is not None and registers == walker._rules.regs.read(raw)
    return signature


def words_from_the_end(d: DrawnOrc, *words: int) -> None:
    """Let the live stack be these words, and make it end there."""
    d.sp = d.end - 8 * len(words)
    d.first = d.sp + 56
    d.put(d.sp, *words)


class Stacks:
    """Many stacks of one kernel: rules by address, which do not change."""

    RULES = (
        *(call(8 * n) for n in (1, 2, 3, 5)),
        *(call(8 * n, bp=-16) for n in (2, 3, 6)),
        call_by_bp(),
        call_by_bp(32, -24),
        REGS,
        OrcEntry(OrcType.REGS, "sp", 16, signal=True),
        OrcEntry(OrcType.REGS, "sp", 8, signal=False),
        END,
        UNDEFINED,
        PARTIAL,
        OrcEntry(OrcType.CALL, "sp", 8, bp_from="bp", bp_offset=8),
        OrcEntry(OrcType.CALL, "sp", 0, True, 8),
        OrcEntry(OrcType.CALL, "r10"),
    )

    def __init__(self) -> None:
        self.drawn = DrawnOrc(SIZE)
        self.addresses = []
        for i, rule in enumerate(self.RULES):
            address = 0xA000 + 16 * i
            self.drawn.rules_at[address] = self.drawn.rules_at[address - 1] = rule
            self.addresses.append(address)
        self.walker = self.drawn.walker()


def addr_of(index: int) -> int:
    """Virtual address of a word of the drawn stacks."""
    return STACKS.drawn.end - 8 * (WORDS - index)


@st.composite
def stack_words(draw: st.DrawFn) -> list[int]:
    """Words of a stack with frames by the rules, up to an end or to garbage."""
    pool = [*STACKS.addresses, FORK, RETHOOK, 0, KERNEL_CS, USER_CS, addr_of(20), addr_of(90)]
    words = draw(st.lists(st.sampled_from(pool), min_size=WORDS, max_size=WORDS))
    usual, odd = range(len(STACKS.RULES) - 7), range(len(STACKS.RULES))
    sp, ip_at, bp_at = 7, 6, 5
    for _ in range(draw(st.integers(0, 12))):
        number = draw(st.sampled_from(usual if draw(st.integers(0, 9)) else odd))
        rule = STACKS.RULES[number]
        words[ip_at] = STACKS.addresses[number]
        cfa = sp + rule.offset // 8
        if rule.base == "bp":
            cfa = sp + draw(st.integers(2, 8))
            words[bp_at] = addr_of(cfa - rule.offset // 8)
        if rule.type is OrcType.REGS and cfa + 21 < WORDS:
            sp = min(cfa + 21 + draw(st.integers(-1, 3)), WORDS - 1)
            ip_at, bp_at = cfa + 16, cfa + 4
            words[cfa + 17] = draw(st.sampled_from([KERNEL_CS, USER_CS]))
            words[cfa + 19] = addr_of(sp)
        elif rule.type is OrcType.CALL and cfa < WORDS:
            sp, ip_at = cfa, cfa - 1
            if rule.bp_from == "cfa":
                bp_at = cfa + rule.bp_offset // 8
        else:
            break
    words[ip_at] = STACKS.addresses[draw(st.sampled_from([12, 12, 9, 13]))]  # END, mostly
    return words


STACKS = Stacks()


def with_gap(words: list[int], at: int, size: int) -> list[int]:
    """Insert words before one of a stack, and let the pointers to what then lies lower lead there."""
    lower = [word - 8 * size if addr_of(0) <= word < addr_of(at) else word for word in words[:at]]
    return [*lower, *[0] * size, *words[at:]]


@settings(max_examples=300, deadline=None)
@given(st.lists(stack_words(), min_size=1, max_size=3), st.booleans(), st.data())
def test_signature_is_the_walk_in_short(
    stacks: list[list[int]], syscall: bool, data: st.DataObject
) -> None:
    # Stacks of the same kind share a frame layout: each is tried again with a word changed, and with
    # a gap somewhere.
    walker = STACKS.drawn.walker()
    for words in stacks:
        if syscall:
            words[-6], words[-4] = 0, USER_CS
        changed = list(words)
        changed[data.draw(st.integers(0, 40))] = data.draw(st.sampled_from(words))
        at, size = data.draw(st.integers(7, WORDS)), data.draw(st.integers(1, 9))
        for seen in (words, changed, with_gap(words, at, size), with_gap(changed, at, size)):
            words_from_the_end(STACKS.drawn, *seen)
            check(STACKS.drawn, walker)


# ---- an ordinary stack, and what makes it unusual

A, B, C, D = 0xA000, 0xA100, 0xA200, 0xA300


def ordinary(d: DrawnOrc, user: bool = True) -> None:
    """
    struct pt_regs
    return to C              <- CFA - 8 of B's frame, by bp
    saved bp
    ...
    return to B
    inactive_task_frame: bp, return to A
    """
    regs = [0] * 21
    regs[16], regs[17] = (0x401000, USER_CS) if user else (0, KERNEL_CS)
    words = [0, 0, 0, 0, 0, 0, A, 0x11, B, 0x22, 0x33, 0, C, *regs]
    words_from_the_end(d, *words)
    d.put(d.sp + 40, d.sp + 8 * 11)
    d.returns(A, call(16))
    d.returns(B, call_by_bp())
    d.returns(C, REGS if user else END)


@pytest.fixture
def d() -> DrawnOrc:
    return DrawnOrc(SIZE)


@pytest.mark.parametrize("user", [True, False])
def test_ordinary_stack_has_a_signature(d: DrawnOrc, user: bool) -> None:
    ordinary(d, user)
    walker = d.walker()
    first = check(d, walker)
    assert first is not None
    assert (first.ips, first.user_mode) == ((A, B, C), user)
    # The second time it is that of a known frame layout.
    calls = len(d.rules_at)
    d.rules_at.clear()
    second = walker.signature(d.task(), d.stack_from(d.sp), no_recovery)
    assert calls and second is not None and second.key == first.key


def test_gap_of_random_size_below_the_registers_of_a_system_call(d: DrawnOrc) -> None:
    ordinary(d)
    walker = d.walker()
    words = [d.word(d.sp + 8 * i) for i in range(34)]
    assert check(d, walker) is not None
    d.rules_at.clear()  # from here on only the frame layout tells where the frames are
    for gap in range(60):
        # What C returns to and lies above stays where it is; the bp that A's frame saved leads there.
        words_from_the_end(d, *words[:9], *[0x22] * gap, *words[11:])
        found = walker.signature(d.task(), d.stack_from(d.sp), no_recovery)
        assert found is not None and found.ips == (A, B, C)
        assert [address for address, _ in found.regs] == [d.end - 168]
    # No room for the bp between the return addresses.
    words_from_the_end(d, *words[:9], *words[12:])
    assert walker.signature(d.task(), d.stack_from(d.sp), no_recovery) is None


@pytest.mark.parametrize("index", [8, 12], ids=["below the gap", "above it"])
def test_rewritten_return_address_of_a_known_frame_layout(d: DrawnOrc, index: int) -> None:
    ordinary(d)
    d.changes["trampolines"] = frozenset({RETHOOK})
    walker = d.walker()
    words = [d.word(d.sp + 8 * i) for i in range(34)]
    original = words[index]
    words[index] = RETHOOK
    for gap in (2, 0, 7):
        words_from_the_end(d, *words[:9], *[0x22] * gap, *words[11:])
        place = d.sp + 8 * index if index < 9 else d.end - 8 * (34 - index)

        def recover(ip: int, at: int, place: int = place) -> int:
            return original if (ip, at) == (RETHOOK, place) else ip

        def recovery_of(task: Task, found: Recover = recover) -> Recover:
            assert task == d.task()
            return found

        signature = walker.signature(d.task(), d.stack_from(d.sp), recovery_of)
        assert signature is not None and signature.ips == (A, B, C)
        d.rules_at.clear()
    # It is another one now, and there are no rules.
    assert walker.signature(d.task(), d.stack_from(d.sp), no_recovery) is None


def test_frame_pointer_below_the_gap_leads_as_far_as_before(d: DrawnOrc) -> None:
    user_regs = [0] * 21
    user_regs[16], user_regs[17] = 0x401000, USER_CS
    walker = d.walker()
    d.rules_at.update({A - 1: call_by_bp(), B - 1: call_by_bp(), C - 1: REGS})
    for gap in (0, 5, 9):
        words_from_the_end(d, *[0] * 6, A, 0, 0, 0, B, *[0] * gap, 0, C, *user_regs)
        d.put(d.sp + 8 * 5, d.sp + 8 * 9)
        d.put(d.sp + 8 * 9, d.end - 8 * 23)
        found = walker.signature(d.task(), d.stack_from(d.sp), no_recovery)
        assert found is not None and found.ips == (A, B, C)
        d.rules_at.clear()
    d.put(d.sp + 8 * 5, d.sp + 8 * 8)
    assert walker.signature(d.task(), d.stack_from(d.sp), no_recovery) is None


def test_gap_above_kernel_mode_registers(d: DrawnOrc) -> None:
    user_regs = [0] * 21
    user_regs[16], user_regs[17] = 0x401000, USER_CS
    walker = d.walker()
    d.rules_at.update({A - 1: REGS, B: call(8), C - 1: REGS})
    for gap in (0, 5, 9):
        regs = [0] * 21
        regs[16], regs[17], regs[19] = B, KERNEL_CS, d.end - 22 * 8
        words_from_the_end(d, 0, 0, 0, 0, 0, 0, A, *regs, *[0] * gap, C, *user_regs)
        found = walker.signature(d.task(), d.stack_from(d.sp), no_recovery)
        assert found is not None and found.ips == (A, B, C) and found.kernel_regs == (1,)
        assert [address for address, _ in found.regs] == [d.sp + 56, d.end - 168]
        d.rules_at.clear()


def test_upper_part_must_not_reach_down_to_the_last_sp(d: DrawnOrc) -> None:
    """
    C, struct pt_regs of user mode
    bp                 <- bp of the interrupted code: at its sp, or below it if the gap is too small
    ...
    struct pt_regs     its sp leads two words up
    """
    user_regs = [0] * 21
    user_regs[16], user_regs[17] = 0x401000, USER_CS
    d.returns(A, REGS)
    d.rules_at[B] = call_by_bp()
    d.returns(C, REGS)
    walker = d.walker()
    for gap, is_found in ((9, True), (4, True), (0, False)):
        regs = [0] * 21
        regs[16], regs[17] = B, KERNEL_CS
        words_from_the_end(d, *[0] * 6, A, *regs, *[0] * gap, 0, C, *user_regs)
        d.put(d.sp + 56 + 4 * 8, d.end - 23 * 8)
        d.put(d.sp + 56 + 19 * 8, d.sp + 56 + (21 + 2) * 8)
        assert (check(d, walker) is not None) is is_found


def test_sp_of_interrupted_code_is_below_its_return_address(d: DrawnOrc) -> None:
    # The rule leads to where sp is already: the walk fails, whatever lies there.
    regs = [0] * 21
    regs[16], regs[17], regs[19] = B, KERNEL_CS, d.end - 8 * 22
    words_from_the_end(d, *[0] * 6, A, *regs, 0, C, *[0] * 22)
    d.returns(A, REGS)
    d.rules_at[B] = call(0)
    d.returns(C, END)
    assert d.walk_orc().fault is Fault.WRONG_DIRECTION
    assert check(d, d.walker()) is None
    d.rules_at[B] = call(8)
    d.put(d.sp + 56 + 19 * 8, d.end - 8 * 23)
    assert check(d, d.walker()) is not None
    # It is at the end of the stack.
    d.rules_at[B] = END
    d.put(d.sp + 56 + 19 * 8, d.end)
    assert check(d, d.walker()) is None


def test_words_that_a_shorter_stack_does_not_have(d: DrawnOrc) -> None:
    regs = [0] * 21
    regs[16], regs[17], regs[19] = B, KERNEL_CS, d.end - 8
    words_from_the_end(d, *[0] * 6, A, *regs, *[0] * 9, C)
    d.returns(A, REGS)
    d.rules_at[B] = call(8)
    d.returns(C, END)
    d.put(d.end - 8 * 4, USER_CS)  # a system call, so that both are of one kind
    walker = d.walker()
    assert check(d, walker) is not None
    # All return addresses are where they were, but it ends below the sp of the registers.
    words_from_the_end(d, *[0] * 6, A, *[0] * 16, B, 0, C)
    d.returns(A, END)
    d.put(d.end - 8 * 4, USER_CS)
    assert check(d, walker) is not None


def test_registers_whose_sp_leads_into_them_are_unusual(d: DrawnOrc) -> None:
    regs = [0] * 21
    regs[16], regs[17] = B, KERNEL_CS
    words_from_the_end(d, *[0] * 6, A, *regs, *[0] * 4, 0, C, *[0] * 21)
    bp_at = d.sp + 56 + 4 * 8
    d.put(bp_at, d.end - 23 * 8)
    d.put(d.sp + 56 + 19 * 8, d.sp + 56 + 8 * 8)
    d.put(d.sp + 56 + 9 * 8, D)
    d.returns(A, REGS)
    d.rules_at[B] = call(16)
    d.returns(D, call_by_bp())
    d.returns(C, END)
    assert [step.ip for step in d.walk_orc().steps] == [A, B, D, C]
    assert check(d, d.walker()) is None


def test_user_registers_at_a_distance_from_the_beginning(d: DrawnOrc) -> None:
    walker = d.walker()
    d.returns(A, REGS)
    regs = [0] * 21
    regs[16], regs[17] = 0x401000, USER_CS
    for above in ([], [0, *regs]):
        words_from_the_end(d, *[0] * 6, A, *regs, *above)
        found = check(d, walker)
        assert found is not None and [address for address, _ in found.regs] == [d.sp + 56]


def test_bp_saved_in_the_lowest_word(d: DrawnOrc) -> None:
    ordinary(d)
    d.returns(A, call(16, bp=-72))
    d.put(d.sp, d.sp + 88)
    found = check(d, d.walker())
    assert found is not None and found.ips == (A, B, C)


@pytest.mark.parametrize(("frames", "is_usual"), [(512, True), (513, False)])
def test_stack_with_very_many_frames(d: DrawnOrc, frames: int, is_usual: bool) -> None:
    d.returns(A, call(8))
    d.returns(C, END)
    words_from_the_end(d, *[0] * 6, *[A] * (frames - 1), C, *[0] * 21)
    assert (check(d, d.walker()) is not None) is is_usual


def test_word_below_the_bp_that_leads_to_it(d: DrawnOrc) -> None:
    ordinary(d)
    d.returns(B, OrcEntry(OrcType.CALL, "bp", 0))
    d.put(d.sp + 40, d.sp + 8 * 13)
    found = check(d, d.walker())
    assert found is not None and found.ips == (A, B, C)


def test_bp_that_two_rules_use_is_unusual(d: DrawnOrc) -> None:
    ordinary(d)
    d.returns(A, OrcEntry(OrcType.CALL, "bp", -16))
    d.returns(B, OrcEntry(OrcType.CALL, "bp", 16))
    assert [step.ip for step in d.walk_orc().steps[:3]] == [A, B, C]
    assert check(d, d.walker()) is None


def test_registers_below_sp_are_unusual(d: DrawnOrc) -> None:
    ordinary(d)
    d.returns(B, call(32))
    d.returns(C, OrcEntry(OrcType.REGS, "sp", -8, signal=True))
    d.put(d.end - 176 + 17 * 8, USER_CS, 0, 0)
    assert d.walk_orc().steps[-1].user_mode
    assert check(d, d.walker()) is None


def test_frame_layout_is_that_of_the_words_it_rests_on(d: DrawnOrc) -> None:
    ordinary(d)
    walker = d.walker()
    assert check(d, walker) is not None
    # A word that decides nothing.
    d.put(d.sp + 56, 0x99)
    assert check(d, walker) is not None
    # The bp leads elsewhere: to a return address of another frame size.
    d.put(d.sp + 40, d.sp + 8 * 9)
    d.put(d.sp + 8 * 10, D)
    d.returns(D, call(16))
    found = check(d, walker)
    assert found is not None and found.ips == (A, B, D, C)
    # Kernel mode at the end of the rules: not the walk of a user task.
    ordinary(d)
    assert check(d, walker) is not None
    d.put(d.end - 168 + 17 * 8, KERNEL_CS)
    assert check(d, walker) is None


@pytest.mark.parametrize("address", [FORK, 0, 0xBAD])
def test_address_without_an_ordinary_rule_is_unusual(d: DrawnOrc, address: int) -> None:
    ordinary(d)
    d.rules_at[FORK - 1] = d.rules_at[-1] = END
    d.put(d.sp + 64, address)
    assert check(d, d.walker()) is None


def test_rules_of_rewritten_return_addresses_are_those_of_the_originals(d: DrawnOrc) -> None:
    ordinary(d)
    d.put(d.sp + 64, RETHOOK)
    d.changes["trampolines"] = frozenset({RETHOOK})
    d.rules_at[RETHOOK - 1] = END
    walker = d.walker()

    def original(was: int) -> Recover:
        return lambda ip, at: was if (ip, at) == (RETHOOK, d.sp + 64) else ip

    found = check(d, walker, original(B))
    assert found is not None and found.ips == (A, B, C)
    d.returns(D, call(32))
    assert (again := check(d, walker, original(B))) and again.key == found.key
    other = check(d, walker, original(D))
    assert other is not None and other.ips == (A, D, C)
    assert check(d, walker, original(0)) is None
    # Registers of interrupted code are recovered by other rules.
    regs = [0] * 21
    regs[16], regs[17], regs[19] = RETHOOK, KERNEL_CS, d.end - 8
    words_from_the_end(d, 0, 0, 0, 0, 0, 0, A, *regs, C)
    d.put(d.sp + 56 + 19 * 8, d.end - 8)
    d.returns(A, REGS)
    assert check(d, walker, original(B)) is None


def test_frame_layouts_used_last_are_kept_by_kind(d: DrawnOrc) -> None:
    ordinary(d)
    walker = d.walker()
    assert walker._fast_path is not None
    kept = walker._fast_path._frame_layouts
    first = d.returns(0xC000, call(16))
    for i in range(40):
        d.put(d.sp + 48, d.returns(first + 16 * i, call(16)))
        assert check(d, walker) is not None
    number = bytes(8)  # of the system call
    assert list(kept) == [number]
    assert [known.lower_ips[0] - first for known in kept[number]] == [
        16 * i for i in range(39, 7, -1)
    ]
    d.put(d.sp + 48, first + 16 * 20)
    assert check(d, walker) is not None
    assert [known.lower_ips[0] - first for known in kept[number][:3]] == [16 * 20, 16 * 39, 16 * 38]
    # One that did not come from user mode.
    ordinary(d, user=False)
    d.put(d.end - 168 + 17 * 8, 0)
    assert check(d, walker) is not None
    assert list(kept) == [number, 34 * 8]


def test_return_address_above_kernel_mode_registers_is_recovered(d: DrawnOrc) -> None:
    regs = [0] * 21
    regs[16], regs[17], regs[19] = B, KERNEL_CS, d.end - 16
    words_from_the_end(d, 0, 0, 0, 0, 0, 0, A, *regs, RETHOOK, 0, 0)
    d.put(d.sp + 56 + 19 * 8, d.end - 24)
    d.changes["trampolines"] = frozenset({RETHOOK})
    d.returns(A, REGS)
    d.rules_at[B] = call(8)
    d.returns(C, END)
    place = d.end - 24
    found = check(d, d.walker(), lambda ip, at: C if (ip, at) == (RETHOOK, place) else ip)
    assert found is not None and found.ips == (A, B, C)
    # The ip of the registers is recovered by another rule than a return address.
    d.put(d.sp + 56 + 16 * 8, RETHOOK)
    d.rules_at[RETHOOK] = call(8)
    assert check(d, d.walker(), lambda ip, at: C if ip == RETHOOK else ip) is None


@pytest.mark.parametrize("gone", [False, True])
def test_original_that_is_not_in_the_dump_is_unusual(d: DrawnOrc, gone: bool) -> None:
    ordinary(d)
    d.put(d.sp + 64, RETHOOK)
    d.changes["trampolines"] = frozenset({RETHOOK})
    walker = d.walker()
    if gone:  # it was for another stack
        assert check(d, walker, lambda ip, at: B if ip == RETHOOK else ip) is not None

    def missing(ip: int, at: int) -> int:
        raise NotInDump(at)

    assert walker.signature(d.task(), d.stack_from(d.sp), lambda task: missing) is None


@pytest.mark.parametrize(
    "rule",
    [
        UNDEFINED,
        PARTIAL,
        OrcEntry(OrcType.CALL, "r10"),
        OrcEntry(OrcType.CALL, "bp", 16, True, 0),
        call(0),
    ],
)
def test_rule_that_is_not_ordinary_is_unusual(d: DrawnOrc, rule: OrcEntry) -> None:
    ordinary(d)
    d.returns(B, rule)
    assert check(d, d.walker()) is None


def test_user_registers_whose_sp_leads_down_the_stack_fail_the_walk(d: DrawnOrc) -> None:
    ordinary(d)
    walker = d.walker()
    assert check(d, walker) is not None
    # Also with a frame layout that is known, and on a part of the stack that was not read.
    d.put(d.end - 8, 0x2B)  # ss, right above sp
    for sp in (d.base - 1, d.end):
        d.put(d.end - 168 + 19 * 8, sp)
        assert check(d, walker) is not None
    d.put(d.end - 168 + 19 * 8, d.end - 1)  # up, but on the stack: that is unusual
    assert check(d, walker) is None
    for sp in (d.sp, d.base):
        d.put(d.end - 168 + 19 * 8, sp)
        assert d.walk_orc().fault is Fault.WRONG_DIRECTION
        assert check(d, walker) is None
        assert check(d, d.walker()) is None


def test_registers_with_a_bp_in_another_place_are_unusual(d: DrawnOrc) -> None:
    ordinary(d)
    d.returns(C, OrcEntry(OrcType.REGS, "sp", 0, bp_from="cfa", bp_offset=168, signal=True))
    assert d.walk_orc().fault is Fault.OFF_STACK
    assert check(d, d.walker()) is None


def test_sp_of_the_first_frame_has_to_be_on_the_stack(d: DrawnOrc) -> None:
    words_from_the_end(d, 0, 0, 0, 0, 0, 0, A)
    d.returns(A, END)
    assert d.walk_orc().fault is Fault.OFF_STACK
    assert check(d, d.walker()) is None
    # There is always room for a struct pt_regs at the end.
    words_from_the_end(d, 0, 0, 0, 0, 0, 0, A, *[0] * 13)
    assert check(d, d.walker()) is None
    words_from_the_end(d, 0, 0, 0, 0, 0, 0, A, *[0] * 14)
    assert check(d, d.walker()) is not None


def test_return_addresses_that_overlap_are_unusual(d: DrawnOrc) -> None:
    # The sp of the registers leads into these registers: to all but the first byte of ip, and cs.
    d.starts(A)
    d.returns(A, OrcEntry(OrcType.REGS, "sp", 0, signal=True))
    regs = d.regs(d.first, ip=B, cs=KERNEL_CS, sp=d.first + 129)
    d.rules_at[B] = call(8)
    overlapping = KERNEL_CS << 56 | B >> 8
    d.returns(overlapping, END)
    assert regs == d.first
    assert [step.ip for step in d.walk_orc().steps] == [A, B, overlapping]
    assert check(d, d.walker()) is None


def test_first_return_address_is_not_recovered(d: DrawnOrc) -> None:
    ordinary(d)
    d.put(d.sp + 48, RETHOOK)
    d.changes["trampolines"] = frozenset({RETHOOK})
    d.rules_at[RETHOOK - 1] = END
    assert check(d, d.walker(), lambda ip, at: A if ip == RETHOOK else ip) is None


@pytest.mark.parametrize("error", [NotInDump(1), UnwindDataUnclear(1)])
def test_rule_that_cannot_be_read_is_unusual(d: DrawnOrc, error: Exception) -> None:
    def find(addr: int) -> Optional[OrcEntry]:
        raise error

    ordinary(d)
    d.changes["find"] = find
    assert check(d, d.walker()) is None


def test_stack_that_is_not_whole_has_no_signature(d: DrawnOrc) -> None:
    ordinary(d)
    walker, stack = d.walker(), d.stack_from(d.sp)
    whole = walker.signature(d.task(), stack, no_recovery)
    assert whole is not None
    holed = StackMemory(d.base, d.size, d.sp, stack.data, ((d.sp, d.sp + 8),))
    assert walker.signature(d.task(), holed, no_recovery) is None
    assert walker.signature(d.task(d.sp + 8), stack, no_recovery) is None
    short = StackMemory(d.base, d.size, d.sp, stack.data[:-8])
    assert walker.signature(d.task(), short, no_recovery) is None


def test_kernels_before_5_8_have_no_fast_path(d: DrawnOrc) -> None:
    ordinary(d)
    d.changes["first_exact_addrs"] = frozenset()
    assert d.walker().signature(d.task(), d.stack_from(d.sp), no_recovery) is None
