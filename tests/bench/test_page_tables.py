# SPDX-License-Identifier: LGPL-2.1-or-later
"""Segments and page tables of a core that is written to."""

from __future__ import annotations

from pathlib import Path

import pytest

from drgn_tools.program.elf import ET_CORE, PT_LOAD
from tests.support.elf_writer import elf_file

from .page_tables import GIB, PAGE, CoreMemory, PageTables

PAGES = 8
EM_X86_64 = 62
DIRECT_MAP = 0xFF11_0000_0000_0000


@pytest.fixture
def core(tmp_path: Path) -> Path:
    path = tmp_path / "core"
    path.write_bytes(elf_file(ET_CORE, EM_X86_64, [(PT_LOAD, bytes(PAGES * PAGE))]))
    return path


@pytest.mark.parametrize("levels", [4, 5])
def test_what_is_mapped_is_found(core: Path, levels: int) -> None:
    with open(core, "r+b") as file:
        tables = PageTables(CoreMemory(file), 0, levels)
        free = iter(range(PAGE, PAGES * PAGE, PAGE))
        for i in range(2):
            tables.map_gib(DIRECT_MAP + i * GIB, (4 + i) * GIB, lambda: next(free))
        assert tables.phys(DIRECT_MAP + 0x1234) == 4 * GIB + 0x1234
        assert tables.phys(DIRECT_MAP + GIB + 0x1234) == 5 * GIB + 0x1234
        # One new table on each level between the top and the one of 1 GiB pages.
        assert next(free) == PAGE * (1 + levels - 3)
        with pytest.raises(LookupError, match="not mapped"):
            tables.phys(DIRECT_MAP + 2 * GIB)
        with pytest.raises(LookupError, match="already"):
            tables.map_gib(DIRECT_MAP, 0, lambda: next(free))


def test_memory_is_added_behind_what_there_is(core: Path) -> None:
    with open(core, "r+b") as file:
        memory = CoreMemory(file)
        assert memory.end == PAGES * PAGE
        memory.write_word(PAGE, 1)
        memory.add_segment(GIB, 2 * PAGE)
        memory.write_word(GIB + PAGE, 2)
        memory = CoreMemory(file)
        assert memory.end == GIB + 2 * PAGE
        assert (memory.read_word(PAGE), memory.read_word(GIB + PAGE)) == (1, 2)
        assert memory.read_word(GIB) == 0
        with pytest.raises(LookupError, match="not in the dump"):
            memory.offset(GIB + 2 * PAGE)


def test_memory_that_lies_in_the_file_twice_is_written_twice(tmp_path: Path) -> None:
    path = tmp_path / "core"
    path.write_bytes(elf_file(ET_CORE, EM_X86_64, [(PT_LOAD, bytes(PAGE))] * 2))
    with open(path, "r+b") as file:
        CoreMemory(file).write_word(8, 0x1122334455667788)
    assert path.read_bytes().count(bytes.fromhex("8877665544332211")) == 2
