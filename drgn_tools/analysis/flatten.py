# SPDX-License-Identifier: LGPL-2.1-or-later
"""Stacks taken apart: one record for each frame, or each ``pt_regs``, with its task."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Optional

import msgspec

from ..records import Frame, SavedRegs, TaskStack

__all__ = ("TaskFrame", "TaskRegs", "each_frame", "saved_regs")


class TaskFrame(msgspec.Struct, frozen=True):
    """One frame of a task."""

    task: TaskStack
    """The task."""
    number: int
    """Index in its :attr:`TaskStack.frames`, 0 the innermost."""
    frame: Frame
    """The frame."""


def each_frame(tasks: Iterable[TaskStack]) -> Iterator[TaskFrame]:
    """Return every frame of every stack."""
    return (
        TaskFrame(task, number, frame) for task in tasks for number, frame in enumerate(task.frames)
    )


class TaskRegs(msgspec.Struct, frozen=True):
    """One saved ``pt_regs`` and the task on whose stack it lies."""

    task: TaskStack
    """The task."""
    regs: SavedRegs
    """The registers."""


def saved_regs(tasks: Iterable[TaskStack], user_mode: Optional[bool] = None) -> Iterator[TaskRegs]:
    """Return every ``pt_regs`` on the stacks of *tasks*.

    :param user_mode: Only those saved in user mode (true) or kernel mode (false)
    """
    return (
        TaskRegs(task, regs)
        for task in tasks
        for regs in task.regs
        if user_mode is None or regs.user_mode == user_mode
    )
