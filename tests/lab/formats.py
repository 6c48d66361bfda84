# SPDX-License-Identifier: LGPL-2.1-or-later
"""The same memory in the formats that dumps are made in."""

from __future__ import annotations

import shutil
import struct
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

from .arch import Arch
from .makedumpfile import find_makedumpfile, get_makedumpfile
from .run import Progress, run
from .variants import MAKEDUMPFILE_FORMATS

__all__ = ("make_dump_files", "program_of_formats")

_LEVEL = ("-d", "31")
"""Without pages that are zero, cache, user data or free: what distributions do."""
_OPTIONS = {
    "zlib": ("-c",),
    "lzo": ("-l",),
    "snappy": ("-p",),
    "zstd": ("-z",),
    "elf": ("-E",),
    "flat": ("-c", "-F"),
    "split": ("-c", "--split"),
    "whole": ("--reassemble",),
}
_EHDR, _PHDR = 64, 56
"""Bytes of an ELF header and of a program header."""
_PT_LOAD = 1
_PAGE_OFFSET_32 = 0xC000_0000
_FOUR_GIB = 1 << 32


def _abilities(program: Path) -> str:
    """What ``makedumpfile -v`` says: its version, and "zstd enabled" and the like."""
    said = subprocess.run([program, "-v"], stdout=subprocess.PIPE, text=True, check=False)
    return said.stdout


def _unsupported(abilities: str) -> set[str]:
    """What it was built without."""
    lines = (line.split() for line in abilities.splitlines())
    return {words[0] for words in lines if words[1:] == ["disabled"]}


def make_dump_files(
    core: Path, arch: Arch, formats: Sequence[str], log: Path, progress: Progress
) -> Iterator[str]:
    """Has makedumpfile write ``core`` as CORE.FORMAT; yields the formats that it knows.

    "split" becomes CORE.split1 and CORE.split2, and "whole" is made of these.
    """
    wanted = [name for name in formats if name in MAKEDUMPFILE_FORMATS]
    if not wanted:
        return
    program = get_makedumpfile(arch)
    missing = _unsupported(_abilities(program))
    plain = core.with_name(f"{core.name}.plain")
    try:
        for name in wanted:
            if name in missing:
                continue
            if not plain.exists():
                _copy_with_headers_in_a_row(core, plain, arch)
            progress.update(f"makedumpfile: {name}")
            _make(program, plain, core, name, log, progress)
            yield name
    finally:
        plain.unlink(missing_ok=True)


def _make(program: Path, plain: Path, core: Path, name: str, log: Path, progress: Progress) -> None:
    halves = [f"{core}.split{part}" for part in "12"]
    sources = halves if name == "whole" else [*_LEVEL, str(plain)]
    argv = [str(program), *_OPTIONS[name], *sources]
    if name == "flat":
        with open(f"{core}.{name}", "wb") as out:
            subprocess.run(argv, stdout=out, stderr=subprocess.DEVNULL, check=True)
        return
    files = [Path(file) for file in (halves if name == "split" else [f"{core}.{name}"])]
    for file in files:
        file.unlink(missing_ok=True)
    run([*argv, *(str(file) for file in files)], progress, log=log)
    for file in files:
        file.chmod(0o644)


def _copy_with_headers_in_a_row(core: Path, copy: Path, arch: Arch) -> None:
    """makedumpfile (up to 1.7.8) takes the program headers to follow the ELF header at once.

    QEMU 7.2 has section headers in between, and says that its ELF header has 8 bytes.
    """
    shutil.copyfile(core, copy)
    with open(copy, "r+b") as file:
        header = bytearray(file.read(_EHDR))
        (at,) = struct.unpack_from("<Q", header, 32)
        (number,) = struct.unpack_from("<H", header, 56)
        file.seek(at)
        programs = file.read(number * _PHDR)
        if arch == "i386":
            programs = b"".join(_as_of_vmcore_32(programs))
        struct.pack_into("<QQ", header, 32, _EHDR, 0)  # e_phoff, e_shoff
        struct.pack_into("<H", header, 52, _EHDR)  # e_ehsize
        struct.pack_into("<H", header, 56, len(programs) // _PHDR)
        struct.pack_into("<HH", header, 60, 0, 0)  # e_shnum, e_shstrndx
        file.seek(0)
        file.write(header + programs)


def _as_of_vmcore_32(programs: bytes) -> Iterator[bytes]:
    """Program headers of x86-32 as those of /proc/vmcore are; makedumpfile needs that.

    Memory has the virtual address of the direct mapping: all of it, in a guest that is so small.
    The ROM at the end of 4 GiB is left out, because the kernel has no struct page of it.
    """
    for at in range(0, len(programs), _PHDR):
        header = bytearray(programs[at : at + _PHDR])
        (kind,) = struct.unpack_from("<I", header)
        physical, _, size = struct.unpack_from("<3Q", header, 24)
        if kind == _PT_LOAD:
            if physical + size == _FOUR_GIB:
                continue
            struct.pack_into("<Q", header, 16, physical + _PAGE_OFFSET_32)
        yield bytes(header)


def program_of_formats(formats: Sequence[str], arch: Arch) -> str:
    """The makedumpfile that a dump depends on, and what it can; "" without need of one."""
    if not set(formats) & set(MAKEDUMPFILE_FORMATS):
        return ""
    program = find_makedumpfile(arch)
    return " ".join(_abilities(program).split()) if program else ""
