# SPDX-License-Identifier: LGPL-2.1-or-later
"""Makes a kdump file of an ELF vmcore, as makedumpfile would.

makedumpfile itself refuses QEMU's ELF dumps. The format is that of makedumpfile's
diskdump_mod.h: header, sub-header, two bitmaps (memory that exists, pages that
are in the file), a descriptor for each page, the pages.
"""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

from drgn_tools.elf import PT_LOAD, PT_NOTE, read_elf

PAGE = 4096
ZLIB_PAGE = 1
HEADER_VERSION = 6


def write_kdump(core: str, out: Path) -> None:
    """Write the kdump form of *core*, pages of zeros left out as at dump level 1."""
    with open(core, "rb") as file, open(out, "wb") as kdump:
        elf = read_elf(file)
        assert elf is not None
        (notes_at, notes_bytes) = next(
            (segment.offset, segment.file_bytes)
            for segment in elf.segments
            if segment.type == PT_NOTE
        )
        file.seek(notes_at)
        notes = file.read(notes_bytes)
        file.seek(0)
        header = file.read(64)
        (phoff,) = struct.unpack_from("<Q", header, 32)
        (phnum,) = struct.unpack_from("<H", header, 56)
        file.seek(phoff)
        loads = []
        for _ in range(phnum):
            type_, _, offset, _, paddr, filesz, _, _ = struct.unpack("<IIQQQQQQ", file.read(56))
            if type_ == PT_LOAD and paddr < 1 << 31:
                loads.append((offset, paddr, filesz))
        max_pfn = max((paddr + filesz) // PAGE for _, paddr, filesz in loads)
        bitmap_bytes = -(-max_pfn // (8 * PAGE)) * PAGE
        exists, dumped = bytearray(bitmap_bytes), bytearray(bitmap_bytes)
        pages = []
        for offset, paddr, filesz in sorted(loads, key=lambda load: load[1]):
            file.seek(offset)
            for pfn in range(paddr // PAGE, (paddr + filesz) // PAGE):
                exists[pfn // 8] |= 1 << pfn % 8
                page = file.read(PAGE)
                if page.strip(b"\0"):
                    dumped[pfn // 8] |= 1 << pfn % 8
                    pages.append(zlib.compress(page, 1))
        bitmap_blocks = 2 * bitmap_bytes // PAGE
        sub_header_blocks = 1 + -(-len(notes) // PAGE)
        descriptors_at = (1 + sub_header_blocks + bitmap_blocks) * PAGE
        utsname = b"".join(
            part.ljust(65, b"\0")
            for part in (b"Linux", b"lab", b"6.12.0", b"#1 SMP", b"x86_64", b"(none)")
        )
        main_header = struct.pack(
            "<8si390s6x16xIiiIIIIIIi",
            b"KDUMP   ",
            HEADER_VERSION,
            utsname,
            0,  # status
            PAGE,
            sub_header_blocks,
            bitmap_blocks,
            max_pfn,
            0,
            0,
            0,
            0,
            1,
        )
        sub_header = struct.pack(
            "<QiiQQQQQQQQQQQ",
            0,  # phys_base
            1,  # dump level
            0,
            0,
            0,
            0,  # VMCOREINFO is one of the notes
            0,
            2 * PAGE,
            len(notes),
            0,
            0,
            0,
            max_pfn,
            max_pfn,
        )
        kdump.write(main_header.ljust(PAGE, b"\0"))
        kdump.write(sub_header.ljust(PAGE, b"\0"))
        kdump.write(notes.ljust((sub_header_blocks - 1) * PAGE, b"\0"))
        kdump.write(exists + dumped)
        at = descriptors_at + 24 * len(pages)
        for page in pages:
            kdump.write(struct.pack("<QIIQ", at, len(page), ZLIB_PAGE, 0))
            at += len(page)
        kdump.writelines(pages)
