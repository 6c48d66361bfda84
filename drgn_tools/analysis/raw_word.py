# SPDX-License-Identifier: LGPL-2.1-or-later
"""The record of one word of a stack."""

from __future__ import annotations

from typing import Optional

import msgspec

from ..records import TaskStack

__all__ = ("RawWord",)


class RawWord(msgspec.Struct, frozen=True):
    """One word of a stack."""

    task: TaskStack
    """The task."""
    stack: str
    """The stack, as :attr:`.Frame.stack`."""
    address: int
    """Virtual address of the word."""
    value: Optional[int]
    """The word; ``None`` if it is not in the dump."""
    kind: Optional[str] = None
    """What it is: ``frame`` (a return address that the unwinder found), ``regs`` (a register of a ``pt_regs`` that it found). What it may
    be: ``encoded`` (frame pointer that leads to such a ``pt_regs``), ``stack`` (address in this stack), ``text`` (address
    of kernel text, which may be left over from an earlier call), ``symbol`` (address in a variable of the kernel image),
    ``task`` (address in a ``struct task_struct``), ``slab`` (address of the slab allocator). ``None``: none of these."""
    frame: Optional[int] = None
    """Index in :attr:`.TaskStack.frames`, for ``frame``, ``regs`` and ``encoded``."""
    label: Optional[str] = None
    """What it is in words: ``vfs_read+0x8f``, ``pt_regs.ip``, ``pid 97``, ``kmalloc-64``."""
