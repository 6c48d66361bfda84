# SPDX-License-Identifier: LGPL-2.1-or-later
"""The fast path of the frame-pointer walker: the signature of an ordinary stack, much faster than by a walk.

Most stacks are ordinary, and many are alike: the same calls leave frames of the same sizes. So the
frames are first looked for at the offsets that they had in the last stack of the same length (its
frame layout). If one of them is not there, the frame pointers are followed one by one.

If a stack has a signature, :func:`.frame_pointer.walk_task_stack` finds the same frames on it. If
something about a stack is unusual, it has no signature. Pure, as the walker is.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from itertools import chain
from typing import Callable, Optional

import msgspec

from ..arch.base import Registers
from ..arch.x86.encoding import Encoding, decode_frame_pointer
from ..arch.x86.frame_pointer_rules import UnwindRules
from ..bounded_cache import BoundedCache
from ..kernel.stack_memory import NotInDump, ReadWords, StackMemory, words_at
from .base import Recover, Signature

__all__ = ("FastPath",)

_MAX_FRAME_LAYOUTS = 8192
"""One for each length that a stack can have in words, up to 64 KiB."""


class _FrameLayout(msgspec.Struct, frozen=True):
    """Where the frames and kernel-mode ``pt_regs`` of a stack are. A cached layout has at least two of them."""

    read_frames: ReadWords
    """Reads bp and return address (or ip) of the first frame, of the second, and so on."""
    leads_to: tuple[int, ...]
    """The bp of each frame but the last, as an offset from ``thread.sp`` in bytes. It may be encoded."""
    ip_offsets: tuple[int, ...]
    """Offset from ``thread.sp``, in bytes, of each return address and of the ip of each kernel-mode ``pt_regs``."""
    kernel_regs: tuple[int, ...]
    """As :attr:`.base.Signature.kernel_regs`."""
    regs_offsets: tuple[int, ...]
    """Offset from ``thread.sp`` of each of these ``pt_regs``, in bytes."""


_Found = tuple[Signature, tuple[int, ...]]
"""A signature before recovery, and the :attr:`_FrameLayout.ip_offsets` of its stack."""


class FastPath:
    """Finds the signatures of one kernel's stacks.

    :param rules: How this kernel's frame pointers are followed
    :param trampolines: The addresses that the kernel writes over return addresses
    """

    def __init__(self, rules: UnwindRules, trampolines: Set[int] = frozenset()) -> None:
        word = rules.regs.word_bytes
        self._rules = rules
        self._trampolines = trampolines
        self._word = word
        self._regs = rules.regs
        self._first = rules.frame_bp_offset
        self._regs_from_end = rules.top_padding_bytes + rules.regs.size_bytes
        self._read_frame = words_at((0, word), word)
        # In the lower half of the address space all frame pointers would look encoded.
        msb = rules.encoding is Encoding.MSB
        self._lowest_base = 1 << 8 * word - 1 if msb else 0
        self._frame_layouts: BoundedCache[int, _FrameLayout] = BoundedCache(_MAX_FRAME_LAYOUTS)

    def signature(
        self, stack: StackMemory, thread_sp: int, make_recover: Callable[[], Recover]
    ) -> Optional[Signature]:
        """Return the signature of the stack of a task that is not on a CPU.

        :param stack: The task's stack from *thread_sp* on
        :param thread_sp: ``task->thread.sp``: virtual address of the ``struct inactive_task_frame``
        :param make_recover: Called if a return address was rewritten
        :return: ``None`` if something is unusual: a frame pointer is not aligned or does not lead
            up, the last frame has one of its special forms, or memory is missing
        """
        data, base = stack.data, stack.data_addr
        if stack.holes or thread_sp != base:
            return None
        if base + len(data) != stack.begin_addr + stack.size_bytes:
            return None
        if base % self._word or base < self._lowest_base:
            return None
        known = self._frame_layouts.get(len(data))
        found = None if known is None else self._laid_out_as(data, base, known)
        if found is None:
            found = self._frame_by_frame(data, base)
        if found is None:
            return None
        signature, ip_offsets = found
        if self._trampolines.isdisjoint(signature.ips):
            return signature
        # The places of frames do not depend on their return addresses.
        recover = make_recover()
        try:
            ips = [
                recover(ip, base + at) if ip in self._trampolines else ip
                for ip, at in zip(signature.ips, ip_offsets)
            ]
        except NotInDump:
            return None
        return Signature(tuple(ips), signature.kernel_regs, signature.user_mode, signature.regs)

    def _laid_out_as(self, data: bytes, base: int, layout: _FrameLayout) -> Optional[_Found]:
        """Return the signature of a stack with a known frame layout; ``None`` if it has another layout."""
        words = layout.read_frames(data, 0)
        # Each bp must lead to the next frame. The walk would already end at a special form of the
        # last frame, which has the same return address as the last frame.
        if words[:-2:2] != tuple(map(base.__add__, layout.leads_to)) or words[-3] == words[-1]:
            return None
        regs: tuple[tuple[int, Registers], ...] = ()
        if layout.regs_offsets:
            regs = tuple([(base + at, self._registers_at(data, at)) for at in layout.regs_offsets])
            if any(self._regs.user_mode(registers) for _, registers in regs):
                return None
        return self._ended(data, base, words[1::2], layout, regs)

    def _frame_by_frame(self, data: bytes, base: int) -> Optional[_Found]:
        rules, layout, word, read_frame = self._rules, self._regs, self._word, self._read_frame
        if (len(data) | self._first) % word:
            return None
        header_bytes = 2 * word
        task_pt_regs = len(data) - self._regs_from_end
        last_frame = task_pt_regs - header_bytes
        near_the_end = last_frame - 3 * word
        ips: list[int] = []
        leads_to: list[int] = []
        places: list[tuple[int, int]] = []  # offsets of the bp and of the ip of each frame
        kernel_regs: list[int] = []
        regs: list[tuple[int, Registers]] = []
        bp, lowest = base + self._first, 0
        while True:
            at = bp - base
            if lowest <= at <= last_frame and not at % word:
                bp, ip = read_frame(data, at)
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
                regs.append((regs_addr, registers))
                if layout.user_mode(registers):
                    offsets = tuple([ip_at for _, ip_at in places])
                    return Signature(tuple(ips), tuple(kernel_regs), True, tuple(regs)), offsets
                kernel_regs.append(len(ips))
                places.append((at + layout.bp_offset, at + layout.ip_offset))
                bp, ip = registers["bp"], registers["ip"]
                ips.append(ip)
                lowest = at + layout.kernel_mode_bytes
            leads_to.append(bp - base)
        found = self._frame_layout(leads_to, places, kernel_regs, [addr - base for addr, _ in regs])
        if len(ips) > 1:
            self._frame_layouts[len(data)] = found
        return self._ended(data, base, tuple(ips), found, tuple(regs))

    def _frame_layout(
        self,
        leads_to: Sequence[int],
        places: Sequence[tuple[int, int]],
        kernel_regs: Sequence[int],
        regs_offsets: Sequence[int],
    ) -> _FrameLayout:
        read_frames = words_at(chain.from_iterable(places), self._word)
        ip_offsets = tuple([ip_at for _, ip_at in places])
        return _FrameLayout(
            read_frames, tuple(leads_to), ip_offsets, tuple(kernel_regs), tuple(regs_offsets)
        )

    def _may_be_last(self, data: bytes, at: int, last_frame: int) -> bool:
        """Return whether is_last_aligned_frame() or is_last_ftrace_frame() may be true for the frame at an offset."""
        word, read_frame = self._word, self._read_frame
        bp, return_addr = read_frame(data, at)
        if return_addr != read_frame(data, last_frame)[1]:
            return False
        if at == last_frame - self._rules.gcc_realign_words * word:
            return True
        return bool(at == last_frame - 3 * word and bp == read_frame(data, at + 2 * word)[0])

    def _registers_at(self, data: bytes, at: int) -> Registers:
        return self._regs.read(data[at : at + self._regs.size_bytes])

    def _ended(
        self,
        data: bytes,
        base: int,
        ips: tuple[int, ...],
        frame_layout: _FrameLayout,
        regs: tuple[tuple[int, Registers], ...],
    ) -> _Found:
        """Return the signature of a stack whose last frame was found. task_pt_regs() is right above that frame."""
        layout, at = self._regs, len(data) - self._regs_from_end
        raw = data[at : at + layout.size_bytes]
        user_mode = layout.saved_in_user_mode(raw)
        if user_mode:
            regs = (*regs, (base + at, layout.read(raw)))
        return Signature(ips, frame_layout.kernel_regs, user_mode, regs), frame_layout.ip_offsets
