# SPDX-License-Identifier: LGPL-2.1-or-later
"""The walker on drawn stacks: one test for each predicate and each way a walk ends.

A stack is drawn from its top: lines run from high addresses to low, as the
kernel's comments draw them. Words are given by name and resolved to bytes by
:class:`Drawing`.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Optional, Union

import pytest
from msgspec.structs import replace

from drgn_tools.arch.x86.encoding import Encoding
from drgn_tools.arch.x86.pt_regs import REGS_32, REGS_64, X86Regs
from drgn_tools.arch.x86.unwind_rules import UnwindRules
from drgn_tools.kernel.stack_memory import NotInDump, StackMemory
from drgn_tools.unwind.base import End, Recover, Walk
from drgn_tools.unwind.fast_path import FastPath
from drgn_tools.unwind.frame_pointer import walk_task_stack

BASE_64 = 0xFFFF_C900_0010_0000
BASE_32 = 0xF5F0_0000
USER_CS = 0x33
KERNEL_CS = 0x10

Word = Union[int, str]


class Drawing:
    """A task stack, written word by word; names make addresses readable."""

    def __init__(
        self,
        layout: X86Regs = REGS_64,
        encoding: Encoding = Encoding.LSB,
        padding: int = 0,
        thread_size: int = 16384,
        bp_offset: int = 40,
    ) -> None:
        self.layout = layout
        self.word_bytes = layout.word_bytes
        self.base = BASE_64 if self.word_bytes == 8 else BASE_32
        self.size = thread_size
        self.end = self.base + thread_size
        self.memory = bytearray(thread_size)
        self.rules = UnwindRules(encoding, layout, padding, bp_offset)
        self.pt_regs = self.end - padding - layout.size_bytes
        self.last_frame = self.pt_regs - 2 * self.word_bytes
        self.sp = self.end  # moved by inactive()

    def put(self, addr: int, *words: int) -> int:
        """Write words upward from *addr*; give *addr* back."""
        for i, word in enumerate(words):
            at = addr - self.base + i * self.word_bytes
            self.memory[at : at + self.word_bytes] = word.to_bytes(self.word_bytes, "little")
        return addr

    def frame(self, addr: int, saved_bp: int, ret: int) -> int:
        """An ordinary frame: {saved bp, return address}."""
        return self.put(addr, saved_bp, ret)

    def regs(self, addr: int, **values: int) -> int:
        """A struct pt_regs with these registers."""
        for name, offset, size in self.layout.fields:
            at = addr - self.base + offset
            self.memory[at : at + size] = values.get(name, 0).to_bytes(size, "little")
        return addr

    def user_regs(self, **values: int) -> int:
        """User-mode pt_regs at the top, where a syscall leaves them."""
        cs = USER_CS if self.word_bytes == 8 else 0x73
        return self.regs(self.pt_regs, **{"cs": cs, "ip": 0x401000, **values})

    def encode(self, regs: int) -> int:
        """What ENCODE_FRAME_POINTER makes of a pt_regs address."""
        if self.rules.encoding is Encoding.LSB:
            return regs | 1
        return regs & ~(1 << (self.word_bytes * 8 - 1))

    def inactive(self, below: int, saved_bp: int, ret: int) -> None:
        """struct inactive_task_frame right below *below*: {..., bp, ret_addr}."""
        bp = below - 2 * self.word_bytes
        self.frame(bp, saved_bp, ret)
        self.sp = bp - self.rules.frame_bp_offset

    def stack(self, holes: tuple[tuple[int, int], ...] = ()) -> StackMemory:
        """What was drawn, as bytes."""
        return StackMemory(self.base, self.size, self.base, bytes(self.memory), holes)

    def walk(self, sp: int = 0, holes: tuple[tuple[int, int], ...] = ()) -> Walk:
        """Walk it from *sp* (thread.sp as drawn, if not given)."""
        walk = walk_task_stack(self.stack(holes), sp or self.sp, self.rules)
        check_outline(walk, self.stack(holes), sp or self.sp, self.rules)
        return walk

    def walk_and_note(self) -> tuple[Walk, list[tuple[int, int]]]:
        """Walk it; note what the recovery of swapped addresses is asked, and add 1 to each."""
        asked = []

        def recover(addr: int, addr_p: int) -> int:
            asked.append((addr, addr_p))
            return addr + 1

        return walk_task_stack(self.stack(), self.sp, self.rules, recover), asked


def check_outline(
    walk: Walk, stack: StackMemory, sp: int, rules: UnwindRules, recover: Optional[Recover] = None
) -> bool:
    """Does the outline of a stack, if it has one, say what a walk of it does?"""
    offset = sp - stack.data_addr
    if not 0 <= offset < len(stack.data):
        return False
    stack = replace(stack, data_addr=sp, data=stack.data[offset:])
    outline = FastPath(rules).signature(stack, sp)
    if outline is not None and recover is not None:
        outline = outline.recovered(sp, set(outline.ips), recover)
    if outline is None:
        return False
    in_kernel = [step for step in walk.steps if not step.user_mode]
    assert outline.key == (
        tuple(step.ip for step in in_kernel),
        tuple(i for i, step in enumerate(in_kernel) if step.regs is not None),
        walk.end is End.USER_REGS,
    )
    assert list(outline.regs) == [
        (step.regs, rules.regs.read(step.raw_regs))
        for step in walk.steps
        if step.raw_regs is not None
    ]
    assert walk.end in (End.USER_REGS, End.LAST_FRAME)
    assert all(
        step.regs or (step.found_at or 0) % rules.regs.word_bytes == 0 for step in walk.steps
    )
    return True


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


# ---- return addresses that were swapped out


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


# ---- outlines


def drawn_task(layout: X86Regs, encoding: Encoding) -> Drawing:
    """Registers of both modes, an ordinary frame between any two."""
    d = Drawing(layout, encoding, thread_size=2048, padding=16, bp_offset=2 * layout.word_bytes)
    d.user_regs()
    d.frame(d.last_frame, 0, 0xA4)
    outer = d.frame(d.last_frame - 5 * d.word_bytes, d.last_frame, 0xA3)
    regs = d.regs(outer - 256, ip=0xFA11, cs=KERNEL_CS, bp=outer)
    inner = d.frame(regs - 64, d.encode(regs), 0xA2)
    middle = d.frame(inner - 64, inner, 0xA1)
    d.inactive(middle - 64, middle, 0xA0)
    return d


@pytest.mark.parametrize("layout", [REGS_64, REGS_32], ids=["64", "32"])
@pytest.mark.parametrize("encoding", [Encoding.LSB, Encoding.MSB])
def test_outline_of_a_damaged_stack_is_that_of_its_walk_or_none(
    layout: X86Regs, encoding: Encoding
) -> None:
    rng = random.Random(4)
    d = drawn_task(layout, encoding)
    whole = bytes(d.memory)
    assert check_outline(d.walk(), d.stack(), d.sp, d.rules)
    outlines = 0
    for _ in range(1000):
        d.memory[:] = whole
        for _ in range(rng.randint(1, 3)):
            places = range(d.sp, d.end, d.word_bytes)
            addr, other = rng.choice(places), rng.choice(places)
            word = int.from_bytes(whole[other - d.base :][: d.word_bytes], "little")
            value = rng.choice(
                (other, d.encode(other), word, word + d.word_bytes, word ^ 1 << rng.randrange(32))
            )
            d.put(addr, value % (1 << 8 * d.word_bytes))
        outlines += check_outline(d.walk(), d.stack(), d.sp, d.rules)
    assert 100 < outlines < 1000


@pytest.mark.parametrize("layout", [REGS_64, REGS_32], ids=["64", "32"])
@pytest.mark.parametrize("encoding", [Encoding.LSB, Encoding.MSB])
@pytest.mark.parametrize("words_below", [2, 3, 4], ids="{} words below the last".format)
def test_outline_of_a_stack_that_is_like_the_last_one_is_that_of_the_first_one(
    layout: X86Regs, encoding: Encoding, words_below: int
) -> None:
    d = Drawing(layout, encoding, thread_size=2048, padding=16, bp_offset=2 * layout.word_bytes)
    d.user_regs()
    d.frame(d.last_frame, 0, 0xA3)
    outer = d.frame(d.last_frame - words_below * d.word_bytes, d.last_frame, 0xA2)
    inner = d.frame(outer - 256, outer, 0xA1)
    d.inactive(inner - 64, inner, 0xA0)
    places = [
        addr for frame in (d.last_frame, outer, inner) for addr in (frame, frame + d.word_bytes)
    ]
    check_outlines_of_likes(d, places)


@pytest.mark.parametrize("layout", [REGS_64, REGS_32], ids=["64", "32"])
@pytest.mark.parametrize("encoding", [Encoding.LSB, Encoding.MSB])
def test_outline_of_a_stack_with_regs_that_is_like_the_last_one_is_that_of_the_first_one(
    layout: X86Regs, encoding: Encoding
) -> None:
    d = drawn_task(layout, encoding)
    check_outlines_of_likes(d, range(d.sp, d.end, d.word_bytes))


def check_outlines_of_likes(d: Drawing, places: Sequence[int]) -> None:
    """Damage a stack in one place: does who has seen the whole one say what another does?"""
    rng = random.Random(5)
    begin, whole = d.sp - d.base, bytes(d.memory)
    stack = StackMemory(d.base, d.size, d.sp, whole[begin:])
    knows = FastPath(d.rules)
    outlines = likes = 0
    for _ in range(1000):
        last = knows.signature(stack, d.sp)
        assert last is not None and last == FastPath(d.rules).signature(stack, d.sp)
        d.memory[:] = whole
        addr, other = rng.choice(places), rng.choice(places)
        word = int.from_bytes(whole[other - d.base :][: d.word_bytes], "little")
        value = rng.choice((other, d.encode(other), word, word + d.word_bytes, 0xA3))
        d.put(addr, value % (1 << 8 * d.word_bytes))
        damaged = replace(stack, data=bytes(d.memory[begin:]))
        outline = knows.signature(damaged, d.sp)
        assert outline == FastPath(d.rules).signature(damaged, d.sp)
        outlines += outline is not None
        likes += outline is not None and outline.ip_offsets is last.ip_offsets
    assert 100 < outlines < 1000
    assert likes > 50


def test_outline_of_a_stack_with_a_hole_is_none() -> None:
    d = drawn_task(REGS_64, Encoding.LSB)
    stack = StackMemory(d.base, d.size, d.sp, bytes(d.memory[d.sp - d.base :]))
    outline_of = FastPath(d.rules).signature
    assert outline_of(stack, d.sp) is not None
    assert outline_of(replace(stack, holes=((d.end - 8, d.end),)), d.sp) is None
    assert outline_of(replace(stack, data=stack.data[:-8]), d.sp) is None


def test_outline_has_addresses_as_they_are_recovered() -> None:
    d = drawn_task(REGS_64, Encoding.LSB)
    walk, asked = d.walk_and_note()
    asked_again = []

    def recover(addr: int, addr_p: int) -> int:
        asked_again.append((addr, addr_p))
        return addr + 1

    assert check_outline(walk, d.stack(), d.sp, d.rules, recover)
    assert asked_again == asked

    def missing(addr: int, addr_p: int) -> int:
        raise NotInDump(addr_p)

    assert not check_outline(walk, d.stack(), d.sp, d.rules, missing)


# ---- anything at all


@pytest.mark.parametrize("layout", [REGS_64, REGS_32], ids=["64", "32"])
@pytest.mark.parametrize("encoding", list(Encoding))
def test_random_stacks_always_end_go_up_and_stay_inside(
    layout: X86Regs, encoding: Encoding
) -> None:
    rng = random.Random(20161119)
    d = Drawing(layout, encoding, thread_size=2048, bp_offset=16)
    ends = set()
    for _ in range(1500):
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
