# SPDX-License-Identifier: LGPL-2.1-or-later
"""An ELF core without some of its pages: its segments are split around them."""

from __future__ import annotations

import struct
import subprocess
from collections.abc import Collection, Iterator
from pathlib import Path

from drgn_tools.program.elf import PT_LOAD

PAGE = 4096
PHDR = struct.Struct("<IIQQQQQQ")
PHNUM_MAX = 0xFFFE


class HoledCore:
    """A copy of a core from which other pages are removed each time."""

    def __init__(self, core: str, copy: Path) -> None:
        subprocess.run(["cp", "--sparse=always", core, copy], check=True)
        copy.chmod(0o600)
        self.path = copy
        with open(copy, "rb") as file:
            header = file.read(64)
            (phoff,) = struct.unpack_from("<Q", header, 32)
            (phnum,) = struct.unpack_from("<H", header, 56)
            file.seek(phoff)
            self._table = list(PHDR.iter_unpack(file.read(phnum * PHDR.size)))
            self._end = file.seek(0, 2) + 7 & ~7

    def without(self, pfns: Collection[int], zero_filled: bool = False) -> Path:
        """Return the copy, now without these page frames.

        :param zero_filled: leave pages out as makedumpfile does: p_memsz has them, the file does not.
        """
        table = [part for phdr in self._table for part in _split(phdr, pfns, zero_filled)]
        assert len(table) <= PHNUM_MAX
        with open(self.path, "r+b") as file:
            file.seek(32)
            file.write(struct.pack("<Q", self._end))
            file.seek(56)
            file.write(struct.pack("<H", len(table)))
            file.truncate(self._end)
            file.seek(self._end)
            file.writelines(PHDR.pack(*phdr) for phdr in table)
        return self.path


def _split(
    phdr: tuple[int, ...], pfns: Collection[int], zero_filled: bool
) -> Iterator[tuple[int, ...]]:
    type_, flags, offset, vaddr, paddr, file_bytes, _, align = phdr
    end = paddr + file_bytes
    holes = sorted(pfn * PAGE for pfn in pfns if paddr <= pfn * PAGE < end)
    if type_ != PT_LOAD or not holes:
        yield phdr
        return
    begin = paddr
    for hole in (*holes, end):
        kept = hole - begin
        announced = kept + (PAGE if zero_filled and hole < end else 0)
        if announced:
            at = begin - paddr
            yield type_, flags, offset + at, vaddr + at, begin, kept, announced, align
        begin = hole + PAGE
