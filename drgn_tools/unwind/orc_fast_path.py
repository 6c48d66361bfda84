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
        self.find = find
        self.regs = regs
        self.first_bp = frame_bp_offset
        from_end = regs.orig_ax_offset - regs.size_bytes
        self._orig_ax = slice(from_end, from_end + _WORD_BYTES)
        self.first_exact_addrs = first_exact_addrs
        self.trampolines = trampolines
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
            layout = _Path(self, data, base, make_recover).layout()
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
            if any(self.regs.user_mode(registers) for _, registers in regs):
                return None
        at = layout.user_regs_offset
        if at is not None:
            raw = data[at : at + self.regs.size_bytes]
            if not self.regs.saved_in_user_mode(raw):
                return None
            registers = self.regs.read(raw)
            # Their sp need not be what the rules lead to, but the walk fails if it leads down this stack.
            if stack.on_stack(registers["sp"], 1):
                return None
            regs = (*regs, (base + at, registers))
        return Signature(
            layout.recovered, layout.kernel_regs, at is not None, regs, layout.ip_offsets
        )

    def _registers_at(self, data: bytes, at: int) -> Registers:
        return self.regs.read(data[at : at + self.regs.size_bytes])


class _Path:
    """Follows the rules of one stack from frame to frame, and notes what decides where they lie.

    All positions are offsets from ``thread.sp``.
    """

    def __init__(
        self, rules: OrcFastPath, data: bytes, base: int, make_recover: Callable[[], Recover]
    ) -> None:
        self.rules = rules
        self.data = data
        self.base = base
        self.make_recover = make_recover
        self.recover: Optional[Recover] = None
        self.ips: list[int] = []
        self.ip_offsets: list[int] = []
        self.recovered: list[int] = []
        self.rewritten: list[tuple[int, int]] = []
        self.pointers: dict[int, int] = {}  # where an address of the stack lies -> where it leads
        self.kernel_regs: list[int] = []
        self.regs_offsets: list[int] = []
        self.user_regs: Optional[int] = None
        self.bp_at = rules.first_bp  # where the bp of the current frame was saved
        self.ip_at = self.bp_at + _WORD_BYTES
        self.sp = self.ip_at + _WORD_BYTES
        self.signal = False

    def layout(self) -> _FrameLayout:
        """Return the frame layout of the stack.

        :raises _Unusual: if the stack has no signature
        """
        if self.sp >= len(self.data):  # the walk begins at sp, which has to be on the stack
            raise _Unusual
        while self.go_to_caller(self.rule_of_frame()):
            pass
        if sorted(self.ip_offsets) != self.ip_offsets:
            raise _Unusual
        offsets = sorted(self.pointers)
        return _FrameLayout(
            _words_at(self.ip_offsets),
            tuple(self.ips),
            tuple(self.rewritten),
            tuple(self.recovered),
            _words_at(offsets),
            tuple([self.pointers[offset] for offset in offsets]),
            tuple(self.ip_offsets),
            tuple(self.kernel_regs),
            tuple(self.regs_offsets),
            self.user_regs,
        )

    def word(self, at: int) -> int:
        if not 0 <= at <= len(self.data) - _WORD_BYTES:
            raise _Unusual
        return int.from_bytes(self.data[at : at + _WORD_BYTES], "little")

    def rule_of_frame(self) -> OrcEntry:
        """Note the current frame, and return its rule."""
        ip = self.word(self.ip_at)
        if ip in self.rules.first_exact_addrs or len(self.ips) == _MAX_FRAMES:
            raise _Unusual
        self.ips.append(ip)
        self.ip_offsets.append(self.ip_at)
        if ip in self.rules.trampolines:
            ip = self.original(ip)
        self.recovered.append(ip)
        entry = self.rules.find(ip if self.signal else ip - 1) if ip else None
        if entry is None or entry.type is OrcType.UNDEFINED or entry.indirect:
            raise _Unusual
        return entry

    def original(self, trampoline: int) -> int:
        """Return the return address of the current frame that the kernel has rewritten."""
        number = len(self.ips) - 1
        if not number:
            raise _Unusual  # __unwind_start() does not recover it
        if self.kernel_regs and self.kernel_regs[-1] == number:
            raise _Unusual  # only one of them is recovered there, and by another word
        self.recover = self.recover or self.make_recover()
        ip = self.recover(trampoline, self.base + self.ip_at)
        self.rewritten.append((number, ip))
        return ip

    def go_to_caller(self, entry: OrcEntry) -> bool:
        """Go to the next outer frame.

        :return: False if there is none in the kernel
        """
        if entry.type is OrcType.END_OF_STACK:
            return False
        cfa = self.cfa(entry)
        self.signal = entry.signal
        if entry.type is OrcType.CALL:
            next_sp = self.leave_call(entry, cfa)
        elif entry.type is OrcType.REGS:
            next_sp = self.leave_regs(entry, cfa)
            if self.user_regs is not None:
                return False
        else:
            raise _Unusual
        if next_sp <= self.sp:
            raise _Unusual
        self.sp = next_sp
        return True

    def cfa(self, entry: OrcEntry) -> int:
        if entry.base == "sp":
            return self.sp + entry.offset
        if entry.base == "bp":
            # The bp that was saved decides where the next frame lies.
            bp = self.pointers[self.bp_at] = self.word(self.bp_at) - self.base
            return bp + entry.offset
        raise _Unusual

    def leave_call(self, entry: OrcEntry, cfa: int) -> int:
        """Note where ip and bp of the caller were saved, and return its sp."""
        self.ip_at = cfa - _WORD_BYTES
        if entry.bp_from == "bp":
            raise _Unusual
        if entry.bp_from == "cfa":
            self.bp_at = cfa + entry.bp_offset
            self.word(self.bp_at)  # it has to be on the stack
        return cfa

    def leave_regs(self, entry: OrcEntry, cfa: int) -> int:
        """Note the ``pt_regs`` at *cfa*, and return the sp of the code that was interrupted."""
        regs = self.rules.regs
        # bp is most often among the registers. No rule of objtool's says otherwise.
        if not 0 <= cfa <= len(self.data) - regs.size_bytes or entry.bp_from is not None:
            raise _Unusual
        registers = regs.read(self.data[cfa : cfa + regs.size_bytes])
        if regs.user_mode(registers):
            self.user_regs = cfa
            return self.sp
        self.kernel_regs.append(len(self.ips))
        self.regs_offsets.append(cfa)
        self.ip_at, self.bp_at = cfa + regs.ip_offset, cfa + regs.bp_offset
        sp = self.pointers[cfa + regs.sp_offset] = registers["sp"] - self.base
        if not 0 <= sp < len(self.data):
            raise _Unusual
        return sp


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
