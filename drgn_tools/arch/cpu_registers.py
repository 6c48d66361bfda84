# SPDX-License-Identifier: LGPL-2.1-or-later
"""The registers of a CPU when the dump was taken, from drgn or from the notes of the dump."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Optional

import msgspec
from drgn import Object, Program, UnsupportedOperation

from ..cache_key import cache_key
from ..kernel.tasks import Task
from ..memory import UNUSABLE

__all__ = ("DrgnRegisters", "keep_prstatus", "kept_prstatus", "registers_by_drgn")

_CACHE_KEY = cache_key(__name__)


class DrgnRegisters(msgspec.Struct, frozen=True):
    """Registers of a CPU."""

    pc: int
    """Program counter (virtual address)."""
    by_name: Mapping[str, int]
    """Values by drgn's names."""


def registers_by_drgn(prog: Program, task: Task) -> Optional[DrgnRegisters]:
    """Return the registers of the CPU that a task was running on.

    They are in the NT_PRSTATUS note of that CPU, or in its crash note. drgn finds the note of a
    task. If the task is just being switched, drgn returns only the few registers that the switch saved.

    :return: ``None`` if the dump has none, as on a live kernel
    """
    try:
        trace = prog.stack_trace(Object(prog, "struct task_struct *", task.addr))
        return DrgnRegisters(trace[0].pc, trace[0].registers())
    except (UnsupportedOperation, NotImplementedError, IndexError, MemoryError, *UNUSABLE):
        # drgn raises NotImplementedError for a running x86-32 kernel, and MemoryError if a damaged
        # module has a huge number of ORC entries.
        return None


def keep_prstatus(prog: Program, prstatus: Sequence[bytes]) -> None:
    """Keep the NT_PRSTATUS notes of a dump, to be used instead of what drgn finds.

    drgn does not use the notes of x86-32. A dump of another machine may be given without any notes.

    :param prstatus: Their contents, in the order of the file
    """
    prog.cache[_CACHE_KEY] = tuple(prstatus)


def kept_prstatus(prog: Program) -> Optional[Sequence[bytes]]:
    """Return what :func:`keep_prstatus` kept; ``None`` if drgn is to be asked."""
    prstatus: Optional[Sequence[bytes]] = prog.cache.get(_CACHE_KEY)
    return prstatus
