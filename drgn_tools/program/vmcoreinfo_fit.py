# SPDX-License-Identifier: LGPL-2.1-or-later
"""Check whether VMCOREINFO fits the memory of its dump.

VMCOREINFO has the addresses of things in memory. If it is from another boot, nothing is at the address that it
gives: neither the kernel's release at ``init_uts_ns`` nor kallsyms. If only phys_base is wrong, these can be read in
a dump whose segments have their virtual addresses, such as /proc/vmcore. But memory that is found through page tables
cannot be read, such as stacks.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Optional

import msgspec
from drgn import Architecture, BadDataError, Program

from ..debuginfo.kallsyms import kallsyms_of
from ..debuginfo.vmcoreinfo import number_among, symbol_among, vmcoreinfo
from ..memory import NOT_THERE, read_or_none, read_up_to

__all__ = ("Misfit", "fits", "has_idle_task", "misfit")

_UTS_NAMESPACE_BYTES = 512
"""More than the offset of the end of the release in init_uts_ns: at most a kref comes first, then three names of 65 bytes."""
_TASK_STRUCT_BYTES = 1 << 14
_IDLE_TASK = b"swapper"
"""How comm of init_task begins (INIT_TASK_COMM)."""
_START_KERNEL_MAP = 0xFFFF_FFFF_8000_0000
"""__START_KERNEL_map (arch/x86/include/asm/page_64_types.h)."""
_PAGE_BYTES = 4096
_ADDRESSES = 1 << 64
_SOMETHING_ELSE, _NOTHING = "something else is there", "nothing can be read there"


class Misfit(msgspec.Struct, frozen=True):
    """A part of the kernel that is not where VMCOREINFO says."""

    seen: str
    """What was looked for, at which address, and what was there, for a message."""
    may_be_missing: bool
    """Whether the kernel may be missing in the dump instead: no memory was found that contradicts VMCOREINFO."""


def fits(prog: Program, walks_page_tables: bool) -> bool:
    """Return whether the kernel is where its VMCOREINFO says.

    Either the release or kallsyms is enough: memory may be missing, and the release may have been overwritten.

    :param walks_page_tables: Whether drgn itself walks the page tables of this dump, not libkdumpfile
    """
    lines = vmcoreinfo(prog)
    if _untranslatable(prog, lines) is not None:
        return False
    if walks_page_tables and _misplaced_page_tables(prog, lines) is not None:
        return False
    return _has_release(prog, lines) or bool(kallsyms_of(prog))


def has_idle_task(prog: Program, address: int) -> bool:
    """Return whether init_task is at a virtual address."""
    if _untranslatable(prog, vmcoreinfo(prog)) is not None:
        return False
    return _IDLE_TASK in read_up_to(prog, address, _TASK_STRUCT_BYTES)


def misfit(prog: Program, walks_page_tables: bool, has_symbols: bool) -> Optional[Misfit]:
    """Return a part of the kernel that is not where VMCOREINFO says.

    :param walks_page_tables: As for :func:`fits`
    :param has_symbols: Whether something of the kernel is where its symbols say
    :return: ``None`` if no such part is known
    """
    lines = vmcoreinfo(prog)
    untranslatable = _untranslatable(prog, lines)
    if untranslatable is not None:
        return untranslatable
    if has_symbols:
        return _misplaced_page_tables(prog, lines) if walks_page_tables else None
    release = _printable(lines.get("OSRELEASE", ""))
    address, what = symbol_among(lines, "init_uts_ns"), f"init_uts_ns with release {release}"
    if address is None:
        address, what = symbol_among(lines, "swapper_pg_dir"), "swapper_pg_dir"
        if address is None or read_up_to(prog, address, 1):
            return None
    is_there = bool(read_up_to(prog, address, 1))
    seen = _SOMETHING_ELSE if is_there else _NOTHING
    return Misfit(
        f"{what} should be at {address:#x}, but {seen}{_lacking(prog, lines)}",
        not is_there and _read_physical(prog, _physical(prog, lines, address)) is None,
    )


def _untranslatable(prog: Program, lines: Mapping[str, str]) -> Optional[Misfit]:
    """Return why drgn cannot translate any address; ``None`` if it can.

    On arm64 VMCOREINFO says how many bits an address has.
    """
    address = symbol_among(lines, "swapper_pg_dir")
    if address is None:
        return None
    try:
        read_up_to(prog, address, 1)
    except BadDataError as e:
        return Misfit(f"addresses cannot be translated with it ({' '.join(str(e).split())})", False)
    return None


def _has_release(prog: Program, lines: Mapping[str, str]) -> bool:
    address, release = symbol_among(lines, "init_uts_ns"), lines.get("OSRELEASE", "")
    if address is None or not release:
        return False
    # OFFSET(uts_namespace.name) is not in VMCOREINFO of every kernel.
    return release.encode() + b"\0" in read_up_to(prog, address, _UTS_NAMESPACE_BYTES)


def _misplaced_page_tables(prog: Program, lines: Mapping[str, str]) -> Optional[Misfit]:
    """Return the evidence that the page tables of x86-64 are not where phys_base says; ``None`` if they may be there.

    drgn 0.3.0 uses 0 if VMCOREINFO does not have phys_base. Before v4.10, VMCOREINFO has SYMBOL(phys_base) instead:
    Linux kernel commit 401721ecd1dc ("kexec: export the value of phys_base instead of symbol address").
    """
    assert prog.platform is not None  # it is a kernel
    address = symbol_among(lines, "swapper_pg_dir")
    if (
        prog.platform.arch is not Architecture.X86_64
        or address is None
        or "SYMBOL(phys_base)" in lines
    ):
        return None
    tables = read_or_none(prog, address, _PAGE_BYTES)
    if tables is None:
        return None
    physical = _physical(prog, lines, address)
    found = _read_physical(prog, physical)
    if found == tables:
        return None
    seen = _SOMETHING_ELSE if found else _NOTHING
    what = f"swapper_pg_dir should be at the physical address {physical:#x}"
    return Misfit(f"{what}, but {seen}{_lacking(prog, lines)}", found is None)


def _physical(prog: Program, lines: Mapping[str, str], address: int) -> Optional[int]:
    """Return the physical address of an address in the kernel image, by VMCOREINFO; ``None`` if not on x86-64."""
    assert prog.platform is not None  # it is a kernel
    if prog.platform.arch is not Architecture.X86_64:
        return None
    return (address - _START_KERNEL_MAP + (number_among(lines, "phys_base") or 0)) % _ADDRESSES


def _read_physical(prog: Program, address: Optional[int]) -> Optional[bytes]:
    if address is None:
        return None
    address -= address % _PAGE_BYTES
    try:
        return bytes(prog.read(address, _PAGE_BYTES, True))
    except NOT_THERE:
        return None


def _lacking(prog: Program, lines: Mapping[str, str]) -> str:
    assert prog.platform is not None  # it is a kernel
    key = "NUMBER(phys_base)"
    is_lacking = prog.platform.arch is Architecture.X86_64 and key not in lines
    return f" ({key} is missing in it)" if is_lacking else ""


def _printable(text: str) -> str:
    text = text[:64]
    return text if text.isprintable() else repr(text)
