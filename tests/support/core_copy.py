# SPDX-License-Identifier: LGPL-2.1-or-later
"""A copy of a vmcore that can be written to at virtual addresses."""

from __future__ import annotations

from pathlib import Path

import drgn
from drgn.helpers.linux.mm import follow_phys

__all__ = ("CoreCopy",)


class CoreCopy:
    """A copy of a vmcore that can be written to at virtual addresses."""

    def __init__(self, prog: drgn.Program, path: Path) -> None:
        self.path = path
        self.prog = prog
        core = Path(prog.core_dump_path or "")
        path.write_bytes(core.read_bytes())
        self.loads = program_headers(core)

    def write(self, addr: int, data: bytes) -> None:
        # The page tables: stacks are in vmalloc memory.
        phys = follow_phys(self.prog["init_mm"].address_of_(), addr).value_()
        offset = next(
            offset + phys - paddr
            for offset, paddr, size in self.loads
            if paddr <= phys and phys + len(data) <= paddr + size
        )
        assert self.path.stat().st_size >= offset + len(data)
        with self.path.open("r+b") as file:
            file.seek(offset)
            file.write(data)

    def set_build_id(self, build_id: str) -> str:
        """Change the build ID in the VMCOREINFO note; return the old one."""
        with self.path.open("r+b") as file:
            notes = file.read(1 << 16)
            start = notes.index(b"BUILD-ID=") + len("BUILD-ID=")
            file.seek(start)
            file.write(build_id.encode())
        return notes[start : start + len(build_id)].decode()


def program_headers(core: Path) -> list[tuple[int, int, int]]:
    """File offset, physical address and size of each PT_LOAD of a 64-bit ELF file."""
    with core.open("rb") as file:
        header = file.read(64)
        file.seek(int.from_bytes(header[32:40], "little"))
        table = file.read(56 * int.from_bytes(header[56:58], "little"))
    entries = (table[i : i + 56] for i in range(0, len(table), 56))
    words = ([int.from_bytes(e[j : j + 8], "little") for j in range(0, 56, 8)] for e in entries)
    return [(w[1], w[3], w[4]) for w in words if w[0] & 0xFFFFFFFF == 1]
