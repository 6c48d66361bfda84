# SPDX-License-Identifier: LGPL-2.1-or-later
"""ELF headers and notes, whole and cut short."""

from __future__ import annotations

import io
import struct

from drgn_tools.program.elf import ET_CORE, PT_LOAD, PT_NOTE, build_id_among, read_elf, read_notes

from ..support.elf_writer import elf_file, note


def test_both_word_sizes_and_byte_orders() -> None:
    for bits in (32, 64):
        for order in "<>":
            data = elf_file(
                ET_CORE,
                62,
                [(PT_NOTE, note("GNU", 3, b"\x12\x34", order)), (PT_LOAD, b"memory")],
                bits,
                order,
            )
            file = io.BytesIO(data)
            elf = read_elf(file)
            assert elf is not None
            assert (elf.type, elf.machine, elf.byteorder) == (ET_CORE, 62, order)
            assert [segment.type for segment in elf.segments] == [PT_NOTE, PT_LOAD]
            assert elf.announced_bytes == elf.file_bytes == len(data)
            assert build_id_among(read_notes(file, elf)) == "1234"


def test_headers_that_are_not_whole() -> None:
    data = elf_file(ET_CORE, 62, [(PT_LOAD, b"memory")])
    for length in range(64 + 56):
        assert read_elf(io.BytesIO(data[:length])) is None
    assert read_elf(io.BytesIO(b"\x7fELF" + bytes(100))) is None


def test_notes_end_where_they_are_cut() -> None:
    notes = note("VMCOREINFO", 0, b"OSRELEASE=6.12\n") + note("CORE", 1, bytes(100))
    data = elf_file(ET_CORE, 62, [(PT_NOTE, notes)])
    for length in range(len(data) - len(notes), len(data)):
        file = io.BytesIO(data[:length])
        elf = read_elf(file)
        assert elf is not None
        assert elf.announced_bytes > elf.file_bytes
        assert len(list(read_notes(file, elf))) <= 1


def test_notes_with_impossible_sizes() -> None:
    bad = struct.pack("<III", 0xFFFFFFFF, 0xFFFFFFFF, 1) + bytes(64)
    file = io.BytesIO(elf_file(ET_CORE, 62, [(PT_NOTE, bad)]))
    elf = read_elf(file)
    assert elf is not None
    assert list(read_notes(file, elf)) == []
