# SPDX-License-Identifier: LGPL-2.1-or-later
"""The notes of a core dump, wherever its format keeps them."""

from __future__ import annotations

from typing import BinaryIO, Optional

import msgspec

from .elf import Elf, notes_in, read_notes
from .kdump import read_kdump, read_part

__all__ = ("CoreNotes", "read_core_notes")

_NT_PRSTATUS = 1


class CoreNotes(msgspec.Struct, frozen=True):
    """What the notes of a core dump say about the kernel."""

    vmcoreinfo: Optional[bytes]
    """VMCOREINFO, lines of text; ``None`` if the dump has none."""
    prstatus: tuple[bytes, ...]
    """Contents of the NT_PRSTATUS notes, in their order. Each is a ``struct elf_prstatus``."""


def read_core_notes(file: BinaryIO, elf: Optional[Elf]) -> CoreNotes:
    """Return what the notes of a core dump say; nothing if it is neither ELF nor kdump.

    :param elf: Its ELF headers; ``None`` if it is not an ELF file
    """
    header = read_kdump(file) if elf is None else None
    vmcoreinfo = None
    if elf is not None:
        notes = list(read_notes(file, elf))
    elif header is not None:
        notes = list(notes_in(read_part(file, header.notes)))
        vmcoreinfo = read_part(file, header.vmcoreinfo) or None
    else:
        notes = []
    in_note = (note.description for note in notes if note.name == b"VMCOREINFO")
    return CoreNotes(
        vmcoreinfo or next(in_note, None),
        tuple(n.description for n in notes if (n.name, n.type) == (b"CORE", _NT_PRSTATUS)),
    )
