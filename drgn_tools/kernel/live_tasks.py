# SPDX-License-Identifier: LGPL-2.1-or-later
"""The tasks of a kernel that runs while it is read.

What was read of a task is valid only if the task did not run meanwhile, and lists
change while they are walked. A reader from outside cannot take a lock: it reads
everything, looks again, and reads again what has changed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Callable, Optional

from drgn import Program, ProgramFlags

from ..memory import read_word_or_none
from .probing import symbol_address
from .task_list import TASKS, THREADS, Links, TaskList
from .tasks import Task, TaskReader

__all__ = ("LiveTaskList", "is_live")

_MAX_STEPS_BACK = 10_000
"""How often a walk of the task list may find that its current task has left the list."""
_MAX_STEPS_BACK_IN_PROCESS = 200
"""The same for the threads of one process."""


def is_live(prog: Program) -> bool:
    """Return whether this kernel runs while it is read."""
    return bool(prog.flags & ProgramFlags.IS_LIVE)


class LiveTaskList(TaskList):
    """The tasks of a kernel that runs.

    A task that exists from the start to the end of a walk is found. One that is forked or
    exits meanwhile may be found or not; that is not a problem.
    """

    def _reader(self) -> TaskReader:
        return TaskReader(self._prog, self._layout)  # without its neighbours: the task as it is now

    def is_running(self, task: Task) -> bool:
        """Return whether a task is on a CPU, by the task itself: the run queues were read before."""
        if self._layout.on_cpu is None:
            return super().is_running(task)  # CONFIG_SMP=n: the reader is the task that runs
        return task.on_cpu

    def __iter__(self) -> Iterator[Task]:
        self.problems[:] = self._problems_of_cpus
        # All tasks are read before the first is used: the longer a walk takes, the more the lists change.
        tasks: dict[int, Task] = {}
        for leader in self._leaders():
            tasks.setdefault(leader.addr, leader)
            for thread in self._threads(leader):
                tasks.setdefault(thread.addr, thread)
        for cpu in self.cpus:
            idle = None if cpu.idle_addr is None else self._read(cpu.idle_addr)
            if idle is not None:
                tasks.setdefault(idle.addr, idle)
        yield from tasks.values()

    def now(self, task: Task) -> Optional[Task]:
        """Return *task* as it is now, ``None`` if it has exited."""
        again = self._read(task.addr)
        if again is None or not (self.is_idle(again) or self._is_listed(again)):
            return None
        return again

    def _is_listed(self, task: Task) -> bool:
        """Return whether a task is on its process's list of threads, where it stays until release_task()."""
        node = task.addr + self._layout.thread_node_next[0]
        return read_word_or_none(self._prog, task.thread_node_prev) == node

    def _leaders(self) -> Iterator[Task]:
        init_task = symbol_address(self._prog, "init_task")
        if init_task is None:
            yield from super()._leaders()  # which reports that
            return
        offset = self._layout.tasks_next[0]
        walk = _LiveWalk(self._prog, self._read, init_task + offset, offset, TASKS)
        yield from walk.tasks(_MAX_STEPS_BACK)
        if walk.gave_up:
            self.problems.append("the task list changed faster than it could be read")

    def _threads(self, leader: Task) -> Iterator[Task]:
        if leader.thread_node_next == leader.thread_node_prev:
            return  # both are the head: the leader is the only thread
        offset = self._layout.thread_node_next[0]
        head = leader.signal_addr + self._layout.signal_thread_head
        walk = _LiveWalk(self._prog, self._read, head, offset, THREADS)
        for task in walk.tasks(_MAX_STEPS_BACK_IN_PROCESS):
            # The signal_struct may have been freed and now belong to another process.
            if task.signal_addr != leader.signal_addr:
                return
            yield task
        if walk.gave_up and self.now(leader) is not None:
            self.problems.append(
                f"the threads of process {leader.tgid} changed faster than they could be read"
            )


class _LiveWalk:
    """A walk along a ring of ``struct list_head`` whose members come and go.

    A member that is removed (list_del_rcu()) keeps its pointer to the next member. But no member points to
    it, and the next member no longer points back.

    :param read: address of a ``struct task_struct`` -> the task, ``None`` if it cannot be read
    :param head: virtual address of the head of the list
    :param offset: of the list's node in ``struct task_struct``, in bytes
    :param links: which list it is
    """

    def __init__(
        self,
        prog: Program,
        read: Callable[[int], Optional[Task]],
        head: int,
        offset: int,
        links: Links,
    ) -> None:
        self._prog = prog
        self._read = read
        self._head = head
        self._offset = offset
        self._links = links
        self._path: list[int] = []
        self.gave_up = False
        """The list changed faster than it could be walked."""

    def tasks(self, steps_back: int) -> Iterator[Task]:
        """Return each member once, in the order of the list.

        :param steps_back: how often to go back to a member that is still on the list
        """
        seen: set[int] = set()
        behind, node = self._head, read_word_or_none(self._prog, self._head)
        steps = 0
        while node is not None and node != self._head:
            steps += 1
            if steps_back < 0 or steps > 4 * len(seen) + _MAX_STEPS_BACK:
                self.gave_up = True
                return
            task = self._read(node - self._offset)
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
        """Return the last visited node that is still on the list, and the node that follows it now."""
        while self._path:
            node = self._path[-1]
            task = self._read(node - self._offset)
            if task is not None:
                ahead, behind = self._links(task)
                if read_word_or_none(self._prog, behind) == node:
                    return node, ahead
            self._path.pop()
        return self._head, read_word_or_none(self._prog, self._head)
