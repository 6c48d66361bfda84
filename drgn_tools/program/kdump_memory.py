# SPDX-License-Identifier: LGPL-2.1-or-later
"""Read a kdump file that libkdumpfile cannot: data of pages are missing, or it does not find the memory of the kernel.

libkdumpfile (v0.5.4) reads whatever a page descriptor names, and crashes with SIGBUS beyond the end of the file. It also
walks page tables by itself before it reads anything, and uses the kernel's page size as the size of a block. So here
it does not get the file, but a copy in memory that has the headers and the pages that were read::

    prog.read(virtual) -> our page tables -> prog.read(physical) -> missing? -> copy the page -> libkdumpfile
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from drgn import FaultError, Program

from ..arch.kernel_page_tables import kernel_page_tables
from .find_vmcoreinfo import stub
from .kdump import KdumpHeader, read_kdump, without_notes
from .kdump_pages import KdumpPages

__all__ = ("read_around",)

_HALF = 1 << 63
_MOST_BYTES = 1 << 50
_WINDOW_BYTES = 4 << 20
"""libkdumpfile maps this much at once."""


def read_around(prog: Program, path: str, vmcoreinfo: Mapping[str, str]) -> None:
    """Let a program read memory through our own page tables, and get a FaultError for missing pages.

    :param prog: A program of a kdump file whose memory was not read yet
    :param path: Of the file
    :param vmcoreinfo: VMCOREINFO of the dump. If the page tables cannot be found by it, every read of a virtual
        address raises that error
    :raises OSError: If the file can no longer be read
    """
    copy = _Copy(prog, path)
    for begin in (0, _HALF):
        prog.add_memory_segment(begin, _HALF, copy.read, True)
        prog.add_memory_segment(begin, _HALF, _not_mapped, False)
    found = kernel_page_tables(prog, vmcoreinfo, always=True)
    if found is not None:
        begin, tables = found
        tables.serve(prog, begin)


class _Copy:
    def __init__(self, prog: Program, path: str) -> None:
        file = open(path, "rb")  # noqa: SIM115  # open for the lifetime of the program
        header = read_kdump(file)
        assert header is not None
        self._page_bytes = header.block_bytes
        self._pages = KdumpPages(file, header)
        self._known: dict[int, bool] = {}
        self._fd = os.memfd_create("vmcore")
        self._write_headers(header)
        self._prog = Program(prog.platform, vmcoreinfo=stub(header.block_bytes))
        self._prog.set_core_dump(self._fd)

    def _write_headers(self, header: KdumpHeader) -> None:
        dump = self._pages.dump
        self._bytes = min(dump.held[-1][1] + 2 * _WINDOW_BYTES, _MOST_BYTES)
        os.ftruncate(self._fd, self._bytes)
        begin, end = header.bitmap_of_dumped
        os.pwrite(self._fd, without_notes(dump.read(0, 2 * header.block_bytes)), 0)
        for at in range(begin, end, _WINDOW_BYTES):
            os.pwrite(self._fd, dump.read(at, min(_WINDOW_BYTES, end - at)), at)

    def read(self, address: int, count: int, offset: int, physical: bool) -> bytes:
        """Read physical memory; a callback of drgn."""
        for frame in range(address // self._page_bytes, -(-(address + count) // self._page_bytes)):
            if not self._has(frame):
                at = max(address, frame * self._page_bytes)
                raise FaultError("the page is excluded, or the file does not have its data", at)
        return bytes(self._prog.read(address, count, True))

    def _has(self, frame: int) -> bool:
        if frame not in self._known:
            self._known[frame] = self._copied(frame)
        return self._known[frame]

    def _copied(self, frame: int) -> bool:
        found = self._pages.descriptor(frame)
        if found is None:
            return False
        at, descriptor, offset, data = found
        if max(at, offset) > self._bytes - _WINDOW_BYTES:
            return False
        os.pwrite(self._fd, data, offset)
        os.pwrite(self._fd, descriptor, at)
        return True


def _not_mapped(address: int, count: int, offset: int, physical: bool) -> bytes:
    raise FaultError("the page tables that map this address are not found", address)
