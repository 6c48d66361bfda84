# SPDX-License-Identifier: LGPL-2.1-or-later
"""Relocatable ELF files, written in bytes: sections, relocations, and what does not fit."""

from __future__ import annotations

import io
import struct

import pytest

from drgn_tools.errors import InputError
from drgn_tools.program import elf_object
from drgn_tools.program.elf_object import ElfObject, Place, read_elf_object

from ..support.elf_object_writer import (
    R_X86_64_32S,
    R_X86_64_PC32,
    R_X86_64_PLT32,
    SHF_EXECINSTR,
    SHT_RELA,
    ElfObjectWriter,
)


def read(elf: ElfObjectWriter) -> ElfObject:
    return ElfObject(elf.bytes(), "a.ko", "x86_64")


def refuses(data: bytes, says: str) -> None:
    with pytest.raises(InputError) as caught:
        ElfObject(data, "a.ko", "x86_64")
    assert str(caught.value) == f"a.ko: {says}"


def sample() -> ElfObjectWriter:
    elf = ElfObjectWriter()
    elf.section(".data", b"\x01\x02\x03\x04\x05\x06\x07\x08name\0rest")
    elf.code(".text", 16)
    elf.no_bits(".bss", 1 << 40)
    return elf


# ---- whole


def test_sections_have_names_contents_and_flags() -> None:
    elf = read(sample())
    assert elf.section(".data") == 1
    assert elf.section(".text") == 2
    assert elf.section(".rodata") is None
    assert bytes(elf.contents(1)).startswith(b"\x01\x02")
    assert [section.is_code for section in elf.sections[:4]] == [False, False, True, False]
    assert elf.sections[2].flags & SHF_EXECINSTR
    # It has a size, but no bytes in the file.
    assert (elf.sections[3].size, bytes(elf.contents(3))) == (1 << 40, b"")


def test_the_first_section_of_a_name_counts() -> None:
    elf = sample()
    elf.section(".data", b"second")
    assert read(elf).section(".data") == 1


def test_numbers_and_names() -> None:
    elf = read(sample())
    assert elf.number(Place(1, 0), 4) == 0x0403_0201
    assert elf.number(Place(1, 0), 8) == 0x0807_0605_0403_0201
    assert elf.text(Place(1, 8)) == "name"
    assert elf.text(Place(1, 8) + 2) == "me"


def test_names_that_are_not_ascii() -> None:
    elf = ElfObjectWriter()
    elf.section(".data", "\u00e9\u202e".encode() + b"\0")
    assert read(elf).text(Place(1, 0)) == "\\xc3\\xa9\\xe2\\x80\\xae"


def test_pointers_are_relocations() -> None:
    elf = sample()
    elf.relocation((1, 0), (1, 8))
    elf.relocation((1, 16), symbol=elf.symbol("local", 2, 4), addend=2)
    elf.relocation((1, 24), symbol=elf.symbol("elsewhere"))
    found = read(elf)
    assert found.pointer(Place(1, 0)) == Place(1, 8)
    assert found.pointer(Place(1, 8)) is None
    assert found.pointer(Place(1, 16)) == Place(2, 6)
    assert found.pointer(Place(2, 0)) is None
    with pytest.raises(InputError, match="a pointer to 'elsewhere', which it does not define"):
        found.pointer(Place(1, 24))


@pytest.mark.parametrize(
    ("type_", "addend", "expected"),
    [(R_X86_64_32S, 8, 8), (R_X86_64_PC32, 4, 8), (R_X86_64_PLT32, -4, 0)],
)
def test_a_relative_address_counts_from_the_next_instruction(
    type_: int, addend: int, expected: int
) -> None:
    elf = sample()
    elf.relocation((2, 4), symbol=elf.symbol("", 1), type_=type_, addend=addend)
    (relocation,) = read(elf).relocations(2)
    assert relocation.target == Place(1, expected)


def test_relocations_are_by_offset_whatever_the_order_of_the_table() -> None:
    elf = sample()
    for offset in (8, 0, 12):
        elf.relocation((2, offset), (1, offset))
    found = read(elf).relocations(2)
    assert [relocation.offset for relocation in found] == [0, 8, 12]
    assert [relocation.target for relocation in found] == [Place(1, 0), Place(1, 8), Place(1, 12)]


def test_symbols_are_found_by_their_whole_name() -> None:
    elf = sample()
    numbers = [elf.symbol(name) for name in ("klp_enable_patch", "klp_enable", "klp_enable_patch2")]
    found = read(elf)
    assert found.symbols_named("klp_enable_patch") == {numbers[0]}
    assert found.symbols_named("klp_enable") == {numbers[1]}
    assert found.symbols_named("enable_patch") == frozenset()


@pytest.mark.parametrize("section", [0xFF20, 0xFFF1, 0xFFF2, 99])
def test_a_symbol_of_no_section_of_this_file_is_defined_elsewhere(section: int) -> None:
    # SHN_LIVEPATCH, SHN_ABS, SHN_COMMON, and a number that is too high
    elf = sample()
    elf.relocation((1, 0), symbol=elf.symbol("x", section, 8))
    (relocation,) = read(elf).relocations(1)
    assert relocation.target is None


def test_more_sections_than_the_header_can_count() -> None:
    elf = sample()
    data = bytearray(elf.bytes())
    shoff = struct.unpack_from("<Q", data, 40)[0]
    count, names = struct.unpack_from("<HH", data, 60)
    struct.pack_into("<HH", data, 60, 0, 0xFFFF)
    struct.pack_into("<Q", data, shoff + 32, count)  # sh_size of section 0
    struct.pack_into("<I", data, shoff + 40, names)  # sh_link
    assert ElfObject(bytes(data), "a.ko", "x86_64").section(".text") == 2


# ---- what does not fit


def changed(format_: str, at: int, *values: int) -> bytes:
    data = bytearray(sample().bytes())
    struct.pack_into(format_, data, at, *values)
    return bytes(data)


def test_arm64_counts_from_the_instruction_itself() -> None:
    # adrp x0, fix; add x0, x0, :lo12:fix; and two types that x86-64 counts from the next instruction.
    elf = ElfObjectWriter(machine=183)
    data, text = elf.section(".data", bytes(32)), elf.code(".text", 16)
    for offset, type_ in enumerate((275, 277, R_X86_64_PC32, R_X86_64_PLT32)):
        elf.relocation((text, 4 * offset), (data, 8), type_=type_)
    found = ElfObject(elf.bytes(), "a.ko", "aarch64").relocations(text)
    assert [relocation.target for relocation in found] == [Place(data, 8)] * 4
    with pytest.raises(InputError, match="is not a kernel module for x86-64"):
        ElfObject(elf.bytes(), "a.ko", "x86_64")
    with pytest.raises(InputError, match="is not a kernel module for arm64"):
        ElfObject(sample().bytes(), "a.ko", "aarch64")


SHOFF = struct.unpack_from("<Q", sample().bytes(), 40)[0]


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "is empty"),
        (b"\x7f", "is not a 64-bit ELF file: give the .ko file of a live patch"),
        (sample().bytes()[:63], "is not a 64-bit ELF file: give the .ko file of a live patch"),
        (changed("<B", 4, 1), "is not a 64-bit ELF file: give the .ko file of a live patch"),
        (changed("<B", 5, 2), "is not a 64-bit ELF file: give the .ko file of a live patch"),
        (
            changed("<H", 16, 4),
            "is not a kernel module for x86-64: give the .ko file of a live patch",
        ),
        (
            changed("<H", 18, 183),
            "is not a kernel module for x86-64: give the .ko file of a live patch",
        ),
        (changed("<H", 58, 40), "is damaged: section headers of 40 bytes"),
        (changed("<H", 62, 200), "is damaged: 7 sections"),
        (
            changed("<Q", 40, 1 << 63),
            "is damaged: it ends before the section headers and seems cut off",
        ),
        (
            sample().bytes()[:-1],
            "is damaged: it ends before the section headers and seems cut off",
        ),
        (
            changed("<Q", SHOFF + 64 * 6 + 24, 1 << 62),
            "is damaged: it ends before the names of sections and seems cut off",
        ),
        (changed("<I", SHOFF + 64 * 4 + 4, 1), "is damaged: no table of symbols"),
        (changed("<I", SHOFF + 64 * 4 + 40, 1000), "is damaged: no table of symbols"),
    ],
)
def test_a_header_that_does_not_fit(data: bytes, says: str) -> None:
    refuses(data, says)


@pytest.mark.parametrize("offset", [-1, 15, 1 << 63, -(1 << 62)])
def test_a_place_outside_its_section(offset: int) -> None:
    elf = read(sample())
    with pytest.raises(InputError, match="a record that is not in its section"):
        elf.number(Place(1, offset), 8)
    with pytest.raises(
        InputError, match=r"a name (that is not in its section|without a terminating zero)"
    ):
        elf.text(Place(1, offset))


def test_a_section_that_is_not_in_the_file() -> None:
    data = changed("<Q", SHOFF + 64 + 32, 1 << 40)  # sh_size of .data
    with pytest.raises(InputError, match=r"it ends before section '.data' and seems cut off"):
        ElfObject(data, "a.ko", "x86_64").contents(1)


def test_a_relocation_of_a_symbol_that_is_not_there() -> None:
    elf = sample()
    elf.relocation((1, 0), symbol=1000)
    with pytest.raises(InputError, match="a relocation with symbol 1000"):
        read(elf).relocations(1)


def test_tables_that_overlap_are_not_read_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    elf = sample()
    for i in range(5):
        elf.relocation((1, i), (1, 8))
    data = bytearray(elf.bytes())
    table = SHT_RELA
    headers = struct.unpack_from("<Q", data, 40)[0]
    # The section of code is a second table of the same relocations.
    rela = read(elf).section(".rela.data")
    assert rela is not None
    data[headers + 2 * 64 + 4 : headers + 3 * 64] = data[
        headers + rela * 64 + 4 : headers + (rela + 1) * 64
    ]
    assert struct.unpack_from("<I", data, headers + 2 * 64 + 4)[0] == table
    assert len(ElfObject(bytes(data), "a.ko", "x86_64").relocations(1)) == 10
    monkeypatch.setattr(elf_object, "_MAX_RELOCATIONS", 9)
    with pytest.raises(InputError, match="more than 9 relocations"):
        ElfObject(bytes(data), "a.ko", "x86_64").relocations(1)


def test_a_file_that_is_larger_than_any_module(monkeypatch: pytest.MonkeyPatch) -> None:
    data = sample().bytes()
    assert read_elf_object(io.BytesIO(data), "a.ko", "x86_64").section(".text") == 2
    monkeypatch.setattr(elf_object, "_MAX_FILE_BYTES", len(data) - 1)
    with pytest.raises(InputError, match=r"a.ko: is larger than any kernel module"):
        read_elf_object(io.BytesIO(data), "a.ko", "x86_64")
