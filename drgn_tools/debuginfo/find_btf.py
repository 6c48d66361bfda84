# SPDX-License-Identifier: LGPL-2.1-or-later
"""Finds the BTF of a kernel in its memory: between two symbols, or by its header."""

from __future__ import annotations

from collections.abc import Iterator

from drgn import FaultError, Program, ProgramFlags

from ..errors import TypesError
from ..memory import read_up_to
from .btf import BTF_MAGIC, MAX_BTF_BYTES, Btf, Kind, header_bytes
from .kallsyms import Kallsyms
from .vmcoreinfo import vmcoreinfo_symbol

__all__ = ("read_btf",)

_CHUNK_BYTES = 2 << 20
_PAGE_BYTES = 4096
_HEADER_BYTES = 24
_MAX_IMAGE_BYTES = 1 << 30
"""KERNEL_IMAGE_SIZE of x86-64 with KASLR."""
_MAX_HOLE_BYTES = 64 << 20
"""Longest hole. Pages of the image that were freed after boot may be missing; a longer hole ends the search."""
_SYS_KERNEL_BTF = "/sys/kernel/btf/vmlinux"
_HINT = "give the vmlinux of this kernel with -s"


def read_btf(prog: Program, kallsyms: Kallsyms) -> bytes:
    """Return the BTF of the kernel image, all bytes from its header on.

    :param kallsyms: symbols of the same kernel
    :raises TypesError: if the kernel has no BTF, or the BTF is not in the dump
    :raises KeyError: if the program is not a Linux kernel (drgn's ObjectNotFoundError)
    """
    is_running = _is_running_kernel(prog)
    if is_running:
        try:
            with open(_SYS_KERNEL_BTF, "rb") as file:
                return file.read(MAX_BTF_BYTES)
        except OSError:
            pass  # /sys is not mounted, or this is a container: read the memory
    start, stop = kallsyms.find("__start_BTF"), kallsyms.find("__stop_BTF")
    if start and stop and start[0] < stop[0] <= start[0] + MAX_BTF_BYTES:
        return _read(prog, start[0], stop[0] - start[0])
    missing: list[int] = []
    found = _headers_in_image(prog, kallsyms, missing)
    or_else = ""
    for total, address in sorted(found, reverse=True):  # the BTF of modules is smaller
        try:
            data = _read(prog, address, total)
            if Btf(data).find(Kind.STRUCT, "task_struct") is not None:
                return data
        except TypesError:
            or_else = f", or its BTF is at {address:#x} and is damaged or not all in the dump"
    # A symbol table that has variables (CONFIG_KALLSYMS_ALL) would have __start_BTF, too.
    if is_running and not or_else:
        # In a running image no memory is missing. Without symbols of variables its end is not known, so a read may pass it.
        or_else = f": there is no {_SYS_KERNEL_BTF}, and none in its memory"
    elif missing and not or_else and not kallsyms.has_variables():
        or_else = f", or it is not in the dump (memory at {missing[0]:#x} is missing)"
    raise TypesError(f"this kernel has no BTF (CONFIG_DEBUG_INFO_BTF=n){or_else}; {_HINT}")


def _is_running_kernel(prog: Program) -> bool:
    return bool(prog.flags & ProgramFlags.IS_LIVE and prog.flags & ProgramFlags.IS_LOCAL)


def _read(prog: Program, address: int, size: int) -> bytes:
    try:
        data: bytes = prog.read(address, size)
    except FaultError as e:
        raise TypesError(
            f"the BTF of this kernel is not in the dump (memory at {e.address:#x} is missing); {_HINT}"
        ) from e
    return data


def _headers_in_image(
    prog: Program, kallsyms: Kallsyms, missing: list[int]
) -> Iterator[tuple[int, int]]:
    """Return (size, virtual address) of everything in the kernel image with a valid BTF header.

    :param missing: Receives the virtual addresses where memory is missing
    """
    at = vmcoreinfo_symbol(prog, "_stext")
    if at is None:
        return
    end = min([*kallsyms.find("_end"), at + _MAX_IMAGE_BYTES])
    while at < end:
        chunk = read_up_to(prog, at, _CHUNK_BYTES)
        if not chunk:
            missing.append(at)
            at = _end_of_hole(prog, at, end)
            continue
        place = chunk.find(BTF_MAGIC)
        while place >= 0:
            total = header_bytes(chunk[place : place + _HEADER_BYTES])
            if total is not None:
                yield total, at + place
            place = chunk.find(BTF_MAGIC, place + 1)
        # A header may cross the end of a chunk; a page may be missing.
        at += max(len(chunk) - _HEADER_BYTES, _PAGE_BYTES - at % _PAGE_BYTES)


def _end_of_hole(prog: Program, address: int, end: int) -> int:
    # Read one byte of each page: a long read that fails takes as long as one that succeeds.
    next_page = address - address % _PAGE_BYTES + _PAGE_BYTES
    for page in range(next_page, min(end, next_page + _MAX_HOLE_BYTES), _PAGE_BYTES):
        if read_up_to(prog, page, 1):
            return page
    return end
