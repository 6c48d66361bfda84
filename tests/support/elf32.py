# SPDX-License-Identifier: LGPL-2.1-or-later
"""Convert a 64-bit ELF core of x86-32 into a 32-bit one, as kexec-tools writes it for /proc/vmcore."""

from __future__ import annotations

import struct
from pathlib import Path

from drgn_tools.program.elf import ET_CORE, PT_LOAD, read_elf

_EM_386 = 3
_HEADER = struct.Struct("<16sHHIIIIIHHHHHH")
_PROGRAM_HEADER = struct.Struct("<8I")
_PAGE_OFFSET = 0xC000_0000
_LOWMEM_BYTES = 0x2000_0000


def write_elf32(core: Path, out: Path) -> None:
    """Write the 32-bit form of *core*. Low memory also has virtual addresses: the kernel's direct mapping."""
    with open(core, "rb") as source, open(out, "wb") as made:
        elf = read_elf(source)
        assert elf is not None
        at = _HEADER.size + len(elf.segments) * _PROGRAM_HEADER.size
        headers = []
        for segment in elf.segments:
            at = -(-at // 4096) * 4096
            physical = segment.physical_address
            is_low = segment.type == PT_LOAD and physical + segment.memory_bytes <= _LOWMEM_BYTES
            virtual = physical + _PAGE_OFFSET if is_low else 0
            fields = (segment.type, at, virtual, physical, segment.file_bytes, segment.memory_bytes)
            headers.append(_PROGRAM_HEADER.pack(*fields, 0, 0))
            made.seek(at)
            source.seek(segment.offset)
            made.write(source.read(segment.file_bytes))
            at += segment.file_bytes
        made.seek(0)
        identity = b"\x7fELF\x01\x01\x01".ljust(16, b"\0")
        made.write(
            _HEADER.pack(
                identity, ET_CORE, _EM_386, 1, 0, _HEADER.size, 0, 0, _HEADER.size,
                _PROGRAM_HEADER.size, len(headers), 0, 0, 0,
            )
        )  # fmt: skip
        made.writelines(headers)
