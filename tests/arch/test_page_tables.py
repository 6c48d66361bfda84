# SPDX-License-Identifier: LGPL-2.1-or-later
"""Page tables: drawn ones in each mode of the CPU, and those of real dumps against drgn's own reading."""

from __future__ import annotations

import os
import random
from typing import Optional

import drgn
import pytest
from drgn import FaultError
from drgn.helpers.linux.mm import follow_phys

from drgn_tools import open_program
from drgn_tools.arch.x86.page_tables import (
    FIVE_LEVELS,
    FOUR_LEVELS,
    PAE,
    TWO_LEVELS,
    MappedPage,
    PageTables,
    Paging,
)

from ..conftest import lab_dump, lab_file
from ..lab.variants import VARIANTS, Variant
from ..support import translations
from ..support.drawn_page_tables import PAGE, PRESENT, PSE, DrawnPageTables, mapped_pages

MODES = {mode.name: mode for mode in (TWO_LEVELS, PAE, FOUR_LEVELS, FIVE_LEVELS)}
every_mode = pytest.mark.parametrize("paging", MODES.values(), ids=MODES)

ADDRESSES_VARIABLE = "DRGN_TOOLS_LAB_ADDRESSES"
"""How many random addresses are compared with drgn on each dump of the lab beyond the core."""

PROTNONE = 0x100
INVERTED = (1 << 52) - PAGE


def highest_page(paging: Paging) -> int:
    return (1 << (32 if paging.address_bits == 32 else 64)) - PAGE


@every_mode
def test_page(paging: Paging) -> None:
    drawn = DrawnPageTables(paging)
    high = highest_page(paging)
    drawn.map(0, 0x5000 | PRESENT)
    drawn.map(high, 0x1234_5000 | PRESENT)
    drawn.map(high - PAGE, 0x6000)  # not present
    tables = drawn.tables()
    assert tables.find(0xFFF) == MappedPage(0, 0x5000, PAGE)
    assert tables.find(0x1000) is None
    assert tables.find(high + 0x123) == MappedPage(high, 0x1234_5000, PAGE)
    assert tables.find(high - 1) is None
    assert tables.find(high - 0x4000_0000) is None
    assert tables.find(high + PAGE) is None
    assert tables.find(-1) is None


@pytest.mark.parametrize("paging", [FOUR_LEVELS, FIVE_LEVELS], ids=["four", "five"])
def test_address_whose_upper_bits_differ_does_not_exist(paging: Paging) -> None:
    drawn = DrawnPageTables(paging)
    top = 1 << paging.address_bits - 1
    for address in (0, top - PAGE, top, (1 << paging.address_bits) - PAGE):
        drawn.map(address, 0x5000 | PRESENT)
    tables = drawn.tables()
    assert tables.find(top - 1) is not None
    assert tables.find(top) is None
    assert tables.find((1 << 64) - top - 1) is None
    assert tables.find((1 << 64) - top) is not None


@pytest.mark.parametrize(
    ("paging", "level", "size"),
    [
        (TWO_LEVELS, 0, 4 << 20),
        (PAE, 1, 2 << 20),
        (FOUR_LEVELS, 2, 2 << 20),
        (FOUR_LEVELS, 1, 1 << 30),
        (FIVE_LEVELS, 3, 2 << 20),
        (FIVE_LEVELS, 2, 1 << 30),
    ],
)
def test_large_page(paging: Paging, level: int, size: int) -> None:
    drawn = DrawnPageTables(paging)
    # _PAGE_PAT_LARGE is bit 12, which is no part of the address.
    drawn.map(3 * size, 2 * size | 0x1000 | PSE | PRESENT, level)
    drawn.map(5 * size, 2 * size | PSE, level)
    tables = drawn.tables()
    assert tables.find(4 * size - 1) == MappedPage(3 * size, 2 * size, size)
    assert tables.find(5 * size) is None


def test_large_page_above_4_gib_of_two_levels() -> None:
    drawn = DrawnPageTables(TWO_LEVELS)
    drawn.map(8 << 20, (4 << 20) | 0xAB << 13 | PSE | PRESENT, 0)
    assert drawn.tables().find(8 << 20) == MappedPage(8 << 20, 0xAB << 32 | 4 << 20, 4 << 20)


@pytest.mark.parametrize("paging", [PAE, FOUR_LEVELS, FIVE_LEVELS], ids=lambda p: p.name)
def test_large_page_only_where_the_cpu_has_them(paging: Paging) -> None:
    drawn = DrawnPageTables(paging)
    drawn.map(0, 0x5000 | PRESENT)
    drawn.put(drawn.root, drawn.get(drawn.root) | PSE)
    drawn.put(place := drawn.map(0, 0x5000 | PRESENT), drawn.get(place) | PSE)  # there it is PAT
    assert drawn.tables().find(0) == MappedPage(0, 0x5000, PAGE)


@every_mode
def test_page_that_nobody_may_access(paging: Paging) -> None:
    drawn = DrawnPageTables(paging)
    drawn.map(0, 0x5000 | PROTNONE)
    assert drawn.tables().find(0) == MappedPage(0, 0x5000, PAGE)
    if paging.entry_bytes == 8:
        drawn.map(PAGE, (0x7000 ^ INVERTED) | PROTNONE)
        assert drawn.tables().find(PAGE) == MappedPage(PAGE, 0x7000, PAGE)


@pytest.mark.parametrize("paging", [PAE, FOUR_LEVELS], ids=lambda p: p.name)
def test_encryption_bit_is_no_part_of_an_address(paging: Paging) -> None:
    bit = 1 << 47
    drawn = DrawnPageTables(paging)
    drawn.map(0, 0x5000 | bit | PRESENT)
    drawn.map(4 << 20, 4 << 20 | bit | PSE | PRESENT, len(paging.index_bits) - 2)
    drawn.put(drawn.root, drawn.get(drawn.root) | bit)
    tables = drawn.tables(encryption_mask=bit)
    assert tables.find(0) == MappedPage(0, 0x5000, PAGE)
    assert tables.find(5 << 20) == MappedPage(4 << 20, 4 << 20, 2 << 20)
    with pytest.raises(FaultError):
        drawn.tables().find(0)


@every_mode
def test_read_goes_from_page_to_page(paging: Paging) -> None:
    drawn = DrawnPageTables(paging)
    for at, physical, fill in ((PAGE, 0x5000, b"a"), (2 * PAGE, 0x9000, b"b")):
        drawn.map(at, physical | PRESENT)
        drawn.memory[physical] = bytearray(fill * PAGE)
    tables = drawn.tables()
    assert tables.read(2 * PAGE - 3, 5) == b"aaabb"
    assert tables.read(2 * PAGE - 3, 0) == b""
    with pytest.raises(FaultError) as caught:
        tables.read(3 * PAGE - 1, 2)
    assert caught.value.address == 3 * PAGE


@every_mode
def test_missing_table_is_a_fault(paging: Paging) -> None:
    drawn = DrawnPageTables(paging)
    drawn.put(drawn.entry_at(drawn.root, 0, 0), 0xDEA_D000 | PRESENT)
    with pytest.raises(FaultError):
        drawn.tables().find(0)
    drawn.memory.clear()
    with pytest.raises(FaultError):
        drawn.tables().find(0)


@every_mode
def test_table_that_leads_to_itself(paging: Paging) -> None:
    drawn = DrawnPageTables(paging)
    for i in range(PAGE // paging.entry_bytes):
        drawn.put(drawn.root + i * paging.entry_bytes, drawn.root | PRESENT)
    # Most of these have an index that the top level of PAE does not have.
    for address in (0, highest_page(paging), 0x7FFF_F000, 0x2AAA_A000):
        assert drawn.tables().find(address) == MappedPage(address, drawn.root, PAGE)


@every_mode
@pytest.mark.parametrize("seed", range(20))
def test_random_tables_end(paging: Paging, seed: int) -> None:
    dice = random.Random(seed)
    drawn = DrawnPageTables(paging)
    for _ in range(6):
        drawn.new_table()
    for table in list(drawn.memory):
        for i in range(PAGE // paging.entry_bytes):
            # Most lead to a table, also to itself and to those above.
            target = dice.choice(list(drawn.memory)) if dice.randrange(8) else dice.getrandbits(31)
            drawn.put(table + i * paging.entry_bytes, target & -PAGE | dice.getrandbits(9))
    tables = drawn.tables()
    for _ in range(20):
        found: Optional[MappedPage] = None
        try:
            found = tables.find(addr := dice.getrandbits(paging.address_bits))
        except FaultError:
            continue
        if found is not None:
            assert found.address <= addr < found.address + found.size_bytes


# ---- against drgn


def compared_with_drgn(prog: drgn.Program, dice: random.Random, count: int) -> int:
    """Compare all pages that the kernel has mapped, and random addresses; give the number of pages back."""
    init_mm = prog["init_mm"].address_of_()
    root = int(follow_phys(init_mm, init_mm.pgd))

    def read(address: int, size: int) -> bytes:
        return prog.read(address, size, True)

    five = "NUMBER(pgtable_l5_enabled)=1" in prog["VMCOREINFO"].string_().decode()
    paging = FIVE_LEVELS if five else FOUR_LEVELS
    tables = PageTables(read, root, paging)

    by_drgn = translations.by_drgn(prog)

    def by_us(address: int) -> Optional[int]:
        try:
            found = tables.find(address)
        except FaultError:
            return None
        return None if found is None else found.physical_of(address)

    pages = 0
    starts = []
    kernel_half = 1 << paging.address_bits - 1
    for address, physical, size in mapped_pages(read, root, paging, kernel_half):
        address |= (1 << 64) - kernel_half
        for offset in (0, size - 1):
            assert by_us(address + offset) == physical + offset == by_drgn(address + offset)
        pages += 1
        if not pages % 64:
            starts.append(address)
    for _ in range(count):
        address = random_address(dice, starts, kernel_half)
        assert by_us(address) == by_drgn(address), hex(address)
    return pages


def random_address(dice: random.Random, starts: list[int], kernel_half: int) -> int:
    """Return an address near those in *starts*, in the kernel's half, in the part with its image, or any."""
    kind = dice.randrange(8)
    if kind < 5:
        address = dice.choice(starts) + dice.randrange(-1 << 24, 1 << 24)
    elif kind < 7:
        address = -1 - dice.randrange(kernel_half if kind == 5 else 1 << 39)
    else:
        address = dice.getrandbits(64)
    return address & (1 << 64) - 1


def test_kernels_pages_are_where_drgn_finds_them(demo_program: drgn.Program) -> None:
    assert compared_with_drgn(demo_program, random.Random(1), 20_000) > 1000


@pytest.mark.lab
@pytest.mark.parametrize("variant", ["fp-lsb", "debian"])
def test_kernels_pages_of_the_lab_are_where_drgn_finds_them(variant: str) -> None:
    prog = open_program(core=lab_file(f"{variant}.core"))
    pages = compared_with_drgn(prog, random.Random(2), 1_000_000)
    print(f"\n{variant}: {pages} pages and 1,000,000 random addresses")
    assert pages > 1000


@pytest.mark.lab
@pytest.mark.parametrize(
    "variant",
    [
        v
        for v in VARIANTS
        if v.kernel.arch == "x86_64" and not (v.group in ("core", "hung") or v.live or v.livepatch)
    ],
    ids=lambda variant: variant.name,
)
def test_kernels_pages_of_every_dump_are_where_drgn_finds_them(variant: Variant) -> None:
    prog = open_program(core=lab_dump(variant).core)
    count = int(os.environ.get(ADDRESSES_VARIABLE, "50000"))
    pages = compared_with_drgn(prog, random.Random(variant.name), count)
    print(f"\n{variant.name}: {pages} pages and {count} random addresses")
    assert pages > 1000
