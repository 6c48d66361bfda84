# SPDX-License-Identifier: LGPL-2.1-or-later
"""Select tasks, and put them in order.

The options of the command line and of the REPL commands are made of this. The functions take any
iterable of records.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from typing import Callable

import msgspec

from ..errors import UsageError
from ..records import TaskStack, Verdict
from .waiting import kernel_frames

__all__ = (
    "BY_NAME",
    "SORT_KEYS",
    "STATES",
    "Selection",
    "parse_pids",
    "sort_tasks",
    "tasks_on_cpu",
)

STATES = "RSDTtXZPI?"
"""Letters of :attr:`TaskStack.state`."""


class Selection(msgspec.Struct, frozen=True):
    """Conditions on tasks. All of them must hold. An empty condition holds for every task."""

    pids: tuple[range, ...] = ()
    """Ranges of thread IDs; one must contain that of the task."""
    comms: tuple[str, ...] = ()
    """Shell patterns of task names (``kworker/*``); one must match the name in ``comm`` or the full name."""
    states: frozenset[str] = frozenset()
    """State letters (see :data:`STATES`); one must be that of the task."""
    functions: tuple[str, ...] = ()
    """Shell patterns of function names; one must match a function anywhere on the stack."""
    verdicts: frozenset[Verdict] = frozenset()
    """Verdicts; one must be that of the task."""

    def __contains__(self, task: TaskStack) -> bool:
        return (
            (not self.pids or any(task.pid in pids for pids in self.pids))
            and (
                not self.comms or any(_matches(name, self.comms) for name in {task.comm, task.name})
            )
            and (not self.states or task.state in self.states)
            and (not self.verdicts or task.verdict in self.verdicts)
            and (not self.functions or self._has_function(task))
        )

    def _has_function(self, task: TaskStack) -> bool:
        return any(
            frame.symbol is not None and _matches(frame.symbol.name, self.functions)
            for frame in task.frames
        )

    def of_any_verdict(self) -> Selection:
        """Return these conditions without the one on the verdict."""
        return msgspec.structs.replace(self, verdicts=frozenset())

    def of(self, tasks: Iterable[TaskStack]) -> Iterator[TaskStack]:
        """Return the tasks for which all conditions hold, in the same order."""
        return (task for task in tasks if task in self)


BY_NAME = "--comm chooses tasks by their name"


def parse_pids(text: str) -> tuple[range, ...]:
    """Return the ranges of a list of PIDs: ``(range(1, 2), range(5, 10))`` for ``"1,5-9"``.

    :param text: Decimal numbers, or hexadecimal ones that begin with 0x
    :raises UsageError: if *text* is not a list of PIDs and ranges
    """
    ranges = []
    for part in text.split(","):
        first, dash, last = part.partition("-")
        if not (_NUMBER.fullmatch(first) and (_NUMBER.fullmatch(last) if dash else True)):
            raise UsageError(f"{text!r} is not a list of PIDs and ranges (as in 1,5-9); {BY_NAME}")
        pids = range(_number(first), _number(last or first) + 1)
        if not pids:
            raise UsageError(f"{text!r} has an empty range: its end comes before its start")
        ranges.append(pids)
    return tuple(ranges)


_NUMBER = re.compile(r"[0-9]{1,9}|0x[0-9a-f]{1,8}", re.IGNORECASE)
"""int() accepts "+1", "1_000" and digits of other scripts, too. No PID has more digits."""


def _number(text: str) -> int:
    return int(text, 16 if text[:2] in ("0x", "0X") else 10)


def _matches(text: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(text, pattern) for pattern in patterns)


_VERDICT_ORDER = {Verdict.UNRELIABLE: 0, Verdict.UNKNOWN: 1, Verdict.RELIABLE: 2}

SORT_KEYS: dict[str, Callable[[TaskStack], object]] = {
    "pid": lambda task: task.pid,
    "comm": lambda task: task.comm,
    "state": lambda task: task.state,
    "cpu": lambda task: task.cpu,
    "verdict": lambda task: ("crashed" not in task.flags, _VERDICT_ORDER[task.verdict]),
    "depth": lambda task: -len(kernel_frames(task)),
}
"""Name of an order -> its sort key. ``verdict``: the task that crashed first, then unreliable ones. ``depth``: the
deepest stack first. All others are ascending."""


def sort_tasks(tasks: Iterable[TaskStack], key: str) -> list[TaskStack]:
    """Return tasks in another order. Tasks with equal keys stay in the order that they had.

    :param key: One of :data:`SORT_KEYS`
    """
    return sorted(tasks, key=SORT_KEYS[key])  # type: ignore[arg-type]


def tasks_on_cpu(tasks: Iterable[TaskStack]) -> list[TaskStack]:
    """Return the tasks that are on a CPU: the one that crashed the machine first, then by CPU."""
    return sorted(
        (task for task in tasks if task.on_cpu),
        key=lambda task: ("crashed" not in task.flags, task.cpu),
    )
