# SPDX-License-Identifier: LGPL-2.1-or-later
"""The kernel's page tables of any machine, for dumps where drgn or libkdumpfile cannot use them.

Each machine has a module of its own. Few dumps need it, so it is imported only for those.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Optional

from drgn import Architecture, Program

if TYPE_CHECKING:
    from .page_walk import PageWalk

__all__ = ("kernel_page_tables", "libkdumpfile_finds_memory")


def kernel_page_tables(
    prog: Program, vmcoreinfo: Mapping[str, str], always: bool = False
) -> Optional[tuple[int, PageWalk]]:
    """Return the lowest address of the kernel and its page tables.

    :param prog: A program of a core dump whose physical memory can be read
    :param vmcoreinfo: VMCOREINFO of the dump
    :param always: Return them even if drgn or libkdumpfile can read them
    :return: ``None`` if we do not need to read them, or they cannot be found
    """
    if _is_arm64(prog):
        from .arm64.kernel_page_tables import kernel_page_tables as of_arm64

        return of_arm64(prog, vmcoreinfo) if always else None
    from .x86.kernel_page_tables import kernel_page_tables as of_x86

    return of_x86(prog, vmcoreinfo, always)


def libkdumpfile_finds_memory(
    prog: Program, vmcoreinfo: Mapping[str, str], block_bytes: int
) -> bool:
    """Return whether libkdumpfile (v0.5.4) can read a kdump file of this kernel, if it is whole.

    :param prog: A program of the file
    :param vmcoreinfo: VMCOREINFO of the dump
    :param block_bytes: Size of a block, which its headers say
    """
    if not _is_arm64(prog):
        return True
    from .arm64.kernel_page_tables import libkdumpfile_finds_memory as of_arm64

    return of_arm64(vmcoreinfo, block_bytes)


def _is_arm64(prog: Program) -> bool:
    assert prog.platform is not None  # it is a core dump
    return prog.platform.arch is Architecture.AARCH64
