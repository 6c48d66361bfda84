# SPDX-License-Identifier: LGPL-2.1-or-later
"""BTF: the compact type description that a kernel contains itself.

This file reads the format (Documentation/bpf/btf.rst, include/uapi/linux/btf.h) and does not
use drgn; :mod:`drgn_tools.debuginfo.btf_finder` makes drgn's types from it.

:class:`Btf` finds in one pass where each type starts. Everything else, also names and enumerators, is read
when it is needed. The bytes come from a dump and may be damaged anywhere. The use of
a damaged type raises :exc:`~drgn_tools.errors.TypesError`, other types can still be used,
and nothing recurses, loops or grows past a limit.
"""

from __future__ import annotations

import enum
import struct
import sys
from array import array
from bisect import bisect_right
from collections.abc import Collection, Iterator
from contextlib import suppress
from functools import cached_property
from typing import Optional

import msgspec

from ..errors import TypesError

__all__ = ("BTF_MAGIC", "Btf", "BtfMember", "Kind", "damaged", "header_bytes")

BTF_MAGIC = b"\x9f\xeb\x01"
"""Magic number and version, the first bytes of all BTF (little-endian)."""
_HEADER = struct.Struct("<HBBIIIII")
# struct btf_header: magic, version, flags, hdr_len, type_off, type_len, str_off, str_len.
_MAX_HEADER_BYTES = 4096  # hdr_len may grow by sections that are not known here

MAX_BTF_BYTES = 64 << 20
"""BTF_MAX_NAME_OFFSET bounds the strings of a kernel to 16 MB; types take about as much."""
MAX_TYPES = 0xFFFFF
"""BTF_MAX_TYPE."""
MAX_TYPE_BYTES = 1 << 26
"""No type of a kernel is this large; a damaged size or array length may be."""
MAX_CHAIN = 64
"""Longest chain of pointers, qualifiers, typedefs and arrays to follow (kernels have about 10)."""
MAX_EXPANDED_MEMBERS = 1_000_000
"""Most members of a struct, including those of the structs inside it (task_struct has about 1,500)."""
MAX_NAME_BYTES = 512
"""KSYM_NAME_LEN, which bounds every name in the kernel's own check of BTF."""


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


_KINDS = tuple(Kind)  # by number: a lookup is far quicker than Kind(number)

# Words after the three of struct btf_type: (once, for each of vlen).
_EXTRA_WORDS = {
    Kind.INT: (1, 0),
    Kind.ARRAY: (3, 0),
    Kind.STRUCT: (0, 3),
    Kind.UNION: (0, 3),
    Kind.ENUM: (0, 2),
    Kind.FUNC_PROTO: (0, 2),
    Kind.VAR: (1, 0),
    Kind.DATASEC: (0, 3),
    Kind.DECL_TAG: (1, 0),
    Kind.ENUM64: (0, 3),
}
_KIND_MASK = 0x1F000000
_VLEN_MASK = 0xFFFF
_KIND_FLAG = 0x80000000
_NO_RECORD_WORDS = 1 << 40  # for an invalid record: steps past every end
_ENUMS = (Kind.ENUM, Kind.ENUM64)
_TRANSPARENT = frozenset(
    (Kind.TYPEDEF, Kind.VOLATILE, Kind.CONST, Kind.RESTRICT, Kind.TYPE_TAG)
)  # fmt: skip


def _tells_of_enum_flags(info: int) -> bool:
    # Whether this info word shows that its writer sets the kind_flag of enums: the flag is set, or
    # this is an ENUM64, which was introduced with the flag.
    kind = (info & _KIND_MASK) >> 24
    return kind == Kind.ENUM64 or (kind == Kind.ENUM and bool(info & _KIND_FLAG))


def _places(data: bytes, word: int) -> Iterator[int]:
    # The indexes of a word in *data*, an array of little-endian words.
    pattern = word.to_bytes(4, "little")
    at = data.find(pattern)
    while at >= 0:
        if at % 4 == 0:
            yield at // 4
        at = data.find(pattern, at + 1)


def damaged(what: str) -> TypesError:
    """Return the error for damaged BTF; *what* says what is wrong, for the message."""
    return TypesError(
        f"the BTF of this kernel is damaged ({what}); give the vmlinux of this kernel with -s"
    )


def header_bytes(data: bytes) -> Optional[int]:
    """Return how many bytes of BTF a header announces, ``None`` if *data* is not a valid header."""
    if not data.startswith(BTF_MAGIC) or len(data) < _HEADER.size:
        return None
    hdr_len, type_off, type_len, str_off, str_len = _HEADER.unpack_from(data)[3:]
    if not _HEADER.size <= hdr_len <= _MAX_HEADER_BYTES or type_off % 4:
        return None
    if not type_len or not str_len:
        return None
    total = int(hdr_len) + max(int(type_off) + int(type_len), int(str_off) + int(str_len))
    return total if total <= MAX_BTF_BYTES else None


class _RecordWords(dict[int, int]):
    # Info word of a record -> its number of words. There are few different info words, so
    # a dict that fills itself is the fastest way through 100,000 records.
    def __missing__(self, info: int) -> int:
        try:
            kind = Kind((info & _KIND_MASK) >> 24)
        except ValueError:  # newer than this file, or damaged
            return _NO_RECORD_WORDS
        once, each = _EXTRA_WORDS.get(kind, (0, 0))
        words = self[info] = 3 + once + each * (info & _VLEN_MASK)
        return words


class BtfMember(msgspec.Struct, frozen=True):
    """A member of a struct or union."""

    name: Optional[str]
    """``None`` for an anonymous struct or union."""
    type_id: int
    """Type of the member."""
    bit_offset: int
    """Offset from the start of the struct, in bits; for a bit field that of its lowest bit."""
    bit_field_size: int
    """In bits; 0 if it is not a bit field."""


class Btf:
    """The types of one kernel, by type ID; ID 0 is ``void``.

    Types that come after a record of unknown kind are not seen.

    The BTF of a module continues the BTF of the kernel image: its IDs and the offsets of its strings
    begin where those of the image end, and it refers to types and strings of the image.

    :param data: all of the BTF from its header on, little-endian
    :param pointer_bytes: size of a pointer, which is not in the BTF
    :param base: BTF of the kernel image, if *data* continues it
    :raises TypesError: if there is no BTF header, or its sections are not completely in *data*
    """

    def __init__(self, data: bytes, pointer_bytes: int = 8, base: Optional[Btf] = None) -> None:
        total = header_bytes(data)
        if total is None:
            raise damaged("no valid header")
        if total > len(data):
            raise damaged(f"{total} bytes announced, {len(data)} found")
        hdr_len, type_off, type_len, str_off, str_len = _HEADER.unpack_from(data)[3:]
        start = hdr_len + type_off
        self._records = data[start : start + type_len // 4 * 4]
        self._words = array("I")
        self._words.frombytes(self._records)
        if sys.byteorder == "big":
            self._words.byteswap()
        start = hdr_len + str_off
        self._strings = data[start : start + str_len]
        self._pointer_bytes = pointer_bytes
        self._base = base
        self.first_id: int = len(base) if base else 0
        """The first type ID after those of *base*."""
        self.first_string: int = base.end_string if base else 0
        """The first string offset after those of *base*."""
        self.end_string: int = self.first_string + len(self._strings)
        """The string offset at which BTF that continues this one would begin."""
        self._starts, infos = self._record_starts()
        self._enum_flags_count: bool = any(map(_tells_of_enum_flags, infos)) or (
            base is not None and base._enum_flags_count
        )
        self._found: dict[tuple[Kind, str], Optional[int]] = {}
        self._enumerators: dict[str, Optional[tuple[int, int]]] = {}
        self._expanded: dict[int, int] = {}
        self._insides: dict[int, Optional[int]] = {}

    def _record_starts(self) -> tuple[list[int], Collection[int]]:
        # The index of the first word of each record, by type ID from first_id on (ID 0 has no
        # record), and all different info words.
        record_words = _RecordWords()
        infos = self._words[1:]  # by the index of the first word of the record
        starts = [] if self.first_id else [0]
        append = starts.append
        at, end = 0, len(infos) - 1
        while at < end:
            append(at)
            at += record_words[infos[at]]
        if at > len(self._words):  # the last record runs past the end, or is of unknown kind
            starts.pop()
        if self.first_id + len(starts) - 1 > MAX_TYPES:
            raise damaged(f"{self.first_id + len(starts) - 1} types")
        return starts, record_words

    @cached_property
    def _name_column(self) -> bytes:
        # The name offset of each type, by type ID from first_id on.
        column = array("I", map(self._words.__getitem__, self._starts))
        if not self.first_id:
            column[0] = 0
        if sys.byteorder == "big":
            column.byteswap()
        return column.tobytes()

    @cached_property
    def _variables(self) -> dict[str, int]:
        # The first VAR of each name. Kernels have a few hundred, the per-CPU variables. Most names that
        # are looked up are not among them, and searching all strings for a name would take longer.
        found: dict[str, int] = {}
        starts, words, index = self._starts, self._words, 0
        kinds = self._records[3::4]  # the kind, in info words; one byte is found faster than four
        place = -1
        while (place := kinds.find(Kind.VAR, place + 1)) >= 0:
            if words[place] != Kind.VAR << 24:
                continue
            index = max(bisect_right(starts, place, index) - 1, 0)
            if starts[index : index + 1] == [place - 1]:
                type_id = self.first_id + index
                with suppress(TypesError):  # skip a variable with a damaged name
                    found.setdefault(self.name(type_id) or "", type_id)
        return found

    def __len__(self) -> int:
        """Number of types, including ``void`` and those of the base."""
        return self.first_id + len(self._starts)

    def _record(self, type_id: int) -> tuple[array[int], int]:
        # An array of words, and the index at which the record starts in it.
        if type_id < self.first_id and self._base is not None:
            return self._base._record(type_id)
        if not 0 < type_id < len(self):
            raise damaged(f"type {type_id} of {len(self)}")
        return self._words, self._starts[type_id - self.first_id]

    def _word(self, type_id: int, number: int) -> int:
        # A word of a record: one of the three that every record has, or one that its kind adds.
        words, start = self._record(type_id)
        return words[start + number]

    def kind(self, type_id: int) -> Kind:
        """Return the kind of a type."""
        if not type_id:
            return Kind.VOID
        return _KINDS[(self._word(type_id, 1) & _KIND_MASK) >> 24]

    def kind_flag(self, type_id: int) -> bool:
        """Return the kind_flag: member offsets hold bit-field sizes, a FWD is a union."""
        return bool(self._word(type_id, 1) & _KIND_FLAG)

    # ---- names

    def _string(self, offset: int) -> Optional[str]:
        # None for the empty string: anonymous.
        if not offset:
            return None
        if offset < self.first_string and self._base is not None:
            return self._base._string(offset)
        offset -= self.first_string
        end = self._strings.find(b"\0", offset, offset + MAX_NAME_BYTES)
        if end < 0:
            raise damaged(f"no string at {offset}")
        return self._strings[offset:end].decode("ascii", "backslashreplace") or None

    def name(self, type_id: int) -> Optional[str]:
        """Return the name of a type; ``None`` if it is anonymous."""
        return self._string(self._word(type_id, 0))

    def _name_offset(self, name: str) -> Optional[int]:
        # The offset of the first string that equals *name*.
        if not name or "\0" in name:
            return None
        of_base = self._base._name_offset(name) if self._base is not None else None
        if of_base is not None:
            return of_base
        string = name.encode("utf-8", "surrogatepass") + b"\0"
        if self.first_string and self._strings.startswith(string):
            return self.first_string  # the strings of a module need not begin with the empty one
        place = self._strings.find(b"\0" + string)
        return self.first_string + place + 1 if place >= 0 else None

    def find(self, kind: Kind, name: str) -> Optional[int]:
        """Return the ID of the first type of this kind and name, ``None`` if there is none.

        Those of the base do not count.
        """
        key = (kind, name)
        if key not in self._found:
            self._found[key] = self._find(kind, name)
        return self._found[key]

    def _find(self, kind: Kind, name: str) -> Optional[int]:
        if kind == Kind.VAR:
            return self._variables.get(name) if name else None
        offset = self._name_offset(name)
        if offset is None:
            return None
        return next(
            (
                self.first_id + index
                for index in _places(self._name_column, offset)
                if self.kind(self.first_id + index) == kind
            ),
            None,
        )

    def ids(self, *kinds: Kind) -> Iterator[int]:
        """Return the IDs of all types of these kinds; those of the base do not count."""
        words, wanted = self._words, {kind << 24 for kind in kinds}
        first = 0 if self.first_id else 1
        for type_id, start in enumerate(self._starts[first:], self.first_id + first):
            if words[start + 1] & _KIND_MASK in wanted:
                yield type_id

    # ---- what a record says

    def _items(self, type_id: int, words_each: int) -> tuple[array[int], ...]:
        # The vlen items after a record, column by column.
        words, start = self._record(type_id)
        start += 3
        end = start + words_each * (words[start - 2] & _VLEN_MASK)
        return tuple(words[start + column : end : words_each] for column in range(words_each))

    def referred(self, type_id: int) -> int:
        """Return what a pointer, qualifier, typedef, tag, FUNC, VAR or FUNC_PROTO refers to."""
        return self._word(type_id, 2)

    def size(self, type_id: int) -> int:
        """Return the size in bytes of an INT, FLOAT, ENUM, ENUM64, STRUCT or UNION."""
        size = self._word(type_id, 2)
        if size > MAX_TYPE_BYTES:
            raise damaged(f"type {type_id} has {size} bytes")
        return size

    def int_encoding(self, type_id: int) -> tuple[int, int, int]:
        """Return encoding (1 signed, 2 char, 4 bool), bit offset and size in bits of an INT."""
        word = self._word(type_id, 3)
        return word >> 24 & 0xF, word >> 16 & 0xFF, word & 0xFF

    def array(self, type_id: int) -> tuple[int, int]:
        """Return element type and length of an ARRAY."""
        words, start = self._record(type_id)
        return words[start + 3], words[start + 5]

    def members(self, type_id: int) -> list[BtfMember]:
        """Return the members of a STRUCT or UNION, in order."""
        names, types, offsets = self._items(type_id, 3)
        if self.kind_flag(type_id):
            places = [(offset & 0xFFFFFF, offset >> 24) for offset in offsets]
        else:
            places = [(offset, 0) for offset in offsets]
        return [
            BtfMember(self._string(name), member_type, *place)
            for name, member_type, place in zip(names, types, places)
        ]

    def parameters(self, type_id: int) -> list[tuple[Optional[str], int]]:
        """Return (name, type ID) of the parameters of a FUNC_PROTO; ID 0 at the end means ``...``."""
        names, types = self._items(type_id, 2)
        return [(self._string(name), parameter_type) for name, parameter_type in zip(names, types)]

    # ---- enums

    def enum_is_signed(self, type_id: int) -> bool:
        """Return whether the values of an ENUM or ENUM64 are signed.

        Since Linux kernel commit 6089fb325cf7 ("bpf: Add btf enum64 support")
        (in v6.0) the kind_flag says so; for an ENUM64 it always does. Before that there was no
        ENUM64, and the flag was never set: an ENUM counts as signed if a value is negative as an int.
        """
        if self._enum_flags_count:
            return self.kind_flag(type_id)
        return any(value >> 31 for value in self._items(type_id, 2)[1])

    def enumerators(self, type_id: int) -> list[tuple[str, int]]:
        """Return (name, value) of an ENUM or ENUM64."""
        values: list[int]
        if self.kind(type_id) == Kind.ENUM64:
            names, low, high = self._items(type_id, 3)
            values, sign = [low | high << 32 for low, high in zip(low, high)], 1 << 63
        else:
            names, words = self._items(type_id, 2)
            values, sign = list(words), 1 << 31
        if self.enum_is_signed(type_id):
            values = [(value ^ sign) - sign for value in values]
        return [(self._string(name) or "", value) for name, value in zip(names, values)]

    def find_enumerator(self, name: str) -> Optional[tuple[int, int]]:
        """Return enum type and value of the first enumerator with this name; ``None`` if there is none.

        Those of the base do not count.
        """
        if name not in self._enumerators:
            self._enumerators[name] = self._find_enumerator(name)
        return self._enumerators[name]

    def _find_enumerator(self, name: str) -> Optional[tuple[int, int]]:
        offset = self._name_offset(name)
        if offset is None:
            return None
        for word in _places(self._records, offset):
            index = bisect_right(self._starts, word) - 1
            if index < 0:
                continue
            start, type_id = self._starts[index], self.first_id + index
            kind = self.kind(type_id)
            if kind not in _ENUMS:
                continue
            words_each = 2 if kind == Kind.ENUM else 3
            number, column = divmod(word - start - 3, words_each)
            if column == 0 and 0 <= number < self._words[start + 1] & _VLEN_MASK:
                return type_id, self.enumerators(type_id)[number][1]
        return None

    # ---- sizes

    def _element(self, type_id: int) -> tuple[int, int]:
        # The type without its qualifiers, typedefs and arrays, and how many
        # elements the arrays have.
        count = 1
        for _ in range(MAX_CHAIN):
            kind = self.kind(type_id)
            if kind in _TRANSPARENT:
                type_id = self.referred(type_id)
            elif kind == Kind.ARRAY:
                type_id, length = self.array(type_id)
                count = min(count * length, MAX_TYPE_BYTES + 1)
            else:
                return type_id, count
        raise damaged(f"type {type_id} refers to itself")

    def resolve_forward(self, type_id: int) -> Optional[int]:
        """Return the complete struct or union that a FWD stands for, ``None`` if there is none."""
        name = self.name(type_id)
        kind = Kind.UNION if self.kind_flag(type_id) else Kind.STRUCT
        if name is None:
            return None
        of_base = self._base.find(kind, name) if self._base is not None else None
        return of_base if of_base is not None else self.find(kind, name)

    def byte_size(self, type_id: int) -> int:
        """Return the size of an object of this type in bytes.

        :raises TypesError: if there can be no such object (a function, ``void``)
        """
        element, count = self._element(type_id)
        kind = self.kind(element)
        if kind == Kind.PTR:
            size = self._pointer_bytes
        elif kind in (Kind.INT, Kind.FLOAT, Kind.ENUM, Kind.ENUM64, Kind.STRUCT, Kind.UNION):
            size = self.size(element)
        else:
            raise damaged(f"{kind.name} where an object should be")
        if size * count > MAX_TYPE_BYTES:
            raise damaged(f"type {type_id} has more than {MAX_TYPE_BYTES} bytes")
        return size * count

    def _inside(self, type_id: int) -> Optional[int]:
        # The STRUCT or UNION of a member of this type, or None.
        try:
            return self._insides[type_id]
        except KeyError:
            found = None
            with suppress(TypesError):  # a damaged type cannot be used, but contains nothing either
                element = self._element(type_id)[0]
                if self.kind(element) in (Kind.STRUCT, Kind.UNION):
                    found = element
            self._insides[type_id] = found
            return found

    def expanded_members(self, type_id: int, depth: int = 0) -> int:
        """Return how many members a STRUCT or UNION has, with those of the structs inside it.

        drgn itself walks through nested structs without a bound.

        :raises TypesError: if it contains itself, or the members are more than any kernel has
        """
        count = self._expanded.get(type_id)
        if count is None:
            if depth > MAX_CHAIN:
                raise damaged(f"type {type_id} contains itself")
            count = 0
            for member_type in self._items(type_id, 3)[1]:
                count += 1
                inside = self._inside(member_type)
                if inside is not None:
                    count += self.expanded_members(inside, depth + 1)
            if count > MAX_EXPANDED_MEMBERS:
                raise damaged(f"type {type_id} has {count} members")
            self._expanded[type_id] = count
        return count
