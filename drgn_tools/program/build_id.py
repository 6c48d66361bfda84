# SPDX-License-Identifier: LGPL-2.1-or-later
"""Check by GNU build ID whether a vmlinux is that of a kernel."""

from __future__ import annotations

from typing import Optional

from drgn import Program

from ..errors import TypesError
from ..memory import read_up_to
from .core_file import open_regular, shown
from .elf import build_id_among, notes_in, read_elf, read_notes

__all__ = ("build_id_by_drgn", "check_build_id", "check_build_id_in_memory")

_MAX_NOTES_BYTES = 1 << 16


def build_id_by_drgn(prog: Program) -> Optional[str]:
    """Return the build ID of the kernel in hex, ``None`` if VMCOREINFO does not have it (before v5.9).

    Unlike :func:`..debuginfo.vmcoreinfo.build_id`, this does not make drgn settle on the type of
    char, which the DWARF has to define (see :mod:`.builtin_types`).
    """
    main, _ = next(iter(prog.loaded_modules()))
    return main.build_id.hex() if main.build_id else None


def check_build_id(name: str, expected: Optional[str], path: str) -> None:
    """Refuse a vmlinux whose build ID is not that of the kernel.

    :param name: what to call the kernel in a message
    :param expected: build ID of the kernel in hex, ``None`` if it is unknown
    :param path: the vmlinux
    :raises TypesError: if its build ID is not *expected*
    """
    with open_regular(path) as file:
        elf = read_elf(file)
        found = build_id_among(read_notes(file, elf)) if elf is not None else None
    if found != expected:
        raise TypesError(
            f"{name}: kernel build ID {expected or 'unknown'} "
            f"but {shown(path)} {f'is {found}' if found else 'has none'}; "
            "give the vmlinux of this kernel with -s, or leave -s out to use BTF"
        )


def check_build_id_in_memory(prog: Program, name: str, path: str) -> None:
    """Refuse a vmlinux that is not of this kernel, where VMCOREINFO has no build ID (before v5.9).

    drgn then accepts any vmlinux. But the kernel also has its build ID in memory, between
    ``__start_notes`` and ``__stop_notes``: these symbols of the right vmlinux lead to it. A vmlinux
    without these symbols is not checked.

    :param prog: has the symbols of the vmlinux loaded
    :param name: what to call the kernel in a message
    :param path: the vmlinux
    :raises TypesError: if the build ID there is not that of the vmlinux
    """
    try:
        start, stop = (prog.symbol(f"__{end}_notes").address for end in ("start", "stop"))
    except LookupError:
        return
    notes = read_up_to(prog, start, max(0, min(stop - start, _MAX_NOTES_BYTES)))
    check_build_id(name, build_id_among(notes_in(notes)), path)
