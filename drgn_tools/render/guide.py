# SPDX-License-Identifier: LGPL-2.1-or-later
"""The text before and after the table of ``demo``."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from typing import Optional

from ..records import KernelAudit, KernelInfo, Reason, TaskStack, Verdict
from ..terminal.escape import escape
from .stack import draw_stack
from .table import wrap_line

__all__ = ("after_tasks", "before_tasks")

_WIDTH = 80
"""Characters in a line of the text. Tables have 80 columns on a narrower terminal, too."""


def before_tasks(kernel: KernelInfo) -> Iterator[str]:
    """Return the lines before the table: which kernel it is, and how its tasks are ordered."""
    yield from wrap_line(
        f"A real vmcore of Linux {escape(kernel.release)}, opened without debuginfo. This kernel has"
        " frame pointers; kernels with ORC, as distributions build them, are read in the same way."
        " Its tasks, those first whose stacks the kernel itself would not trust"
        " (stack_trace_save_tsk_reliable()):",
        _WIDTH,
    )
    yield ""


def after_tasks(audit: KernelAudit, core: str, program: str, colour: bool = False) -> Iterator[str]:
    """Return the lines after the table: one stack in full, and commands to try next.

    :param core: Path of the vmcore, for the commands.
    :param program: How the reader called this program, for the commands.
    :param colour: Whether the stack is drawn with colours.
    :return: Lines; none if no task of the audit is unreliable.
    """
    task = _most_telling(audit)
    if task is None:
        return
    yield ""
    yield from wrap_line(
        "One of them in full. => marks the frame that decided the verdict: these registers were saved"
        " in the kernel, so a return address may be missing right there.",
        _WIDTH,
    )
    yield ""
    yield draw_stack(task, audit.kernel, colour)
    yield ""
    yield "Try these, on this vmcore or on yours:"
    yield ""
    core = f"-c {shlex.quote(core)}"
    yield f"  {program} stack {task.pid} {core}"
    yield f"  {program} regs --mode kernel {core}"
    yield f"  {program} groups --verdict unreliable {core}"
    yield f"  {program} tasks --pid {task.pid} --frames --format json {core}"
    yield ""
    yield f"{program} --help shows the rest."


def _most_telling(audit: KernelAudit) -> Optional[TaskStack]:
    # Prefer a sleeping task with registers of both modes on its stack: the most surprising case.
    unreliable = [task for task in audit if task.verdict is Verdict.UNRELIABLE]
    return min(
        unreliable,
        key=lambda task: (
            task.reason is not Reason.KERNEL_MODE_REGS,
            -len({regs.user_mode for regs in task.regs}),
            task.state == "R",
        ),
        default=None,
    )
