# SPDX-License-Identifier: LGPL-2.1-or-later
"""Find the kernel's page tables where drgn has none or reads them wrongly.

drgn 0.3.0 cannot read page tables of x86-32. On x86-64 it does not know the encryption bit of AMD's SME, with
which every address in a page table looks as if it were far beyond the memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Optional

from drgn import FaultError, Program

from ...debuginfo.vmcoreinfo import number_among, symbol_among
from ..page_walk import ReadPhysical, physical_reader
from .page_tables import FIVE_LEVELS, FOUR_LEVELS, PAE, TWO_LEVELS, PageTables

__all__ = ("kernel_page_tables",)

_PAGE_OFFSETS_32 = (0xC000_0000, 0xB000_0000, 0x8000_0000, 0x7800_0000, 0x4000_0000)
"""Possible values of CONFIG_PAGE_OFFSET (arch/x86/Kconfig, v6.12: VMSPLIT_*). VMCOREINFO does not have it."""
_START_KERNEL_MAP = 0xFFFF_FFFF_8000_0000
"""__START_KERNEL_map (arch/x86/include/asm/page_64_types.h)."""


def kernel_page_tables(
    prog: Program, vmcoreinfo: Mapping[str, str], always: bool = False
) -> Optional[tuple[int, PageTables]]:
    """Return the lowest address of the kernel and its page tables.

    :param prog: A program of a core dump whose physical memory can be read
    :param vmcoreinfo: VMCOREINFO of the dump
    :param always: Return them even if drgn or libkdumpfile can read them itself
    :return: ``None`` if they need not be read here, or cannot be found
    """
    # A virtual address, as SYMBOL() writes it. On x86-64 it is another name of init_top_pgt.
    root = symbol_among(vmcoreinfo, "swapper_pg_dir")
    if root is None:
        return None
    if prog.address_size() == 4:
        return _find_32(partial(_physical_below_4g, prog), root, vmcoreinfo)
    if not always and not number_among(vmcoreinfo, "sme_mask"):
        return None
    return _find_64(physical_reader(prog), root, vmcoreinfo)


def _find_32(
    read_physical: ReadPhysical, root: int, vmcoreinfo: Mapping[str, str]
) -> Optional[tuple[int, PageTables]]:
    """Return PAGE_OFFSET and the page tables of x86-32.

    They map themselves, at their physical address plus PAGE_OFFSET. This shows which PAGE_OFFSET is right.
    """
    # arch_crash_save_vmcoreinfo() in arch/x86/kernel/vmcore_info_32.c, v6.12
    paging = PAE if vmcoreinfo.get("CONFIG_X86_PAE") == "y" else TWO_LEVELS
    for page_offset in _PAGE_OFFSETS_32:
        if root < page_offset:
            continue
        tables = PageTables(read_physical, root - page_offset, paging)
        if tables.maps(root, root - page_offset):
            return page_offset, tables
    return None


def _find_64(
    read_physical: ReadPhysical, root: int, vmcoreinfo: Mapping[str, str]
) -> Optional[tuple[int, PageTables]]:
    """Return the lowest address and the page tables of x86-64, with memory encryption if there is any."""
    # arch_crash_save_vmcoreinfo() in arch/x86/kernel/vmcore_info_64.c, v6.12
    mask = number_among(vmcoreinfo, "sme_mask") or 0
    phys_base = number_among(vmcoreinfo, "phys_base")
    if phys_base is None or root < _START_KERNEL_MAP:
        return None
    five = number_among(vmcoreinfo, "pgtable_l5_enabled") == 1
    paging = FIVE_LEVELS if five else FOUR_LEVELS
    physical = root - _START_KERNEL_MAP + phys_base
    tables = PageTables(read_physical, physical, paging, mask)
    if not tables.maps(root, physical):
        return None
    return (1 << 64) - (1 << paging.address_bits - 1), tables


def _physical_below_4g(prog: Program, address: int, size: int) -> bytes:
    # If a word has 32 bits, drgn also takes physical addresses modulo 4 GiB (v0.3.0).
    if address + size > 1 << 32:
        raise FaultError("drgn cannot read physical memory above 4 GiB of x86-32", address)
    return physical_reader(prog)(address, size)
