# SPDX-License-Identifier: LGPL-2.1-or-later
"""The tasks whose verdict changes from one audit of a running kernel to the next.

A live patch is complete when each task was found once with a reliable stack without the
patched functions: from then on the task uses the new ones (klp_try_switch_task() in
kernel/livepatch/transition.c, v6.12).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Optional

import msgspec

from ..records import Reason, TaskStack, Verdict
from .task_diff import is_same_task

__all__ = ("Change", "Watch")


class Change(msgspec.Struct, frozen=True):
    """A task whose verdict has changed since the last audit."""

    task: TaskStack
    """The task now; if it has exited, in the last audit."""
    verdict: Optional[Verdict]
    """Its verdict now; ``None`` if it has exited."""
    before: Optional[Verdict]
    """Its verdict before; ``None`` if no earlier audit gave it one."""
    seconds: float
    """How long it had the verdict :attr:`before`, in seconds; 0 if that is ``None``."""


class _Known(msgspec.Struct):
    task: TaskStack
    verdict: Verdict
    since: float


class Watch:
    """Compares each audit of a kernel with the one before.

    A task on a CPU has no verdict; it keeps its last one.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[int, int], _Known] = {}
        self._waiting: Optional[set[tuple[int, int]]] = None

    @property
    def waiting(self) -> int:
        """Number of tasks of the first audit that have neither been found reliable yet nor exited."""
        return len(self._waiting or ())

    def look(self, tasks: Iterable[TaskStack], now: float) -> list[Change]:
        """Return what has changed since the last audit.

        A task that is new or has exited is a change if it is not reliable.

        :param tasks: The tasks of one audit, or some of them
        :param now: The time in seconds, of any monotonic clock
        :return: For the first audit: each task that is off its CPU and not reliable
        """
        current = {(task.task, task.pid): task for task in tasks}
        if self._waiting is None:
            self._waiting = set(current)
        changes = [
            change
            for key, task in current.items()
            if task.reason is not Reason.RUNNING
            and (change := self._update(key, task, now)) is not None
        ]
        gone = [key for key in self._known if key not in current]
        for key in gone:
            known = self._known.pop(key)
            if known.verdict is not Verdict.RELIABLE:
                changes.append(Change(known.task, None, known.verdict, now - known.since))
        self._waiting = {
            key
            for key in self._waiting & set(current)
            if key not in self._known or self._known[key].verdict is not Verdict.RELIABLE
        }
        return changes

    def _update(self, key: tuple[int, int], task: TaskStack, now: float) -> Optional[Change]:
        known = self._known.get(key)
        if known is None or not is_same_task(known.task, task):
            self._known[key] = _Known(task, task.verdict, now)
            return None if task.verdict is Verdict.RELIABLE else Change(task, task.verdict, None, 0)
        known.task = task
        if known.verdict is task.verdict:
            return None
        change = Change(task, task.verdict, known.verdict, now - known.since)
        known.verdict, known.since = task.verdict, now
        return change
