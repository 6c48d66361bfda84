# SPDX-License-Identifier: LGPL-2.1-or-later
"""Identical stacks folded together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Optional

import msgspec

from ..records import Frame, Reason, TaskStack, Verdict
from .waiting import kernel_frames

__all__ = ("StackGroup", "group_stacks")


class StackGroup(msgspec.Struct, frozen=True):
    """Tasks whose stacks are the same: function by function, offset by offset, with the same verdict."""

    verdict: Verdict
    """Of each of them."""
    reason: Optional[Reason]
    """Of each of them."""
    why: Optional[str]
    """Of the first."""
    frames: tuple[Frame, ...]
    """Frames in the kernel of the first, innermost first."""
    pids: tuple[int, ...]
    """Thread IDs, in the order they came."""
    comms: tuple[tuple[str, int], ...]
    """Names of the tasks and how many bear each, most frequent first."""

    @property
    def count(self) -> int:
        """How many tasks."""
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
    """Fold identical stacks together, most frequent first.

    Compared are the frames in the kernel by symbol (by address where there is
    none), which of them are ``pt_regs``, and verdict and reason. Of each group
    only the first stack is kept.
    """
    groups: dict[object, _Members] = {}
    for task in tasks:
        groups.setdefault(_key(task), _Members(task)).add(task)
    return sorted((group.finished() for group in groups.values()), key=lambda group: -group.count)


def _key(task: TaskStack) -> object:
    frames = ((frame.symbol or frame.ip, frame.regs is not None) for frame in kernel_frames(task))
    return task.verdict, task.reason, tuple(frames)
