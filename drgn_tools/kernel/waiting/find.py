# SPDX-License-Identifier: LGPL-2.1-or-later
"""Find what a task waits for."""

from __future__ import annotations

from typing import Optional

from .list_locks import ListLocks
from .memory import Sleeper, WaitMemory
from .other import Others
from .queues import Queues
from .records import Wait, WaitKind
from .rt_locks import RtLocks

__all__ = ("Waits",)

_MAX_SLOTS = 200
"""How many slots of a stack that hold the address of the task are looked at."""


class Waits:
    """Finds what the tasks of one kernel wait for."""

    def __init__(self, memory: WaitMemory) -> None:
        self._memory = memory
        self._list_locks = ListLocks(memory)
        self._rt_locks = RtLocks(memory)
        self._queues = Queues(memory)
        self._others = Others(memory)

    def find(self, sleeper: Sleeper) -> Optional[Wait]:
        """Return what a task waits for, ``None`` if that cannot be proven.

        The innermost struct counts: a function may have put the task on a wait queue, and then wait for a
        mutex. But a lock goes before all else, since a task is on the list of one only.
        """
        wait = self._rt_locks.find(sleeper) or self._rt_locks.find_readers(sleeper)
        if wait is not None:
            return wait
        slots = [
            slot
            for slot, _ in zip(self._memory.slots_of(sleeper, sleeper.task.addr), range(_MAX_SLOTS))
        ]
        for find in (
            self._list_locks.find,
            self._queues.find_simple,
            self._queues.find,
            self._others.find_futex,
            self._others.find_poll,
            self._others.find_timer,
        ):
            for slot in slots:
                wait = find(sleeper, slot)
                if wait is not None and wait.kind is WaitKind.COMPLETION:
                    return self._others.disk_of(sleeper, wait) or wait
                if wait is not None:
                    return wait
        return None
