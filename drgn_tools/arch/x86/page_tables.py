# SPDX-License-Identifier: LGPL-2.1-or-later
"""Page tables of x86: from virtual to physical addresses.

drgn reads those of x86-64 itself. It does not read those of x86-32, or those with memory encryption (SME).

A virtual address is cut into an index for each level, and an offset in the page; with four levels::

    63        48 47    39 38    30 29    21 20    12 11      0
    | as bit 47 |  PGD   |  PUD   |  PMD   |  PTE   | offset |
                    |        |        |
                    |        |        +-- _PAGE_PSE: a page of 2 MiB, the rest is the offset
                    |        +----------- _PAGE_PSE: a page of 1 GiB
                    +-------------------- physical address of the table of the next level
"""

from __future__ import annotations

from typing import Optional

import msgspec

from ..page_walk import MappedPage, PageWalk, ReadPhysical

__all__ = ("FIVE_LEVELS", "FOUR_LEVELS", "PAE", "TWO_LEVELS", "PageTables", "Paging")

_PAGE_PRESENT = 1 << 0
_PAGE_PSE = 1 << 7
_PAGE_PROTNONE = 1 << 8
"""In an entry that is not present (arch/x86/include/asm/pgtable_types.h)."""
_PAGE_SHIFT = 12
_PAGE_BYTES = 1 << _PAGE_SHIFT
_PHYSICAL_MASK = (1 << 52) - _PAGE_BYTES
"""Bits of a physical address in an entry of 8 bytes."""
_HIGHEST_PHYSICAL_BIT = 1 << 51


class Paging(msgspec.Struct, frozen=True):
    """A paging mode of the CPU."""

    name: str
    """What people call it."""
    entry_bytes: int
    """Size of an entry."""
    index_bits: tuple[int, ...]
    """Bits of the virtual address that are the index at each level, the top level first."""
    large_page_levels: frozenset[int]
    """Levels whose entries may be pages (_PAGE_PSE); 0 is the top level."""

    @property
    def address_bits(self) -> int:
        """Bits of a virtual address that are translated."""
        return _PAGE_SHIFT + sum(self.index_bits)

    def shift(self, level: int) -> int:
        """Return the number of address bits below the index of a level: log2 of what one entry maps."""
        return _PAGE_SHIFT + sum(self.index_bits[level + 1 :])


TWO_LEVELS = Paging("two levels", 4, (10, 10), frozenset({0}))
PAE = Paging("PAE", 8, (2, 9, 9), frozenset({1}))
FOUR_LEVELS = Paging("four levels", 8, (9, 9, 9, 9), frozenset({1, 2}))
FIVE_LEVELS = Paging("five levels", 8, (9, 9, 9, 9, 9), frozenset({2, 3}))


class PageTables(PageWalk):
    """The page tables of one address space.

    :param read_physical: Reads physical memory
    :param root_addr: Physical address of the top level (``swapper_pg_dir``)
    :param paging: Mode of the CPU
    :param encryption_mask: Bits of an entry that say that the page is encrypted (``sme_me_mask``)
    """

    def __init__(
        self,
        read_physical: ReadPhysical,
        root_addr: int,
        paging: Paging,
        encryption_mask: int = 0,
    ) -> None:
        super().__init__(read_physical, paging.entry_bytes, _PAGE_BYTES)
        self._root_addr = root_addr
        self._paging = paging
        self._physical_mask = _PHYSICAL_MASK & ~encryption_mask
        self._levels = tuple(
            (paging.shift(level), (1 << bits) - 1, level in paging.large_page_levels)
            for level, bits in enumerate(paging.index_bits)
        )

    def find(self, addr: int) -> Optional[MappedPage]:
        """Return the page that holds a virtual address; ``None`` if none is mapped there.

        :raises FaultError: if a table is missing
        """
        if not self._is_canonical(addr):
            return None
        table = self._root_addr
        for shift, mask, may_be_page in self._levels:
            entry = self._entry(table, addr >> shift & mask, mask + 1)
            if may_be_page and self._is_large_page(entry):
                return self._mapped_page(addr, self._large_page(entry, shift), shift)
            if shift == _PAGE_SHIFT:
                page = self._page(entry)
                return None if page is None else self._mapped_page(addr, page, shift)
            if not entry & _PAGE_PRESENT:
                return None
            table = self._address_in(entry)
        raise AssertionError("the last level maps pages")

    # ---- entries

    def _is_large_page(self, entry: int) -> bool:
        return entry & (_PAGE_PRESENT | _PAGE_PSE) == _PAGE_PRESENT | _PAGE_PSE

    def _address_in(self, entry: int) -> int:
        # pmd_pfn_mask() and pte_pfn() in arch/x86/include/asm/pgtable.h, v6.12
        return entry & (
            self._physical_mask if self._paging.entry_bytes == 8 else ~(_PAGE_BYTES - 1)
        )

    def _large_page(self, entry: int, shift: int) -> int:
        below = (1 << shift) - 1
        if self._paging.entry_bytes == 4:
            # PSE-36: bits 13 to 20 are bits 32 to 39 of the address.
            return entry & ~below | (entry >> 13 & 0xFF) << 32
        return self._address_in(entry) & ~below

    def _page(self, entry: int) -> Optional[int]:
        """Return the physical address in an entry of the last level; ``None`` if it maps nothing."""
        if entry & _PAGE_PRESENT:
            return self._address_in(entry)
        if not entry & _PAGE_PROTNONE:
            return None
        if self._paging.entry_bytes == 8 and entry & _HIGHEST_PHYSICAL_BIT:
            # As a protection against L1TF, the address is inverted since v4.19 (arch/x86/include/asm/pgtable-invert.h).
            # No machine has memory where that bit of the address is set.
            entry = ~entry
        return self._address_in(entry)

    def _mapped_page(self, addr: int, physical: int, shift: int) -> MappedPage:
        size_bytes = 1 << shift
        return MappedPage(addr & ~(size_bytes - 1), physical, size_bytes)

    def _is_canonical(self, addr: int) -> bool:
        """Return whether an address exists: the bits above those that are translated equal the highest of them."""
        bits = self._paging.address_bits
        if bits == 32:
            return 0 <= addr < 1 << 32
        upper = addr >> bits - 1
        return upper in (0, (1 << 65 - bits) - 1)
