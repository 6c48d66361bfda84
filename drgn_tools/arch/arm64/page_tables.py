# SPDX-License-Identifier: LGPL-2.1-or-later
"""Page tables of arm64: from virtual to physical addresses.

drgn reads the page tables of ELF dumps. libkdumpfile reads those of kdump files, but not of every kernel and file.

A virtual address of the kernel consists of an index for each level, and an offset in the page. The last level is
always 3. With pages of 4 KiB and addresses of 48 bits::

    63        48 47    39 38    30 29    21 20    12 11      0
    |   ones    | level 0| level 1| level 2| level 3| offset |
                     |       |        |
                     |       |        +-- a block of 2 MiB, the rest is the offset
                     |       +----------- a block of 1 GiB
                     +------------------- physical address of the table of the next level

A table fills a page, except the top level, which has only as many entries as its bits need. The descriptors are those
of VMSAv8-64 in the Arm Architecture Reference Manual.
"""

from __future__ import annotations

from typing import Optional

import msgspec

from ..page_walk import MappedPage, PageWalk, ReadPhysical

__all__ = ("PAGE_SHIFTS", "PageTables", "Paging")

PAGE_SHIFTS = (12, 14, 16)
"""log2 of the possible page sizes, which the manual calls granules."""
_ENTRY_SHIFT = 3
_TYPE, _BLOCK, _TABLE_OR_PAGE = 3, 1, 3
"""Bits 0 and 1 of a descriptor. Bit 0 is set in a valid one."""
_LAST_LEVEL = 3
_HIGHEST_BLOCK_LEVEL = {12: 1, 14: 2, 16: 2}
"""log2 of the page size -> highest level whose descriptors may be blocks, with physical addresses of 48 bits."""
_LARGE_ADDRESS_BITS = 52


class Paging(msgspec.Struct, frozen=True):
    """How the kernel has set up the CPU."""

    page_shift: int
    """log2 of the page size: one of :data:`PAGE_SHIFTS`."""
    address_bits: int
    """Bits of a virtual address that are translated: more than :attr:`page_shift`, at most 52."""

    @property
    def index_bits(self) -> tuple[int, ...]:
        """Bits of the virtual address that are the index at each level, the top level first."""
        each = self.page_shift - _ENTRY_SHIFT
        top = self.address_bits - self.page_shift
        below = (top - 1) // each
        return (top - below * each, *(each,) * below)

    @property
    def has_lpa2(self) -> bool:
        """Whether entries of pages of 4 or 16 KiB hold physical addresses of 52 bits (FEAT_LPA2, ``TCR_EL1.DS``).

        Without it, the bits that hold the upper two address bits are the shareability. VMCOREINFO does not have DS. The
        kernel sets it if and only if it uses virtual addresses of 52 bits: Linux kernel commit 352b0395b505 ("arm64: Enable
        52-bit virtual addressing for 4k and 16k granule configs") in v6.9.
        """
        return self.page_shift != 16 and self.address_bits == _LARGE_ADDRESS_BITS

    @property
    def highest_block_level(self) -> int:
        """Number of the highest level whose descriptors may be blocks. Higher levels have lower numbers."""
        level = _HIGHEST_BLOCK_LEVEL[self.page_shift]
        # One level higher, blocks exist only with physical addresses of 52 bits. With pages of 64 KiB, VMCOREINFO does
        # not say whether they have 52 bits, so blocks of 4 TiB are allowed.
        return level - 1 if self.has_lpa2 or self.page_shift == 16 else level


class PageTables(PageWalk):
    """The page tables of the kernel (TTBR1).

    :param read_physical: Reads physical memory
    :param root_addr: Physical address of the top level (``swapper_pg_dir``)
    :param paging: How the kernel has set up the CPU
    """

    def __init__(self, read_physical: ReadPhysical, root_addr: int, paging: Paging) -> None:
        super().__init__(read_physical, 1 << _ENTRY_SHIFT, 1 << paging.page_shift)
        self._root_addr = root_addr
        self._page_shift = paging.page_shift
        self._upper_bits = (1 << 64 - paging.address_bits) - 1
        self._address_bits = paging.address_bits
        self._has_lpa2 = paging.has_lpa2
        self._low_mask = (1 << (50 if paging.has_lpa2 else 48)) - (1 << paging.page_shift)
        shift, top = paging.address_bits, _LAST_LEVEL + 1 - len(paging.index_bits)
        levels = []
        for level, bits in enumerate(paging.index_bits, top):
            shift -= bits
            levels.append((shift, (1 << bits) - 1, level >= paging.highest_block_level))
        self._levels = tuple(levels)

    def find(self, addr: int) -> Optional[MappedPage]:
        """Return the page that holds a virtual address of the kernel; ``None`` if none is mapped there.

        :raises FaultError: if a table is missing
        """
        if addr >> self._address_bits != self._upper_bits:
            return None
        table = self._root_addr
        for shift, mask, may_be_block in self._levels:
            entry = self._entry(table, addr >> shift & mask, mask + 1)
            is_last = shift == self._page_shift
            if entry & _TYPE == _TABLE_OR_PAGE and not is_last:
                table = self._address_in(entry)
                continue
            # On the last level a valid descriptor is a page, never a block. In the kernel's half an invalid one maps
            # nothing: PTE_PROT_NONE is for user pages, and the kernel cannot read pages that debug_pagealloc unmapped.
            wanted = _TABLE_OR_PAGE if is_last else _BLOCK
            if entry & _TYPE != wanted or not may_be_block:
                return None
            size_bytes = 1 << shift
            physical = self._address_in(entry) & -size_bytes
            return MappedPage(addr & -size_bytes, physical, size_bytes)
        raise AssertionError("the last level maps pages")

    def _address_in(self, entry: int) -> int:
        # __pte_to_phys() in arch/arm64/include/asm/pgtable.h, v7.2. With pages of 64 KiB, bits 12 to 15 are zero if
        # physical addresses have 48 bits.
        if self._page_shift == 16:
            return entry & self._low_mask | (entry >> 12 & 0xF) << 48
        if self._has_lpa2:
            return entry & self._low_mask | (entry >> 8 & 3) << 50
        return entry & self._low_mask
