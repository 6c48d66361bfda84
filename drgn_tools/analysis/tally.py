# SPDX-License-Identifier: LGPL-2.1-or-later
"""Count tasks by verdict while their records are used for something else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from ..records import Reason, TaskStack, Verdict

__all__ = ("Tally",)


class Tally:
    """Counts of tasks."""

    def __init__(self, tasks: Iterable[TaskStack] = ()) -> None:
        """
        :param tasks: Tasks to count now.
        """
        self.verdicts: Counter[Verdict] = Counter()
        """Number of tasks by verdict."""
        self.unreadable = 0
        """Number of tasks with :attr:`Reason.UNREADABLE`: their stacks could not be read to the end."""
        for task in tasks:
            self._add(task)

    @property
    def total(self) -> int:
        """Number of tasks."""
        return sum(self.verdicts.values())

    def over(self, tasks: Iterable[TaskStack]) -> Iterator[TaskStack]:
        """Yield *tasks*, and count each of them."""
        for task in tasks:
            self._add(task)
            yield task

    def _add(self, task: TaskStack) -> None:
        self.verdicts[task.verdict] += 1
        self.unreadable += task.reason is Reason.UNREADABLE
