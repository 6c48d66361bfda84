# SPDX-License-Identifier: LGPL-2.1-or-later
"""Page tables of arm64: drawn ones of each page size and number of address bits, sound and hostile."""

from __future__ import annotations

import random
from contextlib import suppress
from typing import Optional

import pytest
from drgn import FaultError

from drgn_tools.arch.arm64.kernel_page_tables import libkdumpfile_finds_memory
from drgn_tools.arch.arm64.page_tables import PageTables, Paging
from drgn_tools.arch.kernel_page_tables import kernel_page_tables
from drgn_tools.arch.page_walk import MappedPage

from ..support.drawn_arm64_tables import (
    BLOCK_DESCRIPTOR,
    PAGE_DESCRIPTOR,
    PHYS_OFFSET,
    TABLE_DESCRIPTOR,
    DrawnArm64Kernel,
    DrawnArm64Tables,
)

KIB, MIB, GIB, TIB = (1 << shift for shift in (10, 20, 30, 40))
INDEX_BITS = {
    (12, 39): (9, 9, 9),
    (12, 48): (9, 9, 9, 9),
    (12, 52): (4, 9, 9, 9, 9),
    (14, 36): (11, 11),
    (14, 47): (11, 11, 11),
    (14, 48): (1, 11, 11, 11),
    (14, 52): (5, 11, 11, 11),
    (16, 42): (13, 13),
    (16, 48): (6, 13, 13),
    (16, 52): (10, 13, 13),
}
"""Every CONFIG_ARM64_VA_BITS of arch/arm64/Kconfig, and what a CPU leaves of them."""
every_paging = pytest.mark.parametrize(
    "paging",
    [Paging(*key) for key in INDEX_BITS],
    ids=lambda p: f"{1 << p.page_shift}-{p.address_bits}",
)
HIGHEST = (1 << 64) - 1
ATTRIBUTES = 0xE8 << 48 | 0xF0C
"""Not of the address: PXN, UXN, contiguous and bits of software; AF, nG, SH and AttrIndx."""


def attributes(paging: Paging) -> int:
    return ATTRIBUTES & ~0x300 if paging.has_lpa2 else ATTRIBUTES


@every_paging
def test_index_bits(paging: Paging) -> None:
    assert paging.index_bits == INDEX_BITS[paging.page_shift, paging.address_bits]


@every_paging
def test_page(paging: Paging) -> None:
    drawn = DrawnArm64Tables(paging)
    page = drawn.page_bytes
    first, last = drawn.first_address, HIGHEST + 1 - page
    drawn.map(first, 5 * page | PAGE_DESCRIPTOR)
    drawn.map(last, 0x1234 * page | PAGE_DESCRIPTOR | attributes(paging))
    drawn.map(last - page, 6 * page | attributes(paging))
    drawn.map(last - 2 * page, 6 * page | BLOCK_DESCRIPTOR)  # reserved on the last level
    drawn.map(last - 3 * page, 6 * page | 2)  # PTE_VALID is clear, as of PTE_PROT_NONE
    tables = drawn.tables()
    assert tables.find(first) == MappedPage(first, 5 * page, page)
    assert tables.find(first + page - 1) == MappedPage(first, 5 * page, page)
    assert tables.find(first + page) is None
    assert tables.find(HIGHEST) == MappedPage(last, 0x1234 * page, page)
    for number in (1, 2, 3, 4):
        assert tables.find(last - number * page) is None
    for address in (first - 1, 0, -1, HIGHEST + 1, 1 << 200):
        assert tables.find(address) is None


@pytest.mark.parametrize(
    ("paging", "level", "size"),
    [
        (Paging(12, 39), 1, GIB),
        (Paging(12, 39), 2, 2 * MIB),
        (Paging(12, 48), 1, GIB),
        (Paging(12, 48), 2, 2 * MIB),
        (Paging(12, 52), 0, 512 * GIB),
        (Paging(12, 52), 1, GIB),
        (Paging(12, 52), 2, 2 * MIB),
        (Paging(14, 48), 2, 32 * MIB),
        (Paging(14, 52), 1, 64 * GIB),
        (Paging(14, 52), 2, 32 * MIB),
        (Paging(16, 42), 2, 512 * MIB),
        (Paging(16, 48), 1, 4 * TIB),
        (Paging(16, 52), 2, 512 * MIB),
        (Paging(16, 52), 1, 4 * TIB),
    ],
    ids=lambda given: str(given),
)
def test_block(paging: Paging, level: int, size: int) -> None:
    drawn = DrawnArm64Tables(paging)
    first = drawn.first_address
    # Bit 16 of a block is nT; in pages of 64 KiB it would be part of the address.
    drawn.map(first + size, 3 * size | 1 << 16 | BLOCK_DESCRIPTOR | attributes(paging), level)
    tables = drawn.tables()
    found = MappedPage(first + size, 3 * size, size)
    assert [tables.find(first + size), tables.find(first + 2 * size - 1)] == [found, found]
    assert tables.find(first + size - 1) is None
    assert tables.find(first + 2 * size) is None


@pytest.mark.parametrize(
    ("paging", "level"),
    [(Paging(12, 48), 0), (Paging(12, 52), -1), (Paging(14, 48), 1), (Paging(14, 52), 0), (Paging(14, 47), 1)],
    ids=lambda given: str(given),
)  # fmt: skip
def test_no_block_where_the_cpu_has_none(paging: Paging, level: int) -> None:
    drawn = DrawnArm64Tables(paging)
    drawn.map(drawn.first_address, BLOCK_DESCRIPTOR, level)
    assert drawn.tables().find(drawn.first_address) is None


@pytest.mark.parametrize(
    ("paging", "entry", "physical"),
    [
        # SH is in bits 9:8; 49:48 are to be zeros.
        (Paging(12, 48), 0x3_8000_1234_5303, 0x8000_1234_5000),
        (Paging(14, 47), 0x3_8000_1234_4303, 0x8000_1234_4000),
        # FEAT_LPA2: bits 9:8 are 51:50.
        (Paging(12, 52), 0x2_8000_1234_5303, 0xE_8000_1234_5000),
        (Paging(12, 52), 0x0_8000_1234_5103, 0x4_8000_1234_5000),
        (Paging(14, 52), 0x1_8000_1234_4203, 0x9_8000_1234_4000),
        # FEAT_LPA: bits 15:12 are 51:48, and 9:8 say how memory is shared.
        (Paging(16, 52), 0x8000_1234_A303, 0xA_8000_1234_0000),
        (Paging(16, 48), 0x8000_1234_F303, 0xF_8000_1234_0000),
        (Paging(16, 42), 0x3_8000_1234_0303, 0x8000_1234_0000),
    ],
)
def test_physical_address_of_52_bits(paging: Paging, entry: int, physical: int) -> None:
    drawn = DrawnArm64Tables(paging)
    drawn.map(drawn.first_address, entry)
    found = drawn.tables().find(drawn.first_address)
    assert found is not None
    assert found.physical == physical


@every_paging
def test_table_at_a_physical_address_of_52_bits(paging: Paging) -> None:
    if not (paging.has_lpa2 or paging.page_shift == 16):
        return
    drawn = DrawnArm64Tables(paging)
    drawn.next_table = 0xF << 48
    place = drawn.entry_at(drawn.root, drawn.top_level, HIGHEST)
    high = 0xF000 if paging.page_shift == 16 else 3 << 48 | 0x300
    drawn.put(place, high | TABLE_DESCRIPTOR)
    table = 0xF << 48
    drawn.memory[table] = bytearray(drawn.page_bytes)
    drawn.put(
        drawn.entry_at(table, 3, HIGHEST), high | TABLE_DESCRIPTOR
    )  # to itself, on each level
    last = HIGHEST + 1 - drawn.page_bytes
    assert drawn.tables().find(HIGHEST) == MappedPage(last, table, drawn.page_bytes)


@every_paging
def test_read_goes_from_page_to_page(paging: Paging) -> None:
    drawn = DrawnArm64Tables(paging)
    page, first = drawn.page_bytes, drawn.first_address
    for at, physical, fill in ((first + page, 5 * page, b"a"), (first + 2 * page, 9 * page, b"b")):
        drawn.map(at, physical | PAGE_DESCRIPTOR)
        drawn.memory[physical] = bytearray(fill * page)
    tables = drawn.tables()
    assert tables.read(first + 2 * page - 3, 5) == b"aaabb"
    assert tables.read(first + page, 2 * page) == b"a" * page + b"b" * page
    assert tables.read(first + 2 * page - 3, 0) == b""
    for begin, missing in ((first + 3 * page - 1, first + 3 * page), (first, first)):
        with pytest.raises(FaultError) as caught:
            tables.read(begin, 2)
        assert caught.value.address == missing


@every_paging
def test_missing_table_is_a_fault(paging: Paging) -> None:
    drawn = DrawnArm64Tables(paging)
    drawn.put(drawn.root, 0xDEAD << 20 | TABLE_DESCRIPTOR)
    with pytest.raises(FaultError):
        drawn.tables().find(drawn.first_address)
    drawn.memory.clear()
    with pytest.raises(FaultError):
        drawn.tables().find(drawn.first_address)


@every_paging
def test_table_that_leads_to_itself(paging: Paging) -> None:
    drawn = DrawnArm64Tables(paging)
    for i in range(drawn.page_bytes // 8):
        drawn.put(drawn.root + 8 * i, drawn.root | TABLE_DESCRIPTOR)
    for address in (drawn.first_address, HIGHEST, drawn.first_address + 0x2AAA_A000):
        page = address & -drawn.page_bytes
        assert drawn.tables().find(address) == MappedPage(page, drawn.root, drawn.page_bytes)


@every_paging
@pytest.mark.parametrize("seed", range(3))
def test_random_tables_end(paging: Paging, seed: int) -> None:
    dice = random.Random(seed)
    drawn = DrawnArm64Tables(paging)
    for _ in range(4):
        drawn.new_table()
    tables = list(drawn.memory)
    for table in tables:
        for i in range(drawn.page_bytes // 8):
            # Most lead to a table, also to itself and to those above.
            target, kind = dice.choice(tables), TABLE_DESCRIPTOR
            if table != drawn.root:
                target = target if dice.randrange(8) else dice.getrandbits(64) & -4096
                kind = dice.choice((0, 1, 3, 3, 3))
            drawn.put(table + 8 * i, target | kind)
    reads = 0

    def read(address: int, size: int) -> bytes:
        nonlocal reads
        reads += 1
        return drawn.read(address, size)

    sizes = {1 << drawn.shift(level) for level in range(drawn.top_level, 4)}
    pages = 0
    for _ in range(50):
        reads = 0
        found: Optional[MappedPage] = None
        addr = drawn.first_address | dice.getrandbits(paging.address_bits)
        with suppress(FaultError):
            found = PageTables(read, drawn.root, paging).find(addr)
        assert reads <= len(paging.index_bits)
        if found is not None:
            pages += 1
            assert found.address <= addr < found.address + found.size_bytes
            assert found.size_bytes in sizes
            assert found.address % found.size_bytes == found.physical % found.size_bytes == 0
            assert 0 <= found.physical < 1 << 52
    assert pages


# ---- how they are found


def found_by(kernel: DrawnArm64Kernel, **wrong: Optional[str]) -> Optional[tuple[int, PageTables]]:
    info = {**kernel.info, **wrong}
    lines = {key: value for key, value in info.items() if value is not None}
    found = kernel_page_tables(kernel.program(), lines, always=True)
    if found is None:
        return None
    assert isinstance(found[1], PageTables)
    return found[0], found[1]


@every_paging
def test_tables_are_found(paging: Paging) -> None:
    kernel = DrawnArm64Kernel(paging, paging.address_bits)
    found = found_by(kernel)
    assert found is not None
    begin, tables = found
    assert begin == kernel.drawn.first_address
    assert tables.maps(kernel.root, kernel.drawn.root)
    assert tables.maps(kernel.linear_begin + 12345, PHYS_OFFSET + 12345)
    assert tables.find(kernel.stext) is None
    assert kernel_page_tables(kernel.program(), kernel.info) is None  # drgn and libkdumpfile can


def test_cpu_of_48_bits_uses_the_end_of_a_table_for_52() -> None:
    # Pages of 64 KiB: TTBR1_BADDR_4852_OFFSET
    kernel = DrawnArm64Kernel(Paging(16, 52), 48)
    found = found_by(kernel)
    assert found is not None
    assert found[1].maps(kernel.root, kernel.drawn.root)
    used = [i for i in range(1024) if kernel.drawn.get(kernel.drawn.root + 8 * i)]
    assert used == [1024 - 64, 1024 - 32]
    assert found_by(kernel, **{"NUMBER(VA_BITS)": "48"}) is None
    assert not libkdumpfile_finds_memory(kernel.info, 65536)
    assert libkdumpfile_finds_memory({**kernel.info, "NUMBER(TCR_EL1_T1SZ)": "0xc"}, 65536)


@pytest.mark.parametrize(("page_shift", "bits"), [(12, 48), (14, 47)])
def test_smaller_pages_have_a_level_less_on_a_cpu_of_fewer_bits(page_shift: int, bits: int) -> None:
    kernel = DrawnArm64Kernel(Paging(page_shift, bits), bits)
    lines = {"NUMBER(VA_BITS)": "52"}
    found = found_by(kernel, **lines)
    assert found is not None
    assert found[0] == kernel.linear_begin
    assert libkdumpfile_finds_memory({**kernel.info, **lines}, 1 << page_shift)


@pytest.mark.parametrize("block_bytes", [4096, 16384, 65536])
def test_blocks_that_are_no_pages(block_bytes: int) -> None:
    info = DrawnArm64Kernel(Paging(14, 47), 47).info
    assert libkdumpfile_finds_memory(info, block_bytes) == (block_bytes == 16384)
    del info["PAGESIZE"]
    assert libkdumpfile_finds_memory(info, block_bytes)


@pytest.mark.parametrize(
    "key", ["SYMBOL(swapper_pg_dir)", "NUMBER(kimage_voffset)", "NUMBER(VA_BITS)", "PAGESIZE"]
)
def test_tables_are_not_found_without(key: str) -> None:
    kernel = DrawnArm64Kernel(Paging(16, 48), 48)
    assert found_by(kernel) is not None
    assert found_by(kernel, **{key: None}) is None


@pytest.mark.parametrize("actual_bits", [48, 52])
@pytest.mark.parametrize("page_shift", [12, 16])
def test_linear_map_without_its_tables(page_shift: int, actual_bits: int) -> None:
    built = 52 if page_shift == 16 else actual_bits
    kernel = DrawnArm64Kernel(Paging(page_shift, built), actual_bits)
    page = kernel.drawn.page_bytes
    for table in kernel.of_linear_map:
        del kernel.drawn.memory[table]
    found = found_by(kernel)
    assert found is not None
    tables = found[1]
    # One that is in no table, too: whether it was mapped is no longer known.
    for offset in (0, 77 * page + 5, 1 << 30):
        physical = PHYS_OFFSET + offset & -page
        address = kernel.linear_begin + offset & -page
        assert tables.find(kernel.linear_begin + offset) == MappedPage(address, physical, page)
    kernel.drawn.memory[PHYS_OFFSET] = bytearray(b"x" * page)
    assert tables.read(kernel.linear_begin + 3, 4) == b"xxxx"
    without = found_by(kernel, **{"NUMBER(PHYS_OFFSET)": None})
    assert without is not None
    with pytest.raises(FaultError):
        without[1].find(kernel.linear_begin)


def test_wrong_phys_offset_is_not_used_if_a_table_says_so() -> None:
    kernel = DrawnArm64Kernel(Paging(12, 48), 48)
    right, wrong = (
        found_by(kernel, **{"NUMBER(PHYS_OFFSET)": hex(PHYS_OFFSET + offset)})
        for offset in (0, 1 << 12)
    )
    assert right is not None and wrong is not None
    for table in kernel.of_linear_map:
        del kernel.drawn.memory[table]
    for found in (right, wrong):
        found[1]._tables.clear()
    assert right[1].find(kernel.linear_begin) is not None
    with pytest.raises(FaultError):
        wrong[1].find(kernel.linear_begin)


def test_what_a_table_says_goes_first() -> None:
    kernel = DrawnArm64Kernel(Paging(12, 48), 48)
    other = 0x7_7777_7000
    kernel.drawn.map(kernel.linear_begin, other | PAGE_DESCRIPTOR)
    kernel.drawn.map(kernel.linear_begin + 4096, 0)
    found = found_by(kernel)
    assert found is not None
    assert found[1].find(kernel.linear_begin) == MappedPage(kernel.linear_begin, other, 4096)
    assert found[1].find(kernel.linear_begin + 4096) is None


@every_paging
def test_image_without_its_tables(paging: Paging) -> None:
    kernel = DrawnArm64Kernel(paging, paging.address_bits)
    page = kernel.drawn.page_bytes
    place = kernel.drawn.entry_at(kernel.drawn.root, kernel.drawn.top_level, kernel.root)
    kernel.drawn.put(place, 0xDEAD << 20 | TABLE_DESCRIPTOR)
    found = found_by(kernel)
    assert found is not None
    for address in (kernel.stext, kernel.root + 5, kernel.last):
        assert found[1].maps(address, address - kernel.image_offset)
    # What lies beside the image may be modules and stacks.
    for address in (kernel.stext - page, kernel.last + page):
        with pytest.raises(FaultError):
            found[1].find(address)
    assert found_by(kernel, **{"SYMBOL(_stext)": None}) is None
    assert found_by(kernel, **{"SYMBOL(_stext)": f"{kernel.stext - (1 << 30):x}"}) is None


WILD = ("0", "1", "-1", "0x0", "0xc", "0x3f", "0x40", "0xffffffffffffffff", "64", "52", "16", "36", "4096", "65536",
        "ffffffffffffffff", "ffff800000000000", "99999999999999999999", "-99999999999999999999", "1" * 500, "", "x")  # fmt: skip


@every_paging
def test_wild_vmcoreinfo(paging: Paging) -> None:
    kernel = DrawnArm64Kernel(paging, paging.address_bits)
    dice = random.Random(7)
    count = 0
    for _ in range(500):
        lines = dict(kernel.info)
        for key in dice.sample(sorted(lines), dice.randint(1, 3)):
            lines[key] = dice.choice(
                (*WILD, f"{dice.getrandbits(64):x}", hex(dice.getrandbits(64)))
            )
        kernel.reads = 0
        found = found_by(kernel, **lines)
        assert kernel.reads <= 3 * 5
        libkdumpfile_finds_memory(lines, 1 << 16)
        if found is None:
            continue
        count += 1
        for address in (found[0], kernel.root, kernel.linear_begin, dice.getrandbits(64)):
            try:
                page = found[1].find(address)
            except FaultError:
                continue
            assert page is None or page.address <= address < page.address + page.size_bytes
    assert count
