# SPDX-License-Identifier: LGPL-2.1-or-later
"""Correct what drgn reads wrongly in a core dump, or cannot read.

In an ELF core: excluded pages. In a kdump file: pages whose data are missing; for some arm64 kernels, all memory. On x86-32 and with
memory encryption: kernel addresses, which drgn cannot translate. The registers of CPUs: on x86-32, and on all machines in a kdump
file that has none.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Optional

from drgn import Architecture, Program, ProgramFlags

from ..arch.cpu_registers import keep_prstatus
from ..arch.kernel_page_tables import libkdumpfile_finds_memory
from ..cache_key import cache_key
from ..debuginfo.vmcoreinfo import vmcoreinfo_lines
from .core_file import open_regular
from .core_notes import read_core_notes
from .elf import read_elf
from .excluded_pages import fault_on_excluded_pages
from .kdump import read_kdump
from .kdump_pages import MissingPages, page_data
from .kernel_memory import add_kernel_memory

__all__ = ("correct_core_memory",)

_CACHE_KEY = cache_key(__name__)


def correct_core_memory(
    prog: Program,
    path: Optional[str] = None,
    vmcoreinfo: Optional[bytes] = None,
    missing_pages: Optional[MissingPages] = None,
) -> None:
    """Make reads of excluded pages fault, and reads of kernel addresses and CPU registers work.

    This is done once for a program. A second call does nothing, nor does a call for a program
    that is not a core dump. The memory of a complete kdump file needs nothing on x86-64 and for most
    arm64 kernels: libkdumpfile handles excluded pages and memory encryption.

    :param path: of the dump; by default the path that drgn has, which drgn cannot return if it is
        not UTF-8
    :param vmcoreinfo: VMCOREINFO, if it was given separately from the dump
    :param missing_pages: of a kdump file, if they are already known
    :raises InputError: if the dump is no longer where it was opened
    """
    if prog.flags & ProgramFlags.IS_LIVE or _CACHE_KEY in prog.cache:
        return
    path = path or prog.core_dump_path
    if path is None:
        return
    assert prog.platform is not None  # it is a core dump
    is_x86_32 = prog.platform.arch is Architecture.I386
    with open_regular(path) as file:
        elf = read_elf(file)
        # Not prog["VMCOREINFO"]: see builtin_types.py about the first use of char.
        notes = read_core_notes(file, elf)
        header = read_kdump(file) if elf is None and missing_pages is None else None
        if header is not None:
            missing_pages = page_data(file, header).missing
    prog.cache[_CACHE_KEY] = True
    if elf is not None:
        fault_on_excluded_pages(prog, elf)
    text = vmcoreinfo or notes.vmcoreinfo
    lines = vmcoreinfo_lines(text or b"")
    if missing_pages is not None and not _libkdumpfile_reads(prog, lines, missing_pages):
        from .kdump_memory import read_around  # few dumps need its imports

        read_around(prog, path, lines)
    elif elf is not None or is_x86_32:
        add_kernel_memory(prog, lines)
    # drgn raises a plain Exception where it looks for registers in a kdump file without any (v0.3.0).
    if is_x86_32 or (elf is None and not notes.prstatus):
        keep_prstatus(prog, notes.prstatus)


def _libkdumpfile_reads(prog: Program, lines: Mapping[str, str], missing: MissingPages) -> bool:
    return not missing.frames and libkdumpfile_finds_memory(prog, lines, missing.page_bytes)
