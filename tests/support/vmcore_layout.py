# SPDX-License-Identifier: LGPL-2.1-or-later
"""Convert a core in QEMU's layout into one in the layout of /proc/vmcore.

In QEMU's segments, the virtual address is the physical one. Those of /proc/vmcore have the kernel's virtual
addresses, and the kernel image is there twice: see crash_prepare_elf64_headers() in kernel/crash_core.c, v6.12.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from drgn import Program

from drgn_tools.debuginfo.vmcoreinfo import vmcoreinfo
from drgn_tools.program.elf import ET_CORE, PT_LOAD, PT_NOTE, Elf, read_elf, read_notes

from .elf_writer import note

_X86_64 = 62
_PAGE = 4096
_RAM_END = 1 << 31
"""In a small guest, the segment of QEMU above this address is firmware, not memory."""
_START_KERNEL_MAP = 0xFFFF_FFFF_8000_0000
_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_PROGRAM_HEADER = struct.Struct("<IIQQQQQQ")


def write_vmcore_layout(core: Path, out: Path, prog: Program) -> None:
    """Write *core* as /proc/vmcore would have it.

    :param core: An ELF core of x86-64, made by QEMU
    :param prog: A program of that kernel whose symbols can be read
    """
    with open(core, "rb") as source, open(out, "wb") as made:
        elf = read_elf(source)
        assert elf is not None
        notes = _notes(source, elf)
        headers = [_PROGRAM_HEADER.pack(PT_NOTE, 0, _PAGE, 0, 0, len(notes), len(notes), 4)]
        made.seek(_PAGE)
        made.write(notes)
        for virtual, physical, size in _mappings(prog, elf):
            at = -(-made.tell() // _PAGE) * _PAGE
            made.seek(at)
            made.write(_memory(source, elf, physical, size))
            headers.append(_PROGRAM_HEADER.pack(PT_LOAD, 7, at, virtual, physical, size, size, 0))
        made.seek(0)
        identity = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
        sizes = (_HEADER.size, _PROGRAM_HEADER.size, len(headers), 0, 0, 0)
        made.write(_HEADER.pack(identity, ET_CORE, _X86_64, 1, 0, _HEADER.size, 0, 0, *sizes))
        made.writelines(headers)


def _notes(source: BinaryIO, elf: Elf) -> bytes:
    """Return all notes except QEMU's own."""
    found = (n for n in read_notes(source, elf) if n.name != b"QEMU")
    return b"".join(note(n.name.decode(), n.type, n.description) for n in found)


def _mappings(prog: Program, elf: Elf) -> Iterator[tuple[int, int, int]]:
    """Yield (virtual address, physical address, size) of the kernel image and of memory in the direct map."""
    text, end = prog.symbol("_text").address, prog.symbol("_end").address
    phys_base = int(vmcoreinfo(prog)["NUMBER(phys_base)"])
    yield text, text - _START_KERNEL_MAP + phys_base, end - text
    page_offset = prog.read_u64(prog.symbol("page_offset_base").address)
    for segment in elf.segments:
        if segment.type == PT_LOAD and segment.physical_address < _RAM_END:
            physical = segment.physical_address
            yield page_offset + physical, physical, segment.file_bytes


def _memory(source: BinaryIO, elf: Elf, physical: int, size: int) -> bytes:
    for segment in elf.segments:
        offset = physical - segment.physical_address
        if segment.type == PT_LOAD and offset >= 0 and offset + size <= segment.file_bytes:
            source.seek(segment.offset + offset)
            return source.read(size)
    raise AssertionError(f"{physical:#x} is not in the core")
