# SPDX-License-Identifier: LGPL-2.1-or-later
"""Check whether a file is a kernel's core dump, and complete, before drgn opens it, so that errors are clear."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import BinaryIO, Optional

import msgspec

from ..arch.machines import UNDERSTOOD, arch_of_elf, arch_of_utsname, elf_machine_name
from ..debuginfo.vmcoreinfo import vmcoreinfo_lines
from ..errors import InputError, UsageError
from .core_notes import read_core_notes
from .elf import ET_CORE, PT_LOAD, Elf, has_section, read_elf, read_notes
from .kdump import (
    KDUMP_MAGICS,
    MAX_BITMAP_BYTES,
    KdumpHeader,
    has_end,
    holds_some_of_each,
    is_flattened,
    is_flattened_elf,
    machine_named,
    read_kdump,
)
from .kdump_pages import MissingPages, page_data
from .other_formats import name_format
from .read_at import read_at
from .url import without_secrets

__all__ = (
    "AUTO",
    "COPY_AGAIN",
    "NO_VMCOREINFO",
    "OTHER_VMCOREINFO",
    "CoreFile",
    "check_core",
    "compression_of",
    "open_regular",
    "path_given",
    "shown",
)

AUTO = "auto"
"""As *vmcoreinfo* of :func:`.open.open_program`: search the memory of the dump for VMCOREINFO that fits."""
OTHER_VMCOREINFO = (
    "search its memory for one with --vmcoreinfo auto, or give one with --vmcoreinfo FILE"
)
"""What to do if a dump has no VMCOREINFO, or the wrong one."""
NO_VMCOREINFO = (
    "has no VMCOREINFO, which says where things are in the kernel's memory; " + OTHER_VMCOREINFO
)

_NO_FILE = {
    stat.S_IFDIR: "is a directory, not a file; give a file in it",
    stat.S_IFIFO: "is a pipe, not a file; save its output to a file",
    stat.S_IFSOCK: "is a socket, not a file; use --qemu for a QEMU guest",
    stat.S_IFCHR: "is a device, not a file; use -k for the running kernel",
    stat.S_IFBLK: "is a disk, not a file; copy the dump on it into a file",
}
_A_URL = "is a URL, not a file; download it (only fleet run takes URLs)"

_COMPRESSED_MAGIC = {b"\x1f\x8b": "gzip", b"\xfd7zXZ\0": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
_ELF_TYPES = {1: "object file", 2: "executable", 3: "executable or library"}
_NT_PRPSINFO, _NT_TASKSTRUCT, _NT_AUXV = 3, 4, 6

COPY_AGAIN = "copy or make the dump again"
"""What to do about an incomplete file."""
_CUT_SHORT = "the file is cut short: {}; the rest is missing"
_HEADERS_CUT = f"is cut short or damaged: its ELF headers are not whole; {COPY_AGAIN}"
_NO_END = "the file is cut short: the mark at the end of the flattened format is missing"
_INCOMPLETE = "makedumpfile could not write the whole file; the rest is missing"
_PART = (
    "is one part of a split dump: it holds {}; "
    "join all parts with makedumpfile --reassemble PART... NEWFILE"
)
_FLATTENED_ELF = (
    "is an ELF dump in the flattened format, where missing pages may read as zeros; "
    "convert it to plain ELF with makedumpfile -R NEWFILE < FILE"
)
_KDUMP_HEADERS_BYTES = 8192
_LARGE_BITMAP = "is damaged: its bitmaps are larger than those of any machine"
_NO_DATA = (
    "{} of its page descriptors are damaged: they point outside the file; these pages are missing"
)
_NO_HEADERS = (
    "cannot be opened as a vmcore: its headers are damaged, or of a machine "
    f"other than {UNDERSTOOD}"
)
_QEMU_KNOWS_NO_NAME = "Unknown"
"""utsname.machine of guests other than x86 (ELF_MACHINE_UNAME in QEMU's dump.c, v7.2)."""
_ONLY_ARM64 = "NUMBER(kimage_voffset)"
"""A line of VMCOREINFO that only arm64 has."""
_NOT_IN_IT = "is damaged: its headers are incomplete"
_QEMU_HINT = " (QEMU dumps have one if the guest has -device vmcoreinfo and loads qemu_fw_cfg)"
_NO_MEMORY = "has no memory in it: none of its {} segments is PT_LOAD"
_XEN_GUEST = (
    "is a dump of a Xen guest by xl dump-core, which drgn does not read; "
    "dump the guest with kdump inside it"
)
_XEN_HOST = "is a dump of the Xen hypervisor, without VMCOREINFO of a Linux kernel; "
_XEN_NOTES = {b"Xen", b"VMCOREINFO_XEN"}
_VMCOREINFO_CUT = "its VMCOREINFO is cut short or damaged: it lacks {}; " + OTHER_VMCOREINFO
_NEEDED = ("OSRELEASE", "PAGESIZE", "SYMBOL(swapper_pg_dir)")
"""Lines of VMCOREINFO that drgn needs to open a dump (v0.3.0)."""


def shown(path: str) -> str:
    """Return a path for a message of one line.

    It is escaped if it has characters that are not printable. A URL, which may be given where a
    path is expected, is shown without user info and query.
    """
    path = without_secrets(path)
    return path if path and path.isprintable() else repr(path)


def path_given(parameter: str, path: object) -> str:
    """Return a path that a caller has given, as text.

    Bytes are not accepted. Nor is a number: open() would treat it as an open file descriptor, and close that.

    :param parameter: Name of the parameter, for the error
    :raises UsageError: if it is neither text nor a path of pathlib
    """
    if isinstance(path, str):
        return path
    text = os.fspath(path) if isinstance(path, os.PathLike) else path
    if not isinstance(text, str):
        raise UsageError(f"{parameter} is a path, a str or a pathlib.Path, not {path!r}")
    return text


@contextmanager
def open_regular(path: str) -> Iterator[BinaryIO]:
    """Open a file that must be a regular one, for as long as the context lasts.

    :raises InputError: if it cannot be opened, is not a regular file, or an OSError in the context
        says that it cannot be read
    """
    with _opened(path) as file:
        try:
            yield file
        except OSError as e:
            raise InputError(f"{shown(path)}: cannot be read: {e.strerror or e}") from e


def _opened(path: str) -> BinaryIO:
    try:
        mode = os.stat(path).st_mode
        if not stat.S_ISREG(mode):
            raise InputError(f"{shown(path)}: {_NO_FILE.get(stat.S_IFMT(mode), 'is no file')}")
        return open(path, "rb")
    except OSError as e:
        is_url = isinstance(e, FileNotFoundError) and "://" in path
        raise InputError(f"{shown(path)}: {_A_URL if is_url else _reason(e)}") from e
    except ValueError as e:  # a NUL, or a character that the file system cannot name
        raise InputError(f"{shown(path)}: not a valid file name") from e


def _reason(error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if isinstance(error, PermissionError):
        return "permission denied; dumps usually belong to root"
    return error.strerror or str(error)


def compression_of(path: str) -> Optional[str]:
    """Return ``gzip``, ``xz`` or ``zstd`` by the first bytes of a file, ``None`` if it is none of these.

    :raises InputError: if it cannot be read
    """
    with open_regular(path) as file:
        return _compression(file.read(8))


def _compression(start: bytes) -> Optional[str]:
    found = (name for magic, name in _COMPRESSED_MAGIC.items() if start.startswith(magic))
    return next(found, None)


class CoreFile(msgspec.Struct, frozen=True):
    """What is needed to open a core dump."""

    path: str
    """Path of the file, unpacked."""
    cut_short: Optional[str] = None
    """In words, what is missing or damaged in a file that can still be opened; ``None`` if it is complete."""
    arch: Optional[str] = None
    """As :attr:`.records.KernelInfo.arch`, if drgn cannot determine the machine from the file."""
    vmcoreinfo: Optional[bytes] = None
    """VMCOREINFO of the dump, lines of text; ``None`` if it has none."""
    walks_page_tables: bool = False
    """Whether drgn itself translates addresses, by page tables that do not change: so in ELF with
    physical addresses. In kdump, libkdumpfile translates them."""
    missing_pages: Optional[MissingPages] = None
    """Pages of a kdump file that must not be read."""


def check_core(
    path: str, name: str, have_vmcoreinfo: bool = False, packed: Optional[str] = None
) -> CoreFile:
    """Refuse a file that cannot be a core dump of a Linux kernel of a supported architecture.

    :param path: of the file, unpacked
    :param name: what to call it in a message
    :param have_vmcoreinfo: whether VMCOREINFO was given in a file of its own
    :param packed: what it was packed with, as :func:`compression_of` returns it
    :raises InputError: with one line that says what the file is instead
    """
    with open_regular(path) as file:
        magic = file.read(12)
        if magic.startswith(KDUMP_MAGICS):
            return _check_kdump(file, path, name, have_vmcoreinfo)
        if not magic:
            what = "is empty" if packed is None else "the file packed in it is empty"
            raise InputError(f"{name}: {what}; {COPY_AGAIN}")
        if not magic.startswith(b"\x7fELF"):
            raise InputError(
                f"{name}: {name_format(file) if packed is None else _twice(file, packed)}"
            )
        elf = read_elf(file)
        if elf is None:
            raise InputError(f"{name}: {_HEADERS_CUT}")
        return _check_elf(file, elf, path, name, have_vmcoreinfo)


def _twice(file: BinaryIO, packed: str) -> str:
    # Say what a file is that was unpacked here, and is not a dump.
    if _compression(read_at(file, 0, 8)) is not None:
        return f"is packed twice; unpack it once, with {packed} -dc FILE > NEWFILE"
    return f"the file packed in it {name_format(file)}"


def _check_elf(file: BinaryIO, elf: Elf, path: str, name: str, have_vmcoreinfo: bool) -> CoreFile:
    if elf.type != ET_CORE:
        what = _ELF_TYPES.get(elf.type, "file of another kind")
        raise InputError(f"{name}: is an ELF {what}, not a core dump; use -s for symbols")
    if arch_of_elf(elf.machine) is None:
        raise InputError(f"{name}: {_other_machine(elf_machine_name(elf.machine))}")
    if has_section(file, b".xen_pages"):
        raise InputError(f"{name}: {_XEN_GUEST}")
    notes = {(note.name, note.type) for note in read_notes(file, elf)}
    names = {note_name for note_name, _ in notes}
    is_kcore = (b"CORE", _NT_TASKSTRUCT) in notes
    if b"VMCOREINFO" not in names and not is_kcore:
        if (b"CORE", _NT_AUXV) in notes or (b"CORE", _NT_PRPSINFO) in notes:
            raise InputError(
                f"{name}: is a core dump of a userspace process, not of a Linux kernel"
            )
        if not have_vmcoreinfo and elf.announced_bytes > elf.file_bytes:
            sizes = _sizes(elf.announced_bytes, elf.file_bytes)
            raise InputError(f"{name}: is cut short: {sizes}; {COPY_AGAIN}")
    if all(segment.type != PT_LOAD for segment in elf.segments):
        raise InputError(f"{name}: {_NO_MEMORY.format(len(elf.segments))}")
    vmcoreinfo = read_core_notes(file, elf).vmcoreinfo
    if not have_vmcoreinfo and not is_kcore:
        if vmcoreinfo is None and names & _XEN_NOTES:
            raise InputError(f"{name}: {_XEN_HOST}{OTHER_VMCOREINFO}")
        if vmcoreinfo is None:
            raise InputError(f"{name}: {NO_VMCOREINFO}{_QEMU_HINT if b'QEMU' in names else ''}")
        _check_lines(vmcoreinfo, name)
    cut_short = None
    if elf.announced_bytes > elf.file_bytes and not is_kcore:
        cut_short = _CUT_SHORT.format(_sizes(elf.announced_bytes, elf.file_bytes))
    # drgn goes by the class of the file: it treats 64-bit ELF of x86-32, as QEMU and kexec with PAE
    # write it, as x86-32 with words of 64 bits.
    arch = "i386" if arch_of_elf(elf.machine) == "i386" else None
    # drgn's rule: if all physical addresses are 0, there are none. The page tables of a running kernel change.
    has_physical = any(s.physical_address for s in elf.segments if s.type == PT_LOAD)
    return CoreFile(path, cut_short, arch, vmcoreinfo, has_physical and not is_kcore)


def _check_lines(vmcoreinfo: bytes, name: str) -> None:
    lines = vmcoreinfo_lines(vmcoreinfo)
    missing = [key for key in _NEEDED if not lines.get(key)]
    if missing:
        raise InputError(f"{name}: {_VMCOREINFO_CUT.format(', '.join(missing))}")


def _check_kdump(file: BinaryIO, path: str, name: str, have_vmcoreinfo: bool) -> CoreFile:
    file_bytes = file.seek(0, 2)
    flattened = is_flattened(file)
    if is_flattened_elf(file):
        # libkdumpfile (v0.5.4) returns zeros for an excluded page if a segment begins after it.
        raise InputError(f"{name}: {_FLATTENED_ELF}")
    header = read_kdump(file)
    cut_short = _NO_END if flattened and not has_end(file) else None
    if header is None:
        if file_bytes < _KDUMP_HEADERS_BYTES:
            raise InputError(f"{name}: is cut short: its headers are not whole; {COPY_AGAIN}")
        machine = machine_named(file)
        if machine and arch_of_utsname(machine) is None:
            raise InputError(f"{name}: {_other_machine(machine)}")
        raise InputError(f"{name}: {cut_short or _NO_HEADERS}")
    if header.part is not None and header.part != (0, header.max_pfn):
        begin, end = header.part
        held = (
            f"page frames {begin} to {end - 1} of {header.max_pfn}" if begin < end else "no pages"
        )
        raise InputError(f"{name}: {_PART.format(held)}")
    # libkdumpfile maps them, and crashes with SIGBUS where the file ends before them.
    parts_end = max(end for _, end in header.parts)
    if parts_end > file_bytes:
        raise InputError(f"{name}: is cut short: {_sizes(parts_end, file_bytes)}; {COPY_AGAIN}")
    if flattened and not holds_some_of_each(file, header.parts):
        raise InputError(f"{name}: {cut_short or _NOT_IN_IT}")
    bitmap_begin, bitmap_end = header.bitmap_of_dumped
    if bitmap_end - bitmap_begin > MAX_BITMAP_BYTES:
        raise InputError(f"{name}: {_LARGE_BITMAP}")
    pages = page_data(file, header)
    if pages.breaks_off:
        raise InputError(f"{name}: {_NO_END}")
    if not flattened and pages.announced_bytes > file_bytes:
        cut_short = _CUT_SHORT.format(_sizes(pages.announced_bytes, file_bytes))
    if cut_short is None and header.is_incomplete:
        cut_short = _INCOMPLETE
    if cut_short is None and pages.missing.count:
        cut_short = _NO_DATA.format(pages.missing.count)
    vmcoreinfo = read_core_notes(file, None).vmcoreinfo
    lines = vmcoreinfo_lines(vmcoreinfo or b"")
    arch = _arch_to_give(header, lines, name)
    if not have_vmcoreinfo:
        if vmcoreinfo is None:
            raise InputError(f"{name}: {NO_VMCOREINFO}")
        _check_lines(vmcoreinfo, name)
    return CoreFile(path, cut_short, arch, vmcoreinfo, missing_pages=pages.missing)


def _arch_to_give(header: KdumpHeader, vmcoreinfo: Mapping[str, str], name: str) -> Optional[str]:
    # libkdumpfile uses the machine only if the other fields of utsname are there, too
    # (uts_looks_sane() in its util.c, v0.5.4); QEMU's dump.c leaves those out.
    *rest, machine, _ = header.utsname
    arch = arch_of_utsname(machine)
    if machine == _QEMU_KNOWS_NO_NAME and _ONLY_ARM64 in vmcoreinfo:
        arch = "aarch64"
    if arch == "i386":
        return arch  # libkdumpfile does not know the name i686
    if not machine or any(rest):
        return None
    if arch is None:
        raise InputError(f"{name}: {_other_machine(machine)}")
    return arch


def _other_machine(machine: str) -> str:
    return f"is a core dump of {shown(machine)}; only {UNDERSTOOD} are supported"


def _sizes(announced: int, found: int) -> str:
    return f"{announced} bytes announced, {found} found"
