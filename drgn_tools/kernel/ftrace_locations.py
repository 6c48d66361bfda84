# SPDX-License-Identifier: LGPL-2.1-or-later
"""Where ftrace can hook: the records of calls of __fentry__ (kernel/trace/ftrace.c)."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Optional

from drgn import Object, Program, offsetof, sizeof

from ..memory import UNUSABLE, follow_pointers
from .probing import at_most, symbol_address

__all__ = ("ftrace_locations",)

_MAX_RECORDS = 4_000_000
"""A distribution's kernel has 60,000, modules included."""
_MAX_RECORD_BYTES = 256
"""``struct dyn_ftrace`` has 16 bytes on x86-64."""


def ftrace_locations(prog: Program) -> Optional[list[int]]:
    """Return the address of each place where ftrace can hook, ascending.

    :return: ``None`` if the records cannot be read, or the kernel has no dynamic ftrace
    """
    pages = symbol_address(prog, "ftrace_pages_start")
    if pages is None:
        return None
    try:
        first = Object(prog, "struct ftrace_page *", address=pages).read_()
        return sorted(_records(prog, first))
    except UNUSABLE:
        return None


def _records(prog: Program, first: Object) -> Iterator[int]:
    record = prog.type("struct dyn_ftrace")
    size = at_most(sizeof(record), _MAX_RECORD_BYTES, "struct dyn_ftrace")
    ip = offsetof(record, "ip")
    word = prog.address_size()
    entry = struct.Struct(f"{ip}x{'Q' if word == 8 else 'I'}{size - ip - word}x")
    left = _MAX_RECORDS
    for page in follow_pointers(first, "next"):
        if not page:
            return
        count = page.index.value_()
        left -= count
        if not count >= 0 or left < 0:
            raise ValueError(f"a page of ftrace records cannot have {count} of them")
        data = prog.read(page.records.value_(), count * size)
        yield from (address for (address,) in entry.iter_unpack(data))
