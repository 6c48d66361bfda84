# SPDX-License-Identifier: LGPL-2.1-or-later
"""The part of the kdump format that opening a file needs, flattened or not.

The layouts are those of makedumpfile's diskdump_mod.h and makedumpfile.h
(v1.7.8), as a little-endian machine writes them.
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import BinaryIO, Optional

import msgspec

from .elf import MAX_NOTE_BYTES
from .read_at import read_at

__all__ = (
    "FLATTENED_HEADER_BYTES",
    "KDUMP_MAGICS",
    "MAX_BITMAP_BYTES",
    "RECORD_BYTES",
    "KdumpHeader",
    "dumped_pages",
    "has_end",
    "holds_some_of_each",
    "is_flattened",
    "machine_named",
    "read_kdump",
    "read_part",
    "records",
    "without_notes",
)

_KDUMP_MAGIC, _FLATTENED_MAGIC = b"KDUMP   ", b"makedumpfile"
KDUMP_MAGICS = (_KDUMP_MAGIC, _FLATTENED_MAGIC)
"""Files with these drgn opens with libkdumpfile (has_kdump_signature() in libdrgn/program.c, v0.3.0)."""

_HEADER_BYTES = 512

# struct disk_dump_header: signature, version, struct new_utsname, padding and a time,
# then status, block_size, sub_hdr_size, bitmap_blocks, max_mapnr.
_VERSION_AT = 8
_UTSNAME_AT, _UTS_FIELD_BYTES, _UTS_FIELDS = 12, 65, 6
_SIZES = struct.Struct("<IiiII")
_INCOMPLETE = 0x8  # DUMP_DH_COMPRESSED_INCOMPLETE, in status
_BLOCK_BYTES = tuple(1 << shift for shift in range(12, 19))


class _Layout(msgspec.Struct, frozen=True):
    """How the C compiler of the machine that wrote the file lays out the headers."""

    sizes_at: int
    """Where in ``struct disk_dump_header`` :data:`_SIZES` are."""
    sub_header: struct.Struct
    """``struct kdump_sub_header``: phys_base, dump_level, split, start_pfn, end_pfn, then offset and size
    of VMCOREINFO, of the notes and of ERASEINFO, start_pfn_64, end_pfn_64, max_mapnr_64. Since
    version 6 the last three replace the 32-bit ones, on any machine."""
    places: range
    """Where in the sub-header the offsets and sizes are."""


_LAYOUTS = (
    _Layout(412, struct.Struct("<4x4xi2I QI QI QI 3Q"), range(20, 56)),  # i386, which packs it
    _Layout(424, struct.Struct("<8x4xi2Q 2Q 2Q 2Q 3Q"), range(32, 80)),  # x86_64
)
"""No field of the headers names the layout; with the wrong one block_size is not the size of a page."""

# A flattened file: a header of 4096 bytes, then records. A record is big-endian: an offset in
# the dump, a size, and that many bytes. A record with -1, -1 ends the file.
FLATTENED_HEADER_BYTES = 4096
_RECORD = struct.Struct(">qq")
RECORD_BYTES = _RECORD.size
_END = b"\xff" * _RECORD.size
_MAX_RECORDS = 64
"""Both makedumpfile and QEMU write the headers in the first few."""
_MAX_RECORDS_IN_ALL = 1 << 24
"""QEMU writes one for each 16 KiB, so these are 256 GiB of pages."""

_BITMAP_CHUNK_BYTES = 1 << 16
_NOT_ZERO = re.compile(rb"[^\0]+")
MAX_BITMAP_BYTES = 1 << 31
"""A bit for each page of 64 TiB: as much as x86-64 has with page tables of four levels."""


class KdumpHeader(msgspec.Struct, frozen=True):
    """What the headers of a kdump file say."""

    block_bytes: int
    sub_header_blocks: int
    bitmap_blocks: int
    """Blocks of both bitmaps together."""
    max_pfn: int
    """One more than the highest page frame number."""
    utsname: tuple[str, ...]
    """sysname, nodename, release, version, machine, domainname; "" for each that is missing."""
    part: Optional[tuple[int, int]]
    """[start, end) of the page frame numbers in this part of a split dump, ``None`` if it is not split."""
    is_incomplete: bool
    """Whether makedumpfile could not write all the pages that it meant to."""
    parts: tuple[tuple[int, int], ...]
    """[begin, end) in the file (unflattened) of each part that libkdumpfile maps as a whole:
    both bitmaps, and what the sub-header names."""
    vmcoreinfo: tuple[int, int] = (0, 0)
    """Offset in the file (unflattened) and size of VMCOREINFO, in bytes; size 0 if it has none."""
    notes: tuple[int, int] = (0, 0)
    """The same for the ELF notes, which follow each other."""

    @property
    def bitmaps_end(self) -> int:
        """Where in the file (unflattened) the page descriptors start."""
        return (1 + self.sub_header_blocks + self.bitmap_blocks) * self.block_bytes

    @property
    def bitmap_of_dumped(self) -> tuple[int, int]:
        """[begin, end) in the file (unflattened) of the bitmap of the pages that have a descriptor.

        As in read_bitmap() of libkdumpfile (v0.5.4), it is the second bitmap, or both together if one
        has too few bits for all pages.
        """
        begin = (1 + self.sub_header_blocks) * self.block_bytes
        if self.max_pfn > 4 * self.bitmap_blocks * self.block_bytes:
            return begin, self.bitmaps_end
        size = self.bitmap_blocks // 2 * self.block_bytes
        return begin + size, begin + 2 * size


def is_flattened(file: BinaryIO) -> bool:
    """Return whether a file has the form that makedumpfile and QEMU write to a pipe."""
    return read_at(file, 0, len(_FLATTENED_MAGIC)) == _FLATTENED_MAGIC


def is_flattened_elf(file: BinaryIO) -> bool:
    """Return whether a file is a flattened ELF dump and not kdump (``makedumpfile -E -F``)."""
    return is_flattened(file) and _read(file, 0, 4) == b"\x7fELF"


def holds_some_of_each(file: BinaryIO, parts: Iterable[tuple[int, int]]) -> bool:
    """Return whether each of these parts of the dump overlaps a record of a flattened file.

    For a part between two records, flatmap_get_chunk_flat() of libkdumpfile (v0.5.4) reads the
    offset in the file from before an array, so it may be any value. In a part that overlaps a
    record, it reads missing bytes as zeros.

    :param parts: [begin, end) in the dump
    """
    missing = [part for part in parts if part[0] < part[1]]
    for offset, size, _ in records(file):
        missing = [
            (begin, end) for begin, end in missing if end <= offset or offset + size <= begin
        ]
        if not missing:
            break
    return not missing


def has_end(file: BinaryIO) -> bool:
    """Return whether a flattened file ends with the record that marks its end."""
    return read_at(file, file.seek(0, os.SEEK_END) - len(_END), len(_END)) == _END


def read_kdump(file: BinaryIO) -> Optional[KdumpHeader]:
    """Return the headers, ``None`` if they are incomplete, damaged, or of another format.

    The machine whose layout they have is determined as in open_common() of libkdumpfile (v0.5.4).
    """
    header = _read(file, 0, _HEADER_BYTES)
    if not header.startswith(_KDUMP_MAGIC) or len(header) < _HEADER_BYTES:
        return None
    found = _layout_of(header)
    if found is None:
        return None
    layout, (status, block_bytes, sub_header_blocks, bitmap_blocks, max_pfn) = found
    sub_header = _read(file, block_bytes, layout.sub_header.size)
    if sub_header_blocks < 0 or len(sub_header) < layout.sub_header.size:
        return None
    split, start, end, *places, start_64, end_64, max_pfn_64 = layout.sub_header.unpack(sub_header)
    (version,) = struct.unpack_from("<i", header, _VERSION_AT)
    if version >= 6:
        start, end, max_pfn = start_64, end_64, max_pfn_64
    bitmaps = (1 + sub_header_blocks) * block_bytes
    return KdumpHeader(
        block_bytes,
        sub_header_blocks,
        bitmap_blocks,
        max_pfn,
        tuple(_uts_fields(header)),
        (start, end) if version >= 2 and split else None,
        bool(status & _INCOMPLETE),
        (
            (bitmaps, bitmaps + bitmap_blocks // 2 * block_bytes),
            (bitmaps + bitmap_blocks // 2 * block_bytes, bitmaps + bitmap_blocks * block_bytes),
            *_named_parts(version, places),
        ),
        (places[0], places[1]) if version >= 3 else (0, 0),
        (places[2], places[3]) if version >= 4 else (0, 0),
    )


def machine_named(file: BinaryIO) -> str:
    """Return utsname.machine, which has the same offset in the header on every machine; "" if there is none."""
    header = _read(file, 0, _HEADER_BYTES)
    return list(_uts_fields(header))[4] if header.startswith(_KDUMP_MAGIC) else ""


def read_part(file: BinaryIO, place: tuple[int, int]) -> bytes:
    """Return a part that the sub-header names, up to the largest size of notes in a dump.

    :param place: :attr:`KdumpHeader.vmcoreinfo` or :attr:`KdumpHeader.notes`
    """
    offset, size = place
    size = min(size, MAX_NOTE_BYTES, file.seek(0, os.SEEK_END))
    if is_flattened(file):
        return _read_records(file, offset, size, _MAX_RECORDS_IN_ALL)
    return read_at(file, offset, size)


def without_notes(headers: bytes) -> bytes:
    """Return headers that name no notes, VMCOREINFO or ERASEINFO.

    :param headers: header and sub-header that :func:`read_kdump` accepts, up to the end of the second block
    """
    found = _layout_of(headers)
    assert found is not None
    layout, (_, block_bytes, *_) = found
    places = range(block_bytes + layout.places.start, block_bytes + layout.places.stop)
    return headers[: places.start] + bytes(len(places)) + headers[places.stop :]


def _layout_of(header: bytes) -> Optional[tuple[_Layout, tuple[int, ...]]]:
    """Return the layout of a header, and its fields of :data:`_SIZES`."""
    for layout in _LAYOUTS:
        sizes = _SIZES.unpack_from(header, layout.sizes_at)
        _, block_bytes, _, bitmap_blocks, max_pfn = sizes
        if block_bytes in _BLOCK_BYTES and 8 * bitmap_blocks * block_bytes >= max_pfn:
            return layout, sizes
    return None


def _named_parts(version: int, places: Sequence[int]) -> Iterator[tuple[int, int]]:
    # As in read_sub_hdr_64() of libkdumpfile (v0.5.4).
    vmcoreinfo, notes, eraseinfo = zip(places[::2], places[1::2])
    for offset, size in (notes, eraseinfo) if version >= 4 else (vmcoreinfo,) * (version == 3):
        if size:
            yield offset, offset + size


def _uts_fields(header: bytes) -> Iterator[str]:
    for i in range(_UTS_FIELDS):
        at = _UTSNAME_AT + i * _UTS_FIELD_BYTES
        field = header[at : at + _UTS_FIELD_BYTES].split(b"\0", 1)[0]
        yield field.decode("ascii", "backslashreplace")


def dumped_pages(file: BinaryIO) -> Iterator[tuple[int, int]]:
    """Return [begin, end) of the physical memory that is in a dump, by its bitmap; flattened or not.

    If one page of a byte of the bitmap is in the dump, all 8 pages of that byte are returned.
    """
    header = read_kdump(file)
    if header is None:
        return
    bytes_at_once = 8 * header.block_bytes
    for first, bits in _second_bitmap(file, header):
        for run in _NOT_ZERO.finditer(bits):
            yield (first + run.start()) * bytes_at_once, (first + run.end()) * bytes_at_once


def _second_bitmap(file: BinaryIO, header: KdumpHeader) -> Iterator[tuple[int, bytes]]:
    """Return pieces of :attr:`KdumpHeader.bitmap_of_dumped`: the offset in it, and the bytes."""
    begin, end = header.bitmap_of_dumped
    end = min(end, begin + MAX_BITMAP_BYTES)
    pieces: Iterable[tuple[int, int, int]] = [(begin, end - begin, begin)]
    if is_flattened(file):
        pieces = records(file)
    for offset, size, place in pieces:
        piece_end = min(offset + size, end)
        for at in range(max(offset, begin), piece_end, _BITMAP_CHUNK_BYTES):
            count = min(_BITMAP_CHUNK_BYTES, piece_end - at)
            yield at - begin, read_at(file, place + at - offset, count)


def _read(file: BinaryIO, at: int, size: int) -> bytes:
    """Return bytes of the dump, flattened or not. Of a flattened file, only the first records are searched."""
    if is_flattened(file):
        return _read_records(file, at, size, _MAX_RECORDS)
    return read_at(file, at, size)


def _read_records(file: BinaryIO, at: int, size: int, max_records: int) -> bytes:
    found = bytearray(size)
    missing = size
    for offset, record_bytes, place in islice(records(file), max_records):
        begin, end = max(at, offset), min(at + size, offset + record_bytes)
        if begin < end:
            data = read_at(file, place + begin - offset, end - begin)
            found[begin - at : begin - at + len(data)] = data
            missing -= len(data)
        if missing <= 0:
            break
    return bytes(found)


def records(file: BinaryIO) -> Iterator[tuple[int, int, int]]:
    """Return the records of a flattened file: offset in the dump, size, offset of the bytes in the file.

    The last record may extend beyond the end of the file.
    """
    at = FLATTENED_HEADER_BYTES
    for _ in range(_MAX_RECORDS_IN_ALL):
        record = read_at(file, at, _RECORD.size)
        if len(record) < _RECORD.size or record == _END:
            return
        offset, size = _RECORD.unpack(record)
        if offset < 0 or size <= 0:
            return
        at += _RECORD.size
        yield offset, size, at
        at += size
