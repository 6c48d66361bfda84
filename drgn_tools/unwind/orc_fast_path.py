# SPDX-License-Identifier: LGPL-2.1-or-later
"""The fast path of the ORC walker: the signature of an ordinary stack, much faster than by a walk.

A few words of a stack decide where its frames are: the return addresses, and each bp and sp that a
rule uses. Most stacks are like one that was seen before. So these words are first compared with those
of the last stacks of the same kind (their frame layouts). If no layout matches, the rules are followed
one by one.

A system call leaves a gap of random size on the stack (CONFIG_RANDOMIZE_KSTACK_OFFSET). Therefore the
upper part of a frame layout counts from the end of the stack. Higher addresses above::

    (end of the stack)
    struct pt_regs of user mode      |
    return to entry_SYSCALL_64       | upper part: negative offsets, from the end
    bp of the caller                 <-+
    (gap: add_random_kstack_offset)    |
    ...                                |
    bp of do_syscall_64() -------------+ lower part: offsets from thread.sp
    ...                              |
    struct inactive_task_frame       |
    (thread.sp)

If a stack has a signature, :meth:`.orc.OrcWalker.walk_sleeping` finds the same frames on it. If
something about a stack is unusual, it has no signature. Pure, as the walker is.
"""

from __future__ import annotations

from collections.abc import Set
from typing import Callable, Optional, Union

import msgspec

from ..arch.base import Registers
from ..arch.x86.orc_entry import OrcEntry, OrcType
from ..arch.x86.orc_tables import UnwindDataUnclear
from ..arch.x86.pt_regs import X86Regs
from ..bounded_cache import BoundedCache
from ..kernel.stack_memory import NotInDump, ReadWords, StackMemory, words_at
from .base import Recover, Signature

__all__ = ("OrcFastPath",)

_WORD_BYTES = 8
_MAX_KINDS = 8192
"""Kinds of stacks whose frame layouts are kept."""
_MAX_FRAME_LAYOUTS = 32
"""Frame layouts of one kind that are tried, those used last first."""
_MAX_FRAMES = 512
"""A stack with more frames is unusual."""


class _FrameLayout(msgspec.Struct, frozen=True):
    """The positions and values of the words that decide the frames of a stack.

    Positions are in bytes: from ``thread.sp`` up, or if negative, from the end of the stack down.
    """

    lower_bytes: int
    """Size of the lower part."""
    upper_bytes: int
    """Size of the upper part."""
    read_lower_ips: ReadWords
    """Reads the addresses of code in the lower part."""
    lower_ips: tuple[int, ...]
    """Their values. Some may be trampolines, which the kernel has written over return addresses."""
    read_upper_ips: ReadWords
    """The same for the upper part."""
    upper_ips: tuple[int, ...]
    """Their values."""
    rewritten: tuple[tuple[int, int, int], ...]
    """(trampoline, position, original) of each trampoline among them."""
    recovered: tuple[int, ...]
    """As :attr:`.base.Signature.ips`: with the originals."""
    read_pointers: ReadWords
    """Reads the words that rules use and that are addresses of the stack. All are in the lower part."""
    leads_to: tuple[int, ...]
    """Where they lead, as positions."""
    kernel_regs: tuple[int, ...]
    """As :attr:`.base.Signature.kernel_regs`."""
    regs_at: tuple[int, ...]
    """Position of each kernel-mode ``pt_regs``. All are in the lower part, because their sp is followed."""
    user_regs_at: Optional[int]
    """Position of the user-mode ``pt_regs`` that end the walk; ``None`` without one."""

    def is_that_of(self, data: bytes, base: int, make_recover: Callable[[], Recover]) -> bool:
        """Return whether a stack has this frame layout.

        :param data: The stack from ``thread.sp`` on
        :param base: ``thread.sp``, a virtual address
        """
        upper_at = len(data) - self.upper_bytes
        if upper_at < self.lower_bytes or self.read_lower_ips(data, 0) != self.lower_ips:
            return False
        if self.read_upper_ips(data, upper_at) != self.upper_ips:
            return False
        end = base + len(data)
        pointers = tuple([_place(at, base, end) for at in self.leads_to])
        if self.read_pointers(data, 0) != pointers:
            return False
        if not self.rewritten:
            return True
        recover = make_recover()
        try:
            return all(
                recover(trampoline, _place(at, base, end)) == original
                for trampoline, at, original in self.rewritten
            )
        except NotInDump:
            return False


def _place(position: int, begin: int, end: int) -> int:
    """Return where a position is: an address, or an offset if *begin* is 0."""
    return position + (begin if position >= 0 else end)


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
        self._sp = slice(regs.sp_offset, regs.sp_offset + _WORD_BYTES)
        orig_ax = regs.orig_ax_offset - regs.size_bytes  # from the end of the stack
        self._orig_ax = slice(orig_ax, orig_ax + _WORD_BYTES)
        self._cs = orig_ax + 2 * _WORD_BYTES  # 0 for most kernel threads
        self.first_exact_addrs = first_exact_addrs
        self.trampolines = trampolines
        self._frame_layouts: BoundedCache[Union[int, bytes], list[_FrameLayout]] = BoundedCache(
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
        length = len(data)
        if base + length != stack.begin_addr + stack.size_bytes or length < self.regs.size_bytes:
            return None
        # Most stacks differ in the number of the system call, or without one in the length. The kind need
        # not be right, because a frame layout is compared with the stack.
        kind = data[self._orig_ax] if data[self._cs] else length
        layouts = self._frame_layouts.get(kind, [])
        for number, known in enumerate(layouts):
            if known.is_that_of(data, base, make_recover):
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
        if layout.regs_at:
            regs = tuple([(base + at, self._registers_at(data, at)) for at in layout.regs_at])
            if any(self.regs.user_mode(registers) for _, registers in regs):
                return None
        at = layout.user_regs_at
        if at is not None:
            offset = _place(at, 0, len(data))
            raw = data[offset : offset + self.regs.size_bytes]
            if not self.regs.saved_in_user_mode(raw):
                return None
            # The rules do not use their sp, but the walk fails if it leads down this stack.
            sp = int.from_bytes(raw[self._sp], "little")
            if stack.begin_addr <= sp < base + len(data):
                return None
            regs = (*regs, (base + offset, self.regs.read(raw)))
        return Signature(layout.recovered, layout.kernel_regs, at is not None, regs)

    def _registers_at(self, data: bytes, at: int) -> Registers:
        return self.regs.read(data[at : at + self.regs.size_bytes])


class _Path:
    """Follows the rules of one stack from frame to frame, and notes what decides where the frames are.

    All offsets are from ``thread.sp``, in bytes.
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
        self.rewritten: list[tuple[int, int]] = []  # (index, original)
        self.pointers: dict[int, int] = {}  # place of a pointer -> place that it leads to
        self.kernel_regs: list[int] = []
        self.regs_offsets: list[int] = []
        self.user_regs: Optional[int] = None
        self.bp_at = rules.first_bp  # where the bp of the current frame was saved
        self.sp = self.bp_at + 2 * _WORD_BYTES
        self.signal = False
        # End of the words used so far, and the lowest offset used since the last pointer was followed.
        self.used_end = self.sp
        self.upper_begin = len(data)
        self.lower_bytes: int
        self.lower_frames: int
        self.last_pointer: int

    def layout(self) -> _FrameLayout:
        """Return the frame layout of the stack.

        :raises _Unusual: if the stack has no signature
        """
        self.add_frame(self.bp_at + _WORD_BYTES)
        while self.go_to_caller(self.rule_of_frame()):
            pass
        if not self.pointers:
            self.end_lower_part(upper_begin=len(self.data))
        if self.upper_begin < self.lower_bytes:
            raise _Unusual
        if any(offset >= above for offset, above in zip(self.ip_offsets, self.ip_offsets[1:])):
            raise _Unusual
        frames, length = self.lower_frames, len(self.data)
        pointers = sorted(self.pointers)
        return _FrameLayout(
            self.lower_bytes,
            length - self.upper_begin,
            words_at(self.ip_offsets[:frames], _WORD_BYTES),
            tuple(self.ips[:frames]),
            words_at([at - self.upper_begin for at in self.ip_offsets[frames:]], _WORD_BYTES),
            tuple(self.ips[frames:]),
            tuple(
                (self.ips[i], self.position(self.ip_offsets[i], i < frames), original)
                for i, original in self.rewritten
            ),
            tuple(self.recovered),
            words_at(pointers, _WORD_BYTES),
            tuple(self.position(self.pointers[at], at != self.last_pointer) for at in pointers),
            tuple(self.kernel_regs),
            tuple(self.regs_offsets),
            None if self.user_regs is None else self.position(self.user_regs, not self.pointers),
        )

    def position(self, offset: int, in_lower_part: bool) -> int:
        return offset if in_lower_part else offset - len(self.data)

    def use(self, at: int, size_bytes: int = _WORD_BYTES) -> bytes:
        if at % _WORD_BYTES or not 0 <= at <= len(self.data) - size_bytes:
            raise _Unusual
        self.used_end = max(self.used_end, at + size_bytes)
        self.upper_begin = min(self.upper_begin, at)
        return self.data[at : at + size_bytes]

    def follow(self, at: int) -> int:
        """Return where a saved bp or sp leads. The upper part begins there, unless another pointer follows."""
        if at in self.pointers:
            raise _Unusual
        to = int.from_bytes(self.use(at), "little") - self.base
        if not 0 <= to < len(self.data):
            raise _Unusual
        self.pointers[at], self.last_pointer = to, at
        self.end_lower_part(upper_begin=to)
        return to

    def end_lower_part(self, upper_begin: int) -> None:
        # sp has to grow: the upper part must not begin below the last sp of the lower part.
        self.lower_bytes = max(self.used_end, self.sp)
        self.lower_frames = len(self.ips)
        self.upper_begin = upper_begin

    def add_frame(self, ip_at: int) -> None:
        """Note a frame whose address of code is at *ip_at*."""
        self.ips.append(int.from_bytes(self.use(ip_at), "little"))
        self.ip_offsets.append(ip_at)

    def rule_of_frame(self) -> OrcEntry:
        """Return the rule of the last frame that was noted."""
        ip = self.ips[-1]
        if ip in self.rules.first_exact_addrs or len(self.ips) > _MAX_FRAMES:
            raise _Unusual
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
            raise _Unusual  # in a pt_regs, the kernel recovers only one trampoline, and by another word
        self.recover = self.recover or self.make_recover()
        ip = self.recover(trampoline, self.base + self.ip_offsets[-1])
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
            return self.follow(self.bp_at) + entry.offset
        raise _Unusual

    def leave_call(self, entry: OrcEntry, cfa: int) -> int:
        """Note the caller and where its bp was saved, and return its sp."""
        self.add_frame(cfa - _WORD_BYTES)
        if entry.bp_from == "bp":
            raise _Unusual
        if entry.bp_from == "cfa":
            self.bp_at = cfa + entry.bp_offset
            self.use(self.bp_at)  # it has to be on the stack
        return cfa

    def leave_regs(self, entry: OrcEntry, cfa: int) -> int:
        """Note the ``pt_regs`` at *cfa*, and return the sp of the code that was interrupted."""
        regs = self.rules.regs
        # bp is usually one of the saved registers. No rule of objtool says otherwise.
        if entry.bp_from is not None or cfa < self.sp:
            raise _Unusual
        if regs.saved_in_user_mode(self.use(cfa, regs.size_bytes)):
            self.user_regs = cfa
            return self.sp
        self.kernel_regs.append(len(self.ips))
        self.regs_offsets.append(cfa)
        self.add_frame(cfa + regs.ip_offset)
        self.bp_at = cfa + regs.bp_offset
        return self.follow(cfa + regs.sp_offset)
