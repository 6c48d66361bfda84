# SPDX-License-Identifier: LGPL-2.1-or-later
"""The memory of one stack: its bounds, its bytes, and the holes where the dump has none."""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from typing import Callable, Optional

import msgspec
from drgn import FaultError, Program

__all__ = (
    "FindStack",
    "NotInDump",
    "ReadWords",
    "StackMemory",
    "TaskStackReader",
    "read_stack",
    "words_at",
)

FindStack = Callable[[int], Optional["StackMemory"]]
"""``get_stack_info_noinstr()``: virtual address -> the stack that holds it; ``None`` if no stack does."""

ReadWords = Callable[[bytes, int], tuple[int, ...]]
"""(memory, where to begin in it) -> some words, at offsets from there."""

_ADDRESS_SPACE_BYTES = 1 << 64
_FORMATS = {4: "I", 8: "Q"}


class NotInDump(Exception):
    """Memory that a walk needs is not in the dump. It ends the walk; the walk returns it as a value."""

    def __init__(self, addr: int) -> None:
        super().__init__(hex(addr))
        self.addr = addr


class StackMemory(msgspec.Struct, frozen=True):
    """One stack: its bounds, and as much of its memory as could be read."""

    begin_addr: int
    """Lowest address of the stack (``task->stack``), virtual."""
    size_bytes: int
    """THREAD_SIZE, or the size of an interrupt or exception stack."""
    data_addr: int
    """Virtual address where :attr:`data` begins. An unwinder moves up, so memory from thread.sp on is enough for any
    stack that is not damaged."""
    data: bytes
    """Memory from :attr:`data_addr` to the end of the stack; holes are filled with zeros."""
    holes: Sequence[tuple[int, int]] = ()
    """[start, end) of what could not be read, ascending; empty if everything was read."""
    kind: str = "task"
    """Name of the stack; a walk visits each once (``stack_mask`` of struct unwind_state)."""
    next_sp: Optional[int] = None
    """``stack_info.next_sp``: stack pointer of the stack that was interrupted; ``None`` for a task's own stack."""
    hidden_regs: Optional[int] = None
    """Virtual address of the ``pt_regs`` of the interrupted code on this stack, if no frame pointer leads to them."""

    @property
    def end_addr(self) -> int:
        """One past the highest address of the stack."""
        return self.begin_addr + self.size_bytes

    def read(self, addr: int, size_bytes: int) -> bytes:
        """Return *size_bytes* bytes of this stack.

        :param addr: Virtual address
        :raises NotInDump: if one of them was not read
        """
        offset = addr - self.data_addr
        if offset < 0 or offset + size_bytes > len(self.data):
            raise NotInDump(addr)
        if self.holes:
            i = bisect_right(self.holes, (addr + size_bytes - 1, _ADDRESS_SPACE_BYTES)) - 1
            if i >= 0 and self.holes[i][1] > addr:
                raise NotInDump(max(addr, self.holes[i][0]))
        return self.data[offset : offset + size_bytes]

    def is_below_data(self, addr: int) -> bool:
        """Return whether a virtual address is on this stack, below what was read of it."""
        return self.begin_addr <= addr < self.data_addr

    def on_stack(self, addr: int, len_bytes: int) -> bool:
        """Return whether [addr, addr + len) is on this stack, as on_stack() in asm/stacktrace.h does."""
        begin, end = self.begin_addr, self.begin_addr + self.size_bytes
        return begin <= addr < end and begin < addr + len_bytes <= end


class TaskStackReader:
    """Reads the live part of task stacks of one kernel, each in one read if the dump has all of it.

    :param size_bytes: THREAD_SIZE
    :param page_bytes: PAGE_SIZE: a stack with a hole is read page by page
    :param first_frame_offset: Offset in bytes from the saved stack pointer of a sleeping task
        to its first frame
    """

    def __init__(
        self, prog: Program, size_bytes: int, page_bytes: int, first_frame_offset: int
    ) -> None:
        self._prog = prog
        self._size_bytes = size_bytes
        self._page_bytes = page_bytes
        self._first_frame_offset = first_frame_offset

    def read(self, stack_addr: int, sp_addr: int) -> StackMemory:
        """Return the stack from the saved stack pointer up.

        :param stack_addr: ``task->stack``: lowest address of the stack (virtual)
        :param sp_addr: Saved stack pointer (``task->thread.sp`` on x86). Nothing is read if it
            is off the stack: the unwinder then ends at once, as the kernel's does.
        """
        size_bytes = self._size_bytes
        end_addr = stack_addr + size_bytes
        # A stack pointer just below the stack makes no sense, but is legal: the first
        # frame may still be on the stack, and the kernel follows it.
        first_frame_addr = sp_addr + self._first_frame_offset
        # A stack that ends beyond the address space holds nothing in the kernel, either:
        # in C its end wraps around, and no address of the stack is below that.
        if not stack_addr <= first_frame_addr < end_addr <= _ADDRESS_SPACE_BYTES:
            return StackMemory(stack_addr, size_bytes, end_addr, b"")
        begin_addr = sp_addr if sp_addr > stack_addr else stack_addr
        data, holes = read_stack(self._prog, self._page_bytes, begin_addr, end_addr)
        return StackMemory(stack_addr, size_bytes, begin_addr, data, holes)

    def read_whole(self, stack_addr: int) -> StackMemory:
        """Return a whole stack, for a walk that went below the saved stack pointer.

        :param stack_addr: As for :meth:`read`
        """
        end_addr = stack_addr + self._size_bytes
        if end_addr > _ADDRESS_SPACE_BYTES:
            return StackMemory(stack_addr, self._size_bytes, end_addr, b"")
        data, holes = read_stack(self._prog, self._page_bytes, stack_addr, end_addr)
        return StackMemory(stack_addr, self._size_bytes, stack_addr, data, holes)


def read_stack(
    prog: Program, page_bytes: int, begin_addr: int, end_addr: int
) -> tuple[bytes, tuple[tuple[int, int], ...]]:
    """Return the memory of [begin_addr, end_addr), and the holes in it.

    :param page_bytes: PAGE_SIZE: a dump lacks whole pages
    :return: As :attr:`StackMemory.data` and :attr:`StackMemory.holes`
    """
    try:
        return prog.read(begin_addr, end_addr - begin_addr), ()
    except FaultError:
        return _read_by_page(prog, page_bytes, begin_addr, end_addr)


def _read_by_page(
    prog: Program, page_bytes: int, begin_addr: int, end_addr: int
) -> tuple[bytes, tuple[tuple[int, int], ...]]:
    data = bytearray()
    holes: list[tuple[int, int]] = []
    addr = begin_addr
    while addr < end_addr:
        next_addr = min((addr // page_bytes + 1) * page_bytes, end_addr)
        try:
            data += prog.read(addr, next_addr - addr)
        except FaultError:
            data += bytes(next_addr - addr)
            holes.append((addr, next_addr))
        addr = next_addr
    return bytes(data), tuple(holes)


def words_at(offsets: Iterable[int], word_bytes: int) -> ReadWords:
    """Return a function that reads the words at these offsets, all in one call.

    :param offsets: In bytes, ascending; no two words overlap
    :param word_bytes: 4 or 8
    """
    format_, end = "<", 0
    for offset in offsets:
        format_ += f"{offset - end}x{_FORMATS[word_bytes]}"
        end = offset + word_bytes
    return struct.Struct(format_).unpack_from
