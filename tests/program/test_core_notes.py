# SPDX-License-Identifier: LGPL-2.1-or-later
"""The notes of a core dump, in each format."""

from __future__ import annotations

from pathlib import Path
from struct import pack_into

import pytest
from drgn import Program

from drgn_tools.program.core_notes import CoreNotes, read_core_notes
from drgn_tools.program.elf import read_elf

from ..support.kdump import flatten, write_kdump

VMCOREINFO_AT, NOTES_AT = 32, 48
"""Of offset_vmcoreinfo and offset_note in the sub-header, each with its size behind it."""
BLOCK_BYTES = 4096


def notes_of(path: Path) -> CoreNotes:
    with open(path, "rb") as file:
        return read_core_notes(file, read_elf(file))


@pytest.fixture(scope="module")
def kdump(demo_core: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("kdump") / "vmcore"
    write_kdump(demo_core, path)
    return path


def test_elf_and_kdump_have_the_same_notes(
    demo_core: str, demo_program: Program, kdump: Path, tmp_path: Path
) -> None:
    found = notes_of(Path(demo_core))
    assert found.vmcoreinfo is not None
    assert found.vmcoreinfo.rstrip(b"\0") == demo_program["VMCOREINFO"].string_()
    assert len(found.prstatus) == 2  # one for each CPU
    assert found.prstatus[0] != found.prstatus[1]
    flat = tmp_path / "flat"
    flatten(kdump, flat)
    assert notes_of(kdump) == notes_of(flat) == found


def with_sub_header(kdump: Path, path: Path, at: int, offset: int, size: int) -> Path:
    data = bytearray(kdump.read_bytes())
    pack_into("<QQ", data, BLOCK_BYTES + at, offset, size)
    path.write_bytes(data)
    return path


def test_vmcoreinfo_of_a_kdump_has_a_place_of_its_own(kdump: Path, tmp_path: Path) -> None:
    whole = notes_of(kdump)
    begin = kdump.read_bytes().index(b"OSRELEASE=")
    path = with_sub_header(kdump, tmp_path / "vmcore", VMCOREINFO_AT, begin, 9)
    assert notes_of(path) == CoreNotes(b"OSRELEASE", whole.prstatus)


@pytest.mark.parametrize("size", [0, 1, 1 << 40, (1 << 64) - 1])
@pytest.mark.parametrize("offset", [0, 1 << 20, 1 << 62, (1 << 64) - 1])
def test_a_place_that_cannot_be_holds_nothing(
    kdump: Path, tmp_path: Path, offset: int, size: int
) -> None:
    path = with_sub_header(kdump, tmp_path / "vmcore", NOTES_AT, offset, size)
    assert notes_of(path).prstatus == ()


def test_what_is_no_core_dump_has_no_notes(tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_text("not a core dump\n" * 1000)
    assert notes_of(path) == CoreNotes(None, ())
