# SPDX-License-Identifier: LGPL-2.1-or-later
"""C declarations: what they say, and what is none."""

from __future__ import annotations

import pytest
from drgn import Type, TypeKind, offsetof, sizeof

from drgn_tools.debuginfo.declarations import (
    Condition,
    Declaration,
    DeclarationError,
    make_type,
    parse_declaration,
    parse_type,
)
from drgn_tools.debuginfo.global_types import GLOBALS
from drgn_tools.debuginfo.per_cpu_types import PER_CPU

from ..support.btf_encoder import BtfEncoder
from .test_btf import SIGNED, program


@pytest.mark.parametrize(
    ("text", "name", "base", "dimensions"),
    [
        ("int x", "x", "int", ()),
        ("  unsigned   long x ; ", "x", "unsigned long", ()),
        ("struct foo bar", "bar", "struct foo", ()),
        ("const struct foo *const *bar", "bar", "const struct foo * const *", ()),
        ("struct foo *bar[]", "bar", "struct foo *", ("",)),
        ("u8 bar[ 0x10 ][NR]", "bar", "u8", ("0x10", "NR")),
        ("enum e e[A + 1]", "e", "enum e", ("A+1",)),
        ("const foo_t x", "x", "const foo_t", ()),
        ("foo_t const x", "x", "foo_t const", ()),
    ],
)
def test_declarations_that_are_understood(
    text: str, name: str, base: str, dimensions: tuple[str, ...]
) -> None:
    assert parse_declaration(text) == Declaration(name, base, dimensions)


def test_a_struct_that_is_written_out() -> None:
    found = parse_declaration("struct { int a; struct list_head *b[2]; } x[3];")
    members = (Declaration("a", "int", ()), Declaration("b", "struct list_head *", ("2",)))
    assert found == Declaration("x", members, ("3",))


@pytest.mark.parametrize(
    "text",
    [
        "", ";", "int", "struct foo", "unsigned long", "*x", "int *", "int x y z w()", "int x(void)",
        "int (*x)(void)", "int x[", "int x[-1]", "int x[a b]", "int x[][]", "int x:3", "int x = 3",
        "int x; int y", "struct { } x", "struct { int a } x", "struct { int a; } *x", "struct { int a;",
        "struct { struct { int a; } b; } x", "struct { int a[]; } x", "int \N{GREEK SMALL LETTER ALPHA}",
        "int x" + "[1]" * 9, "int " + "x" * 5000, "int const", "struct int",
    ],
)  # fmt: skip
def test_what_is_no_declaration_is_one_error(text: str) -> None:
    with pytest.raises(DeclarationError) as raised:
        parse_declaration(text)
    assert str(raised.value)


def kernel() -> BtfEncoder:
    b = BtfEncoder()
    b.int("char", 1, SIGNED)
    b.int("int", 4, SIGNED)
    word = b.int("long unsigned int", 8)
    b.int("short unsigned int", 2)
    b.compound("pair", 16, [("a", 1, 0), ("b", word, 64)])
    b.enum("lengths", {"NR": 5, "NONE": 0, "BELOW": -1})
    return b


def made(text: str, room: int = 1040) -> Type:
    def fill(type: Type, repeated: int, is_outermost: bool) -> int:
        return room // repeated

    return make_type(program(kernel()), parse_type(text), fill)


def test_a_struct_is_laid_out_as_gcc_does() -> None:
    found = made("struct { char c; int i; char d; struct pair p; char end; }")
    assert found.kind is TypeKind.STRUCT
    places = [offsetof(found, name) for name in ("c", "i", "d", "p", "end")]
    assert places == [0, 4, 8, 16, 32]
    assert sizeof(found) == 40
    assert sizeof(made("struct { char c; short b[3]; }")) == 8


def test_lengths() -> None:
    assert made("int [NR]").length == 5
    assert made("int [NR + 2]").length == 7
    assert made("int [0x10]").length == 16
    assert made("int []").length == 260
    masks = made("unsigned long [BITS_PER_LONG + 1][]", 65 * 16)
    assert (masks.length, masks.type.length) == (65, 2)
    rows = made("char [][16]")
    assert (rows.length, rows.type.length) == (65, 16)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("int [NONE]", DeclarationError),
        ("int [BELOW]", DeclarationError),
        ("int [NOWHERE]", LookupError),
        ("int [08]", DeclarationError),
        ("int [99999999999]", DeclarationError),
        ("int [1000000000][1000000000]", DeclarationError),
        ("struct nowhere", LookupError),
        ("void", TypeError),
        ("void [3]", TypeError),
        ("unsigned pair", SyntaxError),
    ],
)
def test_what_this_kernel_has_not_is_an_error(text: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        made(text)


def test_every_row_of_the_tables_can_be_parsed() -> None:
    for name, declared in {**GLOBALS, **PER_CPU}.items():
        choices = (declared,) if isinstance(declared, str) else declared
        for choice in choices:
            text = choice.declaration if isinstance(choice, Condition) else choice
            assert parse_type(text).name is None, name
