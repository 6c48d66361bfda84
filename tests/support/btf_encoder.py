# SPDX-License-Identifier: LGPL-2.1-or-later
"""Write BTF, one type at a time, as Documentation/bpf/btf.rst describes it."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Optional

from drgn_tools.debuginfo.btf import Kind

Member = tuple[Optional[str], int, int]
"""Name, type, bit offset (with kind_flag, the bit-field size in the upper byte)."""


class BtfEncoder:
    """Every method adds one type and returns its ID.

    :param base: Complete BTF that this one extends: that of the kernel image.
    """

    def __init__(self, base: Optional[BtfEncoder] = None) -> None:
        self.types = bytearray()
        self.base = base
        self.strings = bytearray(b"" if base else b"\0")
        self.first_string = len(base.strings) if base else 0
        self.count = base.count if base else 0

    def string(self, text: Optional[str]) -> int:
        if not text:
            return 0
        string = text.encode() + b"\0"
        if self.base is not None:
            place = self.base.strings.find(b"\0" + string)
            if place >= 0:
                return place + 1
        if self.strings.startswith(string):
            return self.first_string
        at = self.strings.find(b"\0" + string) + 1
        if not at:
            at = len(self.strings)
            self.strings += string
        return self.first_string + at

    def add(
        self,
        kind: int,
        name: Optional[str] = None,
        size_or_type: int = 0,
        extra: Sequence[int] = (),
        vlen: int = 0,
        flag: bool = False,
    ) -> int:
        info = kind << 24 | vlen | flag << 31
        words = (self.string(name), info, size_or_type, *extra)
        self.types += struct.pack(f"<{len(words)}I", *(word & 0xFFFFFFFF for word in words))
        self.count += 1
        return self.count

    def int(self, name: str, size: int, encoding: int = 0, offset: int = 0, bits: int = 0) -> int:
        return self.add(Kind.INT, name, size, [encoding << 24 | offset << 16 | (bits or 8 * size)])

    def ref(self, kind: Kind, to: int, name: Optional[str] = None) -> int:
        return self.add(kind, name, to)

    def array(self, element: int, length: int) -> int:
        return self.add(Kind.ARRAY, None, 0, [element, 0, length])

    def compound(
        self,
        name: Optional[str],
        size: int,
        members: Sequence[Member],
        kind: Kind = Kind.STRUCT,
        flag: bool = False,
    ) -> int:
        extra = [word for n, t, offset in members for word in (self.string(n), t, offset)]
        return self.add(kind, name, size, extra, len(members), flag)

    def enum(
        self, name: Optional[str], values: dict[str, int], size: int = 4, flag: bool = False
    ) -> int:
        extra = [word for n, value in values.items() for word in (self.string(n), value)]
        return self.add(Kind.ENUM, name, size, extra, len(values), flag)

    def enum64(self, name: Optional[str], values: dict[str, int], flag: bool = False) -> int:
        extra = [
            word for n, value in values.items() for word in (self.string(n), value, value >> 32)
        ]
        return self.add(Kind.ENUM64, name, 8, extra, len(values), flag)

    def prototype(self, returns: int, parameters: Sequence[tuple[Optional[str], int]]) -> int:
        extra = [word for n, t in parameters for word in (self.string(n), t)]
        return self.add(Kind.FUNC_PROTO, None, returns, extra, len(parameters))

    def encode(self, header_bytes: int = 24) -> bytes:
        header = struct.pack(
            "<HBBIIIII",
            0xEB9F,
            1,
            0,
            header_bytes,
            0,
            len(self.types),
            len(self.types),
            len(self.strings),
        )
        return header.ljust(header_bytes, b"\0") + bytes(self.types) + bytes(self.strings)
