# SPDX-License-Identifier: LGPL-2.1-or-later
"""Find the kernel's page tables in a kdump file where libkdumpfile does not find them, or crashes at a missing page.

drgn reads the page tables of ELF dumps itself. The kernel allocates its first tables at the end of memory. They lead to all
others, and are the first to be missing if a file is cut short. Two parts of memory can be read without them::

    linear map    virtual - PAGE_OFFSET + PHYS_OFFSET = physical
    kernel image  virtual - kimage_voffset = physical
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple, Optional

from drgn import FaultError, Program

from ...debuginfo.vmcoreinfo import number_among, symbol_among
from ...memory import ADDRESS_MASK, NOT_THERE
from ..page_walk import MappedPage, ReadPhysical, physical_reader
from .page_tables import PAGE_SHIFTS, PageTables, Paging

__all__ = ("kernel_page_tables", "libkdumpfile_finds_memory")

_ADDRESS_BITS = range(36, 52 + 1)
"""What CONFIG_ARM64_VA_BITS may be (arch/arm64/Kconfig, v6.12)."""
_LARGE_PAGE_SHIFT = 16
_IMAGE_BEGIN = "_stext"
_IN_IMAGE = ("swapper_pg_dir", "init_uts_ns", "node_online_map", "prb", "clear_seq")
"""Variables of the kernel image whose own address is in VMCOREINFO. For some others, VMCOREINFO has the address that they point to."""
_MAX_IMAGE_BYTES = 1 << 30


def kernel_page_tables(
    prog: Program, vmcoreinfo: Mapping[str, str]
) -> Optional[tuple[int, PageTables]]:
    """Return the lowest address of the kernel and its page tables.

    :param prog: A program of a core dump whose physical memory can be read
    :param vmcoreinfo: VMCOREINFO of the dump
    :return: ``None`` if they cannot be found
    """
    # arch_crash_save_vmcoreinfo() in arch/arm64/kernel/vmcore_info.c, v6.12
    root, paging = symbol_among(vmcoreinfo, "swapper_pg_dir"), _paging(vmcoreinfo)
    offset = number_among(vmcoreinfo, "kimage_voffset")
    if root is None or offset is None or paging is None:
        return None
    physical = (root - offset) & ADDRESS_MASK
    tables = _KernelTables(physical_reader(prog), physical, paging)
    for run in (*_linear_map(vmcoreinfo), *_image(vmcoreinfo, offset)):
        tables.add(run)
    if not tables.maps(root, physical):
        return None
    return (1 << 64) - (1 << paging.address_bits), tables


def libkdumpfile_finds_memory(vmcoreinfo: Mapping[str, str], block_bytes: int) -> bool:
    """Return whether libkdumpfile (v0.5.4) can read a kdump file of this kernel, if it is whole.

    :param vmcoreinfo: VMCOREINFO of the dump
    :param block_bytes: Size of a block, which its headers say
    """
    # It uses PAGESIZE as the size of a block. QEMU writes blocks of 64 KiB whatever the kernel's pages are.
    if vmcoreinfo.get("PAGESIZE", str(block_bytes)) != str(block_bytes):
        return False
    paging, unused = _paging(vmcoreinfo), number_among(vmcoreinfo, "TCR_EL1_T1SZ")
    # It reads the top level as if it were for the address bits of the CPU, which use only its end: see _paging().
    return paging is None or unused is None or paging.address_bits == 64 - unused


class _Run(NamedTuple):
    """A range of virtual addresses that is mapped to one range of physical addresses."""

    begin: int
    end: int
    offset: int
    """From the virtual address to the physical one."""


class _KernelTables(PageTables):
    """The kernel's page tables, and runs of addresses that can be translated where a table is missing."""

    def __init__(self, read_physical: ReadPhysical, root_addr: int, paging: Paging) -> None:
        super().__init__(read_physical, root_addr, paging)
        self._page_bytes = 1 << paging.page_shift
        self._runs: list[_Run] = []

    def add(self, run: _Run) -> None:
        """Use a run, unless the tables contradict it: each run has swapper_pg_dir in it, and the tables may map that elsewhere."""
        address = (self._root_addr - run.offset) & ADDRESS_MASK
        try:
            found = super().find(address)
        except NOT_THERE:
            pass
        else:
            if found is None or found.physical_of(address) != self._root_addr:
                return
        self._runs.append(run)

    def find(self, addr: int) -> Optional[MappedPage]:
        try:
            return super().find(addr)
        except FaultError:
            for run in self._runs:
                if run.begin <= addr < run.end:
                    return self._page_in(run, addr)
            raise

    def _page_in(self, run: _Run, addr: int) -> MappedPage:
        physical = (addr + run.offset) & ADDRESS_MASK
        return MappedPage(addr & -self._page_bytes, physical & -self._page_bytes, self._page_bytes)


def _linear_map(vmcoreinfo: Mapping[str, str]) -> Iterator[_Run]:
    """Yield the linear map: the lower half of the kernel's addresses on this CPU (up to PAGE_END)."""
    names = ("PHYS_OFFSET", "VA_BITS", "TCR_EL1_T1SZ")
    physical, bits, unused = (number_among(vmcoreinfo, name) for name in names)
    # Before v5.4 it was the upper half, and VMCOREINFO has no TCR_EL1_T1SZ: Linux kernel commit 14c127c957c1 ("arm64:
    # mm: Flip kernel VA space").
    if physical is None or bits is None or unused is None:
        return
    if bits not in _ADDRESS_BITS or 64 - unused not in _ADDRESS_BITS:
        return
    # PAGE_OFFSET and PHYS_OFFSET are those for the address bits that the kernel was built for: see
    # arm64_memblock_init() in arch/arm64/mm/init.c, v6.12.
    begin, end = -(1 << 64 - unused) & ADDRESS_MASK, -(1 << 63 - unused) & ADDRESS_MASK
    yield _Run(begin, end, physical + (1 << bits))


def _image(vmcoreinfo: Mapping[str, str], offset: int) -> Iterator[_Run]:
    """Yield the part of the kernel image that VMCOREINFO names. Modules and stacks may follow it."""
    begin = symbol_among(vmcoreinfo, _IMAGE_BEGIN)
    found = (symbol_among(vmcoreinfo, name) for name in _IN_IMAGE)
    ends = [address for address in found if address is not None]
    if begin is not None and ends and 0 <= max(ends) - begin < _MAX_IMAGE_BYTES:
        yield _Run(begin, max(ends) + 1, -offset)


def _paging(vmcoreinfo: Mapping[str, str]) -> Optional[Paging]:
    shifts = {str(1 << shift): shift for shift in PAGE_SHIFTS}
    page_shift = shifts.get(vmcoreinfo.get("PAGESIZE", ""))
    bits, unused = (number_among(vmcoreinfo, name) for name in ("VA_BITS", "TCR_EL1_T1SZ"))
    # A kernel that was built for 52 bits may run on a CPU that has 48. With pages of 64 KiB, the top level is still one
    # for 52 bits, and the CPU gets its end, which maps the highest addresses: offset_ttbr1 in
    # arch/arm64/include/asm/assembler.h, v6.12. With smaller pages there is one level less.
    if page_shift != _LARGE_PAGE_SHIFT and unused is not None:
        bits = 64 - unused
    if page_shift is None or bits is None or bits not in _ADDRESS_BITS:
        return None
    return Paging(page_shift, bits)
