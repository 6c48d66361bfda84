# SPDX-License-Identifier: LGPL-2.1-or-later
"""Group tasks whose stacks are the same."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Optional

import msgspec

from ..records import Frame, Reason, TaskStack, Verdict
from .waiting import kernel_frames

__all__ = ("StackGroup", "group_stacks")


class StackGroup(msgspec.Struct, frozen=True):
    """Tasks with the same verdict whose stacks have the same functions at the same offsets."""

    verdict: Verdict
    """:attr:`.TaskStack.verdict` of each task."""
    reason: Optional[Reason]
    """:attr:`.TaskStack.reason` of each task."""
    why: Optional[str]
    """:attr:`.TaskStack.why` of the first task."""
    frames: tuple[Frame, ...]
    """Frames in the kernel of the first task, innermost first."""
    pids: tuple[int, ...]
    """Thread IDs, in the order of the tasks."""
    comms: tuple[tuple[str, int], ...]
    """(name, number of tasks with this name), most frequent first."""

    @property
    def count(self) -> int:
        """Number of tasks."""
        return len(self.pids)


class _Members:
    def __init__(self, first: TaskStack) -> None:
        self.first = first
        self.pids: list[int] = []
        self.comms: Counter[str] = Counter()

    def add(self, task: TaskStack) -> None:
        self.pids.append(task.pid)
        self.comms[task.comm] += 1

    def finished(self) -> StackGroup:
        return StackGroup(
            self.first.verdict,
            self.first.reason,
            self.first.why,
            kernel_frames(self.first),
            tuple(self.pids),
            tuple(self.comms.most_common()),
        )


def group_stacks(tasks: Iterable[TaskStack]) -> list[StackGroup]:
    """Group tasks whose stacks are the same.

    Two stacks are the same if they have the same verdict and reason, the same symbols and offsets
    in the kernel (addresses, if there is no symbol), and ``pt_regs`` at the same frames. Only the
    first stack of each group is kept.

    :return: The largest group first
    """
    groups: dict[object, _Members] = {}
    for task in tasks:
        groups.setdefault(_key(task), _Members(task)).add(task)
    return sorted((group.finished() for group in groups.values()), key=lambda group: -group.count)


def _key(task: TaskStack) -> object:
    frames = ((frame.symbol or frame.ip, frame.regs is not None) for frame in kernel_frames(task))
    return task.verdict, task.reason, tuple(frames)
