# SPDX-License-Identifier: LGPL-2.1-or-later
"""What changes from one audit of a running kernel to the next.

Who waits for a live patch waits for each task to be found with a stack that can be
trusted, once: kernel/livepatch/transition.c then takes it over for good.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Optional

from ..records import Reason, TaskStack, Verdict

__all__ = ("Change", "Watch")


@dataclass(frozen=True)
class Change:
    """A task with another verdict than at the last look."""

    task: TaskStack
    """The task as it is now; of one that exited, as it was."""
    verdict: Optional[Verdict]
    """Now; ``None`` if it exited."""
    before: Optional[Verdict]
    """At the last look; ``None`` if it is new, or this is the first look."""
    seconds: float
    """How long it was known with the verdict before; 0 if it is new."""


@dataclass
class _Known:
    task: TaskStack
    verdict: Verdict
    since: float


class Watch:
    """Compares each look at the tasks of a kernel with the one before.

    A task that is on a CPU gives no answer that time: what was known of it stays.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[int, int], _Known] = {}
        self._waiting: Optional[set[tuple[int, int]]] = None

    @property
    def waiting(self) -> int:
        """How many tasks of the first look have not been found reliable yet, nor have exited."""
        return len(self._waiting or ())

    def look(self, tasks: Iterable[TaskStack], now: float) -> list[Change]:
        """What has changed since the last look. At first: all that is not reliable.

        :param tasks: of one audit; those that are asked for.
        :param now: time in seconds, from any beginning.
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
        if known is None:
            self._known[key] = _Known(task, task.verdict, now)
            return None if task.verdict is Verdict.RELIABLE else Change(task, task.verdict, None, 0)
        known.task = task
        if known.verdict is task.verdict:
            return None
        change = Change(task, task.verdict, known.verdict, now - known.since)
        known.verdict, known.since = task.verdict, now
        return change
