# SPDX-License-Identifier: LGPL-2.1-or-later
"""The symbol table of the kernel image: on tables written by hand, on a real kernel, and damaged."""

from __future__ import annotations

import random
import struct
from array import array
from collections.abc import Mapping, Sequence

import drgn
import pytest
from drgn import Program
from drgn.helpers.linux.kallsyms import load_vmlinux_kallsyms

from drgn_tools.cache_key import cache_key
from drgn_tools.debuginfo.kallsyms import Kallsyms, _Offsets, kallsyms_of
from drgn_tools.debuginfo.symbol_finder import find_symbols
from drgn_tools.debuginfo.symbol_names import MAX_NAME_BYTES
from drgn_tools.debuginfo.symbol_table import KernelSymbol
from drgn_tools.debuginfo.vmcoreinfo import vmcoreinfo_symbol
from drgn_tools.memory import read_up_to

TEXT = 0xFFFFFFFF81000000
TOKENS = [chr(code) for code in range(256)]
TOKENS[200] = "sys_"


def table(symbols: Sequence[tuple[str, int]], text_start: int = 0) -> Kallsyms:
    """A table of (type letter and name, address), uncompressed but for ``sys_``."""
    names = b""
    for name, _ in symbols:
        codes = name.encode("latin-1").replace(b"sys_", b"\xc8")
        if len(codes) < 128:
            names += bytes([len(codes)]) + codes
        else:
            names += bytes([len(codes) & 0x7F | 0x80, len(codes) >> 7]) + codes
    return Kallsyms(names, TOKENS, [address for _, address in symbols], text_start)


SYMBOLS = [
    ("Afirst_percpu", 0x100),
    ("T_text", TEXT),
    ("T_stext", TEXT),
    ("tread", TEXT + 0x10),
    ("Tsys_read", TEXT + 0x30),
    ("T__x64_sys_read", TEXT + 0x30),
    ("tread", TEXT + 0x50),
    ("W" + "long_" * 60, TEXT + 0x60),
    ("Dinit_task", TEXT + 0x100),
    ("B_end", TEXT + 0x200),
]


# ---- the kernel's rules


def test_at_names_the_symbol_that_holds_an_address() -> None:
    kallsyms = table(SYMBOLS, TEXT)
    assert kallsyms.at(TEXT + 0x10) == KernelSymbol("read", TEXT + 0x10, 0x20)
    assert kallsyms.at(TEXT + 0x2F) == KernelSymbol("read", TEXT + 0x10, 0x20)
    assert kallsyms.at(TEXT + 0x5F) == KernelSymbol("read", TEXT + 0x50, 0x10)


def test_at_takes_the_first_of_aliases() -> None:
    kallsyms = table(SYMBOLS, TEXT)
    assert kallsyms.at(TEXT) == KernelSymbol("_text", TEXT, 0x10)
    assert kallsyms.at(TEXT + 0x31) == KernelSymbol("sys_read", TEXT + 0x30, 0x20)


@pytest.mark.parametrize("address", [0, 0x100, TEXT - 1, TEXT + 0x200, 1 << 64, -1])
def test_at_knows_nothing_outside_the_image(address: int) -> None:
    assert table(SYMBOLS, TEXT).at(address) is None


def test_find_returns_all_of_a_name() -> None:
    kallsyms = table(SYMBOLS)
    assert kallsyms.find("read") == [TEXT + 0x10, TEXT + 0x50]
    assert kallsyms.find("sys_read") == [TEXT + 0x30]
    assert kallsyms.find("init_task", types="Tt") == []
    assert kallsyms.find("init_task", types="DB") == [TEXT + 0x100]
    assert kallsyms.find("nothing") == []
    assert kallsyms.find("") == []


def test_names_of_two_byte_length() -> None:
    kallsyms = table(SYMBOLS)
    assert kallsyms.at(TEXT + 0x60) == KernelSymbol("long_" * 60, TEXT + 0x60, 0xA0)
    assert kallsyms.find("long_" * 60) == [TEXT + 0x60]


def test_symbols_returns_the_table() -> None:
    expected = [(name[1:], name[:1], address) for name, address in SYMBOLS]
    assert list(table(SYMBOLS).symbols()) == expected


def test_empty_table() -> None:
    kallsyms = table([])
    assert kallsyms.at(TEXT) is None
    assert kallsyms.find("schedule") == []
    assert list(kallsyms.symbols()) == []


# ---- where the table lies


def program_with_table(
    symbols: Sequence[tuple[str, int]], form: str, bits: int = 64
) -> tuple[Program, Kallsyms]:
    """A program whose memory holds a table, addresses in one of the forms the kernel has had."""
    base, at = TEXT, 0xFFFFFFFF82000000
    if bits == 32:
        base, at = 0xC1000000, 0xC2000000
    addresses = [address - TEXT + base if address >= TEXT else address for _, address in symbols]
    memory: dict[str, bytes] = {"num_syms": struct.pack("<I", len(symbols))}
    names = b"".join(bytes([len(name)]) + name.encode() for name, _ in symbols)
    memory["names"] = names
    memory["token_table"] = b"".join(bytes([code, 0]) for code in range(256))
    memory["token_index"] = struct.pack("<256H", *range(0, 512, 2))
    offsets_at = at + 0x3000
    if form == "absolute":
        memory["addresses"] = struct.pack(
            f"<{len(addresses)}{'Q' if bits == 64 else 'I'}", *addresses
        )
    elif form == "relative":
        low = min(addresses)
        memory["offsets"] = struct.pack(f"<{len(addresses)}I", *(a - low for a in addresses))
        memory["relative_base"] = struct.pack("<Q", low)
    elif form == "percpu":
        offsets = [base - 1 - a if a >= base else a for a in addresses]
        memory["offsets"] = struct.pack(f"<{len(addresses)}i", *offsets)
        memory["relative_base"] = struct.pack("<Q", base)
    else:
        offsets = [a - (offsets_at + 4 * i) for i, a in enumerate(addresses)]
        memory["offsets"] = struct.pack(f"<{len(addresses)}i", *offsets)
    places = {"num_syms": at, "names": at + 0x100, "token_table": at + 0x1000}
    places |= {"token_index": at + 0x2000, "relative_base": at + 0x2800}
    places |= {"offsets": offsets_at, "addresses": offsets_at}
    return program_of(memory, places, base, bits), table(symbols)


def program_of(
    memory: Mapping[str, bytes], places: Mapping[str, int], text: int, bits: int = 64
) -> Program:
    flags = drgn.PlatformFlags.IS_LITTLE_ENDIAN
    arch = drgn.Architecture.I386
    if bits == 64:
        flags, arch = flags | drgn.PlatformFlags.IS_64_BIT, drgn.Architecture.X86_64
    prog = Program(drgn.Platform(arch, flags))
    lines = {f"SYMBOL(kallsyms_{part})": f"{places[part]:x}" for part in memory}
    prog.cache[cache_key("drgn_tools.debuginfo.vmcoreinfo")] = {
        **lines,
        "SYMBOL(_stext)": f"{text:x}",
    }
    for part, data in memory.items():
        padded = data + bytes(16)
        prog.add_memory_segment(
            places[part],
            len(padded),
            lambda address, count, offset, physical, data=padded: data[offset : offset + count],
        )
    return prog


SHORT = [(name, address) for name, address in SYMBOLS if len(name) < 100]


@pytest.mark.parametrize("bits", [64, 32])
@pytest.mark.parametrize("form", ["absolute", "relative", "percpu", "place"])
def test_every_form_of_the_addresses(form: str, bits: int) -> None:
    symbols = SHORT if form in ("absolute", "percpu") else SHORT[1:]
    prog, _ = program_with_table(symbols, form, bits)
    kallsyms = kallsyms_of(prog)
    assert kallsyms is not None
    start = TEXT if bits == 64 else 0xC1000000
    assert kallsyms.find("sys_read") == [start + 0x30]
    assert kallsyms.at(start + 0x11) == KernelSymbol("read", start + 0x10, 0x20)
    if symbols is SHORT:
        assert kallsyms.find("first_percpu") == [0x100]


@pytest.mark.parametrize("missing", ["names", "num_syms", "token_table", "token_index", "offsets"])
def test_without_a_part_of_the_table_there_is_none(missing: str) -> None:
    prog, _ = program_with_table(SHORT, "percpu")
    lines = dict(prog.cache[cache_key("drgn_tools.debuginfo.vmcoreinfo")])
    del lines[f"SYMBOL(kallsyms_{missing})"]
    prog.cache[cache_key("drgn_tools.debuginfo.vmcoreinfo")] = lines
    assert kallsyms_of(prog) is None


@pytest.mark.parametrize("missing", ["names", "num_syms", "token_table", "token_index", "offsets"])
def test_a_part_that_is_not_in_the_dump(missing: str) -> None:
    prog, _ = program_with_table(SHORT, "percpu")
    lines = dict(prog.cache[cache_key("drgn_tools.debuginfo.vmcoreinfo")])
    lines[f"SYMBOL(kallsyms_{missing})"] = f"{0x1234000:x}"
    prog.cache[cache_key("drgn_tools.debuginfo.vmcoreinfo")] = lines
    kallsyms = kallsyms_of(prog)
    assert kallsyms is None or kallsyms.find("sys_read") == []


# ---- real kernels


def test_the_same_as_drgn_reads(demo_program: Program) -> None:
    kallsyms = kallsyms_of(demo_program)
    assert kallsyms is not None
    index = load_vmlinux_kallsyms(demo_program)
    theirs = sorted((s.name, s.address) for s in index(demo_program, None, None, False))
    assert sorted((name, address) for name, _, address in kallsyms.symbols()) == theirs
    assert len(theirs) > 10_000


def test_vmcoreinfo_agrees(demo_program: Program) -> None:
    kallsyms = kallsyms_of(demo_program)
    assert kallsyms is not None
    for name in ("_stext", "init_top_pgt", "init_uts_ns", "prb"):
        assert kallsyms.find(name) == [vmcoreinfo_symbol(demo_program, name)]


def test_every_symbol_is_found_where_it_starts(demo_program: Program) -> None:
    kallsyms = kallsyms_of(demo_program)
    assert kallsyms is not None
    text = vmcoreinfo_symbol(demo_program, "_stext")
    assert text is not None
    first: dict[int, str] = {}
    for name, _, address in kallsyms.symbols():
        first.setdefault(address, name)
    addresses = sorted(address for address in first if address >= text)
    for address, following in zip(addresses, addresses[1:]):
        expected = KernelSymbol(first[address], address, following - address)
        assert kallsyms.at(address) == expected


# ---- damage


def test_lengths_that_lead_out_of_the_table() -> None:
    whole = b"\x03Tab\x03Tcd\x03Tef"
    addresses = [TEXT, TEXT + 1, TEXT + 2, TEXT + 3]
    for cut in range(len(whole) + 1):
        kallsyms = Kallsyms(whole[:cut], TOKENS, addresses)
        assert len(kallsyms) == cut // 4
        assert [name for name, _, _ in kallsyms.symbols()] == ["ab", "cd", "ef"][: cut // 4]
    assert len(Kallsyms(b"\xff\xff" + whole, TOKENS, addresses)) == 0


def test_names_and_tokens_without_end() -> None:
    tokens = ["x" * MAX_NAME_BYTES] * 256
    names = (b"\xff\x7f" + bytes(0x3FFF)) * 1000
    kallsyms = Kallsyms(names, tokens, range(TEXT, TEXT + 1000))
    found = kallsyms.at(TEXT + 5)
    assert found is not None
    assert len(found.name) <= MAX_NAME_BYTES
    assert kallsyms.find("x") == []  # 8 GB of names are not expanded


def test_unsorted_addresses() -> None:
    rng = random.Random(1)
    addresses = [TEXT + rng.randrange(1 << 20) for _ in range(500)]
    kallsyms = Kallsyms(b"\x02Tx" * 500, TOKENS, addresses)
    for _ in range(500):
        address = TEXT + rng.randrange(1 << 20)
        found = kallsyms.at(address)
        assert found is None or (found.size >= 0 and found.start <= address)


def test_addresses_that_do_not_ascend_are_damage() -> None:
    offsets = [0, 0x10, 0x10, 0x20]
    for damaged, is_sound in ((offsets, True), ([0, 0x10, 0xF, 0x20], False)):
        addresses = [TEXT + each for each in damaged]
        assert Kallsyms(b"\x02Tx" * 4, TOKENS, addresses).is_sound() is is_sound
        forms = _Offsets(array("i", [-0x100, *damaged]), TEXT, (1 << 64) - 1)
        assert Kallsyms(b"\x02Tx" * 5, TOKENS, forms).is_sound() is is_sound


def test_addresses_that_descend_for_a_while() -> None:
    # A fuzzer was told "cpu_in_idle+-0xa8": of aliases the first was one that lies behind.
    offsets = [0, 0x10, 0x20, 0x90, 0x30, 0x40, 0x50, 0x30, 0x60, 0x70]
    kallsyms = Kallsyms(b"\x02Tx" * len(offsets), TOKENS, [TEXT + each for each in offsets])
    for each in range(0x70):
        found = kallsyms.at(TEXT + each)
        assert found is None or found.start <= TEXT + each


def test_random_damage(demo_core: str, demo_program: Program) -> None:
    parts = ("num_syms", "names", "token_table", "token_index", "offsets", "relative_base")
    symbol = {part: vmcoreinfo_symbol(demo_program, f"kallsyms_{part}") for part in parts}
    places = {part: address for part, address in symbol.items() if address is not None}
    whole = kallsyms_of(demo_program)
    assert whole is not None
    sizes = {"num_syms": 4, "names": 8 * len(whole), "token_table": 1024, "token_index": 512}
    sizes |= {"offsets": 4 * len(whole), "relative_base": 8}
    memory = {part: demo_program.read(place, sizes[part]) for part, place in places.items()}
    for seed in range(40):
        rng = random.Random(seed)
        damaged = {part: bytearray(data) for part, data in memory.items()}
        for part in rng.sample(sorted(damaged), 2):
            for _ in range(rng.choice((1, 10, 10_000))):
                damaged[part][rng.randrange(len(damaged[part]))] = rng.randrange(256)
        prog = program_of({part: bytes(data) for part, data in damaged.items()}, places, TEXT)
        kallsyms = kallsyms_of(prog)
        if kallsyms is None:
            continue
        assert len(kallsyms) <= 4_000_000
        for _ in range(50):
            find_symbols(prog, None, rng.randrange(1 << 64), True)
            kallsyms.at(TEXT + rng.randrange(1 << 25))
        kallsyms.find("init_task")


NO_ADDRESSES = (-1, -(1 << 63), 1 << 64, (1 << 64) + 4096)


@pytest.mark.parametrize("address", [*NO_ADDRESSES, 0, (1 << 64) - 1, (1 << 64) - 8])
@pytest.mark.parametrize("size", [0, 1, 16, 1 << 20, -1, -(1 << 40)])
def test_nothing_is_read_where_no_address_is(address: int, size: int) -> None:
    prog = drgn.Program(drgn.Platform(drgn.Architecture.X86_64))
    prog.add_memory_segment(0x1000, 0x1000, lambda address, count, offset, physical: bytes(count))
    assert read_up_to(prog, address, size) == b""
    assert read_up_to(prog, 0x1800, size) == bytes(min(max(size, 0), 0x800))


PARTS = ("names", "num_syms", "token_table", "token_index", "offsets", "relative_base", "addresses")


@pytest.mark.parametrize("address", [0, 1, 8, 1 << 63, (1 << 64) - 16, (1 << 64) - 1])
@pytest.mark.parametrize("form", ["absolute", "percpu", "place"])
@pytest.mark.parametrize("part", PARTS)
def test_a_part_at_an_end_of_the_addresses(part: str, form: str, address: int) -> None:
    prog, _ = program_with_table(SHORT[1:] if form == "place" else SHORT, form)
    lines = dict(prog.cache[cache_key("drgn_tools.debuginfo.vmcoreinfo")])
    had_it = f"SYMBOL(kallsyms_{part})" in lines
    lines[f"SYMBOL(kallsyms_{part})"] = f"{address:x}"
    # So that other tables are placed by it as well: kallsyms_seqs_of_names.
    for add in ({}, {"SYMBOL(kallsyms_token_table)": "10"}):
        prog.cache[cache_key("drgn_tools.debuginfo.vmcoreinfo")] = {**lines, **add}
        prog.cache.pop(cache_key("drgn_tools.debuginfo.kallsyms"), None)
        found = kallsyms_of(prog)
        assert not (found and had_it) or found.find("sys_read") == []


@pytest.mark.parametrize("text", [0, 1, 4096, (1 << 64) - (1 << 27) + 1, (1 << 64) - 1])
def test_looking_for_the_tables_ends_where_addresses_do(text: int) -> None:
    prog, _ = program_with_table(SHORT, "percpu")
    prog.cache[cache_key("drgn_tools.debuginfo.vmcoreinfo")] = {"SYMBOL(_stext)": f"{text:x}"}
    assert kallsyms_of(prog) is None
