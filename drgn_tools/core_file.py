# SPDX-License-Identifier: LGPL-2.1-or-later
"""Is this file a kernel's core dump, and is it whole? Asked before drgn is, for a plain answer."""

from __future__ import annotations

import os
import stat
import struct
from typing import BinaryIO, Optional

from .elf import ET_CORE, Elf, read_elf, read_notes
from .errors import InputError

__all__ = ("check_core", "compression_of", "open_regular", "shown")

_COMPRESSED_MAGIC = {b"\x1f\x8b": "gzip", b"\xfd7zXZ\0": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
_KDUMP_MAGIC, _FLATTENED_MAGIC = b"KDUMP   ", b"makedumpfile"
_MACHINES = {
    3: "i386",
    62: "x86_64",
    183: "aarch64",
    40: "arm",
    21: "ppc64",
    22: "s390x",
    243: "riscv",
}
_X86 = (3, 62)
_ELF_TYPES = {1: "object file", 2: "executable", 3: "executable or library"}
_NT_PRPSINFO, _NT_TASKSTRUCT, _NT_AUXV = 3, 4, 6

_CUT_SHORT = "the file is cut short: {}; what lay behind is missing"
_NO_VMCOREINFO = (
    "has no VMCOREINFO, which says where things are in the kernel's memory; "
    "give it with --vmcoreinfo"
)
_QEMU_HINT = (
    " (for a dump made by QEMU, start the guest with -device vmcoreinfo and load qemu_fw_cfg)"
)


def shown(path: str) -> str:
    """Return a path as a message of one line may hold it."""
    return path if path and path.isprintable() else repr(path)


def open_regular(path: str) -> BinaryIO:
    """Open a file that must be a regular one.

    :raises InputError: if it cannot be opened, or is something else
    """
    try:
        mode = os.stat(path).st_mode
        if stat.S_ISDIR(mode):
            raise InputError(f"{shown(path)}: is a directory, not a file")
        if not stat.S_ISREG(mode):
            raise InputError(f"{shown(path)}: is not a regular file")
        return open(path, "rb")
    except OSError as e:
        raise InputError(f"{shown(path)}: {_reason(e)}") from e
    except ValueError as e:  # a NUL in the name
        raise InputError(f"{shown(path)}: {e}") from e


def _reason(error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if isinstance(error, PermissionError):
        return "permission denied; dumps usually belong to root"
    return error.strerror or str(error)


def compression_of(path: str) -> Optional[str]:
    """Return ``gzip``, ``xz`` or ``zstd`` by the first bytes of a file, ``None`` for all else.

    :raises InputError: if it cannot be read
    """
    with open_regular(path) as file:
        start = file.read(8)
    return next(
        (name for magic, name in _COMPRESSED_MAGIC.items() if start.startswith(magic)), None
    )


def check_core(path: str, name: str, have_vmcoreinfo: bool = False) -> Optional[str]:
    """Refuse what cannot be a core dump of an x86 Linux kernel.

    :param path: The file, unpacked
    :param name: What to call it in messages
    :param have_vmcoreinfo: VMCOREINFO was given on its own
    :return: What is wrong with it though it can be opened (cut short), ``None`` if nothing is
    :raises InputError: with one line that says what the file is instead
    """
    with open_regular(path) as file:
        magic = file.read(12)
        if magic.startswith(_FLATTENED_MAGIC):
            return None  # libkdumpfile knows
        if magic.startswith(_KDUMP_MAGIC):
            return _check_kdump(file, name)
        if not magic:
            raise InputError(f"{name}: is empty")
        if not magic.startswith(b"\x7fELF"):
            raise InputError(f"{name}: is no core dump: neither ELF nor kdump")
        elf = read_elf(file)
        if elf is None:
            raise InputError(f"{name}: is cut short or damaged: its ELF headers are not whole")
        return _check_elf(file, elf, name, have_vmcoreinfo)


def _check_elf(file: BinaryIO, elf: Elf, name: str, have_vmcoreinfo: bool) -> Optional[str]:
    if elf.type != ET_CORE:
        what = _ELF_TYPES.get(elf.type, "file of another kind")
        raise InputError(f"{name}: is an ELF {what}, not a core dump; symbols are given with -s")
    if elf.machine not in _X86:
        machine = _MACHINES.get(elf.machine, f"ELF machine {elf.machine}")
        raise InputError(
            f"{name}: is a core dump of {machine}; only x86_64 and i386 are understood"
        )
    notes = {(note.name, note.type) for note in read_notes(file, elf)}
    names = {note_name for note_name, _ in notes}
    is_kcore = (b"CORE", _NT_TASKSTRUCT) in notes
    if b"VMCOREINFO" not in names and not is_kcore and not have_vmcoreinfo:
        if (b"CORE", _NT_AUXV) in notes or (b"CORE", _NT_PRPSINFO) in notes:
            raise InputError(
                f"{name}: is a core dump of a userspace process, not of a Linux kernel"
            )
        if elf.announced_bytes > elf.file_bytes:
            raise InputError(f"{name}: is cut short: {_sizes(elf.announced_bytes, elf.file_bytes)}")
        raise InputError(f"{name}: {_NO_VMCOREINFO}{_QEMU_HINT if b'QEMU' in names else ''}")
    if elf.announced_bytes > elf.file_bytes and not is_kcore:
        return _CUT_SHORT.format(_sizes(elf.announced_bytes, elf.file_bytes))
    return None


# Where struct disk_dump_header of makedumpfile has block_size, sub_hdr_size and
# bitmap_blocks: written by a 64-bit and by a 32-bit machine.
_KDUMP_SIZES_AT = (428, 416)
_PAGE_DESCRIPTOR = struct.Struct("<qIIQ")  # offset, size, flags, page flags
_BITMAP_CHUNK_BYTES = 1 << 16


def _check_kdump(file: BinaryIO, name: str) -> Optional[str]:
    # libkdumpfile maps the bitmaps, and dies of SIGBUS where the file ends before them.
    file_bytes = file.seek(0, 2)
    file.seek(0)
    header = file.read(512)
    for at in _KDUMP_SIZES_AT:
        sizes = header[at : at + 12]
        if len(sizes) < 12:
            break
        block_bytes, sub_header_blocks, bitmap_blocks = struct.unpack("<iiI", sizes)
        if block_bytes in (1 << 12, 1 << 13, 1 << 14, 1 << 16) and sub_header_blocks >= 0:
            break
    else:
        return None  # of another machine, or damaged: libkdumpfile says so
    if len(sizes) < 12:
        raise InputError(f"{name}: is cut short: its header is not whole")
    bitmaps_end = (1 + sub_header_blocks + bitmap_blocks) * block_bytes
    if bitmaps_end > file_bytes:
        raise InputError(f"{name}: is cut short: {_sizes(bitmaps_end, file_bytes)}")
    # The second bitmap has a bit for each page in the file. Their data come in order.
    second = bitmap_blocks * block_bytes // 2
    file.seek(bitmaps_end - second)
    pages = sum(
        bin(int.from_bytes(file.read(min(_BITMAP_CHUNK_BYTES, second - done)), "little")).count("1")
        for done in range(0, second, _BITMAP_CHUNK_BYTES)
    )
    announced = bitmaps_end + pages * _PAGE_DESCRIPTOR.size
    if pages and announced <= file_bytes:
        file.seek(announced - _PAGE_DESCRIPTOR.size)
        offset, size, _, _ = _PAGE_DESCRIPTOR.unpack(file.read(_PAGE_DESCRIPTOR.size))
        announced = max(announced, offset + size)
    return _CUT_SHORT.format(_sizes(announced, file_bytes)) if announced > file_bytes else None


def _sizes(announced: int, found: int) -> str:
    return f"{announced} bytes announced, {found} found"
