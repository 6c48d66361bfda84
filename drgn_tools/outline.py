# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a walk of a stack meets, in short, and in a small part of its time.

Most stacks are ordinary ones, and most are like others: calls that came the same way
leave frames of the same sizes. So the frames are looked for where they were in the last
stack that was as long, and only if one of them is not there step by step.

Pure, as the walk is: :func:`.unwind_frame.walk_task_stack` sees the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from struct import Struct
from typing import Callable, NamedTuple, Optional

from .bounded import Bounded
from .encoding import Encoding, decode_frame_pointer
from .pt_regs import Registers
from .unwind_frame import NotInDump, Recover, StackBytes, UnwindRules

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


class _Shape(NamedTuple):
    """Where the frames lie of a stack that has two or more, and nothing else on it."""

    unpack: Callable[[bytes], tuple[int, ...]]
    """The stack from ``thread.sp`` on -> saved bp and return address of each frame, in turns."""
    frames: tuple[int, ...]
    """All frames but the first, where every walk begins: bytes from ``thread.sp`` on."""


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
        self._frame = {4: "II", 8: "QQ"}[word]
        self._unpack_frame = Struct(f"<{self._frame}").unpack_from
        # In the lower half, all frame pointers would look encoded.
        msb = rules.encoding is Encoding.MSB
        self._lowest_base = 1 << 8 * word - 1 if msb else 0
        self._shapes: Bounded[int, _Shape] = Bounded(_MAX_SHAPES)

    def __call__(
        self, stack: StackBytes, thread_sp: int, recover: Optional[Recover] = None
    ) -> Optional[Outline]:
        """The outline of a stack, if nothing is unusual about it.

        What needs a second look -- a frame pointer that is not aligned or does not lead up, the
        special forms of the last frame, missing memory -- gives ``None``.

        :param stack: from *thread_sp* on.
        :param recover: as in :func:`.unwind_frame.walk_task_stack`; ``None`` if nothing is to be
            recovered.
        """
        begin, size, base, data, holes, _, _ = stack
        if holes or thread_sp != base or base + len(data) != begin + size:
            return None
        if (base | len(data) | self._first) % self._word or base < self._lowest_base:
            return None
        try:
            shape = self._shapes.get(len(data))
            if shape is not None:
                unpack, frames = shape
                words = unpack(data)
                # Each leads to the next one. And special forms of the last frame, which would
                # end the walk before it, return where it does.
                if words[:-2:2] == tuple(map(base.__add__, frames)) and words[-3] != words[-1]:
                    ips = words[1::2]
                    if recover is not None:
                        ips = self._recovered(ips, frames, base, recover)
                    return self._ended(data, base, ips)
            return self._step_by_step(data, base, recover)
        except NotInDump:
            return None

    def _recovered(
        self, ips: tuple[int, ...], frames: tuple[int, ...], base: int, recover: Recover
    ) -> tuple[int, ...]:
        above = base + self._word  # the saved bp of a frame
        places = (self._first, *frames)
        return tuple([recover(ip, above + at) for ip, at in zip(ips, places)])

    def _step_by_step(
        self, data: bytes, base: int, recover: Optional[Recover]
    ) -> Optional[Outline]:
        rules, layout, word, unpack = self._rules, self._regs, self._word, self._unpack_frame
        header_bytes, regs_bytes = 2 * word, layout.size_bytes
        task_pt_regs = len(data) - self._regs_from_end
        last_frame = task_pt_regs - header_bytes
        near_the_end = last_frame - 3 * word
        # Frames and registers by their offset from the base.
        frames: list[int] = []
        ips: list[int] = []
        kernel_regs: list[int] = []
        found: list[tuple[int, Registers]] = []
        bp, lowest = base + self._first, 0
        while True:
            at = bp - base
            if lowest <= at <= last_frame and not at % word:
                frames.append(at)
                bp, ip = unpack(data, at)
                ips.append(ip if recover is None else recover(ip, base + at + word))
                if at == last_frame:
                    break
                if at >= near_the_end and self._may_be_last(data, at, last_frame):
                    return None
                lowest = at + header_bytes
                continue
            regs_addr = decode_frame_pointer(bp, rules.encoding, word)
            if regs_addr is None:
                return None
            at = regs_addr - base
            if not lowest <= at <= task_pt_regs or at % word:
                return None
            registers = layout.read(data[at : at + regs_bytes])
            found.append((regs_addr, registers))
            if layout.user_mode(registers):
                return Outline((tuple(ips), tuple(kernel_regs), True), tuple(found))
            kernel_regs.append(len(ips))
            ip = registers["ip"]
            ips.append(ip if recover is None else recover(ip, regs_addr + layout.ip_offset))
            bp, lowest = registers["bp"], at + regs_bytes
        if len(frames) > 1 and not kernel_regs:
            self._shapes[len(data)] = self._shape(*frames)
        return self._ended(data, base, tuple(ips), kernel_regs, found)

    def _shape(self, first: int, *others: int) -> _Shape:
        format_, end = "<", 0
        for at in (first, *others):
            format_ += f"{at - end}x{self._frame}"
            end = at + 2 * self._word
        return _Shape(Struct(format_).unpack_from, others)

    def _may_be_last(self, data: bytes, at: int, last_frame: int) -> bool:
        """May is_last_aligned_frame() or is_last_ftrace_frame() hold of the frame at an offset?"""
        word, unpack = self._word, self._unpack_frame
        bp, return_addr = unpack(data, at)
        if return_addr != unpack(data, last_frame)[1]:
            return False
        if at == last_frame - self._rules.gcc_realign_words * word:
            return True
        return bool(at == last_frame - 3 * word and bp == unpack(data, at + 2 * word)[0])

    def _ended(
        self,
        data: bytes,
        base: int,
        ips: tuple[int, ...],
        kernel_regs: Sequence[int] = (),
        found: Sequence[tuple[int, Registers]] = (),
    ) -> Outline:
        """The outline of a stack that the last frame is on: behind that lies task_pt_regs()."""
        layout, at = self._regs, len(data) - self._regs_from_end
        registers = layout.read(data[at : at + layout.size_bytes])
        user_mode = layout.user_mode(registers)
        if user_mode:
            found = (*found, (base + at, registers))
        return Outline((ips, tuple(kernel_regs), user_mode), tuple(found))
