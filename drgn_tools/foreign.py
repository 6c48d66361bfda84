# SPDX-License-Identifier: LGPL-2.1-or-later
"""Stacks of kernels that do not encode ``pt_regs``: drgn's own unwinder, made safe.

The kernel's algorithm cannot be re-stated where it is ORC; drgn knows ORC. What
it gives is a stack to read, never a verdict.
"""

from __future__ import annotations

from typing import NamedTuple

from drgn import FaultError, Object, Program, UnsupportedOperation

from .tasks import Task
from .text import KernelText

__all__ = ("ForeignFrame", "foreign_frames")

_MAX_FRAMES = 1024
"""drgn stops there as well."""


class ForeignFrame(NamedTuple):
    """One frame of drgn's stack trace."""

    pc: int
    """Return address, or exact where :attr:`exact`."""
    exact: bool
    """The frame was interrupted at :attr:`pc`, or begins there."""


def foreign_frames(prog: Program, text: KernelText, task: Task) -> list[ForeignFrame]:
    """The kernel part of a sleeping task's stack, innermost first.

    Ends before the first address that is not kernel text: past the entry
    registers drgn goes on with whatever user-mode registers point to.
    Empty when drgn cannot unwind the task at all.
    """
    frames: list[ForeignFrame] = []
    try:
        trace = prog.stack_trace(Object(prog, "struct task_struct *", task.addr))
        for frame in list(trace)[:_MAX_FRAMES]:
            if frame.is_inline:
                continue
            if not text.is_kernel_text(frame.pc):
                break
            frames.append(ForeignFrame(frame.pc, frame.interrupted and bool(frames)))
    except (FaultError, LookupError, UnsupportedOperation, ValueError):
        return frames
    return frames
