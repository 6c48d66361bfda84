# SPDX-License-Identifier: LGPL-2.1-or-later
"""Page tables of arm64, read as the manual says, to check drgn's translation and to damage them.

drgn-tools has its own reader, which it uses only for some kdump files. With pages of 4 KiB and addresses of
48 bits, these are the parts of a virtual address; with 52 bits there is one level more::

    63        48 47    39 38    30 29    21 20    12 11      0
    | ones      | level 0| level 1| level 2| level 3| offset |
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Callable

from drgn_tools.debuginfo.vmcoreinfo import number_among, symbol_among

__all__ = ("Arm64Paging", "Translated", "arm64_paging")

_VALID, _TABLE_OR_PAGE = 1, 3
_ADDRESS_BITS = 48
"""Bits of a physical address in an entry; the lab's machines do not have enough memory to need more (FEAT_LPA2)."""

ReadPhysical = Callable[[int, int], bytes]


@dataclass(frozen=True)
class Translated:
    """Where a virtual address is mapped."""

    physical: int
    entries: tuple[int, ...]
    """Physical addresses of the page table entries that map it."""


@dataclass(frozen=True)
class Arm64Paging:
    """The kernel's page tables (TTBR1)."""

    root: int
    """Physical address of swapper_pg_dir."""
    page_shift: int
    va_bits: int

    @property
    def index_bits(self) -> list[int]:
        """Bits of the index at each level, the top level first."""
        bits = self.page_shift - 3
        count = -(-(self.va_bits - self.page_shift) // bits)
        return [self.va_bits - self.page_shift - bits * (count - 1)] + [bits] * (count - 1)

    def translate(self, read: ReadPhysical, address: int) -> Translated:
        """Return where a virtual address is mapped. Raises LookupError if it is not."""
        if address >> self.va_bits != (1 << 64 - self.va_bits) - 1:
            raise LookupError(f"{address:#x} is not of the kernel")
        table, entries = self.root, []
        shift = self.va_bits
        for bits in self.index_bits:
            shift -= bits
            at = table + 8 * (address >> shift & (1 << bits) - 1)
            entries.append(at)
            entry = int.from_bytes(read(at, 8), "little")
            is_page = shift == self.page_shift
            if not entry & _VALID or (is_page and entry & 3 != _TABLE_OR_PAGE):
                raise LookupError(f"{address:#x} is not mapped")
            found = entry & (1 << _ADDRESS_BITS) - (1 << self.page_shift)
            if is_page or entry & 3 == _VALID:  # a page, or a block
                inside = (1 << shift) - 1
                return Translated(found & ~inside | address & inside, tuple(entries))
            table = found
        raise AssertionError("the last level maps pages")


def arm64_paging(vmcoreinfo: Mapping[str, str]) -> Arm64Paging:
    """Return the kernel's page tables, found by VMCOREINFO: arch_crash_save_vmcoreinfo() in arch/arm64/kernel/vmcore_info.c, v7.2."""
    root = symbol_among(vmcoreinfo, "swapper_pg_dir")
    offset = number_among(vmcoreinfo, "kimage_voffset")
    t1sz = number_among(vmcoreinfo, "TCR_EL1_T1SZ")
    assert root is not None and offset is not None and t1sz is not None
    page_shift = int(vmcoreinfo["PAGESIZE"]).bit_length() - 1
    va_bits = 64 - t1sz
    table = root - offset
    if page_shift == 16 and va_bits == 48 and number_among(vmcoreinfo, "VA_BITS") == 52:
        # The kernel was built for 52 bits: the CPU uses only the end of the top level (TTBR1_BADDR_4852_OFFSET of
        # asm/pgtable-hwdef.h, v7.2). With smaller pages there is one level less instead.
        table += 8 * ((1 << 52 - 42) - (1 << 48 - 42))
    return Arm64Paging(table, page_shift, va_bits)
