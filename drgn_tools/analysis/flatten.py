# SPDX-License-Identifier: LGPL-2.1-or-later
"""One record for each frame of a stack, or for each ``pt_regs`` on it, together with the task."""

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
    """Index in :attr:`.TaskStack.frames`; 0 is the innermost."""
    frame: Frame
    """The frame."""


def each_frame(tasks: Iterable[TaskStack]) -> Iterator[TaskFrame]:
    """Return every frame on the stacks of *tasks*, innermost first."""
    return (
        TaskFrame(task, number, frame) for task in tasks for number, frame in enumerate(task.frames)
    )


class TaskRegs(msgspec.Struct, frozen=True):
    """One ``pt_regs``, and the task on whose stack it is."""

    task: TaskStack
    """The task."""
    regs: SavedRegs
    """The registers."""


def saved_regs(tasks: Iterable[TaskStack], user_mode: Optional[bool] = None) -> Iterator[TaskRegs]:
    """Return every ``pt_regs`` on the stacks of *tasks*.

    :param user_mode: Return only those that were saved in user mode (true) or in kernel mode
        (false); by default all
    """
    return (
        TaskRegs(task, regs)
        for task in tasks
        for regs in task.regs
        if user_mode is None or regs.user_mode == user_mode
    )
