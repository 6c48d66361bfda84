# SPDX-License-Identifier: LGPL-2.1-or-later
"""A relocatable ELF file, such as a kernel module: sections, symbols, relocations, data with pointers.

In such a file a pointer is a relocation: the section and the offset that it will point to. The file
may be damaged or hostile: every offset and count in it is checked, and a wrong one raises an
:class:`.InputError`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import BinaryIO, Optional, Union

import msgspec

from ..arch.machines import arch_of_elf
from ..errors import InputError
from .elf import ET_REL
from .read_at import read_at

__all__ = ("ElfObject", "Place", "Relocation", "read_elf_object")

_GIVE_KO = "give the .ko file of a live patch"
_MAX_FILE_BYTES = 512 << 20
_MAX_SECTIONS = 1 << 17
_MAX_RELOCATIONS = 2_000_000
"""In all sections that are read: sections may overlap, so that a small file has many relocations."""
_MAX_TEXT_BYTES = 1024
_MAX_SECTION_NAME_BYTES = 512
_SHT_SYMTAB, _SHT_RELA, _SHT_NOBITS = 2, 4, 8
_SHF_EXECINSTR = 4
_SHN_LORESERVE, _SHN_XINDEX = 0xFF00, 0xFFFF
_ARCH_NAMES = {"x86_64": "x86-64", "aarch64": "arm64"}
"""Names of machines in errors."""
_R_X86_64_PC32, _R_X86_64_PLT32 = 2, 4
_PC_RELATIVE = frozenset((_R_X86_64_PC32, _R_X86_64_PLT32))

_EHDR = struct.Struct("<16xHHIQQQIHHHHHH")
_SHDR = struct.Struct("<IIQQQQIIQQ")
_SYM = struct.Struct("<IBBHQQ")
_RELA = struct.Struct("<QQq")


class Section(msgspec.Struct, frozen=True):
    """A section header."""

    name: str
    type: int
    flags: int
    offset: int
    size: int
    link: int
    info: int

    @property
    def is_code(self) -> bool:
        """Whether the section contains machine code."""
        return bool(self.flags & _SHF_EXECINSTR)


class Place(msgspec.Struct, frozen=True):
    """A place in a section of the file."""

    section: int
    """Number of the section."""
    offset: int
    """In bytes from its start."""

    def __add__(self, offset: int) -> Place:
        return Place(self.section, self.offset + offset)


class Relocation(msgspec.Struct, frozen=True):
    """A relocation, and what it points to."""

    offset: int
    """In the section that it changes."""
    symbol: int
    """Number of its symbol."""
    target: Optional[Place]
    """``None`` if the symbol is not defined in this file."""


class ElfObject:
    """A relocatable file, in memory.

    :param data: The file
    :param path: Its name, for errors
    :param arch: Name of the :class:`~..arch.base.Arch` it has to be of
    :raises InputError: if it is not such a file, or is damaged
    """

    def __init__(self, data: bytes, path: str, arch: str) -> None:
        self._data = memoryview(data)
        self._path = path
        self._arch = arch
        self.sections = self._read_sections()
        self._symbols, self._strings = self._read_symbols()
        self._tables: dict[int, list[Section]] = {}
        for section in self.sections:
            if section.type == _SHT_RELA:
                self._tables.setdefault(section.info, []).append(section)
        self._relocations_left = _MAX_RELOCATIONS

    def section(self, name: str) -> Optional[int]:
        """Return the number of the first section of a name."""
        return next((i for i, s in enumerate(self.sections) if s.name == name), None)

    def contents(self, section: int) -> memoryview:
        """Return the bytes of a section; none if it takes no space in the file (.bss)."""
        found = self.sections[section]
        if found.type == _SHT_NOBITS:
            return self._data[:0]
        return self._bytes(found.offset, found.size, f"section {found.name!r}")

    def symbols_named(self, name: str) -> frozenset[int]:
        """Return the numbers of all symbols of a name."""
        wanted = name.encode() + b"\0"
        return frozenset(
            number
            for number, (at, _, _, _, _, _) in enumerate(_SYM.iter_unpack(self._symbols))
            if self._strings[at : at + len(wanted)] == wanted
        )

    @lru_cache(maxsize=64)  # noqa: B019  # a few sections of one file
    def relocations(self, section: int) -> tuple[Relocation, ...]:
        """Return the relocations of a section, by offset."""
        found: list[Relocation] = []
        for other in self._tables.get(section, ()):
            found += self._relocations(other)
        return tuple(sorted(found, key=lambda relocation: relocation.offset))

    @lru_cache(maxsize=64)  # noqa: B019
    def _pointers(self, section: int) -> Mapping[int, Relocation]:
        return {relocation.offset: relocation for relocation in self.relocations(section)}

    def pointer(self, place: Place) -> Optional[Place]:
        """Return where the pointer at a place will point to; ``None`` for NULL.

        :raises InputError: if it points to a symbol that this file does not define
        """
        relocation = self._pointers(place.section).get(place.offset)
        if relocation is None:
            return None
        if relocation.target is None:
            name = _name_in(self._strings, self._symbol(relocation.symbol)[0], _MAX_TEXT_BYTES)
            raise self._damaged(f"a pointer to {name!r}, which it does not define")
        return relocation.target

    def number(self, place: Place, size: int) -> int:
        """Return an unsigned number.

        :param size: In bytes
        """
        data = self._at(place, size, "a record")
        if len(data) < size:
            raise self._damaged("a record that is not in its section")
        return int.from_bytes(data, "little")

    def text(self, place: Place) -> str:
        """Return the C string at a place, with bytes that are not ASCII as ``\\xNN``."""
        text, end, _ = self._at(place, _MAX_TEXT_BYTES, "a name").partition(b"\0")
        if not end:
            raise self._damaged("a name without a terminating zero")
        return text.decode("ascii", "backslashreplace")

    def _at(self, place: Place, size: int, what: str) -> bytes:
        """Return the bytes at a place, as far as they are in its section."""
        contents = self.contents(place.section)
        if not 0 <= place.offset <= len(contents):
            raise self._damaged(f"{what} that is not in its section")
        return bytes(contents[place.offset : place.offset + size])

    # ---- tables

    def _read_sections(self) -> tuple[Section, ...]:
        if not self._data:
            raise InputError(f"{self._path}: is empty")
        if len(self._data) < 64 or bytes(self._data[:6]) != b"\x7fELF\x02\x01":
            raise InputError(f"{self._path}: is not a 64-bit ELF file: {_GIVE_KO}")
        type_, machine, _, _, _, shoff, _, _, _, _, shentsize, shnum, shstrndx = _EHDR.unpack_from(
            self._data
        )
        if type_ != ET_REL or arch_of_elf(machine) != self._arch:
            name = _ARCH_NAMES.get(self._arch, self._arch)
            raise InputError(f"{self._path}: is not a kernel module for {name}: {_GIVE_KO}")
        if shentsize != _SHDR.size:
            raise self._damaged(f"section headers of {shentsize} bytes")
        if shnum == 0 or shstrndx == _SHN_XINDEX:  # more sections than the header can count
            first = _SHDR.unpack(self._bytes(shoff, _SHDR.size, "the section headers"))
            shnum, shstrndx = shnum or first[5], first[6] if shstrndx == _SHN_XINDEX else shstrndx
        if not shstrndx < shnum <= _MAX_SECTIONS:
            raise self._damaged(f"{shnum} sections")
        table = self._bytes(shoff, shnum * _SHDR.size, "the section headers")
        headers = list(_SHDR.iter_unpack(table))
        names = self._bytes(headers[shstrndx][4], headers[shstrndx][5], "the names of sections")
        return tuple(
            Section(
                _name_in(names, name, _MAX_SECTION_NAME_BYTES),
                *(type_, flags, offset, size, link, info),
            )
            for name, type_, flags, _, offset, size, link, info, _, _ in headers
        )

    def _read_symbols(self) -> tuple[memoryview, bytes]:
        """Return the table of symbols, and their names."""
        table = next((s for s in self.sections if s.type == _SHT_SYMTAB), None)
        if table is None or not table.link < len(self.sections):
            raise self._damaged("no table of symbols")
        symbols = self._bytes(table.offset, table.size, "the symbols")
        return symbols[: len(symbols) // _SYM.size * _SYM.size], bytes(self.contents(table.link))

    def _symbol(self, number: int) -> tuple[int, Optional[Place]]:
        """Return where the name of a symbol is, and where it is defined in this file."""
        if number >= len(self._symbols) // _SYM.size:
            raise self._damaged(f"a relocation with symbol {number}")
        name, _, _, section, value, _ = _SYM.unpack_from(self._symbols, number * _SYM.size)
        is_here = 0 < section < min(_SHN_LORESERVE, len(self.sections))
        return name, Place(section, value) if is_here else None

    def _relocations(self, section: Section) -> Iterator[Relocation]:
        table = self._bytes(section.offset, section.size, f"section {section.name!r}")
        count = len(table) // _RELA.size
        self._relocations_left -= count
        if self._relocations_left < 0:
            raise self._damaged(f"more than {_MAX_RELOCATIONS} relocations")
        is_x86 = self._arch == "x86_64"
        for offset, info, addend in _RELA.iter_unpack(table[: count * _RELA.size]):
            number, type_ = info >> 32, info & 0xFFFF_FFFF
            _, place = self._symbol(number)
            # x86-64 adds a relative address to the address of the next instruction, other machines to that of this one.
            distance = addend + 4 if is_x86 and type_ in _PC_RELATIVE else addend
            yield Relocation(offset, number, None if place is None else place + distance)

    def _bytes(self, offset: int, size: int, what: str) -> memoryview:
        if offset + size > len(self._data):
            raise self._damaged(f"it ends before {what} and seems cut off")
        return self._data[offset : offset + size]

    def _damaged(self, what: str) -> InputError:
        return InputError(f"{self._path}: is damaged: {what}")


def _name_in(strings: Union[bytes, memoryview], offset: int, size: int) -> str:
    name = bytes(strings[offset : offset + size]).partition(b"\0")[0]
    return name.decode("ascii", "backslashreplace")


def read_elf_object(file: BinaryIO, path: str, arch: str) -> ElfObject:
    """Read a relocatable file.

    :param arch: Name of the :class:`~..arch.base.Arch` it has to be of
    :raises InputError: if it is not such a file, or is damaged
    """
    data = read_at(file, 0, _MAX_FILE_BYTES + 1)
    if len(data) > _MAX_FILE_BYTES:
        raise InputError(f"{path}: is larger than any kernel module")
    return ElfObject(data, path, arch)
