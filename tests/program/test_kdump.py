# SPDX-License-Identifier: LGPL-2.1-or-later
"""The headers of kdump files, and what is refused by them in one line."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest

from drgn_tools import InputError, audit_kernel, open_program
from drgn_tools.program import kdump_pages
from drgn_tools.program.core_file import check_core
from drgn_tools.program.core_notes import read_core_notes
from drgn_tools.program.elf import notes_in
from drgn_tools.program.kdump import (
    KdumpHeader,
    has_end,
    is_flattened,
    is_flattened_elf,
    read_kdump,
    read_part,
)
from drgn_tools.program.kdump_pages import page_data

from ..end_to_end.test_missing_pages import pages_read
from ..support.kdump import (
    COMPRESSIONS,
    MAKEDUMPFILE_NAMES,
    PAGE,
    QEMU_NAMES,
    RECORD,
    flatten,
    unflatten,
    write_kdump,
)
from ..support.wrong_answers import wrong


@pytest.fixture(scope="module")
def kdump(demo_core: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("kdump") / "vmcore"
    write_kdump(demo_core, path)
    return path


def test_headers_are_the_same_flattened_or_not(kdump: Path, tmp_path: Path) -> None:
    headers = []
    for record_bytes in (100, 1000, 1 << 16):
        flat, plain = tmp_path / "flat", tmp_path / "plain"
        flatten(kdump, flat, record_bytes)
        unflatten(flat, plain)
        assert plain.read_bytes() == kdump.read_bytes()
        with open(flat, "rb") as file:
            assert is_flattened(file)
            assert has_end(file)
            headers.append(read_kdump(file))
    with open(kdump, "rb") as file:
        assert not is_flattened(file)
        header = read_kdump(file)
        assert header is not None
        assert page_data(file, header).announced_bytes == kdump.stat().st_size
    assert headers == [header] * 3
    assert header.block_bytes == PAGE
    assert header.utsname == tuple(name.decode() for name in MAKEDUMPFILE_NAMES)
    assert header.part is None
    assert header.max_pfn > 1000


@pytest.mark.parametrize(
    ("version", "pfns_64", "part", "max_pfn"),
    [
        (5, (0, 0, 0), (17, 500), 1000),
        # "32bit only, full 64bit in start_pfn_64" (diskdump_mod.h), on any machine.
        (6, (17, 500, 1000), (17, 500), 1000),
        (6, (17, 1 << 33, 1 << 34), (17, 1 << 33), 1 << 34),
    ],
)
def test_headers_of_a_32_bit_machine(
    tmp_path: Path,
    version: int,
    pfns_64: tuple[int, int, int],
    part: tuple[int, int],
    max_pfn: int,
) -> None:
    names = b"".join(name.ljust(65, b"\0") for name in (b"Linux", b"n", b"5.10", b"#1", b"i686"))
    header = b"KDUMP   " + struct.pack("<i390s2x8xIiiII", version, names, 0, PAGE, 2, 8, 1000)
    sub_header = struct.pack("<IiiII36xQQQ", 0, 31, 1, 17, 500, *pfns_64)
    path = tmp_path / "vmcore"
    path.write_bytes((header.ljust(PAGE, b"\0") + sub_header).ljust(3 * PAGE, b"\0"))
    with open(path, "rb") as file:
        found = read_kdump(file)
    assert found is not None
    assert found.utsname[4] == "i686"
    assert (found.part, found.max_pfn, found.bitmaps_end) == (part, max_pfn, 11 * PAGE)


def refusal(path: Path) -> str:
    with pytest.raises(InputError) as raised:
        open_program(core=path)
    message = str(raised.value)
    assert "\n" not in message
    assert message.startswith(f"{path}: ")
    return message


def test_a_part_of_a_split_dump(demo_core: str, kdump: Path, tmp_path: Path) -> None:
    with open(kdump, "rb") as file:
        header = read_kdump(file)
    assert header is not None
    end = header.max_pfn
    path = tmp_path / "part"
    for part, held in (
        ((0, end // 2), f"page frames 0 to {end // 2 - 1} of {end}"),
        ((end // 2, end), f"page frames {end // 2} to {end - 1} of {end}"),
        ((end, end), "no pages"),
    ):
        write_kdump(demo_core, path, part=part)
        message = refusal(path)
        assert "is one part of a split dump" in message
        assert f"it holds {held};" in message
        assert "makedumpfile --reassemble" in message
    # The first of two parts may have it all, where there is little.
    write_kdump(demo_core, path, part=(0, end))
    assert audit_kernel(open_program(core=path)).problems == ()


@pytest.mark.parametrize("flattened", [False, True])
@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_a_dump_that_names_only_the_machine(
    demo_core: str, tmp_path: Path, compression: str, flattened: bool
) -> None:
    # QEMU's: flattened, and since 8.2 (kdump-raw-*) also as it is.
    path = tmp_path / "vmcore"
    write_kdump(demo_core, path, names=QEMU_NAMES, compression=compression)
    if flattened:
        flatten(path, tmp_path / "flat")
        path = tmp_path / "flat"
    expected = audit_kernel(open_program(core=demo_core))
    audit = audit_kernel(open_program(core=path))
    assert audit.tasks == expected.tasks
    assert audit.problems == ()
    assert audit.kernel.release == expected.kernel.release


def test_a_dump_of_another_machine(demo_core: str, tmp_path: Path) -> None:
    path = tmp_path / "vmcore"
    write_kdump(demo_core, path, names=(*QEMU_NAMES[:4], b"riscv64", b""))
    assert "is a core dump of riscv64; only x86_64, i386 and aarch64" in refusal(path)


@pytest.mark.parametrize("machine", ["i386", "i486", "i586", "i686"])
def test_x86_32_has_many_names(demo_core: str, tmp_path: Path, machine: str) -> None:
    path = tmp_path / "vmcore"
    write_kdump(demo_core, path, names=(*MAKEDUMPFILE_NAMES[:4], machine.encode(), b""))
    file = check_core(str(path), "vmcore")
    assert file.arch == "i386"
    assert file.vmcoreinfo is not None and b"OSRELEASE=" in file.vmcoreinfo


def test_names_that_are_odd_are_libkdumpfiles_to_judge(demo_core: str, tmp_path: Path) -> None:
    path = tmp_path / "vmcore"
    write_kdump(demo_core, path, names=(b"Minix", b"", b"", b"", b"x86_64", b""))
    assert "cannot be opened as a vmcore" in refusal(path)


def test_flattened_and_cut_short(
    kdump: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "flat"
    flatten(kdump, path)
    size = path.stat().st_size
    os.truncate(path, size - 1)  # all is there but the end of the mark
    open_program(core=path)
    assert f"{path}: the file is cut short" in caplog.text
    for length in (size - 17, size - 100, size // 2, 70_000, 9000, 5000, 4096, 100, 16):
        os.truncate(path, length)
        assert "cut short" in refusal(path), length


def test_cut_short_where_the_last_pages_are_zero(kdump: Path, tmp_path: Path) -> None:
    # Their descriptors point to a page at the start.
    with open(kdump, "rb") as file:
        header = read_kdump(file)
        assert header is not None
        announced = page_data(file, header).announced_bytes
    cut = tmp_path / "vmcore"
    cut.write_bytes(kdump.read_bytes()[:-1])
    with open(cut, "rb") as file:
        assert page_data(file, header).announced_bytes == announced == cut.stat().st_size + 1


def test_a_disk_that_was_full(
    demo_core: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = audit_kernel(open_program(core=demo_core))
    path = tmp_path / "vmcore"
    write_kdump(demo_core, path, written=max(pages_read(demo_core).by_audit))
    audit = audit_kernel(open_program(core=path))
    assert f"{path}: makedumpfile could not write the whole file" in caplog.text
    assert list(wrong(whole, audit)) == []
    assert audit.tasks != whole.tasks
    write_kdump(demo_core, path, written=1000)
    assert "makedumpfile could not write the whole file" in refusal(path)


def test_flattened_elf(demo_core: str, tmp_path: Path) -> None:
    flat, plain = tmp_path / "flat", tmp_path / "plain"
    flatten(Path(demo_core), flat)
    assert "makedumpfile -R" in refusal(flat)
    unflatten(flat, plain)
    assert audit_kernel(open_program(core=plain)).problems == ()


# ---- sizes and places that the file decides


MOST = (1 << 63) - 1


@pytest.mark.parametrize(
    ("offset", "size"),
    [
        (0, MOST),
        (0, MOST - 4096),
        (100, MOST),
        (MOST, 10),
        (MOST, MOST),
        (10, 1 << 62),
        (0, 0),
        (0, -1),
        (0, -MOST),
        (-1, 10),
        (-MOST, MOST),
    ],
)
def test_records_of_any_place_and_size(offset: int, size: int, tmp_path: Path) -> None:
    path = tmp_path / "flat"
    start = b"makedumpfile".ljust(4096, b"\0")
    for before in (b"", RECORD.pack(600, 8) + bytes(8)):
        path.write_bytes(start + before + RECORD.pack(offset, size) + b"KDUMP   " + bytes(5000))
        with open(path, "rb") as file:
            assert not is_flattened_elf(file)
            assert read_kdump(file) is None
        message = refusal(path)
        assert "cut short" in message or "cannot be opened" in message


def test_a_record_that_reaches_beyond_the_file_holds_what_is_there(
    kdump: Path, tmp_path: Path
) -> None:
    path = tmp_path / "flat"
    data = kdump.read_bytes()[: 2 * PAGE]
    with open(kdump, "rb") as file:
        expected = read_kdump(file)
    path.write_bytes(b"makedumpfile".ljust(4096, b"\0") + RECORD.pack(0, MOST) + data)
    with open(path, "rb") as file:
        assert read_kdump(file) == expected is not None


def test_a_machine_with_line_ends_in_its_name(demo_core: str, tmp_path: Path) -> None:
    path = tmp_path / "vmcore"
    write_kdump(demo_core, path, names=(*QEMU_NAMES[:4], b"x86\n\x1b[31m", b""))
    assert r"is a core dump of 'x86\n\x1b[31m'; only x86_64" in refusal(path)


NOTES_AT, NOTES_SIZE_AT = PAGE + 48, PAGE + 56
ERASEINFO_AT, ERASEINFO_SIZE_AT = PAGE + 64, PAGE + 72


def patched(kdump: Path, path: Path, **words: int) -> Path:
    """A copy with 64-bit words written over: ``at_100=5``."""
    data = bytearray(kdump.read_bytes())
    for name, value in words.items():
        struct.pack_into("<Q", data, int(name.rpartition("_")[2]), value)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("flattened", [False, True])
@pytest.mark.parametrize("size", [1 << 24, 1 << 40, MOST, (1 << 64) - 1])
@pytest.mark.parametrize("at", [NOTES_AT, NOTES_SIZE_AT, ERASEINFO_SIZE_AT])
def test_parts_that_would_be_behind_the_end(
    at: int, size: int, flattened: bool, kdump: Path, tmp_path: Path
) -> None:
    # libkdumpfile maps them, and would die of SIGBUS.
    path = patched(kdump, tmp_path / "vmcore", **{f"at_{at}": size})
    if flattened:
        flatten(path, tmp_path / "flat")
        path = tmp_path / "flat"
    notes_at, notes_size = struct.unpack_from("<QQ", kdump.read_bytes(), NOTES_AT)
    end = {NOTES_AT: size + notes_size, NOTES_SIZE_AT: notes_at + size, ERASEINFO_SIZE_AT: size}
    found = path.stat().st_size
    assert refusal(path) == (
        f"{path}: is cut short: {end[at]} bytes announced, {found} found; copy or make the dump again"
    )


def test_which_parts_are_read(kdump: Path, tmp_path: Path) -> None:
    def parts(version: int, **words: int) -> set[tuple[int, int]]:
        path = patched(kdump, tmp_path / "vmcore", **words)
        with open(path, "r+b") as file:
            file.seek(8)
            file.write(struct.pack("<i", version))
            header = read_kdump(file)
        assert header is not None
        bitmaps = header.bitmaps_end - header.bitmap_blocks * PAGE
        half = (bitmaps + header.bitmaps_end) // 2
        assert {(bitmaps, half), (half, header.bitmaps_end)} <= set(header.parts)
        return set(header.parts) - {(bitmaps, half), (half, header.bitmaps_end)}

    vmcoreinfo = {f"at_{PAGE + 32}": 8200, f"at_{PAGE + 40}": 10}
    notes = {f"at_{NOTES_AT}": 8300, f"at_{NOTES_SIZE_AT}": 20}
    eraseinfo = {f"at_{ERASEINFO_AT}": 8400, f"at_{ERASEINFO_SIZE_AT}": 30}
    words = {**vmcoreinfo, **notes, **eraseinfo}
    # As read_sub_hdr_64() of libkdumpfile has it.
    assert parts(2, **words) == set()
    assert parts(3, **words) == {(8200, 8210)}
    for version in (4, 5, 6):
        assert parts(version, **words) == {(8300, 8320), (8400, 8430)}
    assert parts(6, **{**words, f"at_{ERASEINFO_SIZE_AT}": 0}) == {(8300, 8320)}


def test_records_that_leave_out_what_is_read_whole(kdump: Path, tmp_path: Path) -> None:
    # libkdumpfile (v0.5.4) takes its place in the file from before an array, and dies of it.
    data = kdump.read_bytes()
    with open(kdump, "rb") as file:
        header = read_kdump(file)
    assert header is not None
    bitmaps = header.bitmaps_end - header.bitmap_blocks * PAGE
    path = tmp_path / "flat"
    end = len(data)
    for pieces, opens in (
        ([(0, end)], True),
        ([(0, 464), (PAGE, end)], True),  # as makedumpfile does
        ([(header.bitmaps_end, end), (0, header.bitmaps_end)], True),
        ([(0, bitmaps)], False),
        ([(0, 2 * PAGE), (bitmaps, end)], False),
        ([(0, header.bitmaps_end - header.bitmap_blocks // 2 * PAGE)], False),
    ):
        records = b"".join(RECORD.pack(a, b - a) + data[a:b] for a, b in pieces)
        records += RECORD.pack(1 << 40, end) + bytes(end)
        start = b"makedumpfile".ljust(16, b"\0") + RECORD.pack(1, 1)
        path.write_bytes(start.ljust(4096, b"\0") + records + RECORD.pack(-1, -1))
        if opens:
            assert open_program(core=path)["init_task"].comm.string_() == b"swapper/0"
        else:
            assert refusal(path) == f"{path}: is damaged: its headers are incomplete"


@pytest.mark.parametrize("flattened", [False, True])
def test_headers_that_are_not_understood_are_not_tried(
    flattened: bool, kdump: Path, tmp_path: Path
) -> None:
    path = tmp_path / "vmcore"
    for at, word in (
        (428, struct.pack("<i", 5000)),  # block_size
        (428, struct.pack("<i", 0)),
        (428, struct.pack(">i", PAGE)),
        (432, struct.pack("<i", -1)),  # sub_hdr_size
        (436, struct.pack("<I", 0)),  # bitmap_blocks, less than max_mapnr needs
    ):
        data = bytearray(kdump.read_bytes())
        data[at : at + 4] = word
        path.write_bytes(data)
        if flattened:
            flatten(path, tmp_path / "flat")
        said = refusal(tmp_path / "flat" if flattened else path)
        assert "cannot be opened as a vmcore: its headers are damaged, or of a machine" in said


def header_of(bitmap_blocks: int) -> KdumpHeader:
    return KdumpHeader(1 << 12, 1, bitmap_blocks, 1000, ("",) * 6, None, False, ())


def test_a_bitmap_larger_than_that_of_any_machine_is_not_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kdump_pages, "MAX_BITMAP_BYTES", 1 << 20)
    path = tmp_path / "vmcore"
    with open(path, "wb") as file:
        file.truncate(1 << 22)
        file.seek(2 * 4096 + 200 * 4096)  # the second bitmap
        file.write(b"\xff")
    with open(path, "rb") as file:
        assert (
            page_data(file, header_of(400)).announced_bytes == header_of(400).bitmaps_end + 8 * 24
        )
        # Half of it is more than that: then the descriptors are not looked at.
        assert page_data(file, header_of(600)).announced_bytes == header_of(600).bitmaps_end


def test_notes_of_which_next_to_nothing_is_in_a_flattened_file(kdump: Path, tmp_path: Path) -> None:
    # A fuzzer found that a file of 10 KB had 64 MiB of notes, 5,600,000 of them, and all were kept.
    flat = tmp_path / "flat"
    with open(kdump, "rb") as file, open(flat, "wb") as out:
        headers = bytearray(file.read(2 * PAGE))
        struct.pack_into("<QQ", headers, PAGE + 48, 2 * PAGE, 1 << 62)
        out.write((b"makedumpfile".ljust(16, b"\0") + RECORD.pack(1, 1)).ljust(4096, b"\0"))
        out.write(RECORD.pack(0, len(headers)) + headers + RECORD.pack(-1, -1))
    with open(flat, "rb") as file:
        header = read_kdump(file)
        assert header is not None
        assert header.notes == (2 * PAGE, 1 << 62)
        assert len(read_part(file, header.notes)) <= flat.stat().st_size
        assert read_core_notes(file, None).prstatus == ()
    empty_notes = bytes(12 * 300_000)
    assert len(list(notes_in(empty_notes))) == 100_000
