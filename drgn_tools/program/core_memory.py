# SPDX-License-Identifier: LGPL-2.1-or-later
"""Correct what drgn reads wrongly in an ELF core: excluded pages, and kernel memory that it cannot translate."""

from __future__ import annotations

from typing import Optional

from drgn import Program, ProgramFlags

from ..cache_key import cache_key
from ..debuginfo.vmcoreinfo import vmcoreinfo_lines
from .core_file import open_regular
from .elf import read_elf, read_notes
from .excluded_pages import fault_on_excluded_pages
from .kernel_memory import add_kernel_memory

__all__ = ("correct_core_memory",)

_CACHE_KEY = cache_key(__name__)


def correct_core_memory(
    prog: Program, path: Optional[str] = None, vmcoreinfo: Optional[bytes] = None
) -> None:
    """Make reads of excluded pages fault, and reads of kernel addresses work.

    This is done once for a program; a second call does nothing, nor does a call for a program
    that is not a core dump. Dumps in other formats than ELF need nothing: libkdumpfile knows both.

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
    with open_regular(path) as file:
        elf = read_elf(file)
        if elf is not None and vmcoreinfo is None:
            # Not prog["VMCOREINFO"]: see builtin_types.py about the first use of char.
            notes = read_notes(file, elf)
            found = (note.description for note in notes if note.name == b"VMCOREINFO")
            vmcoreinfo = next(found, None)
    prog.cache[_CACHE_KEY] = True
    if elf is None:
        return
    fault_on_excluded_pages(prog, elf)
    if vmcoreinfo is not None:
        add_kernel_memory(prog, vmcoreinfo_lines(vmcoreinfo))
