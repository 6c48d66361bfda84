# SPDX-License-Identifier: LGPL-2.1-or-later
"""Dump files whose memory and headers are changed: a change is bytes at an offset in the file."""

from __future__ import annotations

import os
import shutil
import struct
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path
from typing import Optional

import msgspec

from drgn_tools.program.elf import PT_LOAD, PT_NOTE, Segment, read_elf
from drgn_tools.program.kdump import KDUMP_MAGICS, read_kdump

__all__ = ("PAGE", "Changes", "DumpFile", "ElfFile", "KdumpFile", "Victim", "open_dump_file")

PAGE = 4096

Patch = tuple[int, bytes]
"""Offset in the file, and the bytes to write there."""

_PHDR = struct.Struct("<IIQQQQQQ")
_DESCRIPTOR = struct.Struct("<qIIQ")
_KDUMP_ZLIB = 1
_KDUMP_COMPRESSIONS = 0x27
"""zlib, lzo, snappy, zstd."""


class Changes(msgspec.Struct, frozen=True):
    """How a damaged file differs from the whole one."""

    patches: tuple[Patch, ...]
    size: Optional[int] = None
    """Size to which it is cut short."""


class DumpFile:
    """A dump, page by page.

    :param path: Path of the file
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = open(path, "rb")  # noqa: SIM115  # open for the lifetime of this object
        self.size = os.fstat(self._file.fileno()).st_size

    def read(self, at: int, size: int) -> bytes:
        """Read bytes of the file."""
        return os.pread(self._file.fileno(), size, at)

    def page(self, pfn: int) -> Optional[bytes]:
        """Return a page of physical memory, ``None`` if it is not in the dump."""
        raise NotImplementedError

    def with_memory(self, pages: Mapping[int, bytes], missing: Collection[int]) -> list[Patch]:
        """Return the patches that change the contents of pages and remove pages."""
        raise NotImplementedError

    def header_fields(self) -> list[range]:
        """Where in the file the fields of its headers are."""
        raise NotImplementedError

    def notes(self) -> range:
        """Where in the file the ELF notes are."""
        raise NotImplementedError

    can_leave_out = True
    """Whether with_memory() can remove pages."""

    def physical(self, address: int, size: int) -> bytes:
        """Read physical memory. Raises LookupError if it is not in the dump."""
        found = b""
        while size > 0:
            page = self.page(address // PAGE)
            if page is None:
                raise LookupError(f"{address:#x} is not in the dump")
            part = page[address % PAGE :][:size]
            found += part
            address, size = address + len(part), size - len(part)
        return found


def _fields(at: int, *sizes: int) -> list[range]:
    ends = list(accumulate(sizes, initial=at))
    return [range(begin, end) for begin, end in zip(ends, ends[1:])]


class ElfFile(DumpFile):
    """An ELF core of 64 bits, as QEMU, kexec and makedumpfile write it."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        elf = read_elf(self._file)
        assert elf is not None
        assert self.read(4, 1) == b"\2", "an ELF file of 64 bits"
        (self._phoff,) = struct.unpack("<Q", self.read(32, 8))
        self._phdrs = list(
            _PHDR.iter_unpack(self.read(self._phoff, _PHDR.size * len(elf.segments)))
        )
        self.segments = elf.segments
        self._loads = [s for s in elf.segments if s.type == PT_LOAD and s.file_bytes]

    def _offsets(self, pfn: int) -> Iterator[int]:
        # In /proc/vmcore, the kernel image has a segment of its own, and is also in another one.
        at = pfn * PAGE
        for s in self._loads:
            if s.physical_address <= at and at + PAGE <= s.physical_address + s.file_bytes:
                yield s.offset + at - s.physical_address

    def page(self, pfn: int) -> Optional[bytes]:
        for offset in self._offsets(pfn):
            return self.read(offset, PAGE)
        return None

    def with_memory(self, pages: Mapping[int, bytes], missing: Collection[int]) -> list[Patch]:
        patches = [(at, data) for pfn, data in pages.items() for at in self._offsets(pfn)]
        if missing:
            table = [part for phdr in self._phdrs for part in _without(phdr, missing)]
            end = self.size + 7 & ~7
            patches += [
                (32, struct.pack("<Q", end)),
                (56, struct.pack("<H", len(table))),
                (end, b"".join(_PHDR.pack(*phdr) for phdr in table)),
            ]
        return patches

    def header_fields(self) -> list[range]:
        found = _fields(16, 2, 2, 4, 8, 8, 8, 4, *(2,) * 6)
        for number in range(min(len(self._phdrs), 16)):
            found += _fields(self._phoff + number * _PHDR.size, 4, 4, *(8,) * 6)
        return found

    def notes(self) -> range:
        found = next(s for s in self.segments if s.type == PT_NOTE)
        return range(found.offset, found.offset + found.file_bytes)

    def virtual_segments(self) -> Sequence[Segment]:
        """The segments with memory."""
        return self._loads


def _without(phdr: tuple[int, ...], pfns: Collection[int]) -> Iterator[tuple[int, ...]]:
    """Split a program header into those of the parts that remain without some page frames."""
    type_, flags, offset, vaddr, paddr, file_bytes, _, align = phdr
    end = paddr + file_bytes
    holes = sorted(pfn * PAGE for pfn in pfns if paddr <= pfn * PAGE < end)
    if type_ != PT_LOAD or not holes:
        yield phdr
        return
    begin = paddr
    for hole in (*holes, end):
        kept, at = hole - begin, begin - paddr
        if kept > 0:
            yield type_, flags, offset + at, vaddr + at, begin, kept, kept, align
        begin = hole + PAGE


class KdumpFile(DumpFile):
    """A kdump file whose pages are packed with zlib, not flattened."""

    can_leave_out = False

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        header = read_kdump(self._file)
        assert header is not None and header.block_bytes == PAGE
        self._header = header
        half = header.bitmap_blocks * PAGE // 2
        self._dumped = self.read(header.bitmaps_end - half, half)
        self._before = list(accumulate((bin(b).count("1") for b in self._dumped), initial=0))

    def _descriptor_at(self, pfn: int) -> Optional[int]:
        byte, bit = divmod(pfn, 8)
        if not 0 <= byte < len(self._dumped) or not self._dumped[byte] >> bit & 1:
            return None
        rank = self._before[byte] + bin(self._dumped[byte] & (1 << bit) - 1).count("1")
        return self._header.bitmaps_end + rank * _DESCRIPTOR.size

    def page(self, pfn: int) -> Optional[bytes]:
        at = self._descriptor_at(pfn)
        if at is None:
            return None
        offset, size, flags, _ = _DESCRIPTOR.unpack(self.read(at, _DESCRIPTOR.size))
        data = self.read(offset, size)
        packed = flags & _KDUMP_COMPRESSIONS
        assert packed in (0, _KDUMP_ZLIB), "a dump packed with zlib"
        return zlib.decompress(data) if packed else data

    def with_memory(self, pages: Mapping[int, bytes], missing: Collection[int]) -> list[Patch]:
        assert not missing
        patches = []
        end = self.size
        for pfn, page in pages.items():
            at = self._descriptor_at(pfn)
            assert at is not None
            data = zlib.compress(page, 1)
            patches.append((end, data))
            patches.append((at, _DESCRIPTOR.pack(end, len(data), _KDUMP_ZLIB, 0)))
            end += len(data)
        return patches

    def header_fields(self) -> list[range]:
        found = _fields(8, 4, *(65,) * 6)[:1] + _fields(416, 8, *(4,) * 6)
        found += _fields(PAGE, 8, 4, 4, *(8,) * 11)
        bitmaps = self._header.bitmaps_end - self._header.bitmap_blocks * PAGE
        found += _fields(bitmaps, *(8,) * 4)
        found += _fields(bitmaps + self._header.bitmap_blocks * PAGE // 2, *(8,) * 4)
        for number in range(0, self._before[-1], max(1, self._before[-1] // 32)):
            at = self._header.bitmaps_end + number * _DESCRIPTOR.size
            found += _fields(at, 8, 4, 4, 8)
        return found

    def notes(self) -> range:
        at, size = self._header.notes
        if not size:
            at, size = self._header.vmcoreinfo
        return range(at, at + size)


def open_dump_file(path: Path) -> DumpFile:
    """Open a dump file as the class of its format."""
    with open(path, "rb") as file:
        is_kdump = file.read(12).startswith(KDUMP_MAGICS)
    return KdumpFile(path) if is_kdump else ElfFile(path)


class Victim:
    """A private copy of a dump that is changed and then restored."""

    def __init__(self, original: DumpFile, path: Path) -> None:
        shutil.copyfile(original.path, path)
        self.path = path
        self._original = original
        self._file = os.open(path, os.O_RDWR)

    @contextmanager
    def changed(self, changes: Changes) -> Iterator[Path]:
        """Return the path of the copy, with these changes for as long as the context lasts."""
        size = self._original.size
        for at, data in changes.patches:
            os.pwrite(self._file, data, at)
        if changes.size is not None:
            os.ftruncate(self._file, changes.size)
        try:
            yield self.path
        finally:
            os.ftruncate(self._file, size)
            if changes.size is not None:
                self._copy(changes.size, size)
            for at, data in changes.patches:
                self._copy(at, min(at + len(data), size))

    def _copy(self, begin: int, end: int) -> None:
        while begin < end:
            data = self._original.read(begin, min(end - begin, 1 << 20))
            os.pwrite(self._file, data, begin)
            begin += len(data)
