# SPDX-License-Identifier: LGPL-2.1-or-later
"""Find what a task waits for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Callable, Optional

from ...bounded_cache import BoundedCache
from .list_locks import ListLocks
from .memory import Sleeper, WaitMemory
from .other import Others
from .queues import Queues
from .records import Wait, WaitKind
from .rt_locks import RtLocks

__all__ = ("Waits",)

_MAX_SLOTS = 200
"""How many slots of a stack that hold the address of the task are examined."""
_MAX_STACKS = 10_000
"""How many different stacks have their finders cached."""

_Finder = Callable[[Sleeper, int], Optional[Wait]]
"""A task, and a slot of its stack that holds its own address -> what it waits for."""


class Waits:
    """Finds what the tasks of one kernel wait for."""

    def __init__(self, memory: WaitMemory) -> None:
        self._memory = memory
        self._list_locks = ListLocks(memory)
        self._rt_locks = RtLocks(memory)
        self._queues = Queues(memory)
        self._others = Others(memory)
        self._finders: BoundedCache[tuple[str, ...], Sequence[_Finder]] = BoundedCache(_MAX_STACKS)

    def find(self, sleeper: Sleeper) -> Optional[Wait]:
        """Return what a task waits for, ``None`` if that cannot be proven.

        The innermost struct counts: a function may have put the task on a wait queue, and then wait for a
        mutex. But a lock takes precedence, since a task is on the list of only one lock.
        """
        wait = self._rt_locks.find(sleeper) or self._rt_locks.find_readers(sleeper)
        if wait is not None:
            return wait
        finders = self._finders_of(sleeper.functions)
        slots = [
            slot
            for slot, _ in zip(self._memory.slots_of(sleeper, sleeper.task.addr), range(_MAX_SLOTS))
        ]
        for find in finders:
            for slot in slots:
                wait = find(sleeper, slot)
                if wait is not None and wait.kind is WaitKind.COMPLETION:
                    return self._others.disk_of(sleeper, wait) or wait
                if wait is not None:
                    return wait
        return None

    def _finders_of(self, functions: tuple[str, ...]) -> Sequence[_Finder]:
        """Return the finders that may find something on a stack with these functions, in the order to try them.

        Many tasks have the same functions.
        """
        known = self._finders.get(functions)
        if known is not None:
            return known
        names = " ".join(functions)
        kinds = self._list_locks.kinds_of(functions)
        finders: list[_Finder] = [self._list_locks.finder(kinds)] if kinds else []
        finders += [self._queues.find_simple, self._queues.find]
        if "futex" in names or not functions:
            finders.append(self._others.find_futex)
        if "poll" in names or "select" in names or not functions:
            finders.append(self._others.find_poll)
        finders.append(self._others.find_timer)
        self._finders[functions] = finders
        return finders
