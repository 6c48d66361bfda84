# SPDX-License-Identifier: LGPL-2.1-or-later
"""Convert a core into one as from a machine with memory encryption (SME).

On such a machine, each page table entry of the kernel's half has the encryption bit, and VMCOREINFO says
which bit that is. We do not have such a machine.
"""

from __future__ import annotations

import mmap
import re
import struct
from pathlib import Path
from shutil import copyfile

from drgn_tools import open_program
from drgn_tools.debuginfo.vmcoreinfo import vmcoreinfo
from drgn_tools.program.elf import PT_LOAD, Elf, read_elf

SME_MASK = 1 << 47
PRESENT, PSE = 1, 0x80
ENTRIES = struct.Struct("<512Q")
ADDRESS = 0xF_FFFF_FFFF_F000


def write_sme_core(core: str, path: Path) -> int:
    """Copy an ELF core of x86-64 and set the bit; return the number of entries that have it."""
    prog = open_program(core=core)
    info = vmcoreinfo(prog)
    root = int(info["SYMBOL(swapper_pg_dir)"], 16) - 0xFFFF_FFFF_8000_0000
    root += int(info["NUMBER(phys_base)"])
    levels = 5 if info.get("NUMBER(pgtable_l5_enabled)") == "1" else 4
    copyfile(core, path)
    with open(path, "r+b") as file:
        elf = read_elf(file)
        assert elf is not None
        with mmap.mmap(file.fileno(), 0) as content:
            _name_the_bit(content)
            return _encrypt(content, elf, root, levels)


def _name_the_bit(content: mmap.mmap) -> None:
    # The note keeps its size: we remove a line that nobody needs.
    place = re.search(rb"NUMBER\(sme_mask\)=0\n", content)
    room = re.search(rb"OFFSET\(list_head\.prev\)=\d+\n", content)
    assert place and room and room.end() < place.start()
    between = content[room.end() : place.start()]
    line = b"NUMBER(sme_mask)=%d\n" % SME_MASK
    new = between + line
    content[room.start() : place.end()] = new.ljust(place.end() - room.start(), b"\n")


def _encrypt(content: mmap.mmap, elf: Elf, root: int, levels: int) -> int:
    seen: set[int] = set()
    changed = 0

    def places_of(physical: int) -> list[int]:
        # In /proc/vmcore, the kernel image has a segment of its own, and is also in that of the direct map.
        return [
            segment.offset + physical - segment.physical_address
            for segment in elf.segments
            if segment.type == PT_LOAD
            and 0 <= physical - segment.physical_address < segment.file_bytes
        ]

    def encrypt(table: int, level: int) -> None:
        nonlocal changed
        places = places_of(table)
        if table in seen or not places:
            return
        seen.add(table)
        entries = list(ENTRIES.unpack_from(content, places[0]))
        for i in range(256 if level == 0 else 0, 512):
            if entries[i] & PRESENT:
                if level < levels - 1 and not entries[i] & PSE:
                    encrypt(entries[i] & ADDRESS, level + 1)
                entries[i] |= SME_MASK
                changed += 1
        for place in places:
            ENTRIES.pack_into(content, place, *entries)

    encrypt(root, 0)
    return changed
