# SPDX-License-Identifier: LGPL-2.1-or-later
"""The walker on drawn stacks: one test for each predicate and each way a walk ends.

A stack is drawn from its top: lines run from high addresses to low, as the
kernel's comments draw them. The fast path is compared with this walker in test_fast_path.py.
"""

from __future__ import annotations

import random

import pytest

from drgn_tools.arch.x86.encoding import Encoding
from drgn_tools.arch.x86.frame_pointer_rules import UnwindRules
from drgn_tools.arch.x86.pt_regs import REGS_32, REGS_64, SHORT_KERNEL_REGS_32, X86Regs
from drgn_tools.kernel.stack_memory import NotInDump, StackMemory
from drgn_tools.unwind.base import End, Walk
from drgn_tools.unwind.frame_pointer import walk_from_regs

from ..support.drawn_stack import BASE_64, KERNEL_CS, Drawing


def ips(walk: Walk) -> list[int]:
    return [step.ip for step in walk.steps]


# ---- complete walks


def test_syscall_ends_at_user_regs_above_the_last_frame() -> None:
    # pt_regs (user)            <- task_pt_regs
    # ret 0xa2  | last frame    <- C function called by entry_SYSCALL_64
    # ret 0xa1  | frame
    # ret 0xa0  | inactive_task_frame
    d = Drawing()
    d.user_regs()
    d.frame(d.last_frame, 0, 0xA2)
    middle = d.frame(d.last_frame - 64, d.last_frame, 0xA1)
    d.inactive(middle - 64, middle, 0xA0)
    walk = d.walk()
    assert walk.end is End.USER_REGS
    assert ips(walk) == [0xA0, 0xA1, 0xA2, 0x401000]
    assert [s.regs for s in walk.steps] == [None, None, None, d.pt_regs]
    assert walk.steps[-1].user_mode


def test_kthread_ends_at_the_last_frame_whose_saved_bp_is_not_followed() -> None:
    # copy_thread() leaves an encoded pointer there since v5.10, 0 before.
    for saved in (0, 0xDEAD_BEEF):
        d = Drawing()
        d.frame(d.last_frame, saved, 0xA1)
        d.inactive(d.last_frame - 64, d.last_frame, 0xA0)
        walk = d.walk()
        assert (walk.end, ips(walk)) == (End.LAST_FRAME, [0xA0, 0xA1])


def test_kthread_that_has_execed_ends_at_user_regs() -> None:
    d = Drawing()
    d.user_regs(ip=0x7F00)
    d.frame(d.last_frame, 0, 0xA1)
    d.inactive(d.last_frame - 64, d.last_frame, 0xA0)
    assert d.walk().end is End.USER_REGS


@pytest.mark.parametrize("kthread", [False, True])
def test_task_that_never_ran_has_ret_from_fork_as_its_only_frame(kthread: bool) -> None:
    # struct fork_frame: pt_regs right above inactive_task_frame, so the first
    # frame is the last one and its bp (encoded childregs) is not looked at.
    d = Drawing()
    if not kthread:
        d.user_regs()
    d.inactive(d.pt_regs, d.encode(d.pt_regs), 0xF0)
    walk = d.walk()
    assert ips(walk)[0] == 0xF0
    assert (walk.end, len(walk.steps)) == ((End.LAST_FRAME, 1) if kthread else (End.USER_REGS, 2))


def test_realigned_last_frame_ends_the_walk_only_with_a_duplicated_return_address() -> None:
    for duplicate, end in ((0xA1, End.LAST_FRAME), (0xBAD, End.ERROR)):
        d = Drawing()
        d.put(d.last_frame + 8, 0xA1)  # the return address entry code pushed
        aligned = d.put(d.last_frame - 8, 0, duplicate)
        d.inactive(aligned - 64, aligned, 0xA0)
        walk = d.walk()
        assert (walk.end, ips(walk)) == (end, [0xA0, duplicate])


def test_ftrace_last_frame_ends_the_walk_only_with_bp_and_parent_repeated() -> None:
    #   pt_regs
    #   parent ret      bp + 4
    #   function ret    bp + 3
    #   bp              bp + 2
    #   parent ret      bp + 1
    #   bp              bp + 0
    for bp_again, parent_again, end in (
        (0, 0xA1, End.LAST_FRAME),
        (0, 0xBAD, End.ERROR),
        (0x77, 0xA1, End.ERROR),
    ):
        d = Drawing()
        bp = d.last_frame - 3 * 8
        d.put(bp, 0, 0xA1, bp_again, 0xAF, parent_again)
        d.inactive(bp - 64, bp, 0xA0)
        assert d.walk().end is end


# ---- pt_regs on the way


@pytest.mark.parametrize("encoding", [Encoding.LSB, Encoding.MSB])
def test_encoded_kernel_regs_are_a_frame_and_the_walk_goes_on_at_their_bp(
    encoding: Encoding,
) -> None:
    d = Drawing(encoding=encoding)
    d.user_regs()
    d.frame(d.last_frame, 0, 0xA3)
    caller = d.frame(d.last_frame - 128, d.last_frame, 0xA2)
    regs = d.regs(caller - 512, bp=caller, ip=0xFA11, cs=KERNEL_CS)
    d.inactive(regs - 64, d.encode(regs), 0xA0)
    walk = d.walk()
    assert walk.end is End.USER_REGS
    assert ips(walk) == [0xA0, 0xFA11, 0xA2, 0xA3, 0x401000]
    assert walk.steps[1].regs == regs
    assert not walk.steps[1].user_mode
    assert [step.found_at for step in walk.steps] == [
        d.sp + 48, regs + d.reg_offset("ip"), caller + 8, d.last_frame + 8,
        d.pt_regs + d.reg_offset("ip"),
    ]  # fmt: skip


@pytest.mark.parametrize("encoding", [Encoding.LSB, Encoding.MSB])
def test_encoded_user_regs_end_the_walk(encoding: Encoding) -> None:
    d = Drawing(encoding=encoding)
    d.user_regs(ip=0x1234, bp=0xDEAD)
    d.inactive(d.last_frame - 128, d.encode(d.pt_regs), 0xA0)
    walk = d.walk()
    assert (walk.end, ips(walk)) == (End.USER_REGS, [0xA0, 0x1234])


def test_encoded_pointer_without_encoding_is_a_bad_frame_pointer() -> None:
    d = Drawing(encoding=Encoding.NONE)
    regs = d.regs(d.last_frame - 512, cs=KERNEL_CS)
    d.inactive(regs - 64, regs & ~(1 << 63), 0xA0)
    assert d.walk().end is End.ERROR


def test_regs_reaching_past_the_end_of_the_stack_are_refused() -> None:
    d = Drawing()
    d.inactive(d.end - 256, (d.end - d.layout.size_bytes + 8) | 1, 0xA0)
    walk = d.walk()
    assert (walk.end, walk.bad_addr) == (End.ERROR, (d.end - d.layout.size_bytes + 8) | 1)


def test_cs_decides_user_mode_by_its_two_low_bits_alone() -> None:
    for cs, user in ((0x10, False), (0x11, True), (0x33, True), (0xFFFC, False)):
        d = Drawing()
        regs = d.regs(d.last_frame - 512, cs=cs, bp=d.last_frame)
        d.inactive(regs - 64, d.encode(regs), 0xA0)
        assert d.walk().steps[1].user_mode is user


# ---- chains that break


@pytest.mark.parametrize(
    "bad", ["below", "itself", "overlap", "null", "off the stack", "one word over the end"]
)
def test_frame_pointer_that_does_not_lead_up_is_an_error(bad: str) -> None:
    d = Drawing()
    d.frame(d.last_frame, 0, 0xA2)
    first = d.last_frame - 256
    target = {
        "below": first - 64,
        "itself": first,
        "overlap": first + 8,
        "null": 0,
        "off the stack": d.base - 4096,
        "one word over the end": d.end - 8,
    }[bad]
    d.inactive(first + 16, target, 0xA0)
    walk = d.walk()
    assert (walk.end, walk.bad_addr, ips(walk)) == (End.ERROR, target, [0xA0])


def test_frame_directly_above_the_frame_before_is_followed() -> None:
    # frame < prev_frame_end is refused; equal is not.
    d = Drawing()
    first = d.last_frame - 16
    d.frame(d.last_frame, 0, 0xA1)
    d.inactive(first + 16, d.last_frame, 0xA0)
    assert (d.walk().end, ips(d.walk())) == (End.LAST_FRAME, [0xA0, 0xA1])


def test_unaligned_frame_pointer_is_followed() -> None:
    # The kernel tests no alignment (with MSB; an odd pointer is "encoded" with LSB).
    d = Drawing(encoding=Encoding.MSB)
    odd = d.frame(d.last_frame - 129, d.last_frame, 0xA1)
    d.frame(d.last_frame, 0, 0xA2)
    d.inactive(odd - 64, odd, 0xA0)
    assert ips(d.walk()) == [0xA0, 0xA1, 0xA2]


def test_loop_is_impossible_because_walks_only_go_up() -> None:
    d = Drawing()
    high = d.last_frame - 64
    low = d.last_frame - 256
    d.frame(high, low, 0xA1)
    d.inactive(low + 16, high, 0xA0)
    assert (d.walk().end, ips(d.walk())) == (End.ERROR, [0xA0, 0xA1])


@pytest.mark.parametrize(("gap", "end"), [(-8, End.ERROR), (0, End.LAST_FRAME)])
def test_frame_above_regs_must_clear_all_of_them(gap: int, end: End) -> None:
    d = Drawing()
    d.frame(d.last_frame, 0, 0xA2)
    regs = d.last_frame - 512
    caller = regs + d.layout.size_bytes + gap
    d.regs(regs, ip=0xFA11, cs=KERNEL_CS, bp=caller)
    d.frame(caller, d.last_frame, 0xA1)
    d.inactive(regs - 64, d.encode(regs), 0xA0)
    assert d.walk().end is end


# ---- return addresses that were rewritten


def test_recovery_is_asked_of_every_address_in_the_kernel_and_where_it_lay() -> None:
    d = Drawing()
    d.user_regs()
    d.frame(d.last_frame, 0, 0xA2)
    regs = d.regs(d.last_frame - 512, ip=0xFA11, cs=KERNEL_CS, bp=d.last_frame)
    d.inactive(regs - 64, d.encode(regs), 0xA0)
    walk, asked = d.walk_and_note()
    assert asked == [
        (0xA0, regs - 64 - 8),
        (0xFA11, regs + 16 * 8),  # &regs->ip
        (0xA2, d.last_frame + 8),
    ]
    assert ips(walk) == [0xA1, 0xFA12, 0xA3, 0x401000]


def test_recovery_is_not_asked_of_user_mode() -> None:
    d = Drawing()
    d.user_regs()
    d.inactive(d.last_frame - 128, d.encode(d.pt_regs), 0xA0)
    walk, asked = d.walk_and_note()
    assert [addr for addr, _ in asked] == [0xA0]
    assert ips(walk) == [0xA1, 0x401000]


# ---- where the walk starts


def test_first_frame_at_the_very_bottom_is_on_the_stack() -> None:
    d = Drawing(bp_offset=0)
    d.frame(d.last_frame, 0, 0xA1)
    d.frame(d.base, d.last_frame, 0xA0)
    assert ips(d.walk(sp=d.base)) == [0xA0, 0xA1]


def test_first_state_that_is_regs_is_skipped() -> None:
    # Odd, &frame->bp "is" an encoded pointer; and bp == NULL is below first_frame.
    d = Drawing()
    d.frame(d.last_frame, 0, 0xA2)
    regs = d.regs(d.last_frame - 512, ip=0xFA11, cs=KERNEL_CS, bp=d.last_frame)
    assert ips(d.walk(sp=regs + 1 - d.rules.frame_bp_offset)) == [0xA2]


def test_first_frame_is_looked_for_on_the_stack_before_it_is_decoded() -> None:
    # get_stack_info(bp) comes first. Decoded, these would be registers on the
    # stack whose bp leads nowhere: an error, and no empty walk.
    d = Drawing(encoding=Encoding.MSB)
    regs = d.regs(d.last_frame - 512, cs=KERNEL_CS, bp=0)
    assert d.walk(sp=d.encode(regs) - d.rules.frame_bp_offset) == Walk((), End.EMPTY)


def test_first_frame_off_the_stack_is_an_empty_walk_and_no_error() -> None:
    d = Drawing()
    for sp in (d.base - 4096, d.end, d.end - 40, 0, 1 << 63):
        assert d.walk(sp=sp or 8) == Walk((), End.EMPTY)


def test_first_frame_sticking_out_of_the_stack_is_an_empty_walk() -> None:
    d = Drawing()
    # &frame->bp is the last word: on the stack, but its return address is not.
    assert d.walk(sp=d.end - 8 - 40) == Walk((), End.EMPTY)


def test_stack_pointer_below_the_stack_skips_every_frame() -> None:
    # The frame lies on the stack but first_frame (thread.sp) does not, so
    # __unwind_start() goes on until the end, and the trace is empty.
    d = Drawing()
    d.frame(d.last_frame, 0, 0xA1)
    d.frame(d.base, d.last_frame, 0xA0)
    walk = d.walk(sp=d.base - 40)
    assert (walk.steps, walk.end) == ((), End.EMPTY)


def test_padding_moves_the_last_frame() -> None:
    d = Drawing(padding=16)
    d.user_regs()
    d.frame(d.last_frame, 0, 0xA1)
    d.inactive(d.last_frame - 64, d.last_frame, 0xA0)
    assert d.walk().end is End.USER_REGS
    d.rules = UnwindRules(Encoding.LSB, REGS_64, 0, 40)
    assert d.walk().end is End.ERROR


# ---- x86-32


def drawing_32(encoding: Encoding = Encoding.MSB) -> Drawing:
    # flags si di bx bp ret_addr; 8 bytes of padding; 8 KB of stack
    return Drawing(REGS_32, encoding, padding=8, thread_size=8192, bp_offset=16)


@pytest.mark.parametrize("encoding", [Encoding.MSB, Encoding.LSB])
def test_32_bit_encoded_kernel_regs(encoding: Encoding) -> None:
    d = drawing_32(encoding)
    d.user_regs()
    d.frame(d.last_frame, 0, 0xA3)
    caller = d.frame(d.last_frame - 64, d.last_frame, 0xA2)
    regs = d.regs(caller - 256, bp=caller, ip=0xFA11, cs=0x60)
    d.inactive(regs - 32, d.encode(regs), 0xA0)
    walk = d.walk()
    assert (walk.end, ips(walk)) == (End.USER_REGS, [0xA0, 0xFA11, 0xA2, 0xA3, 0x401000])


def test_32_bit_null_frame_pointer_decodes_to_regs_off_the_stack() -> None:
    d = drawing_32()
    d.inactive(d.last_frame - 64, 0, 0xA0)
    assert (d.walk().end, d.walk().bad_addr) == (End.ERROR, 0)


def test_32_bit_realigned_last_frame_is_three_words_down() -> None:
    for duplicate, end in ((0xA1, End.LAST_FRAME), (0xBAD, End.ERROR)):
        d = drawing_32()
        d.put(d.last_frame + 4, 0xA1)
        # bp is not repeated two words up: this is no function tracer's frame.
        aligned = d.put(d.last_frame - 12, 0, duplicate, 0xDEAD)
        d.inactive(aligned - 32, aligned, 0xA0)
        assert (d.walk().end, ips(d.walk())) == (end, [0xA0, duplicate])


def test_32_bit_ftrace_last_frame_is_as_far_down_as_a_realigned_one() -> None:
    d = drawing_32()
    bp = d.put(d.last_frame - 3 * 4, 0, 0xA1, 0, 0xAF, 0xA1)
    d.inactive(bp - 32, bp, 0xA0)
    assert (d.walk().end, ips(d.walk())) == (End.LAST_FRAME, [0xA0, 0xA1])


def test_32_bit_virtual_8086_mode_is_user_mode() -> None:
    d = drawing_32()
    regs = d.regs(d.last_frame - 256, cs=0x60, flags=0x20000, bp=0)
    d.inactive(regs - 32, d.encode(regs), 0xA0)
    assert d.walk().end is End.USER_REGS


def short_regs_drawing() -> Drawing:
    return Drawing(SHORT_KERNEL_REGS_32, padding=8, thread_size=8192, bp_offset=16)


def test_before_5_3_a_frame_may_begin_where_regs_of_kernel_mode_end() -> None:
    # push %ebp has just been executed when the interrupt comes: the saved bp lies right above
    # the flags that the CPU pushes.
    for short, end in ((True, End.USER_REGS), (False, End.ERROR)):
        d = short_regs_drawing()
        d.user_regs()
        d.frame(d.last_frame, 0, 0xA3)
        interrupted = d.frame(d.last_frame - 64, d.last_frame, 0xA2)
        regs = d.regs(interrupted - 60, bp=interrupted, ip=0xFA11, cs=0x60)
        d.inactive(regs - 32, d.encode(regs), 0xA0)
        if not short:
            d.rules = UnwindRules(Encoding.LSB, REGS_32, 8, 16)
        walk = d.walk()
        assert walk.end is end
        assert ips(walk)[:2] == [0xA0, 0xFA11]


@pytest.mark.parametrize("cs", [0x60, 0x73])
def test_before_5_3_regs_of_kernel_mode_may_lie_two_words_higher(cs: int) -> None:
    # As long as those of user mode they would not be on the stack.
    d = short_regs_drawing()
    regs = d.regs(d.end - 60, bp=0, ip=0xFA11, cs=0x60)
    d.put(regs + 52, cs)
    d.inactive(regs - 32, d.encode(regs), 0xA0)
    walk = d.walk()
    assert walk.end is End.ERROR
    assert ips(walk) == ([0xA0, 0xFA11] if cs == 0x60 else [0xA0])
    assert walk.bad_addr == (0 if cs == 0x60 else d.encode(regs))


def test_before_5_3_a_null_call_left_its_return_address_where_regs_end() -> None:
    # call *%eax with eax 0: the CPU pushes flags, cs and ip right below the return address.
    d = short_regs_drawing()
    d.user_regs()
    d.frame(d.last_frame, 0, 0xA3)
    caller = d.frame(d.last_frame - 64, d.last_frame, 0xA2)
    sp = d.put(caller - 128, 0xA1)
    regs = d.regs(sp - 60, bp=caller, ip=0, cs=0x60)
    panic = d.frame(regs - 64, d.encode(regs), 0xA0)
    registers = {"ip": 0xF0, "sp": panic - 32, "bp": panic, "cs": 0x60, "flags": 0}
    walk = walk_from_regs(registers, lambda addr: d.stack(), d.end, d.rules)
    assert ips(walk) == [0xA0, 0, 0xA1, 0xA2, 0xA3, 0x401000]
    assert walk.end is End.USER_REGS


# ---- memory that is not in the dump


def test_hole_in_the_way_ends_the_walk_and_says_where() -> None:
    d = Drawing()
    d.user_regs()
    d.frame(d.last_frame, 0, 0xA2)
    middle = d.frame(d.last_frame - 4096, d.last_frame, 0xA1)
    page = middle & -4096
    d.inactive(page - 64, middle, 0xA0)
    walk = d.walk(holes=((page, page + 4096),))
    assert (walk.end, walk.bad_addr, ips(walk)) == (End.NOT_IN_DUMP, middle + 8, [0xA0])


def test_hole_beside_the_way_does_not_matter() -> None:
    d = Drawing()
    d.user_regs()
    d.frame(d.last_frame, 0, 0xA1)
    d.inactive(d.last_frame - 8192, d.last_frame, 0xA0)
    page = (d.last_frame - 4096) & -4096
    assert d.walk(holes=((page, page + 4096),)).end is End.USER_REGS


def test_read_across_the_start_of_a_hole_is_refused() -> None:
    stack = StackMemory(BASE_64, 8192, BASE_64, bytes(8192), ((BASE_64 + 4096, BASE_64 + 8192),))
    assert stack.read(BASE_64 + 4088, 8) == bytes(8)
    with pytest.raises(NotInDump) as e:
        stack.read(BASE_64 + 4090, 8)
    assert e.value.addr == BASE_64 + 4096


def test_read_beyond_what_was_read_of_the_stack_is_refused() -> None:
    stack = StackMemory(BASE_64, 8192, BASE_64 + 4096, bytes(4096))
    assert stack.read(BASE_64 + 4096, 4096) == bytes(4096)
    for addr, size in ((BASE_64 + 4088, 8), (BASE_64 + 8185, 8), (BASE_64 + 8192, 1)):
        with pytest.raises(NotInDump) as e:
            stack.read(addr, size)
        assert e.value.addr == addr


# ---- anything at all


@pytest.mark.parametrize("layout", [REGS_64, REGS_32], ids=["64", "32"])
@pytest.mark.parametrize("encoding", list(Encoding))
def test_random_stacks_always_end_go_up_and_stay_inside(
    layout: X86Regs, encoding: Encoding
) -> None:
    rng = random.Random(20161119)
    d = Drawing(layout, encoding, thread_size=2048, bp_offset=16)
    ends = set()
    for _ in range(300):
        for at in range(d.base, d.end, d.word_bytes):
            pointer = rng.randrange(d.base - 64, d.end + 64)
            choice = rng.random()
            if choice < 0.3:
                d.put(at, pointer)
            elif choice < 0.6:
                d.put(at, d.encode(pointer) if encoding is not Encoding.NONE else pointer)
            else:
                d.put(at, rng.getrandbits(d.word_bytes * 8))
        walk = d.walk(sp=rng.randrange(d.base - 64, d.end + 64))
        ends.add(walk.end)
        places = [step.regs or (step.found_at or 0) - d.word_bytes for step in walk.steps]
        assert places == sorted(set(places))
        assert all(d.base <= place < d.end for place in places)
    assert {End.ERROR, End.EMPTY} <= ends
