# SPDX-License-Identifier: LGPL-2.1-or-later
"""Types and symbols of a program from files: a vmlinux with DWARF, and kernel modules."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Literal, Optional

from drgn import MissingDebugInfoError, Platform, Program

from ..errors import TypesError
from ..kernel.probing import has_dwarf
from .build_id import build_id_by_drgn, check_build_id, check_build_id_in_memory
from .core_file import compression_of, open_regular, shown
from .elf import ET_CORE, ET_REL, PT_INTERP, elf_type, read_elf
from .kdump import KDUMP_MAGICS
from .module_files import usable_module_files
from .read_at import read_at

__all__ = (
    "is_kernel_image",
    "linked_address",
    "load_dwarf",
    "load_modules",
    "types_source",
)

_NO_ELF = "is not an ELF file"
_ELF_MAGIC = b"\x7fELF"
_START_BYTES = 64


def types_source(prog: Program) -> Literal["btf", "dwarf"]:
    """Return where the types of a program come from."""
    return "dwarf" if has_dwarf(prog) else "btf"


def is_kernel_image(path: str) -> bool:
    """Return whether an ELF file is a vmlinux and not a kernel module.

    :raises InputError: if it cannot be opened
    :raises TypesError: if it is neither
    """
    compression = compression_of(path)
    with open_regular(path) as file:
        elf = read_elf(file)
        magic = read_at(file, 0, _START_BYTES)
    what = None
    if compression is not None:
        what = _what_is_packed(path, compression)
    elif _is_core(magic):
        what = "is a core dump: use -c for it"
    elif not magic:
        what = "is empty"
    elif elf is None:
        is_elf = magic.startswith(_ELF_MAGIC)
        what = "is cut short or damaged: its ELF headers are not whole" if is_elf else _NO_ELF
    elif any(segment.type == PT_INTERP for segment in elf.segments):
        what = "is a program or library, not a kernel"
    if what is not None:
        raise TypesError(f"{shown(path)}: {what}; -s takes a vmlinux with debugging information")
    return elf is not None and elf.type != ET_REL


def _is_core(start: bytes) -> bool:
    return start.startswith(KDUMP_MAGICS) or elf_type(start) == ET_CORE


def _what_is_packed(path: str, compression: str) -> str:
    from .unpack import packed_start  # its imports cost time, and few need them

    start = packed_start(path, _START_BYTES)
    if start is not None and _is_core(start):
        return f"is a core dump packed with {compression}: use -c for it"
    if start is not None and not start.startswith(_ELF_MAGIC):
        return f"is packed with {compression}, and the file in it {_NO_ELF}"
    return f"is packed with {compression}: unpack it"


def linked_address(platform: Platform, image: str, symbol: str) -> Optional[int]:
    """Return the address at which a symbol of a vmlinux is linked; with KASLR, its address in memory differs.

    :return: ``None`` if the vmlinux has no such symbol
    """
    prog = Program(platform)
    try:
        prog.extra_module(image, create=True).try_file(image, force=True)
        return int(prog.symbol(symbol).address)
    except LookupError:
        return None


def load_dwarf(
    prog: Program, name: str, images: Sequence[str], module_paths: Sequence[str]
) -> None:
    """Load a vmlinux with DWARF, and modules.

    :param name: what to call the kernel in a message
    :param images: paths of the vmlinux; if there are several, all must be of this kernel
    :param module_paths: files of modules
    :raises TypesError: if the vmlinux is of another kernel or has no usable DWARF, or a file is of another build of a
        loaded module
    """
    expected = build_id_by_drgn(prog)
    if expected is not None:
        for image in images:
            check_build_id(name, expected, image)
    _load_files(prog, images)
    if not has_dwarf(prog):
        raise TypesError(
            f"{shown(images[0])}: has no DWARF debugging information, or it is damaged; "
            "give a vmlinux that has it, or leave -s out to use BTF"
        )
    if expected is None:
        for image in images:
            check_build_id_in_memory(prog, name, image)
    load_modules(prog, name, module_paths)


def load_modules(prog: Program, name: str, paths: Sequence[str]) -> None:
    """Load debuginfo of modules from files, as far as drgn can use it.

    :param prog: already has types
    :param name: what to call the kernel in a message
    :raises TypesError: if a file is of another build of a loaded module
    """
    _load_files(prog, usable_module_files(prog, name, paths))


def _load_files(prog: Program, paths: Sequence[str]) -> None:
    if not paths:  # drgn would create its modules anyway
        return
    with suppress(MissingDebugInfoError):  # the caller then checks whether it has what it needs
        prog.load_debug_info(paths)
