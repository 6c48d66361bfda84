# SPDX-License-Identifier: LGPL-2.1-or-later
"""Memory of a program that is other than what the dump has."""

from __future__ import annotations

import drgn


def overlay(prog: drgn.Program, addr: int, data: bytes) -> None:
    """Hide what lies at a virtual address."""

    def read(address: int, count: int, offset: int, physical: bool) -> bytes:
        return data[offset : offset + count]

    prog.add_memory_segment(addr, len(data), read)


def exclude(prog: drgn.Program, addr: int, size: int) -> None:
    """Take what lies at a virtual address out of the dump."""

    def read(address: int, count: int, offset: int, physical: bool) -> bytes:
        raise drgn.FaultError("excluded from the dump", address)

    prog.add_memory_segment(addr, size, read)
