# SPDX-License-Identifier: LGPL-2.1-or-later
"""Read kernel memory through page tables of our own, where drgn cannot."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from drgn import Program

from ..arch.x86.kernel_page_tables import kernel_page_tables
from ..arch.x86.page_tables import PageTables

__all__ = ("add_kernel_memory",)


def add_kernel_memory(prog: Program, vmcoreinfo: Mapping[str, str]) -> bool:
    """Let reads of kernel addresses go through our own page tables, if drgn cannot read the kernel's.

    libkdumpfile knows SME: this is not for kdump files of x86-64.

    :param prog: A program of a core dump whose physical memory can be read
    :param vmcoreinfo: VMCOREINFO of the dump
    :return: False if nothing was done: drgn can, or the page tables cannot be found
    """
    found = kernel_page_tables(prog, vmcoreinfo)
    if found is None:
        return False
    begin, tables = found
    end = 1 << 8 * prog.address_size()
    prog.add_memory_segment(begin, end - begin, partial(_read, tables), False)
    return True


def _read(tables: PageTables, address: int, count: int, offset: int, physical: bool) -> bytes:
    return tables.read(address, count)
