# SPDX-License-Identifier: LGPL-2.1-or-later
"""Read kernel memory of a core that drgn cannot translate, through page tables of our own."""

from __future__ import annotations

from collections.abc import Mapping

from drgn import Architecture, Program

from ..arch.kernel_page_tables import kernel_page_tables

__all__ = ("add_kernel_memory",)


def add_kernel_memory(prog: Program, vmcoreinfo: Mapping[str, str]) -> None:
    """Let reads of kernel addresses go through our own page tables, if drgn cannot read the kernel's.

    :param prog: A program of an ELF core, or of a kdump file of x86-32, whose physical memory can be read
    :param vmcoreinfo: VMCOREINFO of the dump
    """
    assert prog.platform is not None  # it is a core dump
    arch = prog.platform.arch
    if arch is Architecture.X86_64 and vmcoreinfo.get("NUMBER(sme_mask)", "0") == "0":
        return
    found = kernel_page_tables(prog, vmcoreinfo)
    if found is None:
        return
    begin, tables = found
    tables.serve(prog, begin)
