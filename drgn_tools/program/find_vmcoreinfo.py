# SPDX-License-Identifier: LGPL-2.1-or-later
"""Find VMCOREINFO in the memory of a dump: the kernel keeps its text there.

The kernel writes the text to a page (``vmcoreinfo_data``) and copies it behind the header of a note
(``vmcoreinfo_note``): crash_save_vmcoreinfo_init() in kernel/vmcore_info.c, v6.12. Both are physically
contiguous. Memory also holds copies from earlier boots, which do not fit.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import BinaryIO, Optional

from drgn import FaultError, Program

from ..debuginfo.kallsyms import kallsyms_of
from ..memory import read_up_to, read_word_or_none
from .elf import PT_LOAD, Elf, read_elf
from .kdump import dumped_pages
from .read_at import read_at

__all__ = ("stub", "vmcoreinfo_in_memory", "vmcoreinfo_of_symbol")

_STUB = (
    b"OSRELEASE=6.12.0\nPAGESIZE=%d\nSYMBOL(swapper_pg_dir)=1000\n"
    b"NUMBER(phys_base)=0\nNUMBER(pgtable_l5_enabled)=0\n"
    b"NUMBER(VA_BITS)=48\nNUMBER(kimage_voffset)=0x0\n"
)
"""The second line is for x86, the third for arm64."""

_FIRST_LINE = b"OSRELEASE="
_TEXT_BYTES = 4096
"""VMCOREINFO_BYTES"""
_TEXT = re.compile(rb"OSRELEASE=[!-~]+\n(?:[ -~]+\n)+(?=\0)")
_NEEDED = (b"\nPAGESIZE=", b"\nSYMBOL(")
_CHUNK_BYTES = 1 << 20
_MAX_TEXTS = 1000
"""How many different texts are tried."""


def stub(block_bytes: int) -> bytes:
    """Return VMCOREINFO with which drgn and libkdumpfile (v0.5.4) read the physical memory of any dump.

    :param block_bytes: Size of a block of a kdump file. libkdumpfile takes it from the kernel's page size
    """
    return _STUB % block_bytes


def vmcoreinfo_in_memory(file: BinaryIO, prog: Program) -> Iterator[bytes]:
    """Return texts that may be VMCOREINFO, each once, in the order of the memory.

    :param file: The dump
    :param prog: A program of it that can read its physical memory; used if it is not ELF
    """
    elf = read_elf(file)
    pieces = _pieces_of_elf(file, elf) if elf is not None else _pieces_of_kdump(file, prog)
    seen: set[bytes] = set()
    for piece in pieces:
        at = piece.find(_FIRST_LINE)
        while at >= 0:
            match = _TEXT.match(piece, at, at + _TEXT_BYTES)
            if match and match[0] not in seen and all(key in match[0] for key in _NEEDED):
                seen.add(match[0])
                yield match[0]
            if len(seen) >= _MAX_TEXTS:
                return
            at = piece.find(_FIRST_LINE, at + 1)


def vmcoreinfo_of_symbol(prog: Program) -> Optional[bytes]:
    """Return the text that the kernel itself uses as its VMCOREINFO, the page at ``vmcoreinfo_data``.

    Without KASLR, a copy from an earlier boot also fits, but has another CRASHTIME.

    :param prog: A program whose VMCOREINFO fits
    :return: ``None`` if its symbols do not have that variable, or it does not point to such a text
    """
    kallsyms = kallsyms_of(prog)
    for variable in kallsyms.find("vmcoreinfo_data") if kallsyms is not None else ():
        page = read_word_or_none(prog, variable)
        match = None if page is None else _TEXT.match(read_up_to(prog, page, _TEXT_BYTES) + b"\0")
        if match and all(key in match[0] for key in _NEEDED):
            return match[0]
    return None


def _pieces_of_elf(file: BinaryIO, elf: Elf) -> Iterator[bytes]:
    """Yield memory in pieces; within a segment, each begins with the end of the one before."""
    left = elf.file_bytes  # for all segments together: they may overlap
    for segment in elf.segments:
        if segment.type != PT_LOAD:
            continue
        at, end = segment.offset, min(segment.offset + segment.file_bytes, elf.file_bytes)
        while at < end and left > 0:
            left -= _CHUNK_BYTES
            at = max(at, _behind_hole(file, at))
            yield read_at(file, at, min(_CHUNK_BYTES + _TEXT_BYTES, end - at))
            at += _CHUNK_BYTES


def _behind_hole(file: BinaryIO, at: int) -> int:
    """Return where the next data begin that are not in a hole of the file."""
    try:
        return os.lseek(file.fileno(), at, os.SEEK_DATA)
    except OSError:  # a hole up to the end of the file, or a file system that cannot say
        return at


def _pieces_of_kdump(file: BinaryIO, prog: Program) -> Iterator[bytes]:
    for begin, end in dumped_pages(file):
        for at in range(begin, end, _CHUNK_BYTES):
            yield from _readable(prog, at, min(_CHUNK_BYTES + _TEXT_BYTES, end - at))


def _readable(prog: Program, at: int, size: int) -> Iterator[bytes]:
    """Yield the parts of physical memory that can be read. A part that cannot be read as a whole is halved."""
    data = _read(prog, at, size)
    if data is not None:
        yield data
    elif size > 2 * _TEXT_BYTES:
        half = size // 2 // _TEXT_BYTES * _TEXT_BYTES
        yield from _readable(prog, at, half + _TEXT_BYTES)
        yield from _readable(prog, at + half, size - half)
    else:
        for page in range(at, at + size, _TEXT_BYTES):
            yield _read(prog, page, _TEXT_BYTES) or b""


def _read(prog: Program, at: int, size: int) -> Optional[bytes]:
    try:
        return bytes(prog.read(at, size, True))
    except FaultError:
        return None
