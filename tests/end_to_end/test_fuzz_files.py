# SPDX-License-Identifier: LGPL-2.1-or-later
"""Headers with anything in them: the command line says in one line what is wrong, and has no bug.

What is tried is the same every time.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from pathlib import Path

import drgn
import pytest

pytest.importorskip("hypothesis", reason="needs the extra drgn-tools[test]")
from hypothesis import given, settings
from hypothesis import strategies as st

from drgn_tools.errors import EXIT_INPUT, EXIT_OK, EXIT_PARTIAL, EXIT_TYPES
from drgn_tools.program.elf import ET_CORE, ET_EXEC, PT_LOAD, PT_NOTE

from ..support.command_line_server import CommandLines, Ended
from ..support.elf_writer import elf_file, note
from ..support.kdump import PAGE, RECORD, flatten, write_kdump

X86_64 = 62
I386 = 3
LEGAL = (EXIT_OK, EXIT_INPUT, EXIT_TYPES, EXIT_PARTIAL)

EDGES = (
    *(0, 1, 7, 0x80, 0xFFFF, 0x10000, 1 << 24, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 40),
    *((1 << 63) - 4096, (1 << 63) - 1, 1 << 63, (1 << 64) - 8, (1 << 64) - 1),
)

Patch = tuple[int, bytes]
"""Where in the headers, and what stands there instead."""


def fields(at: int, *sizes: int) -> list[range]:
    """Fields of these sizes, one behind the other."""
    ends = list(accumulate(sizes, initial=at))
    return [range(begin, end) for begin, end in pairwise(ends)]


def pairwise(ends: Sequence[int]) -> Iterator[tuple[int, int]]:
    return zip(ends, ends[1:])  # itertools has it since Python 3.10


def patches(places: Sequence[range], order: str = "little") -> st.SearchStrategy[list[Patch]]:
    """One or a few fields with numbers at which something may go wrong, or a few bytes of one."""

    def patch(place: range, skip: int, number: int) -> Patch:
        size = len(place) - skip % len(place)
        return place[-size], (number % (1 << 8 * size)).to_bytes(size, order)

    whole_or_not = st.sampled_from((0, 0, 0, 1, 2, 4))
    numbers = st.one_of(*(st.sampled_from(EDGES),) * 3, st.integers(0, (1 << 64) - 1))
    each = st.builds(patch, st.sampled_from(places), whole_or_not, numbers)
    return st.lists(each, min_size=1, max_size=3)


def tried(examples: int) -> settings:
    return settings(max_examples=examples, deadline=None, derandomize=True, database=None)


class Victim:
    """A file that is written over, and then as it was again."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = os.open(path, os.O_RDWR)

    def look(self, run: CommandLines, changes: Sequence[Patch]) -> Ended:
        before = [(at, os.pread(self._file, len(data), at)) for at, data in changes]
        size = os.fstat(self._file).st_size
        for at, data in changes:
            os.pwrite(self._file, data, at)
        try:
            return run.run("tasks", "-c", str(self.path), "--max-tasks", "3")
        finally:
            for at, data in reversed(before):
                os.pwrite(self._file, data, at)
            os.ftruncate(self._file, size)


def check(ended: Ended, *names: object) -> None:
    """A legal end; of an error one line that names the file."""
    assert ended.exit_code in LEGAL, ended
    errors = [line for line in ended.stderr.split("\n") if line.startswith("drgn-tools: error: ")]
    is_error = ended.exit_code in (EXIT_INPUT, EXIT_TYPES)
    assert len(errors) == is_error, ended
    for line in errors:
        assert line.startswith(tuple(f"drgn-tools: error: {name}: " for name in names)), ended


@pytest.fixture(scope="module")
def run() -> Iterator[CommandLines]:
    with CommandLines() as lines:
        yield lines


# ---- small files, of which each is soon refused


VMCOREINFO = note("VMCOREINFO", 0, b"OSRELEASE=6.12.0\nPAGESIZE=4096\n")
SEGMENTS = [(PT_NOTE, VMCOREINFO + note("CORE", 1, bytes(336))), (PT_LOAD, bytes(range(256)) * 64)]
ELF_64 = elf_file(ET_CORE, X86_64, SEGMENTS)
ELF_32 = elf_file(ET_CORE, I386, SEGMENTS, bits=32)
RECORD_BYTES = 1000

EHDR_64 = fields(16, 2, 2, 4, 8, 8, 8, 4, *(2,) * 6)
PHDR_64 = fields(64, 4, 4, *(8,) * 6)
NOTE_64 = fields(176, 4, 4, 4, 12)
EHDR_32 = fields(16, 2, 2, *(4,) * 5, *(2,) * 6)
PHDR_32 = fields(52, *(4,) * 8)
KDUMP = fields(408, 8, 8, *(4,) * 6)  # timestamp, status, block_size ... total_ram_blocks
VERSION, *UTSNAME = fields(8, 4, *(65,) * 6)
SUB_HEADER = fields(PAGE, 8, 4, 4, *(8,) * 11)
FLAT = fields(16, 8, 8)
FLAT_RECORDS = [
    field
    for at in range(4096, 4096 + 6 * (RECORD.size + RECORD_BYTES), RECORD.size + RECORD_BYTES)
    for field in fields(at, 8, 8)
]
"""Of the first few, in which the headers are."""


def in_flat(places: Iterable[range]) -> list[range]:
    """Fields of a dump, where they are in its flattened form."""
    return [
        range(at, at + len(place))
        for place in places
        for at in [4096 + place.start + RECORD.size * (place.start // RECORD_BYTES + 1)]
        if place.start // RECORD_BYTES == (place.stop - 1) // RECORD_BYTES
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


@pytest.fixture(scope="module")
def elf_64(folder: Path) -> Victim:
    path = folder / "elf-64"
    path.write_bytes(ELF_64)
    return Victim(path)


@pytest.fixture(scope="module")
def elf_32(folder: Path) -> Victim:
    path = folder / "elf-32"
    path.write_bytes(ELF_32)
    return Victim(path)


@pytest.fixture(scope="module")
def kdump(folder: Path, elf_64: Victim) -> Victim:
    path = folder / "kdump"
    write_kdump(str(elf_64.path), path)
    return Victim(path)


@pytest.fixture(scope="module")
def flat(folder: Path, kdump: Victim) -> Victim:
    path = folder / "flat"
    flatten(kdump.path, path, RECORD_BYTES)
    return Victim(path)


def test_the_small_files_are_dumps(
    run: CommandLines, elf_64: Victim, elf_32: Victim, kdump: Victim, flat: Victim
) -> None:
    # Or what is tried below would say little.
    for victim in (elf_64, elf_32, kdump, flat):
        ended = victim.look(run, [])
        assert ended.exit_code == EXIT_INPUT
        assert "it lacks SYMBOL(swapper_pg_dir)" in ended.stderr, ended


@tried(150)
@given(patches([*EHDR_64, *PHDR_64, *NOTE_64]))
def test_headers_of_elf(run: CommandLines, elf_64: Victim, changes: list[Patch]) -> None:
    check(elf_64.look(run, changes), elf_64.path)


@tried(60)
@given(patches([*EHDR_32, *PHDR_32]))
def test_headers_of_elf_of_32_bits(run: CommandLines, elf_32: Victim, changes: list[Patch]) -> None:
    check(elf_32.look(run, changes), elf_32.path)


@tried(60)
@given(st.sampled_from(EDGES), patches(PHDR_64))
def test_the_number_of_segments_in_a_section(
    run: CommandLines, elf_64: Victim, place: int, changes: list[Patch]
) -> None:
    pn_xnum = [(56, b"\xff\xff"), (40, place.to_bytes(8, "little"))]
    check(elf_64.look(run, [*changes, *pn_xnum]), elf_64.path)


@tried(150)
@given(patches([VERSION, *UTSNAME[4:5], *KDUMP, *SUB_HEADER]))
def test_headers_of_kdump(run: CommandLines, kdump: Victim, changes: list[Patch]) -> None:
    check(kdump.look(run, changes), kdump.path)


@tried(150)
@given(patches([*FLAT, *FLAT_RECORDS], "big"))
def test_headers_of_a_flattened_file(run: CommandLines, flat: Victim, changes: list[Patch]) -> None:
    check(flat.look(run, changes), flat.path)


@tried(60)
@given(patches(in_flat([VERSION, *KDUMP, *SUB_HEADER])))
def test_headers_of_kdump_in_a_flattened_file(
    run: CommandLines, flat: Victim, changes: list[Patch]
) -> None:
    check(flat.look(run, changes), flat.path)


# ---- a real dump, of which much is read


@pytest.fixture(scope="module")
def real(folder: Path, demo_core: str) -> Victim:
    path = folder / "vmcore"
    shutil.copyfile(demo_core, path)
    return Victim(path)


@tried(30)
@given(patches([*EHDR_64, *PHDR_64]))
def test_headers_of_a_real_dump(run: CommandLines, real: Victim, changes: list[Patch]) -> None:
    check(real.look(run, changes), real.path)


NUMBERS = (
    *("", "0", "1", "-1", "7", "x", "\x1b[31m", "1e5", "4095", "8192", "9" * 30, "0x10"),
    *("9223372036854775807", "-9223372036854775808", "7fffffffffffffff", "8000000000000000"),
    *("fffffffffffffff0", "ffffffffffffffff", "ffffffff81000000", "ffff888000000000"),
)


@tried(40)
@given(st.lists(st.tuples(st.integers(0), st.sampled_from(NUMBERS)), min_size=1, max_size=3))
def test_numbers_of_vmcoreinfo(
    run: CommandLines, folder: Path, demo_core: str, changes: list[tuple[int, str]]
) -> None:
    prog = drgn.Program()
    prog.set_core_dump(demo_core)
    lines = prog["VMCOREINFO"].string_().decode().split("\n")
    for number, value in changes:
        at = number % len(lines)
        lines[at] = f"{lines[at].partition('=')[0]}={value}"
    path = folder / "vmcoreinfo"
    path.write_text("\n".join(lines))
    ended = run.run("tasks", "-c", demo_core, "--vmcoreinfo", str(path), "--max-tasks", "3")
    check(ended, demo_core, path)


VMLINUX = elf_file(
    ET_EXEC, X86_64, [(PT_NOTE, note("GNU", 3, b"\xab" * 20)), (PT_LOAD, bytes(4096))]
)


@tried(30)
@given(patches([*EHDR_64, *PHDR_64, *NOTE_64]))
def test_headers_of_a_vmlinux(
    run: CommandLines, folder: Path, demo_core: str, changes: list[Patch]
) -> None:
    data = bytearray(VMLINUX)
    for at, word in changes:
        data[at : at + len(word)] = word
    path = folder / "vmlinux"
    path.write_bytes(data)
    check(run.run("tasks", "-c", demo_core, "-s", str(path), "--max-tasks", "3"), demo_core, path)
