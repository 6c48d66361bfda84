# SPDX-License-Identifier: LGPL-2.1-or-later
"""Pages that an ELF dump leaves out are missing, not zero."""

from __future__ import annotations

import random
import shutil
import struct
from pathlib import Path
from typing import Optional

import pytest
from drgn import Architecture, FaultError, Platform, Program

from drgn_tools import InputError, open_program
from drgn_tools.program.builtin_types import use_builtin_types
from drgn_tools.program.core_memory import correct_core_memory
from drgn_tools.program.excluded_pages import Span, excluded_ranges


def which(spans: list[Span], address: int) -> Optional[Span]:
    """The last that has an address, as drgn takes it."""
    return next((s for s in reversed(spans) if s.begin <= address < s.end), None)


def test_the_last_segment_with_an_address_counts() -> None:
    assert list(excluded_ranges([])) == []
    assert list(excluded_ranges([Span(10, 20, 30)])) == [(20, 30)]
    assert list(excluded_ranges([Span(10, 30, 30)])) == []
    assert list(excluded_ranges([Span(10, 20, 30), Span(0, 40, 40)])) == []
    assert list(excluded_ranges([Span(0, 40, 40), Span(10, 20, 30)])) == [(20, 30)]
    assert list(excluded_ranges([Span(10, 20, 40), Span(25, 30, 30)])) == [(20, 25), (30, 40)]
    rng = random.Random(3)
    for _ in range(2000):
        spans = [
            Span(*sorted(rng.randrange(40) for _ in range(3))) for _ in range(rng.randrange(6))
        ]
        expected = set()
        for address in range(40):
            span = which(spans, address)
            if span is not None and address >= span.in_file_end:
                expected.add(address)
        ranges = list(excluded_ranges(spans))
        assert {a for begin, end in ranges for a in range(begin, end)} == expected
        assert sum(end - begin for begin, end in ranges) == len(expected)


@pytest.fixture
def with_hole(demo_core: str, tmp_path: Path) -> tuple[Path, int, int, int]:
    """A core without the last pages of its longest segment; where they are."""
    path = tmp_path / "vmcore"
    shutil.copy(demo_core, path)
    path.chmod(0o600)
    with open(path, "r+b") as file:
        header = file.read(64)
        (phoff,), (phnum,) = (
            struct.unpack_from(f, header, at) for f, at in (("<Q", 32), ("<H", 56))
        )
        file.seek(phoff)
        table = list(struct.iter_unpack("<IIQQQQQQ", file.read(56 * phnum)))
        i = max(range(phnum), key=lambda i: table[i][5] * (table[i][0] == 1))
        type_, flags, offset, vaddr, paddr, _, memory_bytes, align = table[i]
        kept = memory_bytes - (3 << 12)
        file.seek(phoff + 56 * i)
        file.write(
            struct.pack("<IIQQQQQQ", type_, flags, offset, vaddr, paddr, kept, memory_bytes, align)
        )
    return path, vaddr, paddr, kept


def test_what_is_left_out_faults(with_hole: tuple[Path, int, int, int]) -> None:
    path, virtual, physical, kept = with_hole
    by_drgn = Program()
    by_drgn.set_core_dump(path)
    assert by_drgn.read(physical + kept - 8, 16, True)[8:] == bytes(8)  # a guess
    correct_core_memory(by_drgn)
    correct_core_memory(by_drgn)
    with_types = Program()
    with_types.set_core_dump(path)
    use_builtin_types(with_types)  # as in drgn's REPL
    for prog in (by_drgn, with_types, open_program(core=path)):
        for start, is_physical in ((virtual, False), (physical, True)):
            assert len(prog.read(start + kept - 8, 8, is_physical)) == 8
            for address, size in ((kept - 8, 16), (kept, 1), (kept + (3 << 12) - 1, 1)):
                with pytest.raises(FaultError, match="left out of the dump"):
                    prog.read(start + address, size, is_physical)


def test_a_core_that_is_gone(with_hole: tuple[Path, int, int, int]) -> None:
    path = with_hole[0]
    prog = Program()
    prog.set_core_dump(path)
    path.unlink()
    with pytest.raises(InputError, match="no such file"):
        correct_core_memory(prog)


def test_a_program_without_a_file_is_left_alone() -> None:
    prog = Program(Platform(Architecture.X86_64))
    prog.add_memory_segment(0x1000, 16, lambda address, count, offset, physical: bytes(count))
    before = dict(prog.cache)
    correct_core_memory(prog)
    assert prog.read(0x1000, 16) == bytes(16)
    assert dict(prog.cache) == before  # a core dump that it may get later is not taken for done
