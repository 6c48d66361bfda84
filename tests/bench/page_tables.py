# SPDX-License-Identifier: LGPL-2.1-or-later
"""The memory of an ELF vmcore as a file that is written to: segments, and x86-64 page tables."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from typing import BinaryIO

from drgn_tools.program.elf import PT_LOAD, Segment, read_elf

__all__ = ("GIB", "PAGE", "CoreMemory", "PageTables")

PAGE = 4096
GIB = 1 << 30

_PHDR = struct.Struct("<IIQQQQQQ")
_PRESENT_WRITABLE_ACCESSED_DIRTY = 0x63
_PRESENT = 1 << 0
_LARGE = 1 << 7
_NO_EXEC = 1 << 63
_FRAME = ((1 << 52) - 1) & ~(PAGE - 1)
_INDEX_BITS = 9
_PAGE_BITS = 12
_PUD_LEVEL = 2
"""The level whose entries can be pages of 1 GiB, counted from the lowest."""


class CoreMemory:
    """Physical memory in an ELF vmcore, by physical address."""

    def __init__(self, file: BinaryIO) -> None:
        """
        :param file: opened for reading and writing
        :raises LookupError: it is no ELF file
        """
        self._file = file
        self._segments = self._read_segments()

    def _read_segments(self) -> list[Segment]:
        elf = read_elf(self._file)
        if elf is None:
            raise LookupError("not an ELF file")
        return [s for s in elf.segments if s.type == PT_LOAD]

    @property
    def end(self) -> int:
        """The first physical address behind all memory."""
        return max(s.physical_address + s.memory_bytes for s in self._segments)

    def offset(self, phys: int) -> int:
        """Where the byte at a physical address lies in the file.

        :raises LookupError: it is not in the file
        """
        return self._offsets(phys)[0]

    def _offsets(self, phys: int) -> list[int]:
        # In /proc/vmcore the kernel image has a segment of its own, and is in that of the
        # direct map as well.
        found = [
            s.offset + phys - s.physical_address
            for s in self._segments
            if s.physical_address <= phys < s.physical_address + s.file_bytes
        ]
        if not found:
            raise LookupError(f"physical address {phys:#x} is not in the dump")
        return found

    def read_word(self, phys: int) -> int:
        return int.from_bytes(os.pread(self._file.fileno(), 8, self.offset(phys)), "little")

    def write_word(self, phys: int, value: int) -> None:
        for offset in self._offsets(phys):
            os.pwrite(self._file.fileno(), value.to_bytes(8, "little"), offset)

    def add_segment(self, phys: int, size_bytes: int) -> None:
        """Puts more memory, all of it zero, behind the end of the file.

        QEMU gives physical addresses as virtual ones, too, and so does this.
        """
        fd = self._file.fileno()
        header = bytearray(os.pread(fd, 64, 0))
        (phoff,) = struct.unpack_from("<Q", header, 32)
        (phnum,) = struct.unpack_from("<H", header, 56)
        table = os.pread(fd, phnum * _PHDR.size, phoff)
        # The table does not grow where it lies: the notes follow.
        new_phoff = os.fstat(fd).st_size + 7 & ~7
        offset = (new_phoff + len(table) + _PHDR.size + PAGE - 1) & ~(PAGE - 1)
        table += _PHDR.pack(PT_LOAD, 0, offset, phys, phys, size_bytes, size_bytes, 0)
        os.pwrite(fd, table, new_phoff)
        struct.pack_into("<Q", header, 32, new_phoff)
        struct.pack_into("<H", header, 56, phnum + 1)
        os.pwrite(fd, header, 0)
        os.truncate(fd, offset + size_bytes)
        self._segments = self._read_segments()


class PageTables:
    """The kernel's own page tables, in such a memory."""

    def __init__(self, memory: CoreMemory, root_phys: int, levels: int) -> None:
        """
        :param root_phys: physical address of the top table
        :param levels: 4, or 5 with LA57
        """
        self._memory = memory
        self._root = root_phys
        self._levels = levels

    def phys(self, virt: int) -> int:
        """The physical address of a virtual one.

        :raises LookupError: it is not mapped
        """
        table = self._root
        for level in reversed(range(self._levels)):
            entry = self._memory.read_word(self._slot(table, virt, level))
            if not entry & _PRESENT:
                raise LookupError(f"virtual address {virt:#x} is not mapped")
            if level == 0 or (level <= _PUD_LEVEL and entry & _LARGE):
                in_page = (1 << (_PAGE_BITS + _INDEX_BITS * level)) - 1
                return (entry & _FRAME & ~in_page) | (virt & in_page)
            table = entry & _FRAME
        raise AssertionError

    def map_gib(self, virt: int, phys: int, new_table: Callable[[], int]) -> None:
        """Maps a page of 1 GiB, as the direct map has them.

        :param new_table: gives the physical address of a page of zeros, for a further table
        :raises LookupError: something else is mapped there
        """
        table = self._root
        for level in range(self._levels - 1, _PUD_LEVEL, -1):
            slot = self._slot(table, virt, level)
            entry = self._memory.read_word(slot)
            if not entry & _PRESENT:
                entry = new_table() | _PRESENT_WRITABLE_ACCESSED_DIRTY
                self._memory.write_word(slot, entry)
            table = entry & _FRAME
        slot = self._slot(table, virt, _PUD_LEVEL)
        if self._memory.read_word(slot) & _PRESENT:
            raise LookupError(f"virtual address {virt:#x} is mapped already")
        self._memory.write_word(slot, phys | _PRESENT_WRITABLE_ACCESSED_DIRTY | _LARGE | _NO_EXEC)

    def _slot(self, table: int, virt: int, level: int) -> int:
        index = virt >> (_PAGE_BITS + _INDEX_BITS * level) & ((1 << _INDEX_BITS) - 1)
        return table + 8 * index
