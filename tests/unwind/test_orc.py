# SPDX-License-Identifier: LGPL-2.1-or-later
"""The ORC unwinder on drawn stacks: every rule, every end, every fault of unwind_orc.c."""

from __future__ import annotations

from typing import Optional

import pytest

from drgn_tools.arch.x86.orc_entry import OrcEntry, OrcType
from drgn_tools.arch.x86.orc_tables import UnwindDataUnclear
from drgn_tools.kernel.stack_memory import NotInDump, StackMemory
from drgn_tools.unwind.base import End, Fault, Walk
from drgn_tools.unwind.orc import _MAX_STEPS
from drgn_tools.unwind.stack_cursor import only_stack
from drgn_tools.verdict.reliable import Judgement, judge

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

SCHEDULE, WAIT, ENTRY, INTERRUPTED = 0xA000, 0xA100, 0xA200, 0xA300


@pytest.fixture
def d() -> DrawnOrc:
    return DrawnOrc()


def sleeping(d: DrawnOrc) -> int:
    """A system call that waits; gives where the last frame's CFA is.

    Higher addresses above:
        struct pt_regs     <- top
        (8 bytes)
        return to ENTRY    <- first + 24
        (16 bytes)
        return to WAIT     <- first
    """
    d.starts(SCHEDULE)
    d.returns(SCHEDULE, call(8))
    d.put(d.first, WAIT)
    d.returns(WAIT, call(24))
    d.put(d.first + 24, ENTRY)
    d.returns(ENTRY, OrcEntry(OrcType.REGS, "sp", 8, signal=True))
    return d.regs(d.first + 40, ip=0x401000, cs=USER_CS, sp=0x7FFF0000)


def ips(walk: Walk) -> list[int]:
    return [step.ip for step in walk.steps]


def verdict(walk: Walk) -> Judgement:
    return judge(walk, lambda ip: ip >> 12 in (0xA, 0xF), kernel_regs_are_unreliable=False)


# ---- an ordinary stack


def test_system_call(d: DrawnOrc) -> None:
    top = sleeping(d)
    walk = d.walk_orc()
    assert ips(walk) == [SCHEDULE, WAIT, ENTRY, 0x401000]
    assert walk.end is End.USER_REGS
    assert [(s.found_at, s.regs, s.exact, s.user_mode) for s in walk.steps] == [
        (d.sp + 48, None, False, False),
        (d.first, None, False, False),
        (d.first + 24, None, False, False),
        (top + 128, top, True, True),
    ]
    assert walk.steps[-1].raw_regs == bytes(d.memory[top - d.base :][:168])
    assert verdict(walk).reason is None


def test_kernel_thread_ends_at_its_rule(d: DrawnOrc) -> None:
    sleeping(d)
    d.returns(ENTRY, END)
    walk = d.walk_orc()
    assert (ips(walk), walk.end) == ([SCHEDULE, WAIT, ENTRY], End.LAST_FRAME)
    assert verdict(walk).reason is None


def test_task_that_never_ran_is_looked_up_at_its_first_instruction(d: DrawnOrc) -> None:
    d.starts(FORK)
    d.rules_at = {FORK: END, FORK - 1: UNDEFINED}
    walk = d.walk_orc()
    assert (ips(walk), walk.end, walk.steps[0].exact) == ([FORK], End.LAST_FRAME, True)


def test_frame_pointer_rules_follow_the_bp_that_was_saved(d: DrawnOrc) -> None:
    """
    saved bp 0, return to ENTRY      <- first + 64: the frame of WAIT
    saved bp, return to WAIT         <- first + 16: the frame of SCHEDULE
    """
    d.starts(SCHEDULE, bp=d.first + 16)
    d.returns(SCHEDULE, call_by_bp())
    d.put(d.first + 16, d.first + 64, WAIT)
    d.returns(WAIT, call_by_bp())
    d.put(d.first + 64, 0, ENTRY)
    d.returns(ENTRY, END)
    walk = d.walk_orc()
    assert ips(walk) == [SCHEDULE, WAIT, ENTRY]
    assert walk.steps[2].found_at == d.first + 72


def test_bp_rule_uses_bp_before_it_is_replaced(d: DrawnOrc) -> None:
    d.starts(SCHEDULE, bp=d.first + 16)
    d.returns(SCHEDULE, OrcEntry(OrcType.CALL, "sp", 8, bp_from="bp", bp_offset=8))
    d.put(d.first, WAIT)
    d.put(d.first + 24, d.first + 64)  # bp + 8
    d.returns(WAIT, call_by_bp())
    d.put(d.first + 64, 0, ENTRY)
    d.returns(ENTRY, END)
    assert ips(d.walk_orc()) == [SCHEDULE, WAIT, ENTRY]


# ---- CFAs in memory and in registers


@pytest.mark.parametrize(
    ("rule", "at", "word"),
    [
        # *(bp + 16); *sp + 16; *(sp + 16): each is the CFA, first + 48
        (OrcEntry(OrcType.CALL, "bp", 16, True), 16 + 16, 48),
        (OrcEntry(OrcType.CALL, "sp", 0, True, 16), 0, 32),
        (OrcEntry(OrcType.CALL, "sp", 16, True), 16, 48),
    ],
)
def test_indirect_cfa(d: DrawnOrc, rule: OrcEntry, at: int, word: int) -> None:
    d.starts(SCHEDULE, bp=d.first + 16)
    d.returns(SCHEDULE, rule)
    d.put(d.first + at, d.first + word)
    d.put(d.first + 40, WAIT)
    d.returns(WAIT, END)
    assert ips(d.walk_orc()) == [SCHEDULE, WAIT]


def interrupted(d: DrawnOrc, rule: OrcEntry, **registers: int) -> int:
    """SCHEDULE was called by entry code that an interrupt of INTERRUPTED reached; gives its pt_regs."""
    d.starts(SCHEDULE)
    d.returns(SCHEDULE, REGS)
    regs = d.regs(
        d.first, **{"ip": INTERRUPTED, "cs": KERNEL_CS, "sp": d.first + 0x200, **registers}
    )
    d.rules_at[INTERRUPTED] = rule
    return regs


def test_kernel_mode_regs_are_gone_through_and_are_reliable(d: DrawnOrc) -> None:
    regs = interrupted(d, call(8))
    d.put(d.first + 0x200, ENTRY)
    d.returns(ENTRY, END)
    walk = d.walk_orc()
    assert ips(walk) == [SCHEDULE, INTERRUPTED, ENTRY]
    assert (walk.steps[1].regs, walk.steps[1].exact, walk.steps[1].found_at) == (
        regs,
        True,
        regs + 128,
    )
    assert verdict(walk).reason is None
    # An ip that is not text is judged as any other entry.
    interrupted(d, call(8), ip=0xB000)
    d.rules_at[0xB000] = call(8)
    assert verdict(d.walk_orc()).step == 1


@pytest.mark.parametrize("register", ["r10", "r13", "di", "dx", "ax"])
def test_cfa_in_a_register_of_the_interrupted_code(d: DrawnOrc, register: str) -> None:
    rule = OrcEntry(OrcType.CALL, register)  # type: ignore[arg-type]
    interrupted(d, rule, **{register: d.first + 0x300})
    d.put(d.first + 0x300 - 8, ENTRY)
    d.returns(ENTRY, END)
    assert ips(d.walk_orc()) == [SCHEDULE, INTERRUPTED, ENTRY]
    # A call keeps none of them.
    d.returns(ENTRY, rule)
    walk = d.walk_orc()
    assert (walk.end, walk.fault, walk.bad_addr) == (End.ERROR, Fault.REGISTER_NOT_SAVED, ENTRY)
    assert verdict(walk).step == 2


def test_bp_of_the_interrupted_code_is_that_of_its_registers(d: DrawnOrc) -> None:
    interrupted(d, call_by_bp(), bp=d.first + 0x300)
    d.put(d.first + 0x300, 0, ENTRY)
    d.returns(ENTRY, END)
    assert ips(d.walk_orc()) == [SCHEDULE, INTERRUPTED, ENTRY]


def partial(d: DrawnOrc, rule: OrcEntry) -> int:
    """As interrupted(), but entry code of INTERRUPTED was interrupted itself; gives its partial pt_regs.

    struct pt_regs of INTERRUPTED, complete      <- first + 0x100
    ip cs flags sp ss of entry code at 0xA400    <- first: what the next interrupt pushed
    """
    d.starts(SCHEDULE)
    d.returns(SCHEDULE, PARTIAL)
    d.put(d.first, 0xA400, KERNEL_CS, 0, d.first + 0x100, 0x18)
    d.rules_at[0xA400] = rule
    d.regs(d.first + 0x100, ip=INTERRUPTED, cs=KERNEL_CS, sp=d.first + 0x300, r10=d.first + 0x400)
    d.rules_at[INTERRUPTED] = call(8)
    d.put(d.first + 0x300, ENTRY)
    d.returns(ENTRY, END)
    return d.first - 128


def test_partial_regs(d: DrawnOrc) -> None:
    regs = partial(d, REGS)
    walk = d.walk_orc()
    assert ips(walk) == [SCHEDULE, 0xA400, INTERRUPTED, ENTRY]
    step = walk.steps[1]
    assert (step.regs, step.found_at, step.exact) == (regs, d.first, True)
    assert step.raw_regs == bytes(d.memory[d.first - d.base :][:40])
    assert walk.steps[2].raw_regs is not None and len(walk.steps[2].raw_regs) == 168


def test_partial_regs_of_user_mode_end_the_walk(d: DrawnOrc) -> None:
    partial(d, REGS)
    d.put(d.first, 0x401000, USER_CS)
    walk = d.walk_orc()
    assert (ips(walk), walk.end) == ([SCHEDULE, 0x401000], End.USER_REGS)


def test_partial_regs_have_the_registers_of_the_complete_ones_below(d: DrawnOrc) -> None:
    """
    ip cs flags sp ss of 0xA400     <- first + 0x100
    struct pt_regs of INTERRUPTED   <- first: complete, with r10
    """
    interrupted(d, PARTIAL, sp=d.first + 0x100, r10=d.first + 0x300)
    d.put(d.first + 0x100, 0xA400, KERNEL_CS, 0, d.first + 0x200, 0x18)
    d.rules_at[0xA400] = OrcEntry(OrcType.CALL, "r10")
    d.put(d.first + 0x300 - 8, ENTRY)
    d.returns(ENTRY, END)
    assert ips(d.walk_orc()) == [SCHEDULE, INTERRUPTED, 0xA400, ENTRY]
    # Also of the second that interrupted entry code.
    d.rules_at[0xA400] = PARTIAL
    d.put(d.first + 0x200, 0xA500, KERNEL_CS, 0, d.first + 0x240, 0x18)
    d.rules_at[0xA500] = OrcEntry(OrcType.CALL, "r10")
    assert ips(d.walk_orc()) == [SCHEDULE, INTERRUPTED, 0xA400, 0xA500, ENTRY]
    # Without complete ones they are not known.
    partial(d, OrcEntry(OrcType.CALL, "r10"))
    assert d.walk_orc().fault is Fault.REGISTER_NOT_SAVED


def test_signal_of_the_rule_decides_how_the_next_address_is_looked_up(d: DrawnOrc) -> None:
    interrupted(d, UNDEFINED)
    d.put(d.first + 0x200, ENTRY)
    d.returns(ENTRY, END)
    d.returns(SCHEDULE, OrcEntry(OrcType.REGS, "sp", 0, signal=False))
    d.returns(INTERRUPTED, call(8))
    walk = d.walk_orc()
    assert ips(walk) == [SCHEDULE, INTERRUPTED, ENTRY]
    assert walk.steps[1].exact  # registers always are


# ---- ends with an error


def test_undefined_rule(d: DrawnOrc) -> None:
    sleeping(d)
    d.returns(WAIT, UNDEFINED)
    walk = d.walk_orc()
    assert (ips(walk), walk.end, walk.fault, walk.bad_addr) == (
        [SCHEDULE, WAIT],
        End.ERROR,
        Fault.UNDEFINED_UNWIND_STATE,
        WAIT,
    )


def test_code_without_a_rule_is_guessed_to_have_a_frame_pointer(d: DrawnOrc) -> None:
    """
    struct pt_regs                <- first + 40
    return to ENTRY               <- first + 24
    saved bp                      <- first + 16
    return to WAIT                <- first
    """
    sleeping(d)
    d.starts(SCHEDULE, bp=d.first + 16)
    del d.rules_at[WAIT - 1]
    walk = d.walk_orc()
    assert ips(walk) == [SCHEDULE, WAIT, ENTRY, 0x401000]
    assert [s.guessed for s in walk.steps] == [False, False, True, True]
    assert (walk.end, walk.fault, walk.bad_addr) == (End.ERROR, Fault.NO_UNWIND_DATA, WAIT)
    judgement = verdict(walk)
    assert judgement.reason is not None
    assert (judgement.reason.value, judgement.step) == ("no_unwind_data", 1)
    # Kernels before v5.3 stop there.
    d.changes["guesses"] = False
    assert ips(d.walk_orc()) == [SCHEDULE, WAIT]


def test_first_fault_is_the_one_that_is_said(d: DrawnOrc) -> None:
    sleeping(d)
    d.starts(SCHEDULE, bp=d.first + 16)
    del d.rules_at[WAIT - 1]
    d.returns(ENTRY, UNDEFINED)
    walk = d.walk_orc()
    assert (ips(walk), walk.fault) == ([SCHEDULE, WAIT, ENTRY], Fault.NO_UNWIND_DATA)


@pytest.mark.parametrize("offset", [16384 - 0x1000 - 56 + 8, -(0x1000 + 56), 0x7FF8])
def test_cfa_off_the_stack(d: DrawnOrc, offset: int) -> None:
    sleeping(d)
    d.returns(SCHEDULE, call(offset))
    walk = d.walk_orc()
    assert (ips(walk), walk.fault) == ([SCHEDULE], Fault.OFF_STACK)
    assert walk.bad_addr == d.first + offset - 8


def test_cfa_at_the_end_of_the_stack_is_on_it(d: DrawnOrc) -> None:
    sleeping(d)
    d.returns(SCHEDULE, call(d.end - d.first))
    d.put(d.end - 8, WAIT)
    d.returns(WAIT, END)
    assert ips(d.walk_orc()) == [SCHEDULE, WAIT]


@pytest.mark.parametrize(("rule", "size"), [(REGS, 168), (PARTIAL, 40)])
def test_registers_that_do_not_fit_on_the_stack(d: DrawnOrc, rule: OrcEntry, size: int) -> None:
    d.starts(SCHEDULE)
    for missing, fault in ((0, None), (8, Fault.OFF_STACK)):
        at = d.end - size + missing
        d.returns(SCHEDULE, OrcEntry(rule.type, "sp", at - d.first, signal=True))
        d.put(d.end - 40 + 8, USER_CS)
        assert d.walk_orc().fault is fault


@pytest.mark.parametrize(
    "rule",
    [
        call(8, bp=0x7000),
        OrcEntry(OrcType.CALL, "sp", 8, bp_from="bp", bp_offset=0),
        OrcEntry(OrcType.CALL, "bp", 0, True),
        OrcEntry(OrcType.CALL, "sp", 0x7000, True),
    ],
)
def test_words_that_a_rule_reads_off_the_stack(d: DrawnOrc, rule: OrcEntry) -> None:
    sleeping(d)
    d.starts(SCHEDULE, bp=0x1234)
    d.returns(SCHEDULE, rule)
    walk = d.walk_orc()
    assert (ips(walk), walk.fault) == ([SCHEDULE], Fault.OFF_STACK)


@pytest.mark.parametrize("bp", [None, 0x80])
@pytest.mark.parametrize("offset", [0, -8, -0x100])
def test_rule_that_leads_down(d: DrawnOrc, offset: int, bp: Optional[int]) -> None:
    sleeping(d)
    d.returns(SCHEDULE, call(offset, bp))
    if offset:  # below it lies ret_addr
        d.put(d.first + offset - 8, WAIT)
    walk = d.walk_orc()
    assert (ips(walk), walk.fault, walk.bad_addr) == (
        [SCHEDULE],
        Fault.WRONG_DIRECTION,
        d.first + offset,
    )


def test_walk_without_an_end_ends(d: DrawnOrc) -> None:
    # From an sp off the stack the direction is not tested, and bp leads back.
    interrupted(d, call_by_bp(), sp=0x10, bp=d.first + 0x300)
    d.put(d.first + 0x300, d.first + 0x300, INTERRUPTED + 1)
    d.rules_at[SCHEDULE - 1] = REGS
    d.rules_at[INTERRUPTED] = OrcEntry(
        OrcType.REGS, "bp", -0x300, bp_from="bp", bp_offset=0, signal=True
    )
    walk = d.walk_orc()
    assert len(walk.steps) == _MAX_STEPS
    assert (walk.end, walk.fault) == (End.ERROR, Fault.WRONG_DIRECTION)
    assert walk.bad_addr == 0x10  # sp
    assert walk.steps[0].raw_regs is None and walk.steps[1].raw_regs is not None
    judgement = verdict(walk)
    assert judgement.reason is not None and judgement.reason.value == "too_many_entries"


# ---- where the walk begins


@pytest.mark.parametrize("sp", [-56 - 4096 - 8, 16384 - 56, 16384, 1 << 40])
def test_saved_sp_off_the_stack(d: DrawnOrc, sp: int) -> None:
    sleeping(d)
    walk = d.walk_orc(sp=d.base + sp)
    assert walk == Walk((), End.ERROR, d.base + sp + 56, None, Fault.OFF_STACK)
    judgement = verdict(walk)
    assert judgement.reason is not None
    assert (judgement.reason.value, judgement.step) == ("off_stack", None)


def test_saved_sp_in_the_guard_page_is_an_error_from_the_start(d: DrawnOrc) -> None:
    walk = d.walk_orc(sp=d.base - 64)
    assert (walk.end, walk.fault, walk.steps) == (End.ERROR, Fault.OFF_STACK, ())


def test_frame_below_the_stack_is_not_read(d: DrawnOrc) -> None:
    walk = d.walk_orc(sp=d.base - 48)
    assert (walk.end, walk.bad_addr) == (End.NOT_IN_DUMP, d.base - 8)


def test_kernels_before_5_8_begin_at_the_saved_sp_and_skip_a_frame(d: DrawnOrc) -> None:
    sleeping(d)
    d.changes["first_exact_addrs"] = frozenset()
    d.starts(SCHEDULE, bp=d.first + 16)
    d.returns(SCHEDULE, call_by_bp())
    d.put(d.first + 16, 0, WAIT)
    d.returns(WAIT, END)
    assert ips(d.walk_orc()) == [WAIT]
    d.starts(FORK)
    d.rules_at[FORK] = END
    assert (d.walk_orc().steps, d.walk_orc().fault) == ((), Fault.NO_UNWIND_DATA)


# ---- missing memory and damaged tables


def test_memory_below_the_saved_sp_is_asked_for_only_where_it_is_needed(d: DrawnOrc) -> None:
    sleeping(d)
    d.returns(SCHEDULE, call(-0x100))
    walk = d.walker().walk_sleeping(d.task(), d.stack_from(d.sp), lambda ip, at: ip)
    assert (walk.end, walk.bad_addr) == (End.NOT_IN_DUMP, d.first - 0x108)
    assert d.stack_from(d.sp).is_below_data(d.first - 0x108)


def test_memory_below_the_saved_sp_is_asked_for_after_an_error_too(d: DrawnOrc) -> None:
    # The kernel shows the frames that follow a guess.
    d.starts(SCHEDULE, bp=d.first + 0x10)
    d.put(d.first + 0x10, 0, WAIT, ENTRY)
    d.returns(WAIT, call(8, bp=-0x400))
    d.returns(ENTRY, END)
    walk = d.walker().walk_sleeping(d.task(), d.stack_from(d.sp), lambda ip, at: ip)
    assert (walk.end, walk.bad_addr) == (End.NOT_IN_DUMP, d.first + 0x28 - 0x400)
    whole = d.walk_orc()
    assert ips(whole) == [SCHEDULE, WAIT, ENTRY]
    assert (whole.end, whole.fault) == (End.ERROR, Fault.NO_UNWIND_DATA)


def test_memory_missing_after_an_error_does_not_matter(d: DrawnOrc) -> None:
    sleeping(d)
    del d.rules_at[SCHEDULE - 1]
    d.starts(SCHEDULE, bp=d.first + 0x100)
    hole = (d.first + 0x108, d.first + 0x110)
    whole = StackMemory(d.base, d.size, d.base, bytes(d.memory), (hole,))
    walk = d.walker().walk_sleeping(d.task(), whole, lambda ip, at: ip)
    assert (ips(walk), walk.end, walk.fault) == ([SCHEDULE], End.ERROR, Fault.NO_UNWIND_DATA)
    assert walk.has_more
    assert not d.walk_orc().has_more


@pytest.mark.parametrize(
    ("error", "end"),
    [(NotInDump(0x99), End.NOT_IN_DUMP), (UnwindDataUnclear(0x99), End.UNWIND_DATA_UNCLEAR)],
)
def test_rule_that_cannot_be_read_ends_the_walk(d: DrawnOrc, error: Exception, end: End) -> None:
    sleeping(d)
    rules = dict(d.rules_at)

    def find(addr: int) -> Optional[OrcEntry]:
        if addr == WAIT - 1:
            raise error
        return rules.get(addr)

    d.changes["find"] = find
    walk = d.walk_orc()
    assert (ips(walk), walk.end, walk.bad_addr) == ([SCHEDULE, WAIT], end, 0x99)
    assert verdict(walk).verdict.value == "unknown"
    # After an error it no longer matters.
    del rules[SCHEDULE - 1]
    d.starts(SCHEDULE, bp=d.first - 8)
    assert (d.walk_orc().end, d.walk_orc().fault) == (End.ERROR, Fault.NO_UNWIND_DATA)
    assert d.walk_orc().has_more


# ---- rewritten return addresses


def test_return_addresses_are_recovered_before_they_are_looked_up(d: DrawnOrc) -> None:
    sleeping(d)
    d.put(d.first, 0xC000)
    asked = []

    def recover(ip: int, addr_p: int) -> int:
        asked.append((ip, addr_p))
        return WAIT if ip == 0xC000 else ip

    assert ips(d.walk_orc(recover)) == [SCHEDULE, WAIT, ENTRY, 0x401000]
    # The first address is not on the stack for a call, and user mode is not asked about.
    assert asked == [(0xC000, d.first), (ENTRY, d.first + 24)]


def test_interrupted_rethook_trampoline_is_recovered_by_the_word_below_sp(d: DrawnOrc) -> None:
    interrupted(d, call(8), ip=RETHOOK)
    d.put(d.first + 0x200, ENTRY)
    d.returns(ENTRY, END)
    asked = []

    def recover(ip: int, addr_p: int) -> int:
        asked.append((ip, addr_p))
        return INTERRUPTED if ip == RETHOOK else ip

    assert ips(d.walk_orc(recover)) == [SCHEDULE, INTERRUPTED, ENTRY]
    assert asked == [(RETHOOK, d.first + 0x200 - 8), (ENTRY, d.first + 0x200)]
    # Other addresses of interrupted code are as they are.
    interrupted(d, call(8))
    asked.clear()
    d.walk_orc(recover)
    assert asked == [(ENTRY, d.first + 0x200)]


# ---- from the registers of a CPU

IRQ = 0xFFFF_C900_0200_0000


def irq_stack(*words: tuple[int, int]) -> StackMemory:
    data = bytearray(16384)
    for at, word in words:
        data[at : at + 8] = word.to_bytes(8, "little")
    return StackMemory(IRQ, 16384, IRQ, bytes(data), kind="irq")


def test_cpu_in_user_mode_has_no_frames(d: DrawnOrc) -> None:
    assert d.walk_cpu({"cs": USER_CS}) == Walk((), End.USER_REGS)


def test_first_frame_of_a_cpu_is_the_caller(d: DrawnOrc) -> None:
    sleeping(d)
    d.rules_at[0xA050] = OrcEntry(OrcType.CALL, "r10")
    walk = d.walk_cpu({"ip": 0xA050, "sp": d.first, "r10": d.first + 8})
    assert ips(walk) == [WAIT, ENTRY, 0x401000]


def test_cpu_leaves_its_irq_stack_by_the_word_at_its_top(d: DrawnOrc) -> None:
    """
    (irq stack)                      (task's stack)
    d.first   <- top word            struct pt_regs of user mode
    return to ENTRY                  ...
    ...       <- sp                  return to WAIT <- first
    """
    sleeping(d)
    d.rules_at[0xA050] = call(8)
    stack = irq_stack((0x100, 0xA500), (16384 - 8, d.first))
    d.returns(0xA500, call(16384 - 8 - 0x108 + 8))
    top = 0xA600
    d.returns(top, OrcEntry(OrcType.CALL, "sp", 0, True, 8))
    stack = irq_stack((0x100, 0xA500), (16384 - 16, top), (16384 - 8, d.first))
    d.returns(0xA500, call(16384 - 8 - 0x108))
    walk = d.walk_cpu({"ip": 0xA050, "sp": IRQ + 0x100}, lambda ip, at: ip, stack)
    assert ips(walk) == [0xA500, top, WAIT, ENTRY, 0x401000]
    assert [s.stack for s in walk.steps] == ["irq", "irq", "task", "task", "task"]


def test_stack_is_not_visited_twice(d: DrawnOrc) -> None:
    sleeping(d)
    stack = irq_stack((0x100, d.first))
    d.returns(ENTRY, OrcEntry(OrcType.CALL, "bp", 0, True))
    d.rules_at[0xA050] = OrcEntry(OrcType.CALL, "sp", 0, True, 8)
    walk = d.walk_cpu({"ip": 0xA050, "sp": IRQ + 0x100, "bp": IRQ}, lambda ip, at: ip, stack)
    assert ips(walk) == [WAIT, ENTRY]
    assert (walk.fault, walk.bad_addr) == (Fault.OFF_STACK, IRQ)


@pytest.mark.parametrize("type_", [OrcType.CALL, OrcType.REGS])
def test_walk_that_left_the_stacks_does_not_go_on_where_bp_is(d: DrawnOrc, type_: OrcType) -> None:
    sleeping(d)
    d.rules_at[0xA050] = call(8)
    cfa = d.first + 8 + (1 << 20)
    saved = IRQ + 0x100 - cfa
    d.returns(WAIT, OrcEntry(type_, "sp", 1 << 20, bp_from="cfa", bp_offset=saved))
    walk = d.walk_cpu({"ip": 0xA050, "sp": d.first}, lambda ip, at: ip, irq_stack())
    assert ips(walk) == [WAIT]
    off = cfa - 8 if type_ is OrcType.CALL else cfa
    assert (walk.end, walk.fault, walk.bad_addr) == (End.ERROR, Fault.OFF_STACK, off)


def test_code_of_a_cpu_that_nobody_called(d: DrawnOrc) -> None:
    d.rules_at[0xA050] = END
    assert d.walk_cpu({"ip": 0xA050, "sp": d.first}) == Walk((), End.EMPTY)


def test_stack_begins_at_its_lowest_byte_and_ends_before_its_end(d: DrawnOrc) -> None:
    stack = d.stack_from(d.sp)
    find = only_stack(stack)
    assert [find(addr) for addr in (d.base - 1, d.base, d.end - 1, d.end)] == [
        None, stack, stack, None
    ]  # fmt: skip


def test_overflow_goes_on_in_the_stack_above_the_guard_page(d: DrawnOrc) -> None:
    d.rules_at[0xA050] = call(0x40)
    d.put(d.base + 0x30, ENTRY)
    d.returns(ENTRY, END)
    walk = d.walk_cpu({"ip": 0xA050, "sp": d.base - 8})
    assert (ips(walk), walk.overflowed, walk.end) == ([ENTRY], "task", End.LAST_FRAME)
    assert not walk.steps[0].guessed


@pytest.mark.parametrize("sp", [0, 0x1000, 1 << 63, (1 << 64) - 8])
def test_cpu_whose_sp_is_nowhere(d: DrawnOrc, sp: int) -> None:
    walk = d.walk_cpu({"ip": 0xA050, "sp": sp})
    assert (walk.steps, walk.end, walk.fault, walk.bad_addr) == ((), End.ERROR, Fault.OFF_STACK, sp)


def test_call_of_null_is_left_by_the_word_at_sp(d: DrawnOrc) -> None:
    sleeping(d)
    d.rules_at[0] = call(8)
    assert ips(d.walk_cpu({"ip": 0, "sp": d.first})) == [WAIT, ENTRY, 0x401000]
