# SPDX-License-Identifier: LGPL-2.1-or-later
"""kdump files of arm64 that libkdumpfile cannot read, drawn: they are read through our own page tables."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import pytest
from drgn import Architecture, FaultError, Platform, Program

from drgn_tools.arch.arm64.page_tables import Paging
from drgn_tools.program.core_file import CoreFile, check_core
from drgn_tools.program.core_memory import correct_core_memory
from drgn_tools.program.elf import ET_CORE, PT_LOAD, PT_NOTE

from ..support.drawn_arm64_tables import PAGE_DESCRIPTOR, PHYS_OFFSET, DrawnArm64Kernel
from ..support.elf_writer import elf_file, note
from ..support.kdump import ARM64_NAMES, QEMU_NAMES, write_kdump

EM_AARCH64 = 183
QEMU_NAMES_ARM64 = (*QEMU_NAMES[:4], b"Unknown", b"")
BLOCK = 65536
"""Of QEMU."""
PAGES = 32
"""In the linear map."""


class Drawn(NamedTuple):
    kernel: DrawnArm64Kernel
    core: Path
    """ELF"""
    stack: int
    """Virtual address in vmalloc memory."""
    task: int
    """Virtual address in the linear map."""
    last: int
    """Physical address of the last byte. Nothing that is read is in its block."""


def drawn_core(folder: Path, paging: Paging, actual_bits: int) -> Drawn:
    """Draw a core with a stack on the first page of the memory, and a task on the last of the linear map."""
    kernel = DrawnArm64Kernel(paging, actual_bits, PAGES)
    page = kernel.drawn.page_bytes
    stack, task = kernel.stext + (1 << 30), kernel.linear_begin + (PAGES - 1) * page
    kernel.drawn.map(stack, PHYS_OFFSET | PAGE_DESCRIPTOR)
    kernel.drawn.memory[PHYS_OFFSET] = bytearray(b"stack..." * (page // 8))
    kernel.drawn.memory[PHYS_OFFSET + (PAGES - 1) * page] = bytearray(os.urandom(page))
    end = max(kernel.drawn.next_table, PHYS_OFFSET + PAGES * page)
    memory = bytearray(-(-(end - PHYS_OFFSET) // BLOCK) * BLOCK)
    for address, data in kernel.drawn.memory.items():
        memory[address - PHYS_OFFSET : address - PHYS_OFFSET + page] = data
    memory += os.urandom(BLOCK)
    info = "OSRELEASE=6.1.0\n" + "".join(f"{key}={text}\n" for key, text in kernel.info.items())
    segments = [(PT_NOTE, note("VMCOREINFO", 0, info.encode())), (PT_LOAD, bytes(memory))]
    core = folder / "core"
    core.write_bytes(elf_file(ET_CORE, EM_AARCH64, segments, physical_addresses=(0, PHYS_OFFSET)))
    return Drawn(kernel, core, stack, task, PHYS_OFFSET + len(memory) - 1)


def opened(kdump: Path) -> tuple[CoreFile, Program]:
    """As open_program() does, which needs types as well."""
    file = check_core(str(kdump), "kdump")
    prog = Program(Platform(Architecture.AARCH64))
    prog.set_core_dump(kdump)
    correct_core_memory(prog, str(kdump), missing_pages=file.missing_pages)
    return file, prog


def by_libkdumpfile(kdump: Path) -> Program:
    prog = Program(Platform(Architecture.AARCH64))
    prog.set_core_dump(kdump)
    return prog


def reads_the_same(prog: Program, drawn: Drawn) -> bool:
    page, elf = drawn.kernel.drawn.page_bytes, Program()
    elf.set_core_dump(drawn.core)
    for address in (drawn.stack, drawn.task, drawn.kernel.root, drawn.task - 8 * page):
        assert prog.read(address, page) == elf.read(address, page), hex(address)
    assert prog.read(drawn.stack, 8) == b"stack..."
    assert prog.read(drawn.task - 3, 9) == elf.read(drawn.task - 3, 9)
    for address in (drawn.stack - 1, drawn.stack + page, 0, drawn.kernel.linear_begin - 1):
        with pytest.raises(FaultError):
            prog.read(address, 1)
    return True


def test_cpu_of_48_bits_and_a_kernel_built_for_52(tmp_path: Path) -> None:
    drawn = drawn_core(tmp_path, Paging(16, 52), 48)
    kdump = tmp_path / "kdump"
    write_kdump(str(drawn.core), kdump, names=ARM64_NAMES, page_bytes=BLOCK)
    file, prog = opened(kdump)
    assert file.cut_short is None
    assert reads_the_same(prog, drawn)
    with pytest.raises(FaultError):  # this is why
        by_libkdumpfile(kdump).read(drawn.stack, 8)


@pytest.mark.parametrize(
    ("paging", "actual_bits"),
    [(Paging(16, 52), 52), (Paging(16, 48), 48), (Paging(16, 42), 42), (Paging(12, 48), 48)],
    ids=lambda given: str(given),
)
def test_what_libkdumpfile_reads_it_reads(paging: Paging, actual_bits: int, tmp_path: Path) -> None:
    drawn = drawn_core(tmp_path, paging, actual_bits)
    kdump = tmp_path / "kdump"
    page_bytes = 1 << paging.page_shift
    write_kdump(str(drawn.core), kdump, names=ARM64_NAMES, page_bytes=page_bytes)
    assert by_libkdumpfile(kdump).read(drawn.stack, 8) == b"stack..."
    assert reads_the_same(opened(kdump)[1], drawn)


@pytest.mark.parametrize(
    "paging",
    [Paging(12, 39), Paging(12, 48), Paging(12, 52), Paging(14, 36), Paging(14, 47), Paging(14, 52)],
    ids=lambda given: str(given),
)  # fmt: skip
def test_blocks_that_are_no_pages(paging: Paging, tmp_path: Path) -> None:
    drawn = drawn_core(tmp_path, paging, paging.address_bits)
    kdump = tmp_path / "kdump"
    write_kdump(str(drawn.core), kdump, names=QEMU_NAMES_ARM64, page_bytes=BLOCK)
    file, prog = opened(kdump)
    assert file.arch == "aarch64"
    assert reads_the_same(prog, drawn)
    with pytest.raises(FaultError):  # this is why
        by_libkdumpfile(kdump).read(drawn.stack, 8)


@pytest.mark.parametrize("block_bytes", [4096, 65536])
@pytest.mark.parametrize(
    ("paging", "actual_bits"),
    [(Paging(12, 48), 48), (Paging(14, 47), 47), (Paging(16, 52), 48), (Paging(16, 52), 52)],
    ids=lambda given: str(given),
)
def test_file_that_is_not_whole(
    paging: Paging, actual_bits: int, block_bytes: int, tmp_path: Path
) -> None:
    drawn = drawn_core(tmp_path, paging, actual_bits)
    kdump = tmp_path / "kdump"
    write_kdump(str(drawn.core), kdump, names=ARM64_NAMES, page_bytes=block_bytes)
    os.truncate(kdump, kdump.stat().st_size - 10)
    file, prog = opened(kdump)
    assert file.cut_short is not None
    assert reads_the_same(prog, drawn)
    with pytest.raises(FaultError):
        prog.read(drawn.last, 1, True)
    assert prog.read(drawn.last - BLOCK, 1, True)


def test_linear_map_whose_tables_are_missing(tmp_path: Path) -> None:
    drawn = drawn_core(tmp_path, Paging(12, 48), 48)
    kdump = tmp_path / "kdump"
    gone = {table // 4096 for table in drawn.kernel.of_linear_map}
    write_kdump(str(drawn.core), kdump, names=ARM64_NAMES, left_out=gone)
    os.truncate(kdump, kdump.stat().st_size - 10)
    assert reads_the_same(opened(kdump)[1], drawn)


def test_table_of_a_stack_that_is_missing(tmp_path: Path) -> None:
    drawn = drawn_core(tmp_path, Paging(12, 48), 48)
    kernel, kdump = drawn.kernel, tmp_path / "kdump"
    table = kernel.drawn.map(drawn.stack, PHYS_OFFSET | PAGE_DESCRIPTOR) // 4096
    write_kdump(str(drawn.core), kdump, names=ARM64_NAMES, left_out={table})
    os.truncate(kdump, kdump.stat().st_size - 10)
    _, prog = opened(kdump)
    with pytest.raises(FaultError):
        prog.read(drawn.stack, 1)
    assert len(prog.read(drawn.task, 4096)) == 4096


@pytest.mark.parametrize("key", ["NUMBER(kimage_voffset)", "NUMBER(VA_BITS)"])
def test_without_page_tables_nothing_is_mapped(key: str, tmp_path: Path) -> None:
    drawn = drawn_core(tmp_path, Paging(16, 52), 48)
    kdump = tmp_path / "kdump"
    raw = drawn.core.read_bytes()
    drawn.core.write_bytes(raw.replace(key.encode(), b"x" * len(key)))
    write_kdump(str(drawn.core), kdump, names=ARM64_NAMES, page_bytes=BLOCK)
    os.truncate(kdump, kdump.stat().st_size - 10)
    _, prog = opened(kdump)
    for address in (drawn.stack, drawn.task, drawn.kernel.root):
        with pytest.raises(FaultError):
            prog.read(address, 1)
    assert prog.read(PHYS_OFFSET, 8, True) == b"stack..."
