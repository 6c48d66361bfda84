# SPDX-License-Identifier: LGPL-2.1-or-later
"""The names of kallsyms, found in the order of the kernel's own table or without it."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import pytest
from drgn import Program

from drgn_tools.debuginfo.kallsyms import kallsyms_of
from drgn_tools.debuginfo.symbol_names import SEQ_BYTES, SymbolNames

TOKENS = [chr(code) for code in range(256)]
NAMES = (
    "Tschedule Tschedule.cold tread dread tread.constprop.0 tread.isra.0 Dinit_task T__x64_sys_read "
    "tread_iter tfoo.llvm.123 tfoo Tfoo_bar tfoo.a1b2 tfoo$x Bzero_page Aaddr T_text"
).split()
MANY = [*NAMES, *(f"tf{number % 1500}" for number in range(3000))]


def whole_name(name: str) -> str:
    return name


def up_to_the_period(name: str) -> str:
    """What clang's LTO kernels from v6.2 on have sorted by."""
    return name.partition(".")[0]


def seqs_of(names: Sequence[str], key: Callable[[str], str] = whole_name) -> bytes:
    ordered = sorted(range(len(names)), key=lambda number: (key(names[number][1:]), number))
    return b"".join(number.to_bytes(SEQ_BYTES, "big") for number in ordered)


def table(names: Sequence[str], seqs: bytes | None) -> SymbolNames:
    data = b"".join(bytes([len(name)]) + name.encode() for name in names)
    return SymbolNames(data, TOKENS, len(names), seqs)


def scans(names: SymbolNames, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names that are looked for among all, from now on."""
    seen = []

    def scanned(name: str) -> list[int]:
        seen.append(name)
        return SymbolNames._scanned(names, name)

    monkeypatch.setattr(names, "_scanned", scanned)
    return seen


@pytest.mark.parametrize("key", [whole_name, up_to_the_period])
def test_the_order_of_the_kernel_gives_what_a_scan_gives(
    key: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    names = table(MANY, seqs_of(MANY, key))
    plain = table(MANY, None)
    seen = scans(names, monkeypatch)
    wanted = [name[1:] for name in MANY]
    for name in [*wanted, *(name[:-1] for name in wanted), "", "~", "foo.", "zz\u00e9"]:
        expected = [number for number, other in enumerate(MANY) if other[1:] == name]
        assert names.find(name) == expected == plain.find(name), name
    assert seen
    assert not [name for name in seen if name.isascii() and name.isidentifier()]


def test_only_what_is_asked_for_is_expanded(monkeypatch: pytest.MonkeyPatch) -> None:
    names = table(MANY, seqs_of(MANY))
    expanded = []
    get = SymbolNames.__getitem__

    def counted(self: SymbolNames, number: int) -> str:
        expanded.append(number)
        return get(self, number)

    monkeypatch.setattr(SymbolNames, "__getitem__", counted)
    assert names.find("f77") == [len(NAMES) + 77, len(NAMES) + 1577]
    assert len(expanded) < 20


@pytest.mark.parametrize(
    "seqs",
    [
        pytest.param(b"", id="none"),
        pytest.param(seqs_of(MANY)[:-SEQ_BYTES], id="too short"),
        pytest.param(seqs_of(MANY) + bytes(SEQ_BYTES), id="too long"),
        pytest.param(bytes(SEQ_BYTES * len(MANY)), id="zeros"),
        pytest.param(b"\xff" * SEQ_BYTES * len(MANY), id="numbers of no symbol"),
        pytest.param(seqs_of(MANY)[::-1], id="backwards"),
        pytest.param(seqs_of(MANY)[:4096] + bytes(SEQ_BYTES * len(MANY) - 4096), id="a page"),
        pytest.param(random.Random(1).randbytes(SEQ_BYTES * len(MANY)), id="something else"),
    ],
)
def test_what_is_no_order_is_not_used(seqs: bytes) -> None:
    names = table(MANY, seqs)
    for name in ("read", "foo", "init_task", "f77", "nothing"):
        assert names.find(name) == table(MANY, None).find(name)


def test_single_damaged_numbers_raise_nothing() -> None:
    rng = random.Random(1)
    for _ in range(100):
        seqs = bytearray(seqs_of(MANY))
        for _ in range(10):
            seqs[rng.randrange(len(seqs))] = rng.randrange(256)
        names = table(MANY, bytes(seqs))
        for name in ("read", "foo", "f77", "nothing"):
            assert set(names.find(name)) <= set(table(MANY, None).find(name))


# ---- whether what is missing is really missing


@pytest.mark.parametrize("seqs", [None, seqs_of(MANY), seqs_of(MANY, up_to_the_period)])
def test_whole_names_are_sound(seqs: bytes | None) -> None:
    assert table(MANY, seqs).are_sound()


@pytest.mark.parametrize("bad", ["T\xe9", "T\n", "Ta b", "T\0"])
@pytest.mark.parametrize("seqs", [None, seqs_of([*MANY, "Tzz"])])
def test_a_name_that_is_none_is_damage(bad: str, seqs: bytes | None) -> None:
    data = b"".join(bytes([len(n)]) + n.encode("latin-1") for n in (*MANY, bad))
    assert not SymbolNames(data, TOKENS, len(MANY) + 1, seqs).are_sound()


def test_a_name_out_of_its_place_is_damage() -> None:
    seqs = seqs_of(MANY)
    for number in range(0, len(MANY), 97):
        damaged = [*MANY]
        damaged[number] = MANY[number][0] + "~" + MANY[number][1:]
        assert not table(damaged, seqs).are_sound()


def test_a_token_that_changes_every_name_is_damage() -> None:
    data = b"".join(bytes([len(name)]) + name.encode() for name in MANY)
    for letter in "57":
        tokens = [*TOKENS]
        tokens[ord(letter)] = "K"
        assert not SymbolNames(data, tokens, len(MANY), seqs_of(MANY)).are_sound()


@pytest.mark.parametrize("seqs", [seqs_of(MANY)[::-1], b"\0\x0f\xff" * len(MANY)])
def test_numbers_of_which_some_are_damaged(seqs: bytes) -> None:
    # Half of it is still there.
    half = len(seqs) // SEQ_BYTES // 2 * SEQ_BYTES
    assert not table(MANY, seqs_of(MANY)[: len(seqs) - half] + seqs[:half]).are_sound()


def test_names_that_take_too_much_are_not_expanded() -> None:
    # A fuzzer made tokens of 500 characters out of short ones.
    codes = b"\x64" + b"a" * 100
    for length, count in ((20, 10_000), (500, 1000)):
        tokens = ["", *("x" * length for _ in range(255))]
        names = SymbolNames(codes * count, tokens, count)
        is_too_much = length * 100 * count > 24 << 20
        assert (names.all() == []) is is_too_much
        assert len(names) == count
        assert names.are_sound() is not is_too_much


def test_no_names() -> None:
    assert len(table([], b"")) == 0
    assert table([], b"").are_sound()
    assert table([], b"").find("read") == table([], b"").find("") == []


def test_the_demo_kernel_has_such_an_order(demo_program: Program) -> None:
    kallsyms = kallsyms_of(demo_program)
    assert kallsyms is not None
    names = kallsyms._names
    assert names._in_order is not None
    assert kallsyms.is_sound()
    by_number = names.all()
    for number in random.Random(1).sample(range(len(names)), 1000):
        assert names[number] == by_number[number]
        name = by_number[number][1:]
        assert names.find(name) == names._scanned(name)
        assert names.find(name + "_") == names._scanned(name + "_")
