# SPDX-License-Identifier: LGPL-2.1-or-later
"""Page tables of arm64 that a test writes."""

from __future__ import annotations

from drgn import Architecture, FaultError, Platform, Program

from drgn_tools.arch.arm64.page_tables import PageTables, Paging

PHYS_OFFSET = 0x4000_0000
PAGE_DESCRIPTOR, TABLE_DESCRIPTOR, BLOCK_DESCRIPTOR = 3, 3, 1


class DrawnArm64Tables:
    """Physical memory with page tables in it, from ``root`` on."""

    def __init__(self, paging: Paging, root: int = 0x4010_0000) -> None:
        self.paging = paging
        self.page_bytes = 1 << paging.page_shift
        self.root = root
        self.memory: dict[int, bytearray] = {}
        self.next_table = root
        self.new_table()

    @property
    def first_address(self) -> int:
        """The lowest virtual address of the kernel."""
        return (1 << 64) - (1 << self.paging.address_bits)

    def new_table(self) -> int:
        table, self.next_table = self.next_table, self.next_table + self.page_bytes
        self.memory[table] = bytearray(self.page_bytes)
        return table

    def read(self, address: int, size: int) -> bytes:
        found = b""
        while len(found) < size:
            page = self.memory.get(address & -self.page_bytes)
            if page is None:
                raise FaultError("not there", address)
            offset = address % self.page_bytes
            found += page[offset : offset + size - len(found)]
            address += self.page_bytes - offset
        return found

    def shift(self, level: int) -> int:
        """Return log2 of the size that an entry maps; levels have the CPU's numbers, the last is 3."""
        return self.paging.page_shift + (3 - level) * (self.paging.page_shift - 3)

    @property
    def top_level(self) -> int:
        return 4 - len(self.paging.index_bits)

    def entry_at(self, table: int, level: int, address: int) -> int:
        bits = self.paging.index_bits[level - self.top_level]
        return table + 8 * (address >> self.shift(level) & (1 << bits) - 1)

    def get(self, place: int) -> int:
        return int.from_bytes(self.read(place, 8), "little")

    def put(self, place: int, entry: int) -> None:
        offset = place % self.page_bytes
        self.memory[place & -self.page_bytes][offset : offset + 8] = entry.to_bytes(8, "little")

    def map(self, address: int, entry: int, level: int = 3) -> int:
        """Write the entry of an address at a level; return the physical address of the entry."""
        table = self.root
        for upper in range(self.top_level, level):
            place = self.entry_at(table, upper, address)
            if not self.get(place) & 1:
                self.put(place, self.new_table() | TABLE_DESCRIPTOR)
            table = self.get(place) & (1 << 48) - self.page_bytes
        place = self.entry_at(table, level, address)
        self.put(place, entry)
        return place

    def tables(self) -> PageTables:
        return PageTables(self.read, self.root, self.paging)


class DrawnArm64Kernel:
    """A kernel image at the lower end of the upper half, and a linear map of the first pages from PHYS_OFFSET on."""

    def __init__(self, paging: Paging, actual_bits: int, pages: int = 512) -> None:
        self.drawn = drawn = DrawnArm64Tables(paging)
        page = drawn.page_bytes
        self.image_offset = (1 << 64) - (1 << actual_bits - 1) - PHYS_OFFSET
        self.linear_begin = (1 << 64) - (1 << actual_bits)
        self.root = drawn.root + self.image_offset
        drawn.map(self.root, drawn.root | PAGE_DESCRIPTOR)
        self.stext = self.root - 4 * page
        self.last = self.root + 4 * page
        """Highest address in the image that VMCOREINFO has."""
        before = set(drawn.memory)
        for number in range(pages):
            physical = PHYS_OFFSET + number * page
            drawn.map(self.linear_begin + physical - PHYS_OFFSET, physical | PAGE_DESCRIPTOR)
        self.of_linear_map = set(drawn.memory) - before
        built = paging.address_bits
        # arm64_memblock_init() in arch/arm64/mm/init.c, v6.12
        self.phys_offset = PHYS_OFFSET + (1 << actual_bits) - (1 << built)
        self.info = {
            "PAGESIZE": str(page),
            "SYMBOL(swapper_pg_dir)": f"{self.root:x}",
            "SYMBOL(_stext)": f"{self.stext:x}",
            "SYMBOL(clear_seq)": f"{self.last:x}",
            "SYMBOL(mem_section)": "fff000000bc00000",
            "NUMBER(VA_BITS)": str(built),
            "NUMBER(TCR_EL1_T1SZ)": f"{64 - actual_bits:#x}",
            "NUMBER(kimage_voffset)": f"{self.image_offset:#x}",
            "NUMBER(PHYS_OFFSET)": f"{self.phys_offset % (1 << 64):#x}",
        }
        self.reads = 0

    def program(self) -> Program:
        prog = Program(Platform(Architecture.AARCH64))
        prog.add_memory_segment(0, 1 << 52, self._read, True)
        return prog

    def _read(self, address: int, size: int, offset: int, physical: bool) -> bytes:
        self.reads += 1
        return self.drawn.read(address, size)
