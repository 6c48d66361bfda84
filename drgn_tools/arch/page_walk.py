# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the page tables of all machines have in common: reading entries, and reading memory page by page."""

from __future__ import annotations

import abc
from typing import Callable, Optional

import msgspec
from drgn import FaultError, Program

from ..bounded_cache import BoundedCache
from ..memory import NOT_THERE

__all__ = ("MappedPage", "PageWalk", "ReadPhysical", "physical_reader")

_MAX_CACHED_BYTES = 16 << 20

ReadPhysical = Callable[[int, int], bytes]
"""(physical address, size in bytes) -> memory; raises FaultError if it is missing."""


def physical_reader(prog: Program) -> ReadPhysical:
    """Return what reads the physical memory of a program."""
    return lambda address, size_bytes: bytes(prog.read(address, size_bytes, True))


class MappedPage(msgspec.Struct, frozen=True):
    """A page that is mapped."""

    address: int
    """Its first virtual address."""
    physical: int
    """Its first physical address."""
    size_bytes: int
    """Size of a page of the kernel, or more for a large page."""

    def physical_of(self, addr: int) -> int:
        """Return the physical address of a virtual address in the page."""
        return self.physical + addr - self.address


class PageWalk(abc.ABC):
    """The page tables of one address space.

    :param read_physical: Reads physical memory
    :param entry_bytes: Size of an entry
    :param table_bytes: Size of the largest table
    """

    def __init__(self, read_physical: ReadPhysical, entry_bytes: int, table_bytes: int) -> None:
        self._read_physical = read_physical
        self._entry_bytes = entry_bytes
        self._tables: BoundedCache[int, bytes] = BoundedCache(_MAX_CACHED_BYTES // table_bytes)

    @abc.abstractmethod
    def find(self, addr: int) -> Optional[MappedPage]:
        """Return the page that holds a virtual address; ``None`` if none is mapped there.

        :raises FaultError: if a table is missing
        """

    def read(self, addr: int, size_bytes: int) -> bytes:
        """Read memory at a virtual address.

        :raises FaultError: if a part of it is not mapped, or is missing
        """
        found, end = b"", addr + size_bytes
        while addr < end:
            page = self.find(addr)
            if page is None:
                raise FaultError("address is not mapped", addr)
            count = min(end - addr, page.address + page.size_bytes - addr)
            found += self._read_physical(page.physical_of(addr), count)
            addr += count
        return found

    def serve(self, prog: Program, begin: int) -> None:
        """Let a program read virtual memory through these page tables, from an address to the last one."""
        size_bytes = (1 << 8 * prog.address_size()) - begin
        prog.add_memory_segment(
            begin, size_bytes, lambda addr, count, *_: self.read(addr, count), False
        )

    def maps(self, addr: int, physical: int) -> bool:
        """Return whether a virtual address is mapped to a physical one; ``False`` if a table is missing."""
        try:
            found = self.find(addr)
        except NOT_THERE:
            return False
        return found is not None and found.physical_of(addr) == physical

    def _entry(self, table: int, index: int, entries: int) -> int:
        """Return an entry.

        :param table: Physical address of the table
        :param entries: How many entries it has at this level
        """
        size = self._entry_bytes
        end = (index + 1) * size
        raw = self._tables.get(table)
        # The top level may have few entries. In damaged tables, the same page may also be a table of another level.
        if raw is None or len(raw) < end:
            raw = self._tables[table] = self._read_physical(table, entries * size)
        return int.from_bytes(raw[end - size : end], "little")
