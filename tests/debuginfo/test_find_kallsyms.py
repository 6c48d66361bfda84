# SPDX-License-Identifier: LGPL-2.1-or-later
"""kallsyms found by what they look like, as for kernels before v6.0."""

from __future__ import annotations

import random
import struct
from collections import Counter
from functools import partial
from pathlib import Path

import drgn
import pytest

from drgn_tools import audit_kernel, open_program
from drgn_tools.cache_key import cache_key
from drgn_tools.debuginfo.find_kallsyms import find_kallsyms
from drgn_tools.debuginfo.kallsyms import kallsyms_of
from drgn_tools.debuginfo.vmcoreinfo import vmcoreinfo_symbol
from drgn_tools.memory import read_up_to

BASE = 0xFFFF_FFFF_8100_0000
TABLES = ("names", "num_syms", "token_table", "token_index", "offsets", "relative_base")


def align(data: bytearray, to: int) -> None:
    data += bytes(-len(data) % to)


def image(symbols: int, word: int = 8, offsets_last: bool = False) -> tuple[bytes, dict[str, int]]:
    """Text, and behind it the tables as scripts/kallsyms.c lays them out; and where they are."""
    rng = random.Random(symbols)
    data = bytearray(rng.randbytes(5000))
    at: dict[str, int] = {}

    def begin(name: str) -> None:
        align(data, word)
        at[name] = BASE + len(data)

    def addresses() -> None:
        begin("offsets")
        data.extend(struct.pack(f"<{symbols}I", *(16 * i for i in range(symbols))))
        begin("relative_base")
        data.extend(BASE.to_bytes(word, "little") if word == 8 else bytes(4))

    if not offsets_last:
        addresses()
    begin("num_syms")
    data.extend(struct.pack("<I", symbols))
    begin("names")
    start, markers = len(data), []
    for i in range(symbols):
        if i % 256 == 0:
            markers.append(len(data) - start)
        data.extend(bytes([3, ord("T"), *(ord(c) for c in f"{i % 97:02}")]))
    begin("markers")
    data.extend(struct.pack(f"<{len(markers)}I", *markers))
    begin("token_table")
    index = []
    for token in range(256):
        index.append(BASE + len(data) - at["token_table"])
        # One character stands for itself; the rest are whatever was frequent.
        data.extend((chr(token) if 48 <= token < 58 else f"t{token}_").encode() + b"\0")
    begin("token_index")
    data.extend(struct.pack("<256H", *index))
    if offsets_last:
        addresses()
    data.extend(rng.randbytes(3000))
    return bytes(data), at


def found(data: bytes, word: int) -> list[dict[str, int]]:
    def read(address: int, size: int) -> bytes:
        offset = address - BASE
        return data[max(offset, 0) : max(offset + size, 0)] if offset >= 0 else b""

    return list(find_kallsyms(read, BASE, word))


@pytest.mark.parametrize("word", [8, 4])
@pytest.mark.parametrize("offsets_last", [False, True])
@pytest.mark.parametrize("symbols", [600, 768, 769, 5000])
def test_tables_are_found_in_either_order(symbols: int, offsets_last: bool, word: int) -> None:
    # 768 is three markers to the letter; with an even number of them there is no padding.
    data, at = image(symbols, word, offsets_last)
    want = {name: at[name] for name in TABLES}
    assert want in found(data, word)


def test_what_is_no_table_is_none() -> None:
    data, _ = image(600)
    assert found(data.replace(b"0\x001\x002\x00", b"9\x001\x002\x00"), 8) == []
    assert found(random.Random(1).randbytes(100_000), 8) == []


def test_damage_is_found_out_where_the_tables_are_recognised_and_ignored_elsewhere() -> None:
    data, at = image(600)
    want = {name: at[name] for name in TABLES}
    recognised = range(at["num_syms"] - BASE, at["token_index"] - BASE + 2 * 256)
    rng = random.Random(7)
    outcomes: Counter[str] = Counter()
    for _ in range(300):
        damaged = bytearray(data)
        places = [rng.randrange(len(data)) for _ in range(rng.choice((1, 1, 3, 8, 200)))]
        for place in places:
            damaged[place] = rng.randrange(256)
        arrangements = found(bytes(damaged), 8)
        for arrangement in arrangements:
            assert_well_formed(bytes(damaged), arrangement)
        if not any(place in recognised for place in places):
            assert want in arrangements
            outcomes["damage elsewhere"] += 1
        outcomes["found" if arrangements else "none"] += 1
    assert min(outcomes[key] for key in ("damage elsewhere", "found", "none")) > 30


def assert_well_formed(data: bytes, arrangement: dict[str, int]) -> None:
    """Is this what scripts/kallsyms.c may have written, as far as the docstring of the module says?"""
    at = {name: addr - BASE for name, addr in arrangement.items()}
    assert set(at) == set(TABLES)
    assert all(offset % 8 == 0 for name, offset in at.items() if name != "token_table")
    assert at["names"] == at["num_syms"] + 8
    assert at["names"] < at["token_table"] < at["token_index"] <= len(data) - 2 * 256
    index = struct.unpack_from("<256H", data, at["token_index"])
    assert index[0] == 0
    assert list(index) == sorted(set(index))
    tokens = [data[at["token_table"] + a :].split(b"\0", 1)[0] for a in index]
    assert tokens[ord("0") : ord("9") + 1] == [b"%d" % digit for digit in range(10)]
    # One order or the other.
    (count,) = struct.unpack_from("<I", data, at["num_syms"])
    offsets_bytes = -(-4 * count // 8) * 8
    before = at["num_syms"] - 8 - offsets_bytes, at["num_syms"] - 8
    behind = at["token_index"] + 2 * 256, at["token_index"] + 2 * 256 + offsets_bytes
    assert (at["offsets"], at["relative_base"]) in (before, behind)


def test_a_real_kernels_tables_are_found_where_vmcoreinfo_says(demo_program: drgn.Program) -> None:
    stext = vmcoreinfo_symbol(demo_program, "_stext")
    assert stext is not None
    places = list(find_kallsyms(partial(read_up_to, demo_program), stext, 8))
    assert {name: vmcoreinfo_symbol(demo_program, f"kallsyms_{name}") for name in TABLES} in places


def test_a_dump_whose_vmcoreinfo_is_silent_gives_the_same_answers(
    demo_core: str, demo_program: drgn.Program, tmp_path: Path
) -> None:
    lines = demo_program["VMCOREINFO"].string_().decode()
    path = tmp_path / "vmcoreinfo"
    path.write_text(lines.replace("SYMBOL(kallsyms_", "SYMBOL(elsewhere_"))
    prog = open_program(core=demo_core, vmcoreinfo=path)
    assert audit_kernel(prog).tasks == audit_kernel(demo_program).tasks


@pytest.mark.parametrize("offsets_last", [False, True])
@pytest.mark.parametrize("end", ["first", "last"])
def test_tables_at_an_end_of_the_addresses(offsets_last: bool, end: str) -> None:
    # What would lie before the first address, or behind the last, is no table.
    data, at = image(4000, offsets_last=offsets_last)
    names_on = at["num_syms"] - BASE
    first = 0 if end == "first" else (1 << 64) - (len(data) - names_on)
    memory = data[names_on:]
    prog = drgn.Program(drgn.Platform(drgn.Architecture.X86_64))
    prog.add_memory_segment(
        first,
        len(memory),
        lambda address, count, offset, physical: memory[offset : offset + count],
    )
    prog.cache[cache_key("drgn_tools.debuginfo.vmcoreinfo")] = {"SYMBOL(_stext)": f"{first:x}"}
    read = partial(read_up_to, prog)
    assert list(find_kallsyms(read, first, 8)), "there are tables, as far as can be seen"
    assert kallsyms_of(prog) is None


def test_markers_of_which_only_padding_follows_the_first() -> None:
    # A guided fuzzer found it: two zeros before the tokens are one marker and its padding.
    tokens = b"".join(bytes((code or 1, 0)) for code in range(256))
    index = struct.pack("<256H", *range(0, 512, 2))
    data = b"\xff" * 4096 + bytes(8) + tokens + index + bytes(4096)

    def read(address: int, size: int) -> bytes:
        return data[address - BASE : address - BASE + size] if address >= BASE else b""

    assert list(find_kallsyms(read, BASE, 8)) == []
