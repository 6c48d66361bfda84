# SPDX-License-Identifier: LGPL-2.1-or-later
"""The part of ELF that opening a file needs: what the file is, its notes, whether it is complete."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import BinaryIO, Optional

import msgspec

from .read_at import read_at

__all__ = (
    "Elf",
    "Note",
    "build_id_among",
    "elf_type",
    "has_section",
    "notes_in",
    "notes_of_sections",
    "read_elf",
    "read_notes",
    "read_sections",
    "section_contents",
)

ET_REL, ET_EXEC, ET_DYN, ET_CORE = 1, 2, 3, 4
PT_LOAD, PT_INTERP, PT_NOTE = 1, 3, 4
NT_GNU_BUILD_ID = 3

_HEADER_BYTES = {b"\1": 52, b"\2": 64}
"""Size of the ELF header by its class (e_ident[EI_CLASS]): of 32-bit and of 64-bit files."""
_PN_XNUM = 0xFFFF  # more segments than e_phnum can count: the number is in section 0
_MAX_SEGMENTS = 1_000_000
_SHT_NOTE, _SHT_NOBITS = 7, 8
_MAX_SECTION_NAMES_BYTES = 1 << 22
"""A module may have a section for each function."""
_MAX_SECTION_NAME_BYTES = 64  # callers look for shorter names only
MAX_NOTE_BYTES = 64 << 20
"""How many bytes of notes are read; a note for each of 8,192 CPUs takes 4 MB."""
_MAX_NOTES = 100_000
_MAX_BUILD_ID_BYTES = 64  # the longest digest there is; that of a kernel has 20 bytes


class Segment(msgspec.Struct, frozen=True):
    """One program header."""

    type: int
    offset: int
    """Where its bytes start in the file."""
    file_bytes: int
    """How many of its bytes are in the file (p_filesz)."""
    address: int
    """p_vaddr"""
    physical_address: int
    """p_paddr"""
    memory_bytes: int
    """p_memsz: the bytes after the first file_bytes are not in the file."""
    alignment: int
    """p_align"""


class Section(msgspec.Struct, frozen=True):
    """One section header."""

    name: bytes
    type: int
    """SHT_*."""
    offset: int
    """Where its bytes start in the file."""
    size: int
    alignment: int
    """sh_addralign"""


class Elf(msgspec.Struct, frozen=True):
    """The headers of an ELF file."""

    type: int
    """ET_*."""
    machine: int
    """EM_*."""
    byteorder: str
    """``<`` (little-endian) or ``>``, as in Python's struct."""
    segments: tuple[Segment, ...]
    """The program headers."""
    file_bytes: int
    """Size of the file."""

    @property
    def announced_bytes(self) -> int:
        """Size that the file must have to hold all its segments."""
        return max((segment.offset + segment.file_bytes for segment in self.segments), default=0)


class Note(msgspec.Struct, frozen=True):
    """One ELF note."""

    name: bytes
    type: int
    description: bytes


def read_elf(file: BinaryIO) -> Optional[Elf]:
    """Return the headers of an ELF file, ``None`` if it is not ELF, or its headers are incomplete or damaged."""
    file_bytes = file.seek(0, os.SEEK_END)
    header = read_at(file, 0, 64)
    header_bytes = _HEADER_BYTES.get(header[4:5])
    if header[:4] != b"\x7fELF" or header_bytes is None or len(header) < header_bytes:
        return None
    order = ">" if header[5] == 2 else "<"
    if header[4] == 2:
        fields, phdr = struct.Struct(order + "16xHHIQQQIHHHHHH"), struct.Struct(order + "IIQQQQQQ")
    else:
        fields, phdr = struct.Struct(order + "16xHHIIIIIHHHHHH"), struct.Struct(order + "IIIIIIII")
    type_, machine, _, _, phoff, shoff, _, _, phentsize, phnum, _, _, _ = fields.unpack_from(header)
    if phnum == _PN_XNUM:
        section = read_at(file, shoff, 64)
        at = 44 if header[4] == 2 else 28  # sh_info
        if len(section) < at + 4:
            return None
        (phnum,) = struct.unpack_from(order + "I", section, at)
    if phnum > _MAX_SEGMENTS or (phnum and phentsize not in (0, phdr.size)):
        return None
    table = read_at(file, phoff, phnum * phdr.size)
    if len(table) < phnum * phdr.size:
        return None
    # p_type, p_offset, p_filesz, p_vaddr, p_paddr, p_memsz, p_align of Elf64_Phdr or Elf32_Phdr
    fields_at = (0, 2, 5, 3, 4, 6, 7) if header[4] == 2 else (0, 1, 4, 2, 3, 5, 7)
    segments = tuple(Segment(*(p[at] for at in fields_at)) for p in phdr.iter_unpack(table))
    return Elf(type_, machine, order, segments, file_bytes)


def elf_type(start: bytes) -> Optional[int]:
    """Return ET_* of an ELF file from its first 18 bytes, ``None`` if it is not ELF or is shorter."""
    if start[:4] != b"\x7fELF" or len(start) < 18:
        return None
    return int.from_bytes(start[16:18], "big" if start[5] == 2 else "little")


def read_sections(file: BinaryIO) -> Iterator[Section]:
    """Return the sections of an ELF file; none if its section headers are damaged or more than e_shnum can count."""
    header = read_at(file, 0, 64)
    order = ">" if header[5:6] == b"\2" else "<"
    # e_shoff and what follows e_phnum
    wide = header[4:5] == b"\2"
    at, word = (40, "Q") if wide else (32, "I")
    shdr = struct.Struct(order + ("IIQQQQIIQQ" if wide else "10I"))
    if header[:4] != b"\x7fELF" or len(header) < _HEADER_BYTES.get(header[4:5], 1 << 32):
        return
    (table,) = struct.unpack_from(order + word, header, at)
    _, count, names = struct.unpack_from(order + "3H", header, 58 if wide else 46)
    headers = read_at(file, table, count * shdr.size)
    if len(headers) < (names + 1) * shdr.size:
        return
    _, _, _, _, offset, size, *_ = shdr.unpack_from(headers, names * shdr.size)
    strings = read_at(file, offset, min(size, _MAX_SECTION_NAMES_BYTES))
    whole = headers[: len(headers) // shdr.size * shdr.size]
    for name, type_, _, _, offset, size, _, _, alignment, _ in shdr.iter_unpack(whole):
        text = strings[name : name + _MAX_SECTION_NAME_BYTES].partition(b"\0")[0]
        yield Section(text, type_, offset, size, alignment)


def has_section(file: BinaryIO, name: bytes) -> bool:
    """Return whether an ELF file has a section of a name; also ``False`` if its section headers are damaged."""
    return any(section.name == name for section in read_sections(file))


def section_contents(file: BinaryIO, name: bytes, size: int) -> Optional[bytes]:
    """Return the first bytes of the first section of a name; ``None`` if there is none, or it is not in the file (.bss).

    :param size: how many bytes at most
    """
    found = next((section for section in read_sections(file) if section.name == name), None)
    if found is None or found.type == _SHT_NOBITS:
        return None
    return read_at(file, found.offset, min(found.size, size))


def notes_of_sections(file: BinaryIO) -> Iterator[Note]:
    """Like :func:`read_notes`, for an ELF file that has no segments, such as a kernel module."""
    return islice(_all_notes_of_sections(file), _MAX_NOTES)


def _all_notes_of_sections(file: BinaryIO) -> Iterator[Note]:
    order = ">" if read_at(file, 5, 1) == b"\2" else "<"
    left = MAX_NOTE_BYTES  # for all sections together: they may overlap
    for section in read_sections(file):
        if section.type == _SHT_NOTE:
            data = read_at(file, section.offset, min(section.size, left))
            left -= len(data)
            yield from notes_in(data, order, section.alignment)


def notes_in(data: bytes, byteorder: str = "<", alignment: int = 4) -> Iterator[Note]:
    """Return the notes in the contents of a PT_NOTE segment, up to the first incomplete one, and no more than a dump has.

    :param alignment: p_align of the segment. With 8, descriptions and notes begin at multiples of
        8 bytes from the start; with any other value, at multiples of 4. This is the rule of
        gelf_getnote() in elfutils since 0.175, by which drgn reads them, and of
        process_notes_at() in readelf of binutils (2.40), which refuses a value above 4 other than 8.
        In a 64-bit file, .note.gnu.property has 8; a build ID in a segment of its own has 4.
    """
    header = struct.Struct(byteorder + "III")
    padding = 7 if alignment == 8 else 3
    at = 0
    for _ in range(_MAX_NOTES):
        if at + header.size > len(data):
            break
        name_bytes, description_bytes, type_ = header.unpack_from(data, at)
        name = at + header.size
        description = name + name_bytes + padding & ~padding
        at = description + description_bytes + padding & ~padding
        if description + description_bytes > len(data):
            break
        yield Note(
            data[name : name + name_bytes].rstrip(b"\0"),
            type_,
            data[description : description + description_bytes],
        )


def read_notes(file: BinaryIO, elf: Elf) -> Iterator[Note]:
    """Return the notes of an ELF file. Each segment is read up to its first incomplete note, and no more than a dump has."""
    return islice(_all_notes(file, elf), _MAX_NOTES)


def _all_notes(file: BinaryIO, elf: Elf) -> Iterator[Note]:
    left = MAX_NOTE_BYTES  # for all segments together: they may overlap
    for segment in elf.segments:
        if segment.type == PT_NOTE:
            data = read_at(file, segment.offset, min(segment.file_bytes, left))
            left -= len(data)
            yield from notes_in(data, elf.byteorder, segment.alignment)


def build_id_among(notes: Iterable[Note]) -> Optional[str]:
    """Return the GNU build ID in hex, ``None`` if no note has it."""
    for note in notes:
        is_one = note.name == b"GNU" and note.type == NT_GNU_BUILD_ID
        if is_one and 0 < len(note.description) <= _MAX_BUILD_ID_BYTES:
            return note.description.hex()
    return None
