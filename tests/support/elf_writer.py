# SPDX-License-Identifier: LGPL-2.1-or-later
"""Write small ELF files: headers, segments, notes."""

from __future__ import annotations

import struct
from collections.abc import Sequence


def note(name: str, type_: int, description: bytes, order: str = "<", alignment: int = 4) -> bytes:
    """Return one ELF note, with name and description padded to the alignment of its segment."""

    def padded(data: bytes) -> bytes:
        return data + bytes(-len(data) % alignment)

    name_bytes = name.encode() + b"\0"
    header = struct.pack(order + "III", len(name_bytes), len(description), type_)
    return padded(header + name_bytes) + padded(description)


def elf_file(
    type_: int,
    machine: int,
    segments: Sequence[tuple[int, bytes]],
    bits: int = 64,
    order: str = "<",
    alignment: int = 0,
    physical_addresses: Sequence[int] = (),
) -> bytes:
    """An ELF file with segments (type, contents) at virtual address 0.

    :param alignment: p_align of all of them.
    :param physical_addresses: p_paddr of each of them; by default 0.
    """
    ident = b"\x7fELF" + bytes([bits // 32, 1 if order == "<" else 2, 1]) + bytes(9)
    header_bytes, phdr_bytes = (64, 56) if bits == 64 else (52, 32)
    fields = "HHIQQQIHHHHHH" if bits == 64 else "HHIIIIIHHHHHH"
    header = ident + struct.pack(
        order + fields,
        type_,
        machine,
        1,
        0,
        header_bytes,
        0,
        0,
        header_bytes,
        phdr_bytes,
        len(segments),
        0,
        0,
        0,
    )
    at = header_bytes + phdr_bytes * len(segments)
    phdrs, contents = b"", b""
    for i, (segment_type, data) in enumerate(segments):
        offset = at + len(contents)
        physical = physical_addresses[i] if physical_addresses else 0
        if bits == 64:
            phdrs += struct.pack(
                order + "IIQQQQQQ",
                *(segment_type, 4, offset, 0, physical, len(data), len(data), alignment),
            )
        else:
            phdrs += struct.pack(
                order + "IIIIIIII",
                *(segment_type, offset, 0, physical, len(data), len(data), 4, alignment),
            )
        contents += data
    return header + phdrs + contents


def with_sections(elf: bytes, names: Sequence[str]) -> bytes:
    """Return the same file with empty sections of these names, and the section that contains the names."""
    wide, order = elf[4] == 2, "<" if elf[5] == 1 else ">"
    strings = b"\0" + b"".join(name.encode() + b"\0" for name in (*names, ".shstrtab"))
    offsets = [0, *(strings.index(b"\0" + name.encode() + b"\0") + 1 for name in names)]
    offsets.append(strings.index(b"\0.shstrtab\0") + 1)
    headers = b""
    for offset in offsets:
        at, size = (len(elf), len(strings)) if offset == offsets[-1] else (0, 0)
        words = (offset, 3, 0, 0, at, size, 0, 0, 0, 0)
        headers += struct.pack(order + ("IIQQQQIIQQ" if wide else "10I"), *words)
    data = bytearray(elf + strings + headers)
    table, count = len(elf) + len(strings), len(offsets)
    struct.pack_into(order + ("Q" if wide else "I"), data, 40 if wide else 32, table)
    struct.pack_into(order + "2H", data, 60 if wide else 48, count, count - 1)
    return bytes(data)
