# SPDX-License-Identifier: LGPL-2.1-or-later
"""Write relocatable ELF files such as kernel modules, by default of x86-64: sections, symbols, relocations."""

from __future__ import annotations

import struct
from typing import Optional

SHT_PROGBITS, SHT_SYMTAB, SHT_STRTAB, SHT_RELA, SHT_NOBITS = 1, 2, 3, 4, 8
SHF_ALLOC, SHF_EXECINSTR = 2, 4
R_X86_64_64, R_X86_64_PC32, R_X86_64_PLT32, R_X86_64_32S = 1, 2, 4, 11

_SHDR_BYTES = 64


class ElfObjectWriter:
    """A file that is being written: add sections, then :meth:`bytes` returns it. The first section has number 1."""

    def __init__(self, machine: int = 62) -> None:
        self._machine = machine
        self.names = [""]
        self.contents = [bytearray()]
        self._types = [(0, 0)]  # type, flags
        self._sizes: dict[int, int] = {}
        self._symbols: list[tuple[str, int, int, int]] = [("", 0, 0, 0)]
        self._relocations: dict[int, list[tuple[int, int, int, int]]] = {}

    def section(
        self, name: str, data: bytes = b"", type_: int = SHT_PROGBITS, flags: int = SHF_ALLOC
    ) -> int:
        """Add a section; return its number."""
        self.names.append(name)
        self.contents.append(bytearray(data))
        self._types.append((type_, flags))
        return len(self.names) - 1

    def code(self, name: str, size: int) -> int:
        """Add a section of machine code."""
        return self.section(name, b"\x90" * size, flags=SHF_ALLOC | SHF_EXECINSTR)

    def no_bits(self, name: str, size: int) -> int:
        """Add a section that takes no space in the file (.bss)."""
        number = self.section(name, type_=SHT_NOBITS)
        self._sizes[number] = size
        return number

    def append(self, section: int, data: bytes) -> int:
        """Append bytes to a section; return their offset."""
        offset = len(self.contents[section])
        self.contents[section] += data
        return offset

    def text(self, section: int, text: str) -> tuple[int, int]:
        """Append a C string to a section; return its place."""
        return section, self.append(section, text.encode() + b"\0")

    def symbol(self, name: str, section: int = 0, value: int = 0) -> int:
        """Add a symbol; return its number. Section 0: it is not defined here."""
        is_section = not name
        info = 3 if is_section else 0x10
        self._symbols.append((name, info, section, value))
        return len(self._symbols) - 1

    def relocation(
        self,
        at: tuple[int, int],
        to: Optional[tuple[int, int]] = None,
        symbol: Optional[int] = None,
        type_: int = R_X86_64_64,
        addend: int = 0,
    ) -> None:
        """Make a place point to another, or to the symbol with this number."""
        if to is not None:
            symbol = self.symbol("", to[0])
            addend += to[1]
        assert symbol is not None
        self._relocations.setdefault(at[0], []).append((at[1], symbol, type_, addend))

    def bytes(self) -> bytes:
        """Return the file."""
        names, contents, types = list(self.names), list(self.contents), list(self._types)
        links = [(0, 0)] * len(names)
        symtab = len(names) + len(self._relocations)
        for section, relocations in self._relocations.items():
            table = b"".join(
                struct.pack("<QQq", offset, symbol << 32 | type_, addend)
                for offset, symbol, type_, addend in relocations
            )
            names.append(f".rela{self.names[section]}")
            contents.append(bytearray(table))
            types.append((SHT_RELA, 0))
            links.append((symtab, section))
        strings = bytearray(b"\0")
        symbols = bytearray()
        for name, info, section, value in self._symbols:
            at = len(strings) if name else 0
            if name:
                strings += name.encode() + b"\0"
            symbols += struct.pack("<IBBHQQ", at, info, 0, section, value, 0)
        shstrtab = symtab + 2
        for name, data, type_, link in (
            (".symtab", symbols, SHT_SYMTAB, symtab + 1),
            (".strtab", strings, SHT_STRTAB, 0),
            (".shstrtab", bytearray(), SHT_STRTAB, 0),
        ):
            names.append(name)
            contents.append(data)
            types.append((type_, 0))
            links.append((link, 0))
        at_name = []
        for name in names:
            at_name.append(len(contents[shstrtab]))
            contents[shstrtab] += name.encode() + b"\0"
        body, headers = bytearray(), bytearray()
        for number, data in enumerate(contents):
            body += bytes(-len(body) % 16)
            type_, flags = types[number]
            headers += struct.pack(
                "<IIQQQQIIQQ",
                *(at_name[number], type_, flags, 0, 64 + len(body)),
                *(self._sizes.get(number, len(data)), *links[number], 16, 0),
            )
            body += data
        body += bytes(-len(body) % 16)
        header = b"\x7fELF\x02\x01\x01" + bytes(9)
        header += struct.pack(
            "<HHIQQQIHHHHHH",
            *(
                1,
                self._machine,
                1,
                0,
                0,
                64 + len(body),
                0,
                64,
                0,
                0,
                _SHDR_BYTES,
                len(names),
                shstrtab,
            ),
        )
        return bytes(header + body + headers)
