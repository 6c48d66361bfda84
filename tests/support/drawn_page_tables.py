# SPDX-License-Identifier: LGPL-2.1-or-later
"""Page tables that a test writes, and a second, simpler reader of real ones."""

from __future__ import annotations

from collections.abc import Iterator

from drgn import FaultError

from drgn_tools.arch.x86.page_tables import PageTables, Paging, ReadPhysical

PRESENT, PSE = 1, 0x80
PAGE = 4096


class DrawnPageTables:
    """Physical memory with page tables in it, from ``root`` on."""

    def __init__(self, paging: Paging, root: int = 0x10_0000) -> None:
        self.paging = paging
        self.root = root
        self.memory: dict[int, bytearray] = {}
        self.next_table = root
        self.new_table()

    def new_table(self) -> int:
        table, self.next_table = self.next_table, self.next_table + PAGE
        self.memory[table] = bytearray(PAGE)
        return table

    def read(self, address: int, size: int) -> bytes:
        page = self.memory.get(address & -PAGE)
        if page is None:
            raise FaultError("not there", address)
        offset = address % PAGE
        assert offset + size <= PAGE
        return bytes(page[offset : offset + size])

    def entry_at(self, table: int, level: int, address: int) -> int:
        index = address >> self.paging.shift(level) & (1 << self.paging.index_bits[level]) - 1
        return table + index * self.paging.entry_bytes

    def get(self, place: int) -> int:
        return int.from_bytes(self.read(place, self.paging.entry_bytes), "little")

    def put(self, place: int, entry: int) -> None:
        offset = place % PAGE
        raw = entry.to_bytes(self.paging.entry_bytes, "little")
        self.memory[place & -PAGE][offset : offset + len(raw)] = raw

    def map(self, address: int, entry: int, level: int = -1) -> int:
        """Write the entry of an address at a level, by default the last; return the physical address of the entry."""
        level %= len(self.paging.index_bits)
        table = self.root
        for upper in range(level):
            place = self.entry_at(table, upper, address)
            if not self.get(place) & PRESENT:
                self.put(place, self.new_table() | PRESENT)
            table = self.get(place) & -PAGE
        place = self.entry_at(table, level, address)
        self.put(place, entry)
        return place

    def tables(self, encryption_mask: int = 0) -> PageTables:
        return PageTables(self.read, self.root, self.paging, encryption_mask)


def mapped_pages(
    read: ReadPhysical, table: int, paging: Paging, begin: int = 0
) -> Iterator[tuple[int, int, int]]:
    """Yield (virtual address, physical address, size) of each page that is mapped from *begin* up.

    If several entries point to the same table, only the first is followed: KASAN maps terabytes through a few tables.
    """
    seen: set[tuple[int, int]] = set()

    def below(table: int, level: int, first: int) -> Iterator[tuple[int, int, int]]:
        if (table, level) in seen:
            return
        seen.add((table, level))
        shift = paging.shift(level)
        size = paging.entry_bytes
        count = 1 << paging.index_bits[level]
        raw = read(table, count * size)
        for i in range(count):
            entry = int.from_bytes(raw[i * size : (i + 1) * size], "little")
            address = first | i << shift
            if address + (1 << shift) <= begin or not entry & PRESENT:
                continue
            physical = entry & 0xF_FFFF_FFFF_F000
            if level + 1 == len(paging.index_bits):
                yield address, physical, 1 << shift
            elif level in paging.large_page_levels and entry & PSE:
                yield address, physical >> shift << shift, 1 << shift
            else:
                yield from below(physical, level + 1, address)

    return below(table, 0, 0)
