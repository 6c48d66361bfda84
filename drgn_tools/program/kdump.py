# SPDX-License-Identifier: LGPL-2.1-or-later
"""The part of the kdump format that opening a file needs, flattened or not.

The layouts are those of makedumpfile's diskdump_mod.h and makedumpfile.h
(v1.7.8), as written by a little-endian machine.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple, Optional

__all__ = (
    "KDUMP_MAGICS",
    "KdumpHeader",
    "announced_bytes",
    "has_end",
    "is_flattened",
    "read_kdump",
)

_KDUMP_MAGIC, _FLATTENED_MAGIC = b"KDUMP   ", b"makedumpfile"
KDUMP_MAGICS = (_KDUMP_MAGIC, _FLATTENED_MAGIC)
"""What drgn hands to libkdumpfile (has_kdump_signature() in libdrgn/program.c, v0.3.0)."""

_HEADER_BYTES = 512

# struct disk_dump_header: signature, version, struct new_utsname, padding and a time,
# then status, block_size, sub_hdr_size, bitmap_blocks, max_mapnr.
_VERSION_AT = 8
_UTSNAME_AT, _UTS_FIELD_BYTES, _UTS_FIELDS = 12, 65, 6
_SIZES = struct.Struct("<IiiII")
_INCOMPLETE = 0x8  # DUMP_DH_COMPRESSED_INCOMPLETE, in status
_BLOCK_BYTES = (1 << 12, 1 << 13, 1 << 14, 1 << 16)

_SUB_HEADER_BYTES = 104


class _Layout(NamedTuple):
    """How the C compiler of the machine that wrote the file lays out the headers."""

    sizes_at: int
    """Where in ``struct disk_dump_header`` :data:`_SIZES` are."""
    split: struct.Struct
    """split, start_pfn, end_pfn of ``struct kdump_sub_header``, since version 2."""
    pfns_64: struct.Struct
    """start_pfn_64, end_pfn_64, max_mapnr_64 of it, which replace the others since version 6."""


_LAYOUTS = (
    _Layout(424, struct.Struct("<8x4xiQQ"), struct.Struct("<80xQQQ")),  # x86_64
    _Layout(412, struct.Struct("<4x4xiII"), struct.Struct("<56xQQQ")),  # i386
)
"""No field of the headers names the layout; with the wrong one block_size is no size of a page."""

# A flattened file: a header of 4096 bytes; then records, big-endian, of where in the
# dump the bytes belong and how many follow; a record of -1, -1 ends it.
_FLATTENED_HEADER_BYTES = 4096
_RECORD = struct.Struct(">qq")
_END = b"\xff" * _RECORD.size
_MAX_RECORDS = 64
"""The headers are in the first few, as both makedumpfile and QEMU write them."""

_PAGE_DESCRIPTOR = struct.Struct("<qIIQ")  # offset, size, flags, page flags
_LAST_DESCRIPTORS = 10_000
_BITMAP_CHUNK_BYTES = 1 << 16


class KdumpHeader(NamedTuple):
    """What the headers of a kdump file say."""

    block_bytes: int
    sub_header_blocks: int
    bitmap_blocks: int
    """Blocks of both bitmaps together."""
    max_pfn: int
    """One more than the highest page frame number."""
    utsname: tuple[str, ...]
    """sysname, nodename, release, version, machine, domainname; "" where there is none."""
    part: Optional[tuple[int, int]]
    """[start, end) of the page frame numbers in this part of a split dump, ``None`` if it is whole."""
    is_incomplete: bool
    """makedumpfile could not write all the pages that it selected."""

    @property
    def bitmaps_end(self) -> int:
        """Where in the file (unflattened) the page descriptors start."""
        return (1 + self.sub_header_blocks + self.bitmap_blocks) * self.block_bytes


def is_flattened(file: BinaryIO) -> bool:
    """Return whether a file has the flattened form, which makedumpfile and QEMU write to a pipe."""
    file.seek(0)
    return file.read(len(_FLATTENED_MAGIC)) == _FLATTENED_MAGIC


def is_flattened_elf(file: BinaryIO) -> bool:
    """Return whether a file is a flattened ELF dump and not kdump (``makedumpfile -E -F``)."""
    return is_flattened(file) and _read(file, 0, 4) == b"\x7fELF"


def has_end(file: BinaryIO) -> bool:
    """Return whether a flattened file ends with its end mark."""
    size = file.seek(0, 2)
    file.seek(max(0, size - len(_END)))
    return file.read() == _END


def read_kdump(file: BinaryIO) -> Optional[KdumpHeader]:
    """Return the headers of a kdump file, ``None`` if they are not whole, damaged, or of another format."""
    header = _read(file, 0, _HEADER_BYTES)
    if not header.startswith(_KDUMP_MAGIC) or len(header) < _HEADER_BYTES:
        return None
    for layout in _LAYOUTS:
        status, block_bytes, sub_header_blocks, bitmap_blocks, max_pfn = _SIZES.unpack_from(
            header, layout.sizes_at
        )
        if block_bytes in _BLOCK_BYTES and sub_header_blocks >= 0:
            break
    else:
        return None
    (version,) = struct.unpack_from("<i", header, _VERSION_AT)
    sub_header = _read(file, block_bytes, _SUB_HEADER_BYTES)
    if len(sub_header) < _SUB_HEADER_BYTES:
        return None
    split, start, end = layout.split.unpack_from(sub_header)
    if version >= 6:
        start, end, max_pfn = layout.pfns_64.unpack_from(sub_header)
    return KdumpHeader(
        block_bytes,
        sub_header_blocks,
        bitmap_blocks,
        max_pfn,
        tuple(_uts_fields(header)),
        (start, end) if version >= 2 and split else None,
        bool(status & _INCOMPLETE),
    )


def _uts_fields(header: bytes) -> Iterator[str]:
    for i in range(_UTS_FIELDS):
        at = _UTSNAME_AT + i * _UTS_FIELD_BYTES
        field = header[at : at + _UTS_FIELD_BYTES].split(b"\0", 1)[0]
        yield field.decode("ascii", "backslashreplace")


def announced_bytes(file: BinaryIO, header: KdumpHeader) -> int:
    """Return the size in bytes that a file (not flattened) must have to hold all its pages."""
    # The second bitmap has a bit for each page in the file. Their data are in order.
    second = header.bitmap_blocks * header.block_bytes // 2
    file.seek(header.bitmaps_end - second)
    pages = sum(
        bin(int.from_bytes(file.read(min(_BITMAP_CHUNK_BYTES, second - done)), "little")).count("1")
        for done in range(0, second, _BITMAP_CHUNK_BYTES)
    )
    descriptors_end = header.bitmaps_end + pages * _PAGE_DESCRIPTOR.size
    # All pages of zeros share one at the start, so the last few do not tell.
    last = min(pages, _LAST_DESCRIPTORS) * _PAGE_DESCRIPTOR.size
    file.seek(descriptors_end - last)
    descriptors = file.read(last)
    if len(descriptors) < last:
        return descriptors_end
    ends = (offset + size for offset, size, _, _ in _PAGE_DESCRIPTOR.iter_unpack(descriptors))
    return max((descriptors_end, *map(int, ends)))


def _read(file: BinaryIO, at: int, size: int) -> bytes:
    """Return bytes of the dump in either form of file; of a flattened one, bytes near its start only."""
    if is_flattened(file):
        return _read_records(file, at, size)
    file.seek(at)
    return file.read(size)


def _read_records(file: BinaryIO, at: int, size: int) -> bytes:
    found = bytearray(size)
    missing = size
    record_at = _FLATTENED_HEADER_BYTES
    for _ in range(_MAX_RECORDS):
        file.seek(record_at)
        record = file.read(_RECORD.size)
        if len(record) < _RECORD.size or record == _END:
            break
        offset, record_bytes = _RECORD.unpack(record)
        if offset < 0 or record_bytes <= 0:
            break
        begin, end = max(at, offset), min(at + size, offset + record_bytes)
        if begin < end:
            file.seek(begin - offset, 1)
            data = file.read(end - begin)
            found[begin - at : begin - at + len(data)] = data
            missing -= len(data)
        if missing <= 0:
            break
        record_at += _RECORD.size + record_bytes
    return bytes(found)
