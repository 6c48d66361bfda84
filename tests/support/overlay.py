# SPDX-License-Identifier: LGPL-2.1-or-later
"""Replace or remove memory of a program."""

from __future__ import annotations

import drgn


def overlay(prog: drgn.Program, addr: int, data: bytes) -> None:
    """Replace the memory at a virtual address."""

    def read(address: int, count: int, offset: int, physical: bool) -> bytes:
        return data[offset : offset + count]

    prog.add_memory_segment(addr, len(data), read)


def exclude(prog: drgn.Program, addr: int, size: int) -> None:
    """Make reads at a virtual address fault, as if it were not in the dump."""

    def read(address: int, count: int, offset: int, physical: bool) -> bytes:
        raise drgn.FaultError("excluded from the dump", address)

    prog.add_memory_segment(addr, size, read)
