# SPDX-License-Identifier: LGPL-2.1-or-later
"""The fast path of the ORC walker: the signature of an ordinary stack, much faster than by a walk.

Where the frames of a stack lie is decided by a few of its words: the return addresses, and each bp and
sp that a rule uses. Most stacks are like one that was seen before. So these words are first
compared with those of the last stacks of the same kind (their frame layouts). If none is the same, the
rules are followed one by one. A kind is a length and what entered the kernel. The length varies, because
system calls begin at a random offset (CONFIG_RANDOMIZE_KSTACK_OFFSET).

If a stack has a signature, :meth:`.orc.OrcWalker.walk_sleeping` finds the same frames on it. If
something about a stack is unusual, it has no signature. Pure, as the walker is.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from struct import Struct as Format
from typing import Callable, Optional

import msgspec

from ..arch.base import Registers
from ..arch.x86.orc_entry import OrcEntry, OrcType
from ..arch.x86.orc_tables import UnwindDataUnclear
from ..arch.x86.pt_regs import X86Regs
from ..bounded_cache import BoundedCache
from ..kernel.stack_memory import NotInDump, StackMemory
from .base import Recover, Signature

__all__ = ("OrcFastPath",)

_WORD_BYTES = 8
_MAX_KINDS = 8192
"""Kinds of stacks whose frame layouts are kept."""
_MAX_FRAME_LAYOUTS = 16
"""Frame layouts of one kind that are tried, those used last first."""
_MAX_FRAMES = 512
"""A stack with more frames is unusual."""


class _FrameLayout(msgspec.Struct, frozen=True):
    """Where the words lie that decide the frames of a stack, and what they are."""

    unpack_ips: Callable[[bytes], tuple[int, ...]]
    """The stack from ``thread.sp`` on -> the words that are addresses of code."""
    ips: tuple[int, ...]
    """What they are. Some may be trampolines, which the kernel has written over return addresses."""
    rewritten: tuple[tuple[int, int], ...]
    """(index, original) of each trampoline among them."""
    recovered: tuple[int, ...]
    """As :attr:`.base.Signature.ips`: with the originals."""
    unpack_pointers: Callable[[bytes], tuple[int, ...]]
    """The stack from ``thread.sp`` on -> the words that rules use and that are addresses of the stack."""
    leads_to: tuple[int, ...]
    """What they are, as offsets from ``thread.sp`` in bytes."""
    ip_offsets: tuple[int, ...]
    """As :attr:`.base.Signature.ip_offsets`."""
    kernel_regs: tuple[int, ...]
    """As :attr:`.base.Signature.kernel_regs`."""
    regs_offsets: tuple[int, ...]
    """Offset from ``thread.sp`` of each kernel-mode ``pt_regs``, in bytes."""
    user_regs_offset: Optional[int]
    """The same for the user-mode ``pt_regs`` at the end; ``None`` without one."""


class _Unusual(Exception):
    """A stack has no signature."""


class OrcFastPath:
    """Finds the signatures of one kernel's stacks.

    :param find: orc_find(), as :attr:`.orc.OrcRules.find`
    :param regs: Layout of ``struct pt_regs``
    :param frame_bp_offset: As :attr:`.orc.OrcRules.frame_bp_offset`
    :param first_exact_addrs: As :attr:`.orc.OrcRules.first_exact_addrs`
    :param trampolines: As :attr:`.orc.OrcRules.trampolines`
    """

    def __init__(
        self,
        find: Callable[[int], Optional[OrcEntry]],
        regs: X86Regs,
        frame_bp_offset: int,
        first_exact_addrs: Set[int],
        trampolines: Set[int],
    ) -> None:
        self._find = find
        self._regs = regs
        self._first_bp = frame_bp_offset
        from_end = regs.orig_ax_offset - regs.size_bytes
        self._orig_ax = slice(from_end, from_end + _WORD_BYTES)
        self._first_exact_addrs = first_exact_addrs
        self._trampolines = trampolines
        self._frame_layouts: BoundedCache[tuple[int, bytes], list[_FrameLayout]] = BoundedCache(
            _MAX_KINDS
        )

    def signature(
        self, stack: StackMemory, thread_sp: int, make_recover: Callable[[], Recover]
    ) -> Optional[Signature]:
        """Return the signature of the stack of a task that is not on a CPU.

        :param stack: The task's stack from *thread_sp* on
        :param thread_sp: ``task->thread.sp``: virtual address of the ``struct inactive_task_frame``
        :param make_recover: Called if a return address was rewritten
        :return: ``None`` if something is unusual: a return address has no rule, a rule leads off the
            stack or needs a register that calls do not keep, or memory is missing
        """
        data, base = stack.data, stack.data_addr
        if stack.holes or thread_sp != base or base % _WORD_BYTES:
            return None
        if base + len(data) != stack.begin_addr + stack.size_bytes:
            return None
        # The number of the system call, if user mode entered by one; any other word does no harm.
        kind = len(data), data[self._orig_ax]
        layouts = self._frame_layouts.get(kind, [])
        for number, known in enumerate(layouts):
            if known.unpack_ips(data) != known.ips or not _is_same(known, data, base, make_recover):
                continue
            found = self._laid_out_as(stack, known)
            if found is not None:
                if number:
                    layouts.insert(0, layouts.pop(number))
                return found
        try:
            layout = self._follow_rules(data, base, make_recover)
        except (_Unusual, NotInDump, UnwindDataUnclear):
            return None
        self._frame_layouts[kind] = [layout, *layouts[: _MAX_FRAME_LAYOUTS - 1]]
        return self._laid_out_as(stack, layout)

    def _laid_out_as(self, stack: StackMemory, layout: _FrameLayout) -> Optional[Signature]:
        """Return the signature of a stack with a known frame layout.

        :return: ``None`` if its registers are not of the same mode, or those of user mode are unusual
        """
        data, base = stack.data, stack.data_addr
        regs: tuple[tuple[int, Registers], ...] = ()
        if layout.regs_offsets:
            regs = tuple([(base + at, self._registers_at(data, at)) for at in layout.regs_offsets])
            if any(self._regs.user_mode(registers) for _, registers in regs):
                return None
        at = layout.user_regs_offset
        if at is not None:
            raw = data[at : at + self._regs.size_bytes]
            if not self._regs.saved_in_user_mode(raw):
                return None
            registers = self._regs.read(raw)
            # Their sp need not be what the rules lead to, but the walk fails if it leads down this stack.
            if stack.on_stack(registers["sp"], 1):
                return None
            regs = (*regs, (base + at, registers))
        return Signature(
            layout.recovered, layout.kernel_regs, at is not None, regs, layout.ip_offsets
        )

    def _registers_at(self, data: bytes, at: int) -> Registers:
        return self._regs.read(data[at : at + self._regs.size_bytes])

    def _follow_rules(
        self, data: bytes, base: int, make_recover: Callable[[], Recover]
    ) -> _FrameLayout:
        """Return the frame layout of a stack, by its rules.

        All positions are offsets from ``thread.sp``.

        :raises _Unusual: if it has no signature
        """
        end = len(data)

        def word(at: int) -> int:
            if not 0 <= at <= end - _WORD_BYTES:
                raise _Unusual
            return int.from_bytes(data[at : at + _WORD_BYTES], "little")

        ips: list[int] = []
        recovered: list[int] = []
        rewritten: list[tuple[int, int]] = []
        recover: Optional[Recover] = None
        ip_offsets: list[int] = []
        pointers: dict[int, int] = {}  # where an address of the stack lies -> where it leads to
        kernel_regs: list[int] = []
        regs_offsets: list[int] = []
        bp_at: int = self._first_bp  # where the bp of the current frame was saved
        ip_at, signal = bp_at + _WORD_BYTES, False
        sp = ip_at + _WORD_BYTES
        if sp >= end:  # the walk begins at sp, which has to be on the stack
            raise _Unusual
        user_regs: Optional[int] = None
        while True:
            ip = word(ip_at)
            if ip in self._first_exact_addrs or len(ips) == _MAX_FRAMES:
                raise _Unusual
            ips.append(ip)
            ip_offsets.append(ip_at)
            if ip in self._trampolines:
                if len(ips) == 1:
                    raise _Unusual  # __unwind_start() does not recover it
                if kernel_regs and kernel_regs[-1] == len(ips) - 1:
                    raise _Unusual  # only one of them is recovered there, and by another word
                recover = recover or make_recover()
                ip = recover(ip, base + ip_at)
                rewritten.append((len(ips) - 1, ip))
            recovered.append(ip)
            entry = self._find(ip if signal else ip - 1) if ip else None
            if entry is None or entry.type is OrcType.UNDEFINED or entry.indirect:
                raise _Unusual
            if entry.type is OrcType.END_OF_STACK:
                break
            if entry.base == "sp":
                cfa = sp + entry.offset
            elif entry.base == "bp":
                # The bp that was saved decides where the next frame lies.
                bp = word(bp_at) - base
                pointers[bp_at] = bp
                cfa = bp + entry.offset
            else:
                raise _Unusual
            signal = entry.signal
            if entry.type is OrcType.CALL:
                ip_at, next_sp = cfa - _WORD_BYTES, cfa
                if entry.bp_from is not None:
                    if entry.bp_from == "bp":
                        raise _Unusual
                    bp_at = cfa + entry.bp_offset
                    word(bp_at)
            elif entry.type is OrcType.REGS:
                # bp is most often among the registers. No rule of objtool's says otherwise.
                if not 0 <= cfa <= end - self._regs.size_bytes or entry.bp_from is not None:
                    raise _Unusual
                registers = self._registers_at(data, cfa)
                if self._regs.user_mode(registers):
                    user_regs = cfa
                    break
                kernel_regs.append(len(ips))
                regs_offsets.append(cfa)
                ip_at, bp_at = cfa + self._regs.ip_offset, cfa + self._regs.bp_offset
                sp_at = cfa + self._regs.sp_offset
                next_sp = pointers[sp_at] = registers["sp"] - base
                if not 0 <= next_sp < end:
                    raise _Unusual
            else:
                raise _Unusual
            if next_sp <= sp:
                raise _Unusual
            sp = next_sp
        if sorted(ip_offsets) != ip_offsets:
            raise _Unusual
        offsets = sorted(pointers)
        return _FrameLayout(
            _words_at(ip_offsets),
            tuple(ips),
            tuple(rewritten),
            tuple(recovered),
            _words_at(offsets),
            tuple([pointers[offset] for offset in offsets]),
            tuple(ip_offsets),
            tuple(kernel_regs),
            tuple(regs_offsets),
            user_regs,
        )


def _is_same(
    layout: _FrameLayout, data: bytes, base: int, make_recover: Callable[[], Recover]
) -> bool:
    """Return whether a stack has a frame layout, after its addresses of code were found equal."""
    if layout.unpack_pointers(data) != tuple(map(base.__add__, layout.leads_to)):
        return False
    if not layout.rewritten:
        return True
    recover = make_recover()
    try:
        return all(
            recover(layout.ips[index], base + layout.ip_offsets[index]) == original
            for index, original in layout.rewritten
        )
    except NotInDump:
        return False


def _words_at(offsets: Sequence[int]) -> Callable[[bytes], tuple[int, ...]]:
    """Return a function that returns the words of a stack at these offsets, which ascend.

    :raises _Unusual: if two words overlap, on a stack that is not aligned
    """
    words, end = "<", 0
    for offset in offsets:
        if offset < end:
            raise _Unusual
        words += f"{offset - end}xQ"
        end = offset + _WORD_BYTES
    return Format(words).unpack_from
