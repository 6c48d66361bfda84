# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a walk of a stack meets, in short, and in a small part of its time.

Most stacks are ordinary ones, and most are like others: calls that came the same way
leave frames of the same sizes. So the frames are looked for where they were in the last
stack that was as long, and only if one of them is not there step by step.

Pure, as the walk is: :func:`.unwind_frame.walk_task_stack` sees the same.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from itertools import chain
from struct import Struct
from typing import Callable, NamedTuple, Optional

from ..arch.x86.encoding import Encoding, decode_frame_pointer
from ..arch.x86.pt_regs import Registers
from ..bounded_cache import BoundedCache
from ..slotted import tuple_maker_of
from .frame_pointer import NotInDump, Recover, StackBytes, UnwindRules

__all__ = ("Outline", "Outlines")

_MAX_SHAPES = 8192
"""One for each length that a stack can have in words, up to 64 KiB."""


class Outline(NamedTuple):
    """A walk in short. Stacks of the same :attr:`place` differ in nothing but where they lie."""

    place: tuple[tuple[int, ...], tuple[int, ...], bool]
    """Innermost first, return addresses and the ip of each ``pt_regs`` of kernel mode; which of these
    are ``pt_regs``; do ``pt_regs`` of user mode end it?"""
    regs: tuple[tuple[int, Registers], ...]
    """All ``pt_regs`` and their addresses, those of user mode last."""
    ip_offsets: tuple[int, ...]
    """Where each address of :attr:`place` was found, in bytes from ``thread.sp`` on."""

    def recovered(
        self, thread_sp: int, swapped_in: Set[int], recover: Recover
    ) -> Optional[Outline]:
        """The outline with the addresses that the kernel swapped out.

        :param swapped_in: what is found in their place.
        :param recover: as in :func:`.unwind_frame.walk_task_stack`.
        :return: ``None`` if memory is missing that would tell them.
        """
        ips, kernel_regs, user_mode = self.place
        try:
            ips = tuple(
                [
                    recover(ip, thread_sp + at) if ip in swapped_in else ip
                    for ip, at in zip(ips, self.ip_offsets)
                ]
            )
        except NotInDump:
            return None
        return _outline(((ips, kernel_regs, user_mode), self.regs, self.ip_offsets))


_outline = tuple_maker_of(Outline)


class _Shape(NamedTuple):
    """Where the frames and ``pt_regs`` of kernel mode lie, of a stack that has two or more."""

    unpack: Callable[[bytes], tuple[int, ...]]
    """The stack from ``thread.sp`` on -> bp and return address, or ip, of each, in turns."""
    leads_to: tuple[int, ...]
    """The bp of each but the last frame, less ``thread.sp``."""
    ip_offsets: tuple[int, ...]
    """As in :class:`Outline`."""
    kernel_regs: tuple[int, ...]
    """Which of them are ``pt_regs``."""
    regs_offsets: tuple[int, ...]
    """Where these lie."""


class Outlines:
    """Outlines of the stacks of one kernel, of tasks that are not on a CPU.

    :param rules: how this kernel's stacks are walked.
    """

    def __init__(self, rules: UnwindRules) -> None:
        word = rules.regs.word_bytes
        self._rules = rules
        self._word = word
        self._regs = rules.regs
        self._first = rules.frame_bp_offset
        self._regs_from_end = rules.top_padding_bytes + rules.regs.size_bytes
        self._word_format = {4: "I", 8: "Q"}[word]
        self._unpack_frame = Struct(f"<2{self._word_format}").unpack_from
        # In the lower half, all frame pointers would look encoded.
        msb = rules.encoding is Encoding.MSB
        self._lowest_base = 1 << 8 * word - 1 if msb else 0
        self._shapes: BoundedCache[int, _Shape] = BoundedCache(_MAX_SHAPES)

    def of(self, stack: StackBytes, thread_sp: int) -> Optional[Outline]:
        """The outline of a stack, if nothing is unusual about it.

        What needs a second look -- a frame pointer that is not aligned or does not lead up, the
        special forms of the last frame, missing memory -- gives ``None``.

        :param stack: from *thread_sp* on.
        """
        begin, size, base, data, holes, _, _ = stack
        if holes or thread_sp != base or base + len(data) != begin + size:
            return None
        if base % self._word or base < self._lowest_base:
            return None
        shape = self._shapes.get(len(data))
        known = None if shape is None else self._of_shape(data, base, shape)
        return self._step_by_step(data, base) if known is None else known

    def _of_shape(self, data: bytes, base: int, shape: _Shape) -> Optional[Outline]:
        """The outline of a stack where all lies as it did in another one; ``None`` if it does not."""
        unpack, leads_to, _, _, regs_offsets = shape
        words = unpack(data)
        # Each leads to the next one. And special forms of the last frame, which would
        # end the walk before it, return where it does.
        if words[:-2:2] != tuple(map(base.__add__, leads_to)) or words[-3] == words[-1]:
            return None
        found: tuple[tuple[int, Registers], ...] = ()
        if regs_offsets:
            found = tuple([(base + at, self._registers_at(data, at)) for at in regs_offsets])
            if any(self._regs.user_mode(registers) for _, registers in found):
                return None
        return self._ended(data, base, words[1::2], shape, found)

    def _step_by_step(self, data: bytes, base: int) -> Optional[Outline]:
        rules, layout, word, unpack = self._rules, self._regs, self._word, self._unpack_frame
        if (len(data) | self._first) % word:
            return None
        header_bytes = 2 * word
        task_pt_regs = len(data) - self._regs_from_end
        last_frame = task_pt_regs - header_bytes
        near_the_end = last_frame - 3 * word
        ips: list[int] = []
        leads_to: list[int] = []
        places: list[tuple[int, int]] = []  # of a bp and its ip
        kernel_regs: list[int] = []
        found: list[tuple[int, Registers]] = []
        bp, lowest = base + self._first, 0
        while True:
            at = bp - base
            if lowest <= at <= last_frame and not at % word:
                bp, ip = unpack(data, at)
                places.append((at, at + word))
                ips.append(ip)
                if at == last_frame:
                    break
                if at >= near_the_end and self._may_be_last(data, at, last_frame):
                    return None
                lowest = at + header_bytes
            else:
                regs_addr = decode_frame_pointer(bp, rules.encoding, word)
                if regs_addr is None:
                    return None
                at = regs_addr - base
                if not lowest <= at <= task_pt_regs or at % word:
                    return None
                registers = self._registers_at(data, at)
                found.append((regs_addr, registers))
                if layout.user_mode(registers):
                    offsets = tuple([ip_at for _, ip_at in places])
                    return Outline((tuple(ips), tuple(kernel_regs), True), tuple(found), offsets)
                kernel_regs.append(len(ips))
                places.append((at + layout.bp_offset, at + layout.ip_offset))
                bp, ip = registers["bp"], registers["ip"]
                ips.append(ip)
                lowest = at + layout.size_bytes
            leads_to.append(bp - base)
        shape = self._shape(leads_to, places, kernel_regs, [addr - base for addr, _ in found])
        if len(ips) > 1:
            self._shapes[len(data)] = shape
        return self._ended(data, base, tuple(ips), shape, tuple(found))

    def _shape(
        self,
        leads_to: Sequence[int],
        places: Sequence[tuple[int, int]],
        kernel_regs: Sequence[int],
        regs_offsets: Sequence[int],
    ) -> _Shape:
        format_, end = "<", 0
        for at in chain.from_iterable(places):
            format_ += f"{at - end}x{self._word_format}"
            end = at + self._word
        ip_offsets = tuple([ip_at for _, ip_at in places])
        unpack = Struct(format_).unpack_from
        return _Shape(unpack, tuple(leads_to), ip_offsets, tuple(kernel_regs), tuple(regs_offsets))

    def _may_be_last(self, data: bytes, at: int, last_frame: int) -> bool:
        """May is_last_aligned_frame() or is_last_ftrace_frame() hold of the frame at an offset?"""
        word, unpack = self._word, self._unpack_frame
        bp, return_addr = unpack(data, at)
        if return_addr != unpack(data, last_frame)[1]:
            return False
        if at == last_frame - self._rules.gcc_realign_words * word:
            return True
        return bool(at == last_frame - 3 * word and bp == unpack(data, at + 2 * word)[0])

    def _registers_at(self, data: bytes, at: int) -> Registers:
        return self._regs.read(data[at : at + self._regs.size_bytes])

    def _ended(
        self,
        data: bytes,
        base: int,
        ips: tuple[int, ...],
        shape: _Shape,
        found: tuple[tuple[int, Registers], ...],
    ) -> Outline:
        """The outline of a stack that the last frame is on: behind that lies task_pt_regs()."""
        layout, at = self._regs, len(data) - self._regs_from_end
        raw = data[at : at + layout.size_bytes]
        user_mode = layout.saved_in_user_mode(raw)
        if user_mode:
            found = (*found, (base + at, layout.read(raw)))
        return _outline(((ips, shape.kernel_regs, user_mode), found, shape.ip_offsets))
