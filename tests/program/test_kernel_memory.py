# SPDX-License-Identifier: LGPL-2.1-or-later
"""Kernel memory of x86-32: what is above 4 GiB is missing, for drgn would read other memory in its place."""

from __future__ import annotations

from pathlib import Path

import pytest
from drgn import Architecture, FaultError, Platform, Program

from drgn_tools.arch.x86.page_tables import PAE, TWO_LEVELS, Paging
from drgn_tools.program.core_memory import correct_core_memory
from drgn_tools.program.elf import ET_CORE, PT_LOAD, PT_NOTE

from ..support.drawn_page_tables import PAGE, PRESENT, PSE, DrawnPageTables
from ..support.elf_writer import elf_file, note
from ..support.kdump import write_kdump

EM_386 = 3
PAGE_OFFSET = 0xC000_0000
ABOVE_4_GIB = 1 << 32
LOW, LAST = 0x40_5000, 0x41_0000
"""Physical addresses."""
AT_LOW, AT_HIGH = 0xF800_0000, 0xF840_0000
"""Virtual ones: of LOW, and of what lies at LOW + ABOVE_4_GIB."""


def drawn_core(paging: Paging) -> bytes:
    """Return a core of 64-bit ELF, which has memory on both sides of 4 GiB, and page tables that map it."""
    drawn = DrawnPageTables(paging)
    for table in range(16):
        physical = drawn.root + table * PAGE
        drawn.map(PAGE_OFFSET + physical, physical | PRESENT)
    drawn.map(AT_LOW, LOW | PRESENT)
    if paging is PAE:
        drawn.map(AT_HIGH, LOW + ABOVE_4_GIB | PRESENT)
    else:  # PSE-36: bit 13 of the entry is bit 32 of the address of 4 MiB
        drawn.map(AT_HIGH, LOW & -(4 << 20) | 1 << 13 | PSE | PRESENT, 0)
    memory = bytearray(LAST - drawn.root)
    for table, entries in drawn.memory.items():
        memory[table - drawn.root : table - drawn.root + PAGE] = entries
    memory[LOW - drawn.root : LOW - drawn.root + PAGE] = b"low!" * (PAGE // 4)
    info = "OSRELEASE=6.1.0\nPAGESIZE=4096\n"
    info += f"SYMBOL(swapper_pg_dir)={PAGE_OFFSET + drawn.root:x}\n"
    if paging is PAE:
        info += "CONFIG_X86_PAE=y\n"
    segments = [
        (PT_NOTE, note("VMCOREINFO", 0, info.encode())),
        (PT_LOAD, bytes(memory)),
        (PT_LOAD, b"high" * (LAST // 4)),
    ]
    addresses = (0, drawn.root, ABOVE_4_GIB)
    return elf_file(ET_CORE, EM_386, segments, physical_addresses=addresses)


@pytest.mark.parametrize("paging", [TWO_LEVELS, PAE], ids=["two-levels", "PAE"])
@pytest.mark.parametrize("form", ["elf", "kdump"])
def test_memory_above_4_gib_faults(paging: Paging, form: str, tmp_path: Path) -> None:
    path = tmp_path / "core"
    path.write_bytes(drawn_core(paging))
    if form == "kdump":
        write_kdump(str(path), path := tmp_path / "kdump", names=(b"",) * 4 + (b"i686", b""))
    prog = Program(Platform(Architecture.I386))
    prog.set_core_dump(path)
    correct_core_memory(prog, str(path))  # as open_program() does
    assert prog.read(AT_LOW, 8) == b"low!low!"
    at_high = AT_HIGH if paging is PAE else AT_HIGH + LOW % (4 << 20)
    with pytest.raises(FaultError, match="above 4 GiB"):
        prog.read(at_high, 8)
    # This is why.
    assert prog.read(LOW + ABOVE_4_GIB, 8, True) == b"low!low!"
