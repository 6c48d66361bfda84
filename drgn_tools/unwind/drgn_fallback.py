# SPDX-License-Identifier: LGPL-2.1-or-later
"""Stacks of kernels that do not encode ``pt_regs``: drgn's own unwinder, made safe.

The kernel's algorithm cannot be re-stated where it is ORC; drgn knows ORC. What
it gives is a stack to read, never a verdict.
"""

from __future__ import annotations

from typing import NamedTuple

from drgn import Object, Program, UnsupportedOperation

from ..kernel.layout import symbol_address
from ..kernel.tasks import Task
from ..kernel.text import KernelText
from ..memory import UNUSABLE

__all__ = ("ForeignFrame", "foreign_frames", "use_orc_of_the_dump")

_MAX_FRAMES = 1024
"""drgn stops there as well."""

_PREPARED = "drgn_tools.unwind.drgn_fallback.prepared"


class ForeignFrame(NamedTuple):
    """One frame of drgn's stack trace."""

    pc: int
    """Return address, or exact where :attr:`exact`."""
    exact: bool
    """The frame was interrupted at :attr:`pc`: a ``pt_regs`` lies there."""


def use_orc_of_the_dump(prog: Program) -> None:
    """Let drgn find the ORC tables inside the dump, where there is no debuginfo.

    drgn reads them for a module whose addresses it knows, and takes those of the
    kernel image from vmlinux; kallsyms knows them as well.
    """
    if _PREPARED in prog.cache:
        return
    prog.cache[_PREPARED] = True
    start, end = symbol_address(prog, "_text"), symbol_address(prog, "_end")
    try:
        prog.create_loaded_modules()
        image = prog.main_module()
        if image.address_ranges is None and start is not None and end is not None and start < end:
            image.address_ranges = [(start, end)]
    except UNUSABLE:
        # A damaged module list: stacks then end early, and have no verdict anyway.
        return


def foreign_frames(prog: Program, text: KernelText, task: Task) -> list[ForeignFrame]:
    """The kernel part of a sleeping task's stack, innermost first.

    Ends before the first address that is not kernel text: past the entry
    registers drgn goes on with whatever user-mode registers point to.
    Empty when drgn cannot unwind the task at all.
    """
    use_orc_of_the_dump(prog)
    frames: list[ForeignFrame] = []
    try:
        trace = prog.stack_trace(Object(prog, "struct task_struct *", task.addr))
        for frame in list(trace)[:_MAX_FRAMES]:
            if frame.is_inline:
                continue
            if not text.is_kernel_text(frame.pc):
                break
            frames.append(ForeignFrame(frame.pc, frame.interrupted and bool(frames)))
    except (UnsupportedOperation, *UNUSABLE):
        return frames
    return frames
