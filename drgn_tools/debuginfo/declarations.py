# SPDX-License-Identifier: LGPL-2.1-or-later
"""C declarations of variables -> drgn's types: the declarations of our tables, and those of a user.

This parses declarations of global variables, not all of C: a type by its name,
pointers to it, arrays of it, and a struct that is written out, whose members are declared in the same way.
Functions, bit fields and attributes are not supported.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Optional, Union

import msgspec
from drgn import Program, Type, TypeMember, alignof, sizeof

__all__ = (
    "Condition",
    "Declaration",
    "DeclarationError",
    "make_type",
    "parse_declaration",
    "parse_type",
)

_MAX_CHARS = 4096
_MAX_DIMENSIONS = 8
_MAX_BYTES = 1 << 32
"""No variable is this large, and drgn does not accept larger arrays."""

_TOKEN = re.compile(r"\s*(?:([A-Za-z_]\w*)|(\d\w*)|(\*|\[|\]|\{|\}|;|\+))")
_WORDS_OF_TYPES = frozenset(
    "_Bool bool char const double float int long restrict short signed unsigned void volatile".split()
)
_TAGS = frozenset(("struct", "union", "enum"))
_QUALIFIERS = frozenset(("const", "restrict", "volatile"))


class DeclarationError(ValueError):
    """Text that is not a declaration of a variable, or not one that this file supports."""


class Condition(msgspec.Struct, frozen=True):
    """A declaration that applies if a struct of the kernel has a member.

    :param type: such as ``struct file_system_type``
    """

    type: str
    member: str
    declaration: str


class Declaration(NamedTuple):
    """What a declaration says."""

    name: Optional[str]
    """Name of the variable; ``None`` if there was only a type."""
    base: Union[str, tuple[Declaration, ...]]
    """Name of the type for drgn, pointers included; or the members of a struct."""
    dimensions: tuple[str, ...]
    """The text in each pair of brackets, outermost first."""


def parse_declaration(text: str) -> Declaration:
    """Parse ``struct foo *bar[16]``.

    :raises DeclarationError: if it is something else, or a name is missing
    """
    found = _Parser(text).whole(named=True)
    assert found.name is not None
    return found


def parse_type(text: str) -> Declaration:
    """Parse a declaration without the name of a variable: ``struct foo *[16]``.

    :raises DeclarationError: if it is something else
    """
    return _Parser(text).whole(named=False)


class _Parser:
    def __init__(self, text: str) -> None:
        if len(text) > _MAX_CHARS:
            raise DeclarationError(f"more than {_MAX_CHARS} characters")
        self._tokens = list(self._split(text.rstrip().rstrip(";").rstrip()))
        self._at = 0

    @staticmethod
    def _split(text: str) -> Iterator[str]:
        at = 0
        while at < len(text):
            match = _TOKEN.match(text, at)
            if match is None:
                rest = text[at:].strip()
                raise DeclarationError(f"{rest[:1]!r} is not understood here")
            yield match[match.lastindex or 0]
            at = match.end()

    def _peek(self) -> str:
        return self._tokens[self._at] if self._at < len(self._tokens) else ""

    def _next(self) -> str:
        token = self._peek()
        self._at += 1
        return token

    def _expect(self, token: str) -> None:
        found = self._next()
        if found != token:
            raise DeclarationError(f"{token!r} is missing before {found or 'the end'!r}")

    def whole(self, named: bool) -> Declaration:
        found = self._declaration(named, inside=False)
        if self._peek():
            raise DeclarationError(f"{self._peek()!r} is not understood here")
        return found

    def _declaration(self, named: bool, inside: bool) -> Declaration:
        base: Union[str, tuple[Declaration, ...]]
        if self._tokens[self._at : self._at + 2] == ["struct", "{"] and not inside:
            self._at += 2
            base = self._members()
            words: list[str] = []
        else:
            words = self._base()
            base = ""
        pointers = []
        while self._peek() == "*":
            pointers.append(self._next())
            while self._peek() in _QUALIFIERS:
                pointers.append(self._next())
        name = self._name(words, bool(pointers)) if named else None
        if pointers and not words:
            raise DeclarationError("a pointer to a struct that is written out")
        return Declaration(name, base or " ".join([*words, *pointers]), self._dimensions())

    def _members(self) -> tuple[Declaration, ...]:
        found = []
        while self._peek() != "}":
            member = self._declaration(named=True, inside=True)
            if "" in member.dimensions:
                raise DeclarationError("an empty length inside a struct")
            found.append(member)
            self._expect(";")
        self._next()
        if not found:
            raise DeclarationError("a struct without members")
        return tuple(found)

    def _base(self) -> list[str]:
        words: list[str] = []
        while re.match(r"[A-Za-z_]", self._peek()):
            words.append(self._next())
        if not words:
            raise DeclarationError(f"no type before {self._peek() or 'the end'!r}")
        return words

    def _name(self, words: list[str], is_pointer: bool) -> str:
        # The next word after a pointer; otherwise the last of the words, if it does not belong to the type.
        if is_pointer or not words:
            name = self._next()
        else:
            plain = [word for word in words if word not in _QUALIFIERS]
            needed = 3 if plain[0] in _TAGS else 2
            name = words.pop() if len(plain) >= needed else ""
        if not re.match(r"[A-Za-z_]", name) or name in _WORDS_OF_TYPES | _TAGS:
            raise DeclarationError("the name of the variable is missing")
        return name

    def _dimensions(self) -> tuple[str, ...]:
        found: list[str] = []
        while self._peek() == "[":
            self._next()
            parts = []
            while self._peek() not in ("]", ""):
                parts.append(self._next())
            self._expect("]")
            if not re.fullmatch(r"(?:\w+(?: \+ \w+)*)?", " ".join(parts)):
                raise DeclarationError(f"an invalid length: {' '.join(parts)}")
            found.append("".join(parts))
        if found.count("") > 1 or len(found) > _MAX_DIMENSIONS:
            raise DeclarationError("more than one empty length, or too many lengths")
        return tuple(found)


# ---- drgn's types


Fill = Callable[[Type, int, bool], int]
"""(type of an element, size of the repeated part in bytes, whether it is the outermost array) -> how often
it is repeated."""


def make_type(prog: Program, declaration: Declaration, fill: Fill) -> Type:
    """Return the type of a declaration.

    A length may be a number, an enumerator, BITS_PER_LONG, or a sum of these.

    :param fill: returns the length for empty brackets
    :raises LookupError: if the program has no such type or enumerator
    :raises TypeError: if a type has no size
    :raises DeclarationError: if a length is invalid, or an array is too large
    """
    if isinstance(declaration.base, str):
        type = prog.type(declaration.base)
    else:
        type = _struct(prog, declaration.base, fill)
    lengths = [_length(prog, text) for text in declaration.dimensions]
    if 0 in lengths:
        others = math.prod(length for length in lengths if length)
        repeated = sizeof(type) * others
        if not 0 < repeated < _MAX_BYTES:
            raise DeclarationError(f"an array of {repeated} bytes each")
        at = lengths.index(0)
        lengths[at] = fill(type, repeated, at == 0)
    if sizeof(type) * math.prod(lengths) >= _MAX_BYTES:
        raise DeclarationError("larger than any variable")
    for length in reversed(lengths):
        type = prog.array_type(type, length)
    return type


def _length(prog: Program, text: str) -> int:
    # 0 for empty brackets.
    length = 0
    for word in text.split("+") if text else ():
        if word[0].isdigit():
            length += _number(word)
        elif word == "BITS_PER_LONG":
            length += 8 * prog.address_size()
        else:
            length += prog.constant(word).value_()
    if text and not 0 < length < _MAX_BYTES:
        raise DeclarationError(f"an array of {length}")
    return length


def _number(word: str) -> int:
    try:
        return int(word, 0)
    except ValueError as e:
        raise DeclarationError(f"{word} is not a number") from e


def _struct(prog: Program, declarations: Sequence[Declaration], fill: Fill) -> Type:
    # The layout of gcc: each member is aligned for its type, and the size is a multiple of the largest alignment.
    members, end, most = [], 0, 1
    for declaration in declarations:
        type = make_type(prog, declaration, fill)
        align = alignof(type)
        end += -end % align
        members.append(TypeMember(type, declaration.name, 8 * end))
        end += sizeof(type)
        most = max(most, align)
    return prog.struct_type(None, end + -end % most, members)
