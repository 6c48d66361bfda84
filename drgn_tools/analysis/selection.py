# SPDX-License-Identifier: LGPL-2.1-or-later
"""Select tasks. Every command that takes tasks uses this, on the command line and in the REPL.

A word names tasks (:func:`parse_tasks`)::

    51                    the task with this PID (thread ID)
    100-200               the tasks with these PIDs
    0xff1f215bc0ec9540    the task whose task_struct is at this address; 0x may be left out
    kworker/*             the tasks whose name matches this shell pattern
    1,5-9,init            each of these

A task that one of the words names is selected. Further conditions (:class:`Selection`) narrow that.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from typing import Optional, Union

import msgspec

from ..errors import UsageError
from ..records import TaskStack, Verdict

__all__ = (
    "EVERY_TASK",
    "PID_MAX_LIMIT",
    "STATES",
    "Selection",
    "TaskName",
    "is_number",
    "parse_numbers",
    "parse_tasks",
    "task_name",
    "tasks_on_cpu",
)

STATES = "RSDTtXZPI?"
"""Letters of :attr:`.TaskStack.state`."""

TaskName = Union[range, int, str]
"""How tasks are named: by a range of PIDs, the address of a ``struct task_struct``, or a shell pattern of names."""


class Selection(msgspec.Struct, frozen=True):
    """Conditions on tasks. All of them must hold. An empty condition holds for every task."""

    tasks: tuple[TaskName, ...] = ()
    """Names of tasks, in the order given; the task must match one of them."""
    comms: tuple[str, ...] = ()
    """Shell patterns of task names (``kworker/*``); one must match the name in ``comm`` or the full name."""
    states: frozenset[str] = frozenset()
    """State letters (see :data:`STATES`); the task must have one of them."""
    functions: tuple[str, ...] = ()
    """Shell patterns of function names; one must match a function anywhere on the stack."""
    verdicts: frozenset[Verdict] = frozenset()
    """Verdicts; the task must have one of them."""
    on_cpu: bool = False
    """Whether the task must be on a CPU."""
    typed: str = ""
    """The conditions as the user typed them, for messages; empty if there are none."""

    def __contains__(self, task: TaskStack) -> bool:
        return (
            (not self.tasks or any(_names(name, task) for name in self.tasks))
            and (
                not self.comms or any(_matches(name, self.comms) for name in {task.comm, task.name})
            )
            and (not self.states or task.state in self.states)
            and (not self.verdicts or task.verdict in self.verdicts)
            and (not self.on_cpu or task.on_cpu)
            and (not self.functions or self._has_function(task))
        )

    def _has_function(self, task: TaskStack) -> bool:
        return any(
            frame.symbol is not None and _matches(frame.symbol.name, self.functions)
            for frame in task.frames
        )

    @property
    def single_tasks(self) -> tuple[int, ...]:
        """PIDs and addresses that name one task each, in the order given."""
        return tuple(number for number in map(_single, self.tasks) if number is not None)

    @property
    def is_single_tasks(self) -> bool:
        """Whether only single tasks are named, and there are no other conditions."""
        only_tasks = Selection(tasks=self.tasks, typed=self.typed)
        return bool(self.tasks) and self == only_tasks and len(self.single_tasks) == len(self.tasks)

    @property
    def lone_name(self) -> Optional[str]:
        """The shell pattern of names, if it is the only condition; otherwise ``None``."""
        name = self.tasks[0] if len(self.tasks) == 1 else None
        return name if isinstance(name, str) and shlex.quote(name) == self.typed else None

    def of_any_verdict(self) -> Selection:
        """Return these conditions without the one on the verdict."""
        return msgspec.structs.replace(self, verdicts=frozenset())

    def of(self, tasks: Iterable[TaskStack]) -> Iterator[TaskStack]:
        """Return the tasks for which all conditions hold, in the same order."""
        return (task for task in tasks if task in self)


EVERY_TASK = Selection()
"""A selection without conditions."""


def task_name(number: int) -> str:
    """Return one of :attr:`Selection.single_tasks` as it is typed: a PID, or an address in hex."""
    return str(number) if number < PID_MAX_LIMIT else hex(number)


def _names(name: TaskName, task: TaskStack) -> bool:
    if isinstance(name, range):
        return task.pid in name
    return (
        any(fnmatchcase(comm, name) for comm in {task.comm, task.name})
        if isinstance(name, str)
        else task.task == name
    )


def _single(name: TaskName) -> Union[int, None]:
    if isinstance(name, range):
        return name.start if len(name) == 1 else None
    return name if isinstance(name, int) else None


def _matches(text: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(text, pattern) for pattern in patterns)


def tasks_on_cpu(tasks: Iterable[TaskStack]) -> list[TaskStack]:
    """Return the tasks that are on a CPU: the one that crashed the machine first, then by CPU."""
    return sorted(
        (task for task in tasks if task.on_cpu),
        key=lambda task: ("crashed" not in task.flags, task.cpu),
    )


# ---- words that name tasks


def parse_tasks(word: str) -> tuple[TaskName, ...]:
    """Return what a word of a command line names.

    :param word: A list, separated by commas, of PIDs, ranges of PIDs, addresses and patterns of names.
        PIDs are decimal, or hexadecimal with 0x. A name that begins with a digit or contains a comma cannot
        be given in this way.
    :raises UsageError: if a part of it is none of these.
    """
    return tuple(_parse(part, word) for part in word.split(","))


def parse_numbers(text: str) -> tuple[TaskName, ...]:
    """Return the PIDs, ranges and addresses in a list; names are refused.

    :raises UsageError: if a part of it is none of these.
    """
    names = tuple(_parse_number(part) for part in text.split(","))
    for part, name in zip(text.split(","), names):
        if name is None:
            raise UsageError(
                f"--pid takes PIDs, ranges and addresses, as in 1,5-9, not {part!r}; use --comm for a name"
            )
    return tuple(name for name in names if name is not None)


def is_number(word: str) -> bool:
    """Return whether a word consists only of PIDs, ranges and addresses."""
    return all(_NUMBERS.fullmatch(part) for part in word.split(","))


def _parse(part: str, word: str) -> TaskName:
    name = _parse_number(part)
    if name is not None:
        return name
    if not part or part[0].isdigit():
        raise UsageError(
            f"{part!r} does not name a task: give a PID (51), a range (100-200), the address of a task"
            f" (0xff...) or a name ('kworker/*'); --comm {shlex.quote(word)} takes any name"
        )
    return part


PID_MAX_LIMIT = 4 * 1024 * 1024
"""PIDs are smaller (linux/threads.h), kernel addresses are larger."""

# int() would also accept "+1", "1_000" and digits of other scripts. Tables, drgn and crash print an
# address without 0x, in 8 or 16 digits; a PID has fewer.
_PID = r"[0-9]{1,7}|0x[0-9a-f]{1,6}"
_NUMBERS = re.compile(
    rf"(?P<first>{_PID})(?:-(?P<last>{_PID}))?|(?P<address>0x[0-9a-f]{{7,16}}|[0-9a-f]{{8}}|[0-9a-f]{{16}})",
    re.IGNORECASE,
)


def _parse_number(part: str) -> Union[range, int, None]:
    match = _NUMBERS.fullmatch(part)
    if match is None:
        return None
    if match["address"]:
        address = int(match["address"], 16)
        if address >= PID_MAX_LIMIT:
            return address
        raise UsageError(f"{part!r} is not the address of a task; as a PID it is {address}")
    first = _number(match["first"])
    last = first if match["last"] is None else _number(match["last"])
    if last < first:
        raise UsageError(f"{part!r} is an empty range: give {last:d}-{first:d}")
    if first >= PID_MAX_LIMIT:
        raise UsageError(f"{part!r} is not a PID: the largest is {PID_MAX_LIMIT - 1}")
    return range(first, last + 1)


def _number(text: str) -> int:
    return int(text, 16 if text[:2] in ("0x", "0X") else 10)
