# SPDX-License-Identifier: LGPL-2.1-or-later
"""ELF headers and notes, whole and cut short."""

from __future__ import annotations

import io
import random
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from drgn_tools.program import elf as elf_module
from drgn_tools.program.elf import (
    ET_CORE,
    ET_EXEC,
    PT_LOAD,
    PT_NOTE,
    build_id_among,
    elf_type,
    has_section,
    notes_in,
    notes_of_sections,
    read_elf,
    read_notes,
    section_contents,
)

from ..support.elf_writer import elf_file, note, with_sections


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


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("bits", [32, 64])
def test_the_type_is_told_by_the_start(bits: int, order: str) -> None:
    core = elf_file(ET_CORE, 62, [], bits, order)
    assert elf_type(core) == elf_type(core[:18]) == ET_CORE
    assert elf_type(core[:17]) is None
    assert elf_type(b"MZ" + core[2:]) is None


def test_headers_that_are_not_whole() -> None:
    data = elf_file(ET_CORE, 62, [(PT_LOAD, b"memory")])
    for length in range(64 + 56):
        assert read_elf(io.BytesIO(data[:length])) is None
    assert read_elf(io.BytesIO(b"\x7fELF" + bytes(100))) is None


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("bits", "header_bytes"), [(32, 52), (64, 64)])
def test_a_header_without_segments_is_whole(bits: int, header_bytes: int, order: str) -> None:
    data = bytearray(elf_file(ET_CORE, 22, [], bits, order))
    assert len(data) == header_bytes
    struct.pack_into(order + "H", data, 42 if bits == 32 else 54, 77)  # e_phentsize
    for length in range(header_bytes):
        assert read_elf(io.BytesIO(data[:length])) is None
    elf = read_elf(io.BytesIO(data))
    assert elf is not None
    assert (elf.type, elf.machine, elf.segments) == (ET_CORE, 22, ())
    assert not has_section(io.BytesIO(data), b".xen_pages")


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("bits", [32, 64])
def test_sections_by_name(bits: int, order: str) -> None:
    data = with_sections(elf_file(ET_CORE, 62, [], bits, order), [".note.Xen", ".xen_pages"])
    for name, has in ((b".xen_pages", True), (b".xen_page", False), (b"", True), (b"pages", False)):
        assert has_section(io.BytesIO(data), name) is has
    for length in range(len(data)):
        assert not has_section(io.BytesIO(data[:length]), b".xen_pages")
    rng = random.Random(1)
    for _ in range(2000):  # whatever they say: no error
        damaged = bytearray(data)
        for _ in range(3):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        has_section(io.BytesIO(damaged), b".xen_pages")


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("bits", [32, 64])
def test_contents_of_a_section(bits: int, order: str) -> None:
    data = with_sections(elf_file(ET_CORE, 62, [], bits, order), [".empty"])
    strings = b"\0.empty\0.shstrtab\0"
    for size in (0, 3, len(strings), 1 << 70):
        assert section_contents(io.BytesIO(data), b".shstrtab", size) == strings[:size]
    assert section_contents(io.BytesIO(data), b".empty", 9) == b""
    assert section_contents(io.BytesIO(data), b".none", 9) is None
    rng = random.Random(2)
    for _ in range(2000):  # whatever they say: no error
        damaged = bytearray(data)
        for _ in range(rng.randrange(1, 9)):
            damaged[rng.randrange(5, len(damaged))] = rng.randrange(256)
        section_contents(io.BytesIO(damaged), b".shstrtab", 99)
        list(notes_of_sections(io.BytesIO(damaged)))


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


BUILD_ID = bytes(range(1, 21))


def of_notes(alignment: int, padding: int, bits: int = 64, order: str = "<") -> bytes:
    """An executable with two notes in a segment of this p_align, padded to *padding*.

    The first, a .note.gnu.property without any, ends where only padding to 8 or to 4 leads to the
    second: the build ID.
    """
    notes = [("GNU", 5, bytes(12)), ("GNU", 3, BUILD_ID)]
    segment = b"".join(note(*parts, order, padding) for parts in notes)
    return elf_file(ET_EXEC, 62, [(PT_NOTE, segment)], bits, order, alignment)


def build_id(data: bytes) -> str | None:
    file = io.BytesIO(data)
    elf = read_elf(file)
    assert elf is not None
    return build_id_among(read_notes(file, elf))


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("alignment", [0, 1, 2, 4, 8])
def test_notes_are_padded_as_their_segment_is_aligned(
    alignment: int, order: str, bits: int
) -> None:
    padding = 8 if alignment == 8 else 4
    assert build_id(of_notes(alignment, padding, bits, order)) == BUILD_ID.hex()
    assert build_id(of_notes(alignment, 12 - padding, bits, order)) is None


@pytest.mark.skipif(shutil.which("readelf") is None, reason="needs readelf (of binutils)")
@pytest.mark.parametrize("padding", [4, 8])
@pytest.mark.parametrize("alignment", [0, 1, 4, 8])
def test_binutils_find_the_same_build_id(alignment: int, padding: int, tmp_path: Path) -> None:
    path = tmp_path / "vmlinux"
    path.write_bytes(of_notes(alignment, padding))
    said = subprocess.run(["readelf", "-nW", path], capture_output=True, text=True, check=False)
    theirs = BUILD_ID.hex() in said.stdout
    assert (build_id(path.read_bytes()) == BUILD_ID.hex()) is theirs
    assert theirs is ((alignment == 8) == (padding == 8))


def test_a_name_whose_padding_differs() -> None:
    # 12 bytes of header and 9 of name: 24 either way; 5 of name: 20, or 24.
    for name in ("GNU", "VMCORE", "EIGHTCHR", "VMCOREINFO", "LONGER-THAN-ALL"):
        data = note(name, 7, b"one", alignment=8) + note("GNU", 3, BUILD_ID, alignment=8)
        found = list(notes_in(data, alignment=8))
        assert [(n.name.decode(), n.type, n.description) for n in found] == [
            (name, 7, b"one"),
            ("GNU", 3, BUILD_ID),
        ]


def test_what_is_too_long_is_no_build_id() -> None:
    # It would stand in an error of one line.
    for length, is_one in ((0, False), (1, True), (64, True), (65, False), (1 << 20, False)):
        data = elf_file(ET_CORE, 62, [(PT_NOTE, note("GNU", 3, b"\xab" * length))])
        assert (build_id(data) is not None) is is_one, length


def test_no_more_is_read_of_notes_than_any_dump_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(elf_module, "_MAX_NOTES", 10)
    monkeypatch.setattr(elf_module, "MAX_NOTE_BYTES", 200)
    many = elf_file(ET_CORE, 62, [(PT_NOTE, note("A", 1, b"") * 5)] * 10)
    large = elf_file(ET_CORE, 62, [(PT_NOTE, note("A", 1, bytes(80)))] * 10)  # 96 bytes each
    for data, expected in ((many, 10), (large, 2)):
        file = io.BytesIO(data)
        elf = read_elf(file)
        assert elf is not None
        assert len(list(read_notes(file, elf))) == expected


# ---- places that a header names


WILD = (1 << 32, (1 << 63) - 4096, (1 << 63) - 1, 1 << 63, (1 << 64) - 1)


@pytest.mark.parametrize("place", WILD)
@pytest.mark.parametrize("order", ["<", ">"])
def test_the_number_of_segments_is_said_to_be_where_nothing_is(place: int, order: str) -> None:
    data = bytearray(elf_file(ET_CORE, 62, [(PT_LOAD, b"memory")], order=order))
    struct.pack_into(order + "H", data, 56, 0xFFFF)  # e_phnum: PN_XNUM
    struct.pack_into(order + "Q", data, 40, place)  # e_shoff
    assert read_elf(io.BytesIO(data)) is None


@pytest.mark.parametrize("place", WILD)
def test_headers_and_notes_that_are_said_to_be_where_nothing_is(place: int) -> None:
    data = bytearray(elf_file(ET_CORE, 62, [(PT_NOTE, note("GNU", 3, BUILD_ID))]))
    whole = bytes(data)
    struct.pack_into("<Q", data, 64 + 8, place)  # p_offset
    assert build_id(data) is None
    struct.pack_into("<Q", data, 32, place)  # e_phoff
    assert read_elf(io.BytesIO(data)) is None
    data[:] = whole
    struct.pack_into("<Q", data, 64 + 32, place)  # p_filesz: as far as the file goes
    assert build_id(data) == BUILD_ID.hex()
