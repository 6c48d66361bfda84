# SPDX-License-Identifier: LGPL-2.1-or-later
"""Read kernel memory through page tables of our own, where drgn cannot."""

from __future__ import annotations

from functools import partial
from typing import Optional

from drgn import Program, ProgramFlags

from ..arch.x86.kernel_page_tables import kernel_page_tables
from ..arch.x86.page_tables import PageTables
from ..cache_key import cache_key
from ..debuginfo.vmcoreinfo import vmcoreinfo_lines
from .core_file import open_regular
from .elf import read_elf, read_notes

__all__ = ("add_kernel_memory",)

_CACHE_KEY = cache_key(__name__)


def add_kernel_memory(
    prog: Program, path: Optional[str] = None, vmcoreinfo: Optional[bytes] = None
) -> None:
    """Let reads of kernel addresses go through our own page tables, if drgn cannot read the kernel's.

    This is done once for a program; a second call does nothing, nor does a call for a program that is
    not an ELF core dump. libkdumpfile, which reads the other dumps, knows memory encryption.

    :param path: of the dump; by default the path that drgn has, which drgn cannot give if it is
        not UTF-8
    :param vmcoreinfo: VMCOREINFO, if it was given beside the dump
    :raises InputError: if the dump is no longer where it was opened
    """
    if prog.flags & ProgramFlags.IS_LIVE or _CACHE_KEY in prog.cache:
        return
    path = path or prog.core_dump_path
    if path is None:
        return
    prog.cache[_CACHE_KEY] = True
    text = _note(path) if vmcoreinfo is None else vmcoreinfo
    found = None if text is None else kernel_page_tables(prog, vmcoreinfo_lines(text))
    if found is None:
        return
    begin, tables = found
    end = 1 << 8 * prog.address_size()
    prog.add_memory_segment(begin, end - begin, partial(_read, tables), False)


def _note(path: str) -> Optional[bytes]:
    # Not prog["VMCOREINFO"]: see builtin_types.py about the first use of char.
    with open_regular(path) as file:
        elf = read_elf(file)
        notes = read_notes(file, elf) if elf is not None else ()
        return next((note.description for note in notes if note.name == b"VMCOREINFO"), None)


def _read(tables: PageTables, address: int, count: int, offset: int, physical: bool) -> bytes:
    return tables.read(address, count)
