# SPDX-License-Identifier: LGPL-2.1-or-later
"""Damaged and hostile page tables: a walk reads each level once, whatever they say, and the answer is one of three."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Optional, Union

import drgn
import pytest
from drgn import Architecture, FaultError, Platform, Program

from drgn_tools.arch.x86.kernel_page_tables import kernel_page_tables
from drgn_tools.arch.x86.page_tables import (
    FIVE_LEVELS,
    FOUR_LEVELS,
    PAE,
    TWO_LEVELS,
    MappedPage,
    PageTables,
    Paging,
    ReadPhysical,
)
from drgn_tools.debuginfo.vmcoreinfo import vmcoreinfo

from ..support.drawn_page_tables import PAGE, PRESENT, PSE, DrawnPageTables

MODES = {mode.name: mode for mode in (TWO_LEVELS, PAE, FOUR_LEVELS, FIVE_LEVELS)}
every_mode = pytest.mark.parametrize("paging", MODES.values(), ids=MODES)

MUTATIONS = 1000
FAULT = "fault"
Answer = Union[MappedPage, None, str]
START_KERNEL_MAP = 0xFFFF_FFFF_8000_0000
ADDRESS = 0xF_FFFF_FFFF_F000


def across_pages(read: ReadPhysical) -> ReadPhysical:
    """Let a function that reads within a page read on behind its end."""

    def read_across(address: int, size: int) -> bytes:
        end = address + size
        borders = [address, *range((address | PAGE - 1) + 1, end, PAGE), end]
        return b"".join(read(a, b - a) for a, b in zip(borders, borders[1:]))

    return read_across


class MutatedMemory:
    """Physical memory with words written over it. It counts how often it is read."""

    def __init__(self, read: ReadPhysical) -> None:
        self._read = read
        self._pages: dict[int, bytearray] = {}
        self.reads = 0

    def read(self, address: int, size: int) -> bytes:
        self.reads += 1
        return across_pages(self._read_within_page)(address, size)

    def _read_within_page(self, address: int, size: int) -> bytes:
        page = self._pages.get(address & -PAGE)
        if page is None:
            return self._read(address, size)
        offset = address % PAGE
        return bytes(page[offset : offset + size])

    def put(self, address: int, word: bytes) -> None:
        first = address & -PAGE
        page = self._pages.setdefault(first, bytearray(self._read(first, PAGE)))
        page[address - first : address - first + len(word)] = word


class Hostile:
    """Page tables of a kernel, and what somebody may write into them."""

    def __init__(self, read: ReadPhysical, root: int, paging: Paging, dice: random.Random) -> None:
        self.memory = MutatedMemory(read)
        self.root = root
        self.paging = paging
        self.dice = dice
        self.places = list(dict.fromkeys(self._tables(root, 0, 0)))

    def _tables(self, table: int, level: int, first: int) -> Iterator[tuple[int, int, int]]:
        """Yield (address of a table, its level, first virtual address) of the sound ones."""
        yield table, level, first
        if level + 1 == len(self.paging.index_bits):
            return
        size = self.paging.entry_bytes
        raw = self.memory.read(table, size << self.paging.index_bits[level])
        for i in range(len(raw) // size):
            entry = int.from_bytes(raw[i * size : (i + 1) * size], "little")
            if entry & PRESENT and not (entry & PSE and level in self.paging.large_page_levels):
                below = first | i << self.paging.shift(level)
                yield from self._tables(entry & ADDRESS, level + 1, below)

    def mutate(self) -> int:
        """Write one wild entry; give an address back whose walk led through it before."""
        table, level, first = self.dice.choice(self.places)
        index = self.dice.randrange(1 << self.paging.index_bits[level])
        size = self.paging.entry_bytes
        entry = self._wild_entry(table) & (1 << 8 * size) - 1
        self.memory.put(table + index * size, entry.to_bytes(size, "little"))
        shift = self.paging.shift(level)
        return self._canonical(first | index << shift | self.dice.getrandbits(shift))

    def _wild_entry(self, table: int) -> int:
        dice = self.dice
        other = dice.choice(self.places)[0]
        flags = PRESENT | dice.choice((0, PSE))
        return dice.choice(
            (
                table | PRESENT,  # to itself
                self.root | PRESENT,  # to the top
                other | PRESENT,  # up, down or across
                other | flags | dice.getrandbits(12),
                other | PRESENT | 1 << dice.randrange(40, 64),
                dice.getrandbits(64),
                dice.getrandbits(64) | flags,
                (1 << 64) - 1,
                ADDRESS | flags,
            )
        )

    def address(self) -> int:
        """Return any address."""
        return self._canonical(self.dice.getrandbits(self.paging.address_bits))

    def _canonical(self, address: int) -> int:
        bits = self.paging.address_bits
        if bits > 32 and address >> bits - 1:
            address |= (1 << 64) - (1 << bits)
        return address

    def find(self, tables: PageTables, address: int) -> Answer:
        """Return what find() says. It reads each level once at most, and maps what can exist."""
        before = self.memory.reads
        try:
            found = tables.find(address)
        except FaultError:
            found = None
            answer: Answer = FAULT
        else:
            answer = found
        assert self.memory.reads - before <= len(self.paging.index_bits)
        if found is not None:
            assert found.size_bytes in self.sizes
            assert found.address % found.size_bytes == 0
            assert found.address <= address < found.address + found.size_bytes
            assert found.physical % found.size_bytes == 0
            assert 0 <= found.physical < 1 << (52 if self.paging.entry_bytes == 8 else 40)
        return answer

    @property
    def sizes(self) -> set[int]:
        large = {1 << self.paging.shift(level) for level in self.paging.large_page_levels}
        return {PAGE, *large}

    def read(self, tables: PageTables, address: int, size: int) -> Optional[bytes]:
        before = self.memory.reads
        try:
            data = tables.read(address, size)
        except FaultError:
            data = None
        pages = (address + size - 1) // PAGE - address // PAGE + 1
        assert self.memory.reads - before <= pages * (len(self.paging.index_bits) + 1)
        assert data is None or len(data) == size
        return data

    def check(self) -> dict[str, int]:
        """Mutate, ask, and mutate further; count what came out."""
        counts = {"page": 0, "nothing": 0, FAULT: 0, "bytes": 0}
        for _ in range(MUTATIONS):
            through = self.mutate()
            kept = PageTables(self.memory.read, self.root, self.paging)
            for address in (through, self.address(), self.address(), through):
                fresh = PageTables(self.memory.read, self.root, self.paging)
                answer = self.find(fresh, address)
                # What was asked before makes no difference.
                assert self.find(kept, address) == answer
                kind = "page" if isinstance(answer, MappedPage) else answer or "nothing"
                counts[kind] += 1
            fresh = PageTables(self.memory.read, self.root, self.paging)
            size = self.dice.choice((16, 3 * PAGE))
            data = self.read(fresh, through, size)
            assert self.read(kept, through, size) == data
            counts["bytes"] += data is not None
        return counts


@every_mode
def test_mutated_tables(paging: Paging) -> None:
    dice = random.Random(paging.name)
    drawn = DrawnPageTables(paging)
    for page in range(40):
        top = page % 4 << paging.address_bits - 2
        drawn.map(top | page // 4 << 12, drawn.root + page % 4 * PAGE | PRESENT)
    for page in range(4):
        top = page << paging.address_bits - 2
        drawn.map(top | 1 << 29, PSE | PRESENT, max(paging.large_page_levels))
    counts = Hostile(drawn.read, drawn.root, paging, dice).check()
    print(f"\n{paging.name}: {counts}")
    assert min(counts.values()) > 0


def test_mutated_tables_of_a_real_kernel(demo_program: Program) -> None:
    info = vmcoreinfo(demo_program)
    root = int(info["SYMBOL(swapper_pg_dir)"], 16) - START_KERNEL_MAP
    root += int(info["NUMBER(phys_base)"])
    five = info.get("NUMBER(pgtable_l5_enabled)") == "1"

    def read(address: int, size: int) -> bytes:
        return demo_program.read(address, size, True)

    paging = FIVE_LEVELS if five else FOUR_LEVELS
    counts = Hostile(read, root, paging, random.Random(1)).check()
    print(f"\n{counts}")
    assert min(counts.values()) > 0


# ---- how they are found

WILD_SYMBOLS = ("0", "1", "c0000000", "ffffffff", "7fffffffffffffff", "ffffffff80000000",
                "ffffffff80000001", "ffffffffffffffff", "ffff800000000000", "-1", "", "x")  # fmt: skip
WILD_NUMBERS = ("0", "1", "-1", "4095", "4096", "-4096", "99999999999999999999", "-99999999999999999999",
                "18446744073709551615", "9223372036854775808", "-9223372036854775808", "4503599627366400",
                "1" * 500, "", "x")  # fmt: skip


class CountedProgram:
    """A program with physical memory alone. It counts how often that is read."""

    def __init__(self, architecture: Architecture, drawn: DrawnPageTables) -> None:
        self.prog = Program(Platform(architecture))
        self.reads = 0
        self._drawn = drawn
        self.prog.add_memory_segment(0, 1 << 32, self._read, True)

    def _read(self, address: int, size: int, offset: int, physical: bool) -> bytes:
        self.reads += 1
        return across_pages(self._drawn.read)(address, size)


def drawn_kernel(paging: Paging, page_offset: int, bit: int = 0) -> tuple[DrawnPageTables, int]:
    """Return page tables that map themselves, and the virtual address of the top level."""
    drawn = DrawnPageTables(paging)
    root = page_offset + drawn.root
    drawn.map(root, drawn.root | PRESENT | bit)
    table = drawn.root
    for level in range(len(paging.index_bits) - 1):
        place = drawn.entry_at(table, level, root)
        entry = drawn.get(place)
        table = entry & ADDRESS
        drawn.put(place, entry | bit)
    return drawn, root


def wild(dice: random.Random, sound: dict[str, str]) -> dict[str, str]:
    """Some of the lines of VMCOREINFO with something else in them."""
    lines = dict(sound)
    for key in dice.sample(sorted(lines), dice.randint(1, len(lines))):
        if key.startswith("SYMBOL"):
            lines[key] = dice.choice((*WILD_SYMBOLS, f"{dice.getrandbits(64):x}"))
        else:
            number = dice.getrandbits(dice.randrange(1, 66)) - (1 << dice.randrange(65))
            lines[key] = dice.choice((*WILD_NUMBERS, str(number)))
    return lines


@pytest.mark.parametrize("paging", [FOUR_LEVELS, FIVE_LEVELS], ids=["four", "five"])
def test_wild_numbers_of_a_kernel_with_encryption(paging: Paging) -> None:
    bit = 1 << 47
    drawn, root = drawn_kernel(paging, START_KERNEL_MAP, bit)
    counted = CountedProgram(Architecture.X86_64, drawn)
    sound = {
        "SYMBOL(swapper_pg_dir)": f"{root:x}",
        "NUMBER(phys_base)": "0",
        "NUMBER(sme_mask)": str(bit),
        "NUMBER(pgtable_l5_enabled)": "1" if paging is FIVE_LEVELS else "0",
    }
    lowest = {(1 << 64) - (1 << 47), (1 << 64) - (1 << 56)}
    found = kernel_page_tables(counted.prog, sound)
    assert found is not None
    assert found[0] == (1 << 64) - (1 << paging.address_bits - 1)
    dice = random.Random(3)
    for _ in range(MUTATIONS):
        counted.reads = 0
        found = kernel_page_tables(counted.prog, wild(dice, sound))
        assert counted.reads <= 5
        assert found is None or found[0] in lowest


@pytest.mark.parametrize("paging", [TWO_LEVELS, PAE], ids=["two", "PAE"])
def test_wild_numbers_of_x86_32(paging: Paging) -> None:
    drawn, root = drawn_kernel(paging, 0xC000_0000)
    counted = CountedProgram(Architecture.I386, drawn)
    sound = {"SYMBOL(swapper_pg_dir)": f"{root:x}"}
    if paging is PAE:
        sound["CONFIG_X86_PAE"] = "y"
    found = kernel_page_tables(counted.prog, sound)
    assert found is not None
    assert found[0] == 0xC000_0000
    dice = random.Random(4)
    for _ in range(MUTATIONS):
        counted.reads = 0
        found = kernel_page_tables(counted.prog, wild(dice, sound))
        assert counted.reads <= 5 * 3
        assert found is None or found[0] in (0xC000_0000, 0xB000_0000, 0x8000_0000)


def test_wild_numbers_of_a_real_kernel(demo_core: str, demo_program: drgn.Program) -> None:
    prog = Program()
    prog.set_core_dump(demo_core)
    lines = dict(vmcoreinfo(demo_program))
    keys = ("SYMBOL(swapper_pg_dir)", "NUMBER(phys_base)", "NUMBER(pgtable_l5_enabled)")
    sound = {key: lines[key] for key in keys} | {"NUMBER(sme_mask)": str(1 << 47)}
    assert kernel_page_tables(prog, sound) is not None
    dice = random.Random(5)
    for _ in range(MUTATIONS):
        found = kernel_page_tables(prog, wild(dice, sound))
        if found is None:
            continue
        address = found[0] + dice.getrandbits(40)
        try:
            page = found[1].find(address)
        except FaultError:
            continue
        assert page is None or page.address <= address < page.address + page.size_bytes
