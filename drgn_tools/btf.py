# SPDX-License-Identifier: LGPL-2.1-or-later
"""BTF: the compact type description that a kernel carries inside itself.

This file knows the format (Documentation/bpf/btf.rst, include/uapi/linux/btf.h)
and nothing of drgn; :mod:`drgn_tools.btf_finder` makes drgn types of it.

Opening indexes the type section in one pass; all else is read on demand. The
bytes come from a dump and may be damaged anywhere: what does not hold together
raises :exc:`~drgn_tools.errors.TypesError` where it is asked for, and nothing
recurses or loops further than a bound.
"""

from __future__ import annotations

import enum
import struct
import sys
from array import array
from collections.abc import Iterator
from typing import NamedTuple, Optional

from .errors import TypesError

__all__ = ("BTF_HEADER_BYTES", "Btf", "BtfMember", "Kind", "btf_bytes")

BTF_MAGIC = 0xEB9F
BTF_VERSION = 1
BTF_HEADER_BYTES = 24
"""struct btf_header: magic, version, flags, hdr_len, type_off, type_len, str_off, str_len."""
_HEADER = struct.Struct("<HBBIIIII")

MAX_BTF_BYTES = 256 << 20
"""Far above any kernel's (2 to 10 MB), far below what would hurt."""
MAX_TYPE_BYTES = 1 << 30
"""No type of a kernel is this large; a damaged size or array length is."""
MAX_CHAIN = 64
"""Longest chain of pointers, qualifiers, typedefs and arrays to follow (kernels have about 10)."""
MAX_NAME_BYTES = 512
"""KSYM_NAME_LEN, which bounds every name in the kernel's own BTF check."""


class Kind(enum.IntEnum):
    """BTF_KIND_*."""

    VOID = 0
    INT = 1
    PTR = 2
    ARRAY = 3
    STRUCT = 4
    UNION = 5
    ENUM = 6
    FWD = 7
    TYPEDEF = 8
    VOLATILE = 9
    CONST = 10
    RESTRICT = 11
    FUNC = 12
    FUNC_PROTO = 13
    VAR = 14
    DATASEC = 15
    FLOAT = 16
    DECL_TAG = 17
    TYPE_TAG = 18
    ENUM64 = 19


# Words that follow the three of struct btf_type: (fixed, for each of vlen).
_EXTRA_WORDS = {
    Kind.INT: (1, 0),
    Kind.PTR: (0, 0),
    Kind.ARRAY: (3, 0),
    Kind.STRUCT: (0, 3),
    Kind.UNION: (0, 3),
    Kind.ENUM: (0, 2),
    Kind.FWD: (0, 0),
    Kind.TYPEDEF: (0, 0),
    Kind.VOLATILE: (0, 0),
    Kind.CONST: (0, 0),
    Kind.RESTRICT: (0, 0),
    Kind.FUNC: (0, 0),
    Kind.FUNC_PROTO: (0, 2),
    Kind.VAR: (1, 0),
    Kind.DATASEC: (0, 3),
    Kind.FLOAT: (0, 0),
    Kind.DECL_TAG: (1, 0),
    Kind.TYPE_TAG: (0, 0),
    Kind.ENUM64: (0, 3),
}
_KIND_MASK = 0x1F000000
_VLEN_MASK = 0xFFFF
_KIND_FLAG = 0x80000000
_NO_RECORD = 1 << 40  # words of a record that cannot be: steps past every end
_TRANSPARENT = frozenset(
    (Kind.TYPEDEF, Kind.VOLATILE, Kind.CONST, Kind.RESTRICT, Kind.TYPE_TAG)
)  # fmt: skip


class _RecordWords(dict[int, int]):
    # Words of a record by its info word. Few info words differ, so a lookup in
    # a dict that fills itself is the quickest way through 100,000 records.
    def __missing__(self, info: int) -> int:
        fixed, each = _EXTRA_WORDS.get((info & _KIND_MASK) >> 24, (_NO_RECORD, 0))  # type: ignore[call-overload]
        words = self[info] = 3 + fixed + each * (info & _VLEN_MASK)
        return int(words)


class BtfMember(NamedTuple):
    """A member of a struct or union."""

    name: Optional[str]
    """``None`` for an anonymous struct or union."""
    type_id: int
    """Type of the member."""
    bit_offset: int
    """From the start of the struct, in bits; of a bit field its lowest bit."""
    bit_field_size: int
    """In bits; 0 if it is no bit field."""


def btf_bytes(header: bytes) -> Optional[int]:
    """Return how many bytes of BTF a header announces, ``None`` if it is no BTF header."""
    if len(header) < BTF_HEADER_BYTES:
        return None
    magic, version, _, hdr_len, type_off, type_len, str_off, str_len = _HEADER.unpack_from(header)
    # hdr_len grows when the kernel adds sections; the fields known here stay.
    if magic != BTF_MAGIC or version != BTF_VERSION or not BTF_HEADER_BYTES <= hdr_len <= 4096:
        return None
    if type_off % 4 or not type_len or not str_len:
        return None
    total = int(hdr_len) + max(int(type_off) + int(type_len), int(str_off) + int(str_len))
    return total if total <= MAX_BTF_BYTES else None


class Btf:
    """The types of one kernel, by type ID; ID 0 is ``void``.

    :param data: The whole BTF, from its header on, in little-endian order (x86).
    :raises TypesError: if there is no BTF header, or its sections lie outside *data*
    """

    def __init__(self, data: bytes) -> None:
        total = btf_bytes(data)
        if total is None:
            raise TypesError("kernel BTF: no valid header")
        if total > len(data):
            raise TypesError(f"kernel BTF: {total} bytes announced, {len(data)} found")
        _, _, _, hdr_len, type_off, type_len, str_off, str_len = _HEADER.unpack_from(data)
        start = hdr_len + str_off
        self._strings = data[start : start + str_len]
        words = array("I")
        assert words.itemsize == 4
        start = hdr_len + type_off
        words.frombytes(data[start : start + type_len // 4 * 4])
        if sys.byteorder == "big":
            words.byteswap()
        self._words = words.tolist()
        self._index()

    def _index(self) -> None:
        words, record_words = self._words, _RecordWords()
        end = len(words) - 2
        starts = [0]  # ID 0 is void and has no record
        append = starts.append
        at = 0
        while at < end:
            append(at)
            at += record_words[words[at + 1]]
        if at > len(words):  # the last record runs over the end, or is of an unknown kind
            starts.pop()
        self._starts = starts
        # Backwards, so that of several types of one kind and name the first is found.
        self._by_name = {
            words[start] | (words[start + 1] & _KIND_MASK) << 8: type_id
            for type_id, start in zip(range(len(starts) - 1, 0, -1), reversed(starts))
        }
        self._name_offsets: dict[bytes, int] = {}

    def __len__(self) -> int:
        """Number of types, ``void`` included."""
        return len(self._starts)

    def _start(self, type_id: int) -> int:
        if not 0 < type_id < len(self._starts):
            raise TypesError(f"kernel BTF is damaged: type ID {type_id} of {len(self)}")
        return self._starts[type_id]

    def kind(self, type_id: int) -> Kind:
        """Return the kind of a type."""
        if not type_id:
            return Kind.VOID
        return Kind((self._words[self._start(type_id) + 1] & _KIND_MASK) >> 24)

    def kind_flag(self, type_id: int) -> bool:
        """Return the kind_flag: offsets hold bit-field sizes, FWD is a union, ENUM is signed."""
        return bool(self._words[self._start(type_id) + 1] & _KIND_FLAG)

    def _vlen(self, start: int) -> int:
        return self._words[start + 1] & _VLEN_MASK

    def string(self, offset: int) -> Optional[str]:
        """Return the string at an offset of the string section; ``None`` if it is empty."""
        if not offset:
            return None
        end = self._strings.find(b"\0", offset, offset + MAX_NAME_BYTES)
        if end < 0:
            raise TypesError(f"kernel BTF is damaged: no string at {offset}")
        return self._strings[offset:end].decode("ascii", "backslashreplace") or None

    def name(self, type_id: int) -> Optional[str]:
        """Return the name of a type, ``None`` if it is anonymous."""
        return self.string(self._words[self._start(type_id)])

    def _name_offset(self, name: str) -> Optional[int]:
        if not self._name_offsets:
            offset = 0
            for string in self._strings.split(b"\0"):
                self._name_offsets.setdefault(string, offset)
                offset += len(string) + 1
        return self._name_offsets.get(name.encode())

    def find(self, kind: Kind, name: str) -> Optional[int]:
        """Return the ID of the first type of this kind and name, ``None`` if there is none."""
        offset = self._name_offset(name)
        return self._by_name.get(offset | kind << 32) if offset else None

    def ids(self, *kinds: Kind) -> Iterator[int]:
        """Return the IDs of all types of these kinds."""
        words, wanted = self._words, {kind << 24 for kind in kinds}
        starts = iter(self._starts)
        next(starts)
        for type_id, start in enumerate(starts, 1):
            if words[start + 1] & _KIND_MASK in wanted:
                yield type_id

    def referred(self, type_id: int) -> int:
        """Return the type that a pointer, qualifier, typedef, tag, FUNC, VAR or FUNC_PROTO refers to."""
        return self._words[self._start(type_id) + 2]

    def size_field(self, type_id: int) -> int:
        """Return the size in bytes of an INT, FLOAT, ENUM, ENUM64, STRUCT or UNION."""
        size = self._words[self._start(type_id) + 2]
        if size > MAX_TYPE_BYTES:
            raise TypesError(f"kernel BTF is damaged: type {type_id} has {size} bytes")
        return size

    def int_encoding(self, type_id: int) -> tuple[int, int, int]:
        """Return encoding bits (1 signed, 2 char, 4 bool), bit offset and bits of an INT."""
        word = self._words[self._start(type_id) + 3]
        return word >> 24 & 0xF, word >> 16 & 0xFF, word & 0xFF

    def array(self, type_id: int) -> tuple[int, int]:
        """Return element type and length of an ARRAY."""
        start = self._start(type_id)
        return self._words[start + 3], self._words[start + 5]

    def members(self, type_id: int) -> list[BtfMember]:
        """Return the members of a STRUCT or UNION, in order."""
        start = self._start(type_id)
        words = self._words[start + 3 : start + 3 + 3 * self._vlen(start)]
        if self.kind_flag(type_id):
            split = [(offset & 0xFFFFFF, offset >> 24) for offset in words[2::3]]
        else:
            split = [(offset, 0) for offset in words[2::3]]
        return [
            BtfMember(self.string(name), member_type, bit_offset, bit_field_size)
            for name, member_type, (bit_offset, bit_field_size) in zip(
                words[::3], words[1::3], split
            )
        ]

    def parameters(self, type_id: int) -> list[tuple[Optional[str], int]]:
        """Return (name, type ID) of the parameters of a FUNC_PROTO; a last ID 0 means ``...``."""
        start = self._start(type_id)
        words = self._words[start + 3 : start + 3 + 2 * self._vlen(start)]
        return [(self.string(name), type_id) for name, type_id in zip(words[::2], words[1::2])]

    def _enumerator_words(self, start: int) -> tuple[list[int], list[int]]:
        # Name offsets and unsigned values.
        words, vlen = self._words, self._vlen(start)
        if words[start + 1] & _KIND_MASK == Kind.ENUM << 24:
            words = words[start + 3 : start + 3 + 2 * vlen]
            return words[::2], words[1::2]
        words = words[start + 3 : start + 3 + 3 * vlen]
        return words[::3], [low | high << 32 for low, high in zip(words[1::3], words[2::3])]

    def enumerators(self, type_id: int) -> list[tuple[str, int]]:
        """Return (name, value) of an ENUM or ENUM64, values with their sign."""
        names, values = self._enumerator_words(self._start(type_id))
        if self.enum_is_signed(type_id):
            half = 1 << (63 if self.kind(type_id) == Kind.ENUM64 else 31)
            values = [(value ^ half) - half for value in values]
        return [(self.string(name) or "", value) for name, value in zip(names, values)]

    def enum_is_signed(self, type_id: int) -> bool:
        """Return whether the values of an enum are signed."""
        return self.kind_flag(type_id)

    def find_enumerator(self, name: str) -> Optional[tuple[int, int]]:
        """Return enum type and value of the first enumerator of a name, ``None`` if there is none."""
        offset = self._name_offset(name)
        if not offset:
            return None
        if not hasattr(self, "_enums"):
            self._enums: dict[int, int] = {}
            for type_id in self.ids(Kind.ENUM, Kind.ENUM64):
                for at in self._enumerator_words(self._starts[type_id])[0]:
                    self._enums.setdefault(at, type_id)
        found = self._enums.get(offset)
        if found is None:
            return None
        return found, dict(self.enumerators(found))[name]

    def byte_size(self, type_id: int) -> int:
        """Return the size of an object of this type in bytes (8 for a pointer, 0 for void and functions)."""
        count = 1
        for _ in range(MAX_CHAIN):
            kind = self.kind(type_id)
            if kind in _TRANSPARENT:
                type_id = self.referred(type_id)
            elif kind == Kind.ARRAY:
                type_id, length = self.array(type_id)
                count = min(count * length, MAX_TYPE_BYTES + 1)
            elif kind == Kind.PTR:
                return count * 8
            elif kind in (Kind.VOID, Kind.FUNC_PROTO, Kind.FWD):
                return 0
            else:
                size = count * self.size_field(type_id)
                if size > MAX_TYPE_BYTES:
                    break
                return size
        raise TypesError(f"kernel BTF is damaged: type {type_id} has no sensible size")
