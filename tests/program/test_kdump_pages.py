# SPDX-License-Identifier: LGPL-2.1-or-later
"""Page descriptors of kdump files that lead where the file has nothing: libkdumpfile would die of SIGBUS."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from mmap import PAGESIZE
from pathlib import Path
from random import Random
from typing import BinaryIO

import pytest
from drgn import FaultError

from drgn_tools import InputError, audit_kernel, open_program
from drgn_tools.program import kdump_pages
from drgn_tools.program.core_memory import correct_core_memory
from drgn_tools.program.kdump import KdumpHeader, read_kdump
from drgn_tools.program.kdump_pages import KdumpPages, MissingPages, PageData, page_data
from drgn_tools.program.read_at import read_at

from ..end_to_end.test_missing_pages import pages_read, stack_pages
from ..support.kdump import PAGE, RECORD, flatten, unflatten, write_kdump
from ..support.wrong_answers import wrong

DESCRIPTOR = struct.Struct("<QIIQ")
TABLE_AT = 4 * PAGE
DATA_AT = 5 * PAGE
SIZE = 8 * PAGE
FRAMES = (3, 4, 5, 8, 100, 4095, 32767)
"""That have a descriptor, in a drawn dump."""


def drawn(*descriptors: tuple[int, int], frames: tuple[int, ...] = FRAMES) -> bytes:
    """Return a kdump file: headers, two bitmaps of a block each, a block of descriptors, data of pages."""
    bitmap = bytearray(PAGE)
    for frame in frames:
        bitmap[frame // 8] |= 1 << frame % 8
    table = b"".join(DESCRIPTOR.pack(offset, size, 1, 0) for offset, size in descriptors)
    return (bytes(3 * PAGE) + bitmap + table).ljust(SIZE, b"\0")


def header(bitmap_blocks: int = 2, max_pfn: int = 1000) -> KdumpHeader:
    return KdumpHeader(PAGE, 1, bitmap_blocks, max_pfn, ("",) * 6, None, False, ())


def pages_of(data: bytes, path: Path, head: KdumpHeader | None = None) -> PageData:
    path.write_bytes(data)
    with open(path, "rb") as file:
        return page_data(file, head or header())


GOOD = (DATA_AT, 100)


@pytest.mark.parametrize(
    ("bad", "is_missing"),
    [
        ((DATA_AT, 100), False),
        ((SIZE - 100, 100), False),
        ((SIZE - 100, 101), True),
        ((SIZE, 1), True),
        ((DATA_AT, 2 * PAGE), False),
        ((0, 2 * PAGE + 1), True),  # no packer makes that of a page
        ((DATA_AT, 1 << 24), True),  # seed 5049
        ((DATA_AT, (1 << 32) - 1), True),
        ((DATA_AT, 0), True),
        ((1 << 62, 100), True),
        ((1 << 63, 100), True),
        (((1 << 64) - 1, 100), True),
        (((1 << 64) - 100, 4096), True),
    ],
)
def test_what_a_descriptor_may_say(bad: tuple[int, int], is_missing: bool, tmp_path: Path) -> None:
    for number, frame in enumerate(FRAMES):
        descriptors = [GOOD] * len(FRAMES)
        descriptors[number] = bad
        missing = pages_of(drawn(*descriptors), tmp_path / "vmcore").missing
        expected = ((frame, frame + 1),) if is_missing else ()
        assert missing == MissingPages(int(is_missing), PAGE, expected)


def test_neighbours_are_one_run(tmp_path: Path) -> None:
    bad = (SIZE, 100)
    data = drawn(GOOD, bad, bad, bad, GOOD, bad, bad)
    missing = pages_of(data, tmp_path / "vmcore").missing
    # Of frames 6 and 7, which have no descriptor, nothing is in the dump anyway.
    assert missing == MissingPages(5, PAGE, ((4, 9), (4095, 32768)))
    at = PAGE * 4
    for address, size, first in (
        (0, at, None),
        (0, at + 1, at),
        (at + 7, 1, at + 7),
        (9 * PAGE - 1, 50, 9 * PAGE - 1),
        (9 * PAGE, 4000 * PAGE, None),
        (9 * PAGE, 5000 * PAGE, 4095 * PAGE),
        (32768 * PAGE, 1 << 40, None),
    ):
        assert missing.first_in(address, size) == first


def test_too_many_runs_are_joined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kdump_pages, "_MAX_RUNS", 2)
    bad = (SIZE, 100)
    missing = pages_of(drawn(bad, GOOD, bad, GOOD, bad, GOOD, bad), tmp_path / "vmcore").missing
    assert missing.frames == ((3, 4), (5, 32768))  # more than is missing, but no bad one is left


def test_descriptors_behind_the_end(tmp_path: Path) -> None:
    data = drawn(*[(0, 100)] * len(FRAMES))
    for whole in range(len(FRAMES)):
        for more in (0, 1, 23):
            cut = data[: TABLE_AT + 24 * whole + more]
            found = pages_of(cut, tmp_path / "vmcore")
            assert found.missing.frames[0][0] == FRAMES[whole]
            assert found.missing.count == len(FRAMES) - whole
            assert found.announced_bytes == TABLE_AT + 24 * len(FRAMES)


def test_descriptors_are_looked_at_in_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kdump_pages, "_AT_ONCE", 2)
    monkeypatch.setattr(kdump_pages, "_BITMAP_PIECE_BYTES", 16)
    bad = (SIZE, 100)
    missing = pages_of(drawn(GOOD, bad, bad, GOOD, GOOD, GOOD, bad), tmp_path / "vmcore").missing
    assert missing.frames == ((4, 6), (32767, 32768))


@pytest.mark.parametrize(
    ("last", "announced"),
    [
        ((SIZE - 50, 100), SIZE + 50),  # cut short
        ((SIZE - 60, 1 << 24), DATA_AT + 500),  # damaged
        ((1 << 40, 100), DATA_AT + 500),
        ((DATA_AT + 500, 100), DATA_AT + 600),
    ],
)
def test_what_is_damaged_is_not_cut_short(
    last: tuple[int, int], announced: int, tmp_path: Path
) -> None:
    data = drawn(*[(DATA_AT, 500)] * 6, last)
    assert pages_of(data, tmp_path / "vmcore").announced_bytes == announced


def test_data_far_behind_the_end_follow_one_another(tmp_path: Path) -> None:
    data = drawn(*[(DATA_AT + 4000 * n, 4000) for n in range(len(FRAMES))])
    found = pages_of(data, tmp_path / "vmcore")
    assert found.announced_bytes == DATA_AT + 4000 * len(FRAMES) > SIZE + 2 * 4000
    assert found.missing.frames == ((8, 32768),)


def test_both_bitmaps_are_one_if_there_are_more_pages_than_bits(tmp_path: Path) -> None:
    # As libkdumpfile has it. Here the first one has a bit, too.
    data = bytearray(drawn((SIZE, 1), GOOD, GOOD, (SIZE, 1), GOOD, GOOD, GOOD, GOOD))
    data[2 * PAGE] = 1
    bits = 8 * PAGE
    found = pages_of(bytes(data), tmp_path / "vmcore", header(max_pfn=bits + 1))
    assert found.missing.frames == ((0, 1), (bits + 5, bits + 6))
    assert pages_of(bytes(data), tmp_path / "vmcore", header(max_pfn=bits)).missing.frames[0] == (
        3,
        4,
    )


def flat(pieces: list[tuple[int, bytes]], mark: bytes = RECORD.pack(-1, -1)) -> bytes:
    start = b"makedumpfile".ljust(16, b"\0") + RECORD.pack(1, 1)
    records = b"".join(RECORD.pack(at, len(data)) + data for at, data in pieces)
    return start.ljust(4096, b"\0") + records + mark


def test_pages_that_no_record_of_a_flattened_file_holds(tmp_path: Path) -> None:
    path = tmp_path / "flat"
    data = drawn((DATA_AT, 100), (DATA_AT + 50, 100), (SIZE - 50, 100), *[GOOD] * 4)
    everything = [(0, data)]
    late = [(DATA_AT, data[DATA_AT:]), (0, data[:DATA_AT])]
    hole = [(0, data[: DATA_AT + 120]), (DATA_AT + 130, data[DATA_AT + 130 :])]
    touching = [(0, data[: DATA_AT + 120]), (DATA_AT + 120, data[DATA_AT + 120 :])]
    twice = [*touching, (DATA_AT + 100, bytes(50))]
    for pieces, frames in (
        (everything, ((5, 6),)),
        (late, ((5, 6),)),
        (hole, ((4, 6),)),
        (touching, ((5, 6),)),
        (twice, ((5, 6),)),
    ):
        assert pages_of(flat(pieces), path).missing.frames == frames
    # Of records that lie on one another the later one counts.
    table = DESCRIPTOR.pack(SIZE, 100, 1, 0)
    rewritten = [*everything, (TABLE_AT, table)]
    assert pages_of(flat(rewritten), path).missing.frames == ((3, 4), (5, 6))
    assert pages_of(flat(rewritten[::-1]), path).missing.frames == ((5, 6),)


@pytest.mark.parametrize("seed", range(200))
def test_records_that_lie_on_one_another_anyhow(seed: int, tmp_path: Path) -> None:
    random = Random(seed)
    most = random.choice((3, 40, 300))
    pieces = [
        (random.randrange(2000), random.randbytes(random.randrange(1, most)))
        for _ in range(random.randrange(1, 60))
    ]
    expected = bytearray(max(at + len(data) for at, data in pieces))
    for at, data in pieces:
        expected[at : at + len(data)] = data
    path = tmp_path / "flat"
    path.write_bytes(flat(pieces))
    with open(path, "rb") as file:
        dump = KdumpPages(file, header()).dump
        for _ in range(50):
            at, size = random.randrange(2400), random.randrange(1, 500)
            assert dump.read(at, size) == expected[at : at + size]


def test_many_records_of_the_same_byte_are_not_all_read_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The time was the number of records times that of reads."""
    path = tmp_path / "flat"
    path.write_bytes(flat([(0, bytes(PAGE)), *[(10, b"x"), (11, b"y")] * 1000]))
    with open(path, "rb") as file:
        dump = KdumpPages(file, header()).dump
        reads = []

        def counted(file: BinaryIO, at: int, size: int) -> bytes:
            reads.append(size)
            return read_at(file, at, size)

        monkeypatch.setattr(kdump_pages, "read_at", counted)
        assert dump.read(0, 20) == bytes(10) + b"xy" + bytes(8)
    assert reads == [10, 1, 1, 8]


def test_a_flattened_file_that_ends_in_a_record(tmp_path: Path) -> None:
    path = tmp_path / "flat"
    data = drawn(*[(DATA_AT + 1000 * n, 1000) for n in range(len(FRAMES))])
    whole = flat([(0, data)])
    cut = 4096 + RECORD.size + DATA_AT + 2500
    assert pages_of(whole[:cut], path).missing.frames == ((5, 32768),)


@pytest.mark.parametrize("before", [*range(18)])
def test_a_flattened_file_that_ends_in_the_header_of_a_record(before: int, tmp_path: Path) -> None:
    # The header begins so many bytes before the end of a page, which is the end of the file.
    data = drawn(*[GOOD] * len(FRAMES))
    filler = PAGESIZE - (4096 + RECORD.size + SIZE + RECORD.size + before) % PAGESIZE
    file = flat([(0, data), (1 << 40, bytes(filler))], mark=b"\xff" * before)
    assert len(file) % PAGESIZE == 0
    assert pages_of(file, tmp_path / "flat").breaks_off is (1 <= before < 16)


# ---- whole dumps


@pytest.fixture(scope="module")
def kdump(demo_core: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("kdump") / "vmcore"
    write_kdump(demo_core, path)
    return path


def survives(path: Path) -> str:
    """What ``drgn-tools tasks`` says; in a process of its own, which may die."""
    run = subprocess.run(
        [sys.executable, "-m", "drgn_tools", "tasks", "-c", str(path)],
        capture_output=True,
        text=True,
    )
    assert run.returncode in (0, 3, 5), (run.returncode, run.stderr)
    assert "Traceback" not in run.stderr
    return run.stderr


def descriptor_at(kdump: Path, pfn: int) -> int:
    """Where in the file the descriptor of a page is."""
    with open(kdump, "rb") as file:
        head = read_kdump(file)
        assert head is not None
        begin, end = head.bitmap_of_dumped
        file.seek(begin)
        bits = int.from_bytes(file.read(end - begin), "little")
    assert bits >> pfn & 1
    return head.bitmaps_end + 24 * bin(bits & (1 << pfn) - 1).count("1")


@pytest.mark.parametrize("flattened", [False, True])
def test_pages_that_lead_behind_the_end(
    flattened: bool,
    demo_core: str,
    kdump: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """From seed 5049 of the dump kdump: libkdumpfile died of SIGBUS."""
    whole = open_program(core=demo_core)
    answers = audit_kernel(whole)
    stacks = stack_pages(whole, answers)
    pfns = sorted(page for stack in stacks[5:10] for page in stack)
    task = answers.tasks[0].task
    data = bytearray(kdump.read_bytes())
    for pfn in pfns:
        struct.pack_into("<I", data, descriptor_at(kdump, pfn) + 8, 1 << 24)
    path = tmp_path / "vmcore"
    path.write_bytes(data)
    if flattened:
        flatten(path, tmp_path / "flat")
        path = tmp_path / "flat"
    said = f"{len(pfns)} of its page descriptors are damaged: they point outside the file"
    assert said in survives(path)
    prog = open_program(core=path)
    assert said in caplog.text
    for pfn in pfns:
        with pytest.raises(FaultError):
            prog.read(pfn * PAGE + 8, 8, True)
        with pytest.raises(FaultError):
            prog.read(pfn * PAGE + 4000, PAGE, True)
    assert prog.read(task, 64) == whole.read(task, 64)
    assert prog.read(1 << 20, 9000, True) == whole.read(1 << 20, 9000, True)
    with pytest.raises(FaultError, match="page tables"):
        prog.read(1 << 63, 8)
    with pytest.raises(FaultError):
        prog.read(0x1000, 8)
    audit = audit_kernel(prog)
    assert list(wrong(answers, audit)) == []
    assert len(audit.tasks) == len(answers.tasks)
    assert 5 <= sum(t not in answers.tasks for t in audit.tasks) <= len(pfns)


def test_what_stands_in_the_way_of_a_copy_is_one_line(
    kdump: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "vmcore"
    path.write_bytes(kdump.read_bytes()[:-5000])

    def full(name: str) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "memfd_create", full)
    with pytest.raises(InputError) as raised:
        open_program(core=path)
    assert str(raised.value).startswith(f"{path}: the file is cut short: ")
    assert str(raised.value).endswith(": No space left on device")


def test_bitmaps_larger_than_those_of_any_machine(kdump: Path, tmp_path: Path) -> None:
    path = tmp_path / "vmcore"
    data = bytearray(kdump.read_bytes())
    struct.pack_into("<I", data, 436, 3 << 19)  # bitmap_blocks
    path.write_bytes(data)
    os.truncate(path, 7 << 30)  # of holes
    with pytest.raises(InputError, match="its bitmaps are larger than those of any machine"):
        open_program(core=path)
    with open(path, "rb") as file:
        head = read_kdump(file)
        assert head is not None
        assert page_data(file, head).missing.first_in(1 << 20, 1) == 1 << 20
        assert kdump_pages.KdumpPages(file, head).descriptor(256) is None


def test_a_file_cut_short_anywhere(demo_core: str, kdump: Path, tmp_path: Path) -> None:
    whole = audit_kernel(open_program(core=demo_core))
    path, size = tmp_path / "vmcore", kdump.stat().st_size
    path.write_bytes(kdump.read_bytes())
    for cut in (size - 1, size - 5000, size // PAGESIZE * PAGESIZE, size // 2 // PAGE * PAGE):
        os.truncate(path, cut)
        assert "the file is cut short" in survives(path)
        try:
            audit = audit_kernel(open_program(core=path))
        except InputError:
            continue
        assert list(wrong(whole, audit)) == []


def test_pages_that_are_not_packed_are_no_zeros_behind_the_end(
    demo_core: str, tmp_path: Path
) -> None:
    path = tmp_path / "vmcore"
    write_kdump(demo_core, path, compression="none")
    last = max(pages_read(demo_core).by_audit)
    descriptor = path.read_bytes()[descriptor_at(path, last) :][:24]
    offset, *_ = DESCRIPTOR.unpack(descriptor)
    os.truncate(path, offset - offset % PAGE - PAGE)
    assert "the file is cut short" in survives(path)
    prog = open_program(core=path)
    with pytest.raises(FaultError, match="does not have its data"):
        prog.read(last * PAGE, 8, True)


def test_what_drgn_opened_is_read_the_same_way(kdump: Path, tmp_path: Path) -> None:
    import drgn

    path = tmp_path / "vmcore"
    data = bytearray(kdump.read_bytes())
    prog = open_program(core=kdump)
    pfn = 256
    while not any(prog.read(pfn * PAGE, PAGE, True)):
        pfn += 1
    struct.pack_into("<I", data, descriptor_at(kdump, pfn) + 8, 1 << 24)
    path.write_bytes(data)
    by_drgn = drgn.Program()
    by_drgn.set_core_dump(path)
    correct_core_memory(by_drgn)
    with pytest.raises(FaultError, match="does not have its data"):
        by_drgn.read(pfn * PAGE, 8, True)


def test_unflattened_and_flattened_have_the_same_pages(kdump: Path, tmp_path: Path) -> None:
    found = []
    data = bytearray(kdump.read_bytes())
    struct.pack_into("<I", data, descriptor_at(kdump, 256) + 8, 1 << 24)
    (tmp_path / "plain").write_bytes(data)
    flatten(tmp_path / "plain", tmp_path / "flat", 1000)
    unflatten(tmp_path / "flat", tmp_path / "again")
    for name in ("plain", "flat", "again"):
        with open(tmp_path / name, "rb") as file:
            head = read_kdump(file)
            assert head is not None
            found.append(page_data(file, head))
    assert found[0] == found[1] == found[2]
    assert found[0].missing.frames == ((256, 257),)
