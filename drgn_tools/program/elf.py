# SPDX-License-Identifier: LGPL-2.1-or-later
"""The part of ELF that opening a file needs: what it is, its notes, whether it is whole."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from typing import BinaryIO, NamedTuple, Optional

__all__ = ("Elf", "Note", "build_id_among", "notes_in", "read_elf", "read_notes")

ET_REL, ET_EXEC, ET_DYN, ET_CORE = 1, 2, 3, 4
PT_LOAD, PT_NOTE = 1, 4
NT_GNU_BUILD_ID = 3

_PN_XNUM = 0xFFFF  # more segments than e_phnum can count: the number is in section 0
_MAX_SEGMENTS = 1_000_000
_MAX_NOTE_BYTES = 64 << 20  # a note for each of 8,192 CPUs takes 4 MB


class Segment(NamedTuple):
    """One program header."""

    type: int
    offset: int
    """Where its bytes start in the file."""
    file_bytes: int
    """How many of them there are."""
    address: int
    """p_vaddr"""
    physical_address: int
    """p_paddr"""
    memory_bytes: int
    """p_memsz: what lies behind the first file_bytes is not in the file."""


class Elf(NamedTuple):
    """The headers of an ELF file."""

    type: int
    """ET_*."""
    machine: int
    """EM_*."""
    byteorder: str
    """``<`` (little-endian) or ``>``, as Python's struct has it."""
    segments: tuple[Segment, ...]
    """The program headers."""
    file_bytes: int
    """Size of the file."""

    @property
    def announced_bytes(self) -> int:
        """Size that the file must have to hold all its segments."""
        return max((segment.offset + segment.file_bytes for segment in self.segments), default=0)


class Note(NamedTuple):
    """One ELF note."""

    name: bytes
    type: int
    description: bytes


def read_elf(file: BinaryIO) -> Optional[Elf]:
    """Return the headers of an ELF file, ``None`` if it is another file or ends within them."""
    file_bytes = file.seek(0, 2)
    file.seek(0)
    header = file.read(64)
    if header[:4] != b"\x7fELF" or len(header) < 64 or header[4] not in (1, 2):
        return None
    order = ">" if header[5] == 2 else "<"
    if header[4] == 2:
        fields, phdr = struct.Struct(order + "16xHHIQQQIHHHHHH"), struct.Struct(order + "IIQQQQQQ")
    else:
        fields, phdr = struct.Struct(order + "16xHHIIIIIHHHHHH"), struct.Struct(order + "IIIIIIII")
    type_, machine, _, _, phoff, shoff, _, _, phentsize, phnum, _, _, _ = fields.unpack_from(header)
    if phnum == _PN_XNUM:
        file.seek(shoff)
        section = file.read(64)
        at = 44 if header[4] == 2 else 28  # sh_info
        if len(section) < at + 4:
            return None
        (phnum,) = struct.unpack_from(order + "I", section, at)
    if phnum > _MAX_SEGMENTS or phentsize not in (0, phdr.size) or phoff > file_bytes:
        return None
    file.seek(phoff)
    table = file.read(phnum * phdr.size)
    if len(table) < phnum * phdr.size:
        return None
    # p_type, p_offset, p_filesz, p_vaddr, p_paddr, p_memsz of Elf64_Phdr or Elf32_Phdr
    fields_at = (0, 2, 5, 3, 4, 6) if header[4] == 2 else (0, 1, 4, 2, 3, 5)
    segments = tuple(Segment(*(p[at] for at in fields_at)) for p in phdr.iter_unpack(table))
    return Elf(type_, machine, order, segments, file_bytes)


def notes_in(data: bytes, byteorder: str = "<") -> Iterator[Note]:
    """Return the notes of a PT_NOTE segment, up to the first that is not whole.

    :param data: the contents of the segment
    :param byteorder: ``<`` (little-endian) or ``>``
    """
    header = struct.Struct(byteorder + "III")
    at = 0
    while at + header.size <= len(data):
        name_bytes, description_bytes, type_ = header.unpack_from(data, at)
        name = at + header.size
        description = name + (name_bytes + 3 & ~3)
        at = description + (description_bytes + 3 & ~3)
        if description + description_bytes > len(data):
            break
        yield Note(
            data[name : name + name_bytes].rstrip(b"\0"),
            type_,
            data[description : description + description_bytes],
        )


def read_notes(file: BinaryIO, elf: Elf) -> Iterator[Note]:
    """Return the notes of an ELF file, of each segment up to the first that is not whole."""
    for segment in elf.segments:
        if segment.type == PT_NOTE and segment.offset <= elf.file_bytes:
            file.seek(segment.offset)
            data = file.read(min(segment.file_bytes, _MAX_NOTE_BYTES))
            yield from notes_in(data, elf.byteorder)


def build_id_among(notes: Iterable[Note]) -> Optional[str]:
    """Return the GNU build ID in hex, ``None`` if no note has it."""
    for note in notes:
        if note.name == b"GNU" and note.type == NT_GNU_BUILD_ID:
            return note.description.hex()
    return None
