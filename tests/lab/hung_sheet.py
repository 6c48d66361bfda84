# SPDX-License-Identifier: LGPL-2.1-or-later
"""Reads who waits for what in a guest that hangs on purpose (hung_module/hung_sheet.h)."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

import drgn

from .sheet import SheetError

__all__ = ("HungSheet", "KnownWait", "read_hung_sheet")

MAGIC = b"LAB-HUNG"
VERSION = 1

_HEADER = struct.Struct("<16s4IQ")
_RECORD = struct.Struct("<4Q4i16s16s")
_MAX_RECORDS = 128


@dataclass(frozen=True)
class KnownWait:
    """What a task said of itself before it waited."""

    task: int
    """Address of the ``struct task_struct``."""
    lock: int
    """Address of the lock; of a folio, of the word with a bit, of a ``struct bio``."""
    owner: int
    """Address of the ``struct task_struct`` that holds it; 0 if the kernel does not keep that."""
    since_ns: int
    """local_clock()."""
    pid: int
    owner_pid: int
    owner_exited: bool
    readers: int
    """That hold an rwsem."""
    kind: str
    """As hung_module/hung.c calls it: "mutex", "rwsem-r" (wants to read), "rwsem-w" ..."""
    comm: str


@dataclass(frozen=True)
class HungSheet:
    """The answers."""

    sealed_ns: int
    """local_clock() when all tasks slept."""
    waits: tuple[KnownWait, ...]

    def named(self, comm: str) -> KnownWait:
        """The wait of the task of this name."""
        (wait,) = (wait for wait in self.waits if wait.comm == comm)
        return wait


def read_hung_sheet(prog: drgn.Program, address: int) -> HungSheet:
    """Reads the sheet at a virtual address.

    :raises SheetError: there is none, or not one this reader knows
    """
    try:
        header = _HEADER.unpack(prog.read(address, _HEADER.size))
        magic, version, header_bytes, record_bytes, count, sealed_ns = header
        if magic.rstrip(b"\0") != MAGIC:
            raise SheetError(f"no sheet of a machine that hangs at {address:#x}")
        if (version, header_bytes, record_bytes) != (VERSION, _HEADER.size, _RECORD.size):
            raise SheetError(f"sheet of version {version}; this reader knows {VERSION}")
        if count > _MAX_RECORDS:
            raise SheetError(f"sheet of {count} tasks")
        data = prog.read(address + _HEADER.size, count * _RECORD.size)
    except drgn.FaultError as e:
        raise SheetError(f"the sheet at {address:#x} is not in the dump: {e}") from e
    return HungSheet(sealed_ns, tuple(_waits(data)))


def _waits(data: bytes) -> Iterator[KnownWait]:
    for fields in _RECORD.iter_unpack(data):
        task, lock, owner, since_ns, pid, owner_pid, owner_exited, readers, kind, comm = fields
        yield KnownWait(
            task, lock, owner, since_ns, pid, owner_pid, bool(owner_exited), readers,
            _text(kind), _text(comm),
        )  # fmt: skip


def _text(field: bytes) -> str:
    return field.split(b"\0", 1)[0].decode("ascii", "replace")
