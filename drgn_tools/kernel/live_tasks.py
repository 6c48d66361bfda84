# SPDX-License-Identifier: LGPL-2.1-or-later
"""The tasks of a kernel that runs while it is read.

What was read of a task holds only if the task did not move meanwhile, and lists
change under whoever walks them. No lock can be taken from outside: everything is
read, looked at again, and read anew where it changed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Callable, Optional

from drgn import FaultError, Program, ProgramFlags

from .layout import symbol_address
from .tasks import Task, TaskList, TaskReader

__all__ = ("LiveTaskList", "is_live")

_MAX_STEPS_BACK = 10_000
"""How often a walk of the task list may find that what it stood on was taken off."""
_MAX_STEPS_BACK_IN_PROCESS = 200
"""The same for the threads of one process."""
_ADDRESS_MASK = (1 << 64) - 1

Links = Callable[[Task], tuple[int, int]]
"""A task -> (node ahead, node behind) on one of its lists."""


def _tasks_links(task: Task) -> tuple[int, int]:
    return task.tasks_next, task.tasks_prev


def _thread_links(task: Task) -> tuple[int, int]:
    return task.thread_node_next, task.thread_node_prev


def is_live(prog: Program) -> bool:
    """Does this kernel run while it is read?"""
    return bool(prog.flags & ProgramFlags.IS_LIVE)


class LiveTaskList(TaskList):
    """The tasks of a kernel that runs.

    What is there from begin to end of a walk is found. What is forked or exits
    meanwhile may be among it or not; that is no problem.
    """

    def _reader(self) -> TaskReader:
        return TaskReader(self._prog, self._layout)  # the task alone, as it is now

    def is_running(self, task: Task) -> bool:
        """As the task itself says: what the run queues said is long over."""
        if self._layout.on_cpu is None:
            return super().is_running(task)  # CONFIG_SMP=n: only we run
        return task.on_cpu

    def __iter__(self) -> Iterator[Task]:
        # All of them before anything is done with one: the longer it takes, the more changes.
        tasks: dict[int, Task] = {}
        for leader in self._leaders():
            tasks.setdefault(leader.addr, leader)
            for thread in self._threads(leader):
                tasks.setdefault(thread.addr, thread)
        for cpu in self.cpus:
            idle = self._read(cpu.idle_addr)
            if idle is not None:
                tasks.setdefault(idle.addr, idle)
        yield from tasks.values()

    def now(self, task: Task) -> Optional[Task]:
        """What has become of *task*; ``None`` if it has exited."""
        again = self._read(task.addr)
        if again is None or not (self.is_idle(again) or self._is_listed(again)):
            return None
        return again

    def _is_listed(self, task: Task) -> bool:
        """Is it on the list of threads of its process, as it is until release_task()?"""
        node = task.addr + self._layout.thread_node_next[0]
        return self._word(task.thread_node_prev) == node

    def _leaders(self) -> Iterator[Task]:
        init_task = symbol_address(self._prog, "init_task")
        if init_task is None:
            yield from super()._leaders()  # which says so
            return
        offset = self._layout.tasks_next[0]
        walk = _LiveWalk(self, init_task + offset, offset, _tasks_links)
        yield from walk.tasks(_MAX_STEPS_BACK)
        if walk.gave_up:
            self.problems.append("the task list changed faster than it could be read")

    def _threads(self, leader: Task) -> Iterator[Task]:
        if leader.thread_node_next == leader.thread_node_prev:
            return  # that is the head: the leader is the only one
        offset = self._layout.thread_node_next[0]
        head = leader.signal_addr + self._layout.signal_thread_head
        walk = _LiveWalk(self, head, offset, _thread_links)
        for task in walk.tasks(_MAX_STEPS_BACK_IN_PROCESS):
            # The signal_struct may have been freed under us, and be another's.
            if task.signal_addr != leader.signal_addr:
                return
            yield task
        if walk.gave_up and self.now(leader) is not None:
            self.problems.append(
                f"the threads of process {leader.tgid} changed faster than they could be read"
            )

    def _word(self, addr: int) -> Optional[int]:
        try:
            return int(self._prog.read_word(addr & _ADDRESS_MASK))
        except FaultError:
            return None


class _LiveWalk:
    """A walk along a ring of ``struct list_head`` whose members come and go.

    A member that is taken off (list_del_rcu()) keeps its way ahead, but nothing
    leads to it, and what it leads to no longer leads back to it.
    """

    def __init__(self, tasks: LiveTaskList, head: int, offset: int, links: Links) -> None:
        self._tasks = tasks
        self._head = head
        self._offset = offset
        self._links = links
        self._path: list[int] = []
        self.gave_up = False

    def tasks(self, steps_back: int) -> Iterator[Task]:
        """Each member once, in the order of the list.

        :param steps_back: how often to go back to what is on the list still.
        """
        seen: set[int] = set()
        behind, node = self._head, self._tasks._word(self._head)
        steps = 0
        while node is not None and node != self._head:
            steps += 1
            if steps_back < 0 or steps > 4 * len(seen) + _MAX_STEPS_BACK:
                self.gave_up = True
                return
            task = self._tasks._read(node - self._offset)
            if task is None or self._links(task)[1] != behind:
                steps_back -= 1
                behind, node = self._last_on_the_list()
                continue
            if node not in seen:
                seen.add(node)
                yield task
            self._path.append(node)
            behind, node = node, self._links(task)[0]

    def _last_on_the_list(self) -> tuple[int, Optional[int]]:
        """The last node passed that is on the list still, and what follows it now."""
        while self._path:
            node = self._path[-1]
            task = self._tasks._read(node - self._offset)
            if task is not None:
                ahead, behind = self._links(task)
                if self._tasks._word(behind) == node:
                    return node, ahead
            self._path.pop()
        return self._head, self._tasks._word(self._head)
