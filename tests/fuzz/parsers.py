# SPDX-License-Identifier: LGPL-2.1-or-later
"""The parsers that read bytes of a dump without drgn, each as a function of bytes.

For bytes that do not make sense, they return nothing or raise one of our errors. What they do depends
only on the bytes, so there is a guided fuzzer for them (:mod:`.guided`).
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Mapping
from pathlib import Path

from drgn import FaultError

from drgn_tools.arch.arm64.page_tables import PageTables as Arm64PageTables
from drgn_tools.arch.arm64.page_tables import Paging as Arm64Paging
from drgn_tools.arch.page_walk import PageWalk
from drgn_tools.arch.x86.page_tables import FIVE_LEVELS, FOUR_LEVELS, PAE, TWO_LEVELS, PageTables
from drgn_tools.debuginfo.btf import Btf, Kind
from drgn_tools.debuginfo.find_kallsyms import find_kallsyms
from drgn_tools.debuginfo.kallsyms import Kallsyms
from drgn_tools.debuginfo.symbol_names import SEQ_BYTES
from drgn_tools.debuginfo.vmcoreinfo import number_among, symbol_among, vmcoreinfo_lines
from drgn_tools.errors import TypesError
from drgn_tools.program.core_notes import read_core_notes
from drgn_tools.program.elf import build_id_among, notes_in, read_elf, read_notes
from drgn_tools.program.excluded_pages import Span, excluded_ranges
from drgn_tools.program.kdump import (
    has_end,
    holds_some_of_each,
    is_flattened,
    read_kdump,
)
from drgn_tools.program.kdump_pages import page_data

from ..support.elf_writer import elf_file, note
from ..support.kdump import flatten, write_kdump

__all__ = ("PARSERS", "Bytes", "small_inputs")

Bytes = Callable[[bytes], None]
_TEXT = 0xFFFF_FFFF_8100_0000
_MOST_TYPES = 300


def elf(data: bytes) -> None:
    """Headers and notes of an ELF file."""
    file = io.BytesIO(data)
    found = read_elf(file)
    if found is None:
        return
    assert found.announced_bytes >= 0
    notes = list(read_notes(file, found))
    assert sum(len(note.description) for note in notes) <= len(data) * max(1, len(found.segments))
    build_id_among(notes)
    read_core_notes(file, found)
    if len(found.segments) < 100:
        spans = [
            Span(s.address, s.address + s.file_bytes, s.address + s.memory_bytes)
            for s in found.segments
        ]
        for begin, end in excluded_ranges(spans):
            assert begin < end


def notes(data: bytes) -> None:
    """The contents of a segment of notes."""
    for alignment in (4, 8):
        assert len(list(notes_in(data, alignment=alignment))) <= len(data) // 12 + 1


def kdump(data: bytes) -> None:
    """Headers of a kdump file, flattened or not."""
    file = io.BytesIO(data)
    is_flattened(file)
    has_end(file)
    header = read_kdump(file)
    if header is None:
        return
    if is_flattened(file):
        holds_some_of_each(file, header.parts)
    if max(end for _, end in header.parts) <= len(data):  # otherwise the file is refused
        pages = page_data(file, header)
        assert pages.announced_bytes >= header.bitmaps_end
        frames = [edge for run in pages.missing.frames for edge in run]
        assert frames == sorted(set(frames))
    read_core_notes(file, None)


def vmcoreinfo(data: bytes) -> None:
    """The text of VMCOREINFO."""
    lines = vmcoreinfo_lines(data)
    for key in list(lines)[:50]:
        name = key.partition("(")[2][:-1]
        address = symbol_among(lines, name)
        assert address is None or 0 <= address < 1 << 64
        number_among(lines, name)


def btf(data: bytes) -> None:
    """Types."""
    try:
        types = Btf(data)
    except TypesError:
        return
    for type_id in range(1, min(len(types), _MOST_TYPES)):
        for look in (types.name, types.byte_size, types.expanded_members, types.resolve_forward):
            try:
                look(type_id)
            except TypesError:
                continue
        try:
            kind = types.kind(type_id)
            if kind in (Kind.STRUCT, Kind.UNION):
                types.members(type_id)
            elif kind in (Kind.ENUM, Kind.ENUM64):
                types.enumerators(type_id)
            elif kind is Kind.FUNC_PROTO:
                types.parameters(type_id)
            elif kind is Kind.ARRAY:
                types.array(type_id)
            elif kind is Kind.INT:
                types.int_encoding(type_id)
        except TypesError:
            continue
    for kind in Kind:
        types.find(kind, "task_struct")
    types.find_enumerator("MOD_TEXT")


def kallsyms(data: bytes) -> None:
    """Symbols: how many, their addresses, the order of their names, the names."""
    if len(data) < 2:
        return
    (count,) = struct.unpack_from("<H", data)
    count %= 512
    at = 2 + 4 * count + SEQ_BYTES * count
    raw = data[2 : 2 + 4 * count].ljust(4 * count, b"\0")
    addresses = [_TEXT + offset for offset in struct.unpack(f"<{count}I", raw)]
    seqs = data[2 + 4 * count : at].ljust(SEQ_BYTES * count, b"\0")
    tokens = ["", *(chr(code) for code in range(1, 256))]  # a token ends at a NUL
    for order in (seqs, None):
        table = Kallsyms(data[at:], tokens, addresses, _TEXT, order)
        table.is_sound()
        for address in (*addresses[:20], *(a + 1 for a in addresses[:20])):
            found = table.at(address)
            assert found is None or (found.start <= address and found.size >= 0)
        for name in ("schedule", "a", ""):
            table.find(name)


def searched_kallsyms(data: bytes) -> None:
    """Search memory for the tables of symbols."""

    def read(address: int, size: int) -> bytes:
        offset = address - _TEXT
        return data[offset : offset + size] if offset >= 0 and size > 0 else b""

    for number, parts in enumerate(find_kallsyms(read, _TEXT, 8)):
        assert parts
        assert number < 1000


def page_tables(data: bytes) -> None:
    """Page tables whose root is at the start of the memory."""

    def read(address: int, size: int) -> bytes:
        found = data[address : address + size]
        if len(found) < size:
            raise FaultError("not in the dump", address)
        return found

    machines: list[PageWalk] = [
        PageTables(read, 0, paging) for paging in (TWO_LEVELS, PAE, FOUR_LEVELS, FIVE_LEVELS)
    ]
    for shift, bits in ((12, 39), (12, 48), (12, 52), (14, 47), (16, 42), (16, 52)):
        machines.append(Arm64PageTables(read, 0, Arm64Paging(shift, bits)))
    for tables in machines:
        for address in (0, 0xC000_0000, 0xFFFF_FFFF, 0xFFFF_8880_0000_0000, (1 << 64) - 4096):
            try:
                page = tables.find(address)
                if page is not None:
                    assert page.address <= address < page.address + page.size_bytes
                tables.read(address, 8)
            except FaultError:
                continue


PARSERS: Mapping[str, Bytes] = {
    "elf": elf,
    "notes": notes,
    "kdump": kdump,
    "vmcoreinfo": vmcoreinfo,
    "btf": btf,
    "kallsyms": kallsyms,
    "searched kallsyms": searched_kallsyms,
    "page tables": page_tables,
}


def small_inputs(folder: Path) -> dict[str, list[bytes]]:
    """Return small inputs that each parser accepts. Temporary files are removed."""
    info = (
        b"OSRELEASE=6.12.0\nPAGESIZE=4096\nSYMBOL(_stext)=ffffffff81000000\nNUMBER(phys_base)=0\n"
    )
    notes = note("VMCOREINFO", 0, info) + note("CORE", 1, bytes(336)) + note("GNU", 3, bytes(20))
    segments = [(4, notes), (1, bytes(4096))]
    core, packed, flat = folder / "core", folder / "kdump", folder / "flat"
    core.write_bytes(elf_file(4, 62, segments))
    write_kdump(str(core), packed)
    flatten(packed, flat, 1000)
    found = {
        "elf": [core.read_bytes(), elf_file(4, 3, segments, bits=32)],
        "notes": [notes],
        "kdump": [packed.read_bytes(), flat.read_bytes()],
        "vmcoreinfo": [info],
        "btf": [_btf()],
        "kallsyms": [_kallsyms()],
        "searched kallsyms": [_searched_kallsyms()],
        "page tables": [struct.pack("<Q", 0x67) * 512 * 2],
    }
    for path in (core, packed, flat):
        path.unlink()
    return found


def _btf() -> bytes:
    strings = b"\0int\0task_struct\0pid\0list\0"
    at = {name: strings.index(name) for name in (b"int\0", b"task_struct", b"pid", b"list\0")}
    types = struct.pack("<4I", at[b"int\0"], 1 << 24, 4, 32)
    members = struct.pack("<6I", at[b"pid"], 1, 0, at[b"list\0"], 3, 64)
    types += struct.pack("<3I", at[b"task_struct"], 4 << 24 | 2, 16) + members
    types += struct.pack("<3I", 0, 2 << 24, 2)
    header = struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(types), len(types), len(strings))
    return header + types + strings


def _kallsyms() -> bytes:
    names = [b"T_text", b"tread", b"Tschedule", b"Dinit_task"]
    order = sorted(range(len(names)), key=lambda number: names[number][1:])
    return (
        struct.pack("<H4I", 4, 0, 16, 64, 4096)
        + b"".join(number.to_bytes(3, "big") for number in order)
        + b"".join(bytes([len(name)]) + name for name in names)
    )


def _searched_kallsyms() -> bytes:
    # As drawn in find_kallsyms.py, with enough symbols for two markers.
    count = 300
    offsets = b"".join(struct.pack("<I", 16 * number) for number in range(count))
    name = b"\x01a"
    names = (name * count).ljust(-(-2 * count // 8) * 8, b"\0")
    markers = struct.pack("<2I", 0, 2 * 256)
    tokens = b"".join(bytes((code or 1, 0)) for code in range(256))
    index = struct.pack("<256H", *range(0, 512, 2))
    before = offsets + struct.pack("<2Q", _TEXT, count) + names + markers
    return bytes(4096) + before + tokens + index
