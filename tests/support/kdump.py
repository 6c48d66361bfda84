# SPDX-License-Identifier: LGPL-2.1-or-later
"""Convert an ELF vmcore into a kdump file, as makedumpfile or QEMU would.

The format is that of makedumpfile's diskdump_mod.h: header, sub-header, two bitmaps
(memory that exists, pages that are in the file), a descriptor for each page, the
pages. All pages of zeros share one.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Optional

from drgn_tools.program.elf import PT_LOAD, PT_NOTE, read_elf

PAGE = 4096
HEADER_VERSION = 6
INCOMPLETE = 0x8
RECORD = struct.Struct(">qq")

MAKEDUMPFILE_NAMES = (b"Linux", b"lab", b"6.12.0", b"#1 SMP", b"x86_64", b"(none)")
QEMU_NAMES = (b"", b"", b"", b"", b"x86_64", b"")
"""The names that dump/dump.c of QEMU writes for a guest, in 7.2 and in 10."""
ARM64_NAMES = (*MAKEDUMPFILE_NAMES[:4], b"aarch64", b"(none)")
QEMU_NAMES_32 = (b"", b"", b"", b"", b"i686", b"")
"""The same for a guest of 32 bits."""


def snappy(data: bytes) -> bytes:
    """Return data in Snappy's format, uncompressed: the length, then one literal."""
    assert 1 << 8 <= len(data) < 1 << 14
    length = bytes([len(data) & 0x7F | 0x80, len(data) >> 7])
    return length + b"\xf4" + struct.pack("<H", len(data) - 1) + data


COMPRESSIONS: dict[
    str, tuple[int, Callable[[bytes], bytes]]
] = {  # flag in the page descriptor, function
    "none": (0, bytes),
    "zlib": (1, lambda page: zlib.compress(page, 1)),
    "snappy": (4, snappy),
}


def write_kdump(
    core: str,
    out: Path,
    *,
    names: tuple[bytes, ...] = MAKEDUMPFILE_NAMES,
    compression: str = "zlib",
    left_out: Collection[int] = (),
    part: Optional[tuple[int, int]] = None,
    written: Optional[int] = None,
    page_bytes: int = PAGE,
) -> None:
    """Write the kdump form of *core*.

    :param names: the fields of struct new_utsname in the header.
    :param left_out: page frames to leave out.
    :param part: [begin, end) of the page frames in this file, as with --split.
    :param written: after how many pages the disk was full.
    :param page_bytes: PAGE_SIZE of the kernel.
    """
    flag, compress = COMPRESSIONS[compression]
    memory = dict(_pages(core, page_bytes))
    max_pfn = max(memory) + 1
    bitmap_bytes = -(-max_pfn // (8 * page_bytes)) * page_bytes
    exists, dumped = bytearray(bitmap_bytes), bytearray(bitmap_bytes)
    contents: list[Optional[bytes]] = []
    for pfn, page in sorted(memory.items()):
        exists[pfn // 8] |= 1 << pfn % 8
        if pfn in left_out:
            continue
        dumped[pfn // 8] |= 1 << pfn % 8
        if part is None or part[0] <= pfn < part[1]:
            contents.append(compress(page) if page.strip(b"\0") else None)
    notes = _notes(core)
    bitmap_blocks = 2 * bitmap_bytes // page_bytes
    sub_header_blocks = 1 + -(-len(notes) // page_bytes)
    start, end = part or (0, 0)
    main_header = struct.pack(
        "<8si390s6x16xIiiIIIIIIi",
        b"KDUMP   ",
        HEADER_VERSION,
        b"".join(name.ljust(65, b"\0") for name in names),
        0 if written is None else INCOMPLETE,
        page_bytes,
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
        part is not None,
        start,
        end,
        0,
        0,  # VMCOREINFO is one of the notes
        2 * page_bytes,
        len(notes),
        0,
        0,
        start,
        end,
        max_pfn,
    )
    with open(out, "wb") as kdump:
        kdump.write(main_header.ljust(page_bytes, b"\0"))
        kdump.write(sub_header.ljust(page_bytes, b"\0"))
        kdump.write(notes.ljust((sub_header_blocks - 1) * page_bytes, b"\0"))
        kdump.write(exists + dumped)
        zero_at = (1 + sub_header_blocks + bitmap_blocks) * page_bytes + 24 * len(contents)
        at = zero_at + page_bytes
        for number, data in enumerate(contents):
            if written is not None and number >= written:
                kdump.write(bytes(24))
            elif data is None:
                kdump.write(struct.pack("<QIIQ", zero_at, page_bytes, 0, 0))
            else:
                kdump.write(struct.pack("<QIIQ", at, len(data), flag, 0))
                at += len(data)
        kdump.write(bytes(page_bytes))
        kdump.writelines(data for data in contents if data is not None)


def flatten(plain: Path, out: Path, record_bytes: int = 1 << 16) -> None:
    """Write the flattened form of a dump, as ``makedumpfile -F`` does to its standard output."""
    data = plain.read_bytes()
    with open(out, "wb") as flat:
        flat.write((b"makedumpfile".ljust(16, b"\0") + RECORD.pack(1, 1)).ljust(4096, b"\0"))
        for at in range(0, len(data), record_bytes):
            chunk = data[at : at + record_bytes]
            flat.write(RECORD.pack(at, len(chunk)) + chunk)
        flat.write(RECORD.pack(-1, -1))


def unflatten(flat: Path, out: Path) -> None:
    """Write a flattened dump in its plain form, as ``makedumpfile -R`` does."""
    with open(flat, "rb") as file, open(out, "wb") as plain:
        file.seek(4096)
        while True:
            at, size = RECORD.unpack(file.read(RECORD.size))
            if at < 0:
                return
            plain.seek(at)
            plain.write(file.read(size))


def _pages(core: str, page_bytes: int) -> Iterator[tuple[int, bytes]]:
    """Yield the page frame number and contents of each page in the file of an ELF core."""
    with open(core, "rb") as file:
        elf = read_elf(file)
        assert elf is not None
        for segment in elf.segments:
            if segment.type == PT_LOAD and segment.physical_address < 1 << 31:
                file.seek(segment.offset)
                first = segment.physical_address // page_bytes
                for pfn in range(first, first + segment.file_bytes // page_bytes):
                    yield pfn, file.read(page_bytes)


def _notes(core: str) -> bytes:
    with open(core, "rb") as file:
        elf = read_elf(file)
        assert elf is not None
        segment = next(segment for segment in elf.segments if segment.type == PT_NOTE)
        file.seek(segment.offset)
        return file.read(segment.file_bytes)
