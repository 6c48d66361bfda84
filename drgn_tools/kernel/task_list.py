# SPDX-License-Identifier: LGPL-2.1-or-later
"""All tasks of a kernel, found by the lists that the kernel keeps of them."""

from __future__ import annotations

from collections.abc import Iterator
from operator import attrgetter
from typing import Callable, Optional

import msgspec
from drgn import FaultError, Object, Program

from ..memory import ADDRESS_MASK, UNUSABLE, read_word_or_none
from .per_cpu import cpus_in, has_impossible_cpus, per_cpu
from .probing import symbol_address
from .task_layout import TaskLayout
from .tasks import Task, TaskReader, reading_neighbours

__all__ = ("TASKS", "THREADS", "Cpu", "Links", "TaskList")

_MAX_TASKS = 8 * 1024 * 1024
"""Twice PID_MAX_LIMIT of a 64-bit kernel (linux/threads.h)."""
_TASK_ALIGNMENT = 16
"""Bytes. fork_init() in kernel/fork.c (v6.12) takes L1_CACHE_BYTES or more; that is 16 at least, for a 486."""
_INIT_TASK_COMM = "swapper"
"""How the names of idle tasks begin: linux/init_task.h and init_idle() in kernel/sched/core.c (v6.12)."""

Links = Callable[[Task], tuple[int, int]]
"""A task -> (node ahead, node behind) on one of its lists, in the direction of a walk."""

TASKS: Links = attrgetter("tasks_next", "tasks_prev")
"""The list of processes."""
THREADS: Links = attrgetter("thread_node_next", "thread_node_prev")
"""The list of the threads of a process."""
TASKS_BACKWARD: Links = attrgetter("tasks_prev", "tasks_next")


class Cpu(msgspec.Struct, frozen=True):
    """The run queue of one CPU."""

    number: int
    curr_addr: int
    """``runqueues.curr``: address of the ``struct task_struct`` that is running there."""
    idle_addr: Optional[int]
    """``runqueues.idle``: address of the ``struct task_struct`` of its idle task; ``None`` if that is not an idle
    task."""


class _ListWalk:
    """The position of a walk along a ``struct list_head``, and what ended it early.

    Every node has to point back to the node before it. So a walk cannot visit a node twice (two nodes
    would lead to it), not even from both ends, and need not remember nodes. The head, too, has to point
    back to the node that led to it. Otherwise a damaged link to the head would end the list early, unnoticed.

    :param head: virtual address of the head of the list
    :param first: node that the walk starts with
    :param last: node that the walk has to end with: where the head points back to, ``None`` if it is not in the dump
    :param previous: node that *first* must point back to, *head* if ``None``
    :param signal_addr: ``task->signal`` of every task of the list, any if ``None``
    :param passed: how many tasks were visited before
    """

    def __init__(
        self,
        head: int,
        first: int,
        last: Optional[int],
        previous: Optional[int] = None,
        signal_addr: Optional[int] = None,
        passed: int = 0,
    ) -> None:
        self.head = head
        self.first = self.node = first
        self.last = last
        self.previous = head if previous is None else previous
        self.signal_addr = signal_addr
        self.passed = passed
        self.damage: Optional[str] = None


class TaskList:
    """The tasks of one kernel.

    They come in the order of for_each_process_thread() in linux/sched/signal.h: every process
    from init_task's list, every thread of it; then the idle task of each CPU, which are on no
    list. CPUs that were offline before a panic have none.

    Iterating never raises for bad data. A task list that is damaged is walked from
    both ends as far as it goes, and :attr:`problems` says so. Only the addresses of visited tasks
    are remembered: there may be millions.
    """

    def __init__(self, prog: Program, layout: TaskLayout) -> None:
        self._prog = prog
        self._layout = layout
        self._read_task = self._reader().read
        self.problems: list[str] = []
        """Sentences that say what could not be read, now and in the last walk of the lists."""
        self._unclear_cpus: set[int] = set()
        self.cpus: tuple[Cpu, ...] = tuple(self._read_cpus())
        """The CPUs that were online, as far as they can be read."""
        self._problems_of_cpus = tuple(self.problems)
        self._current = frozenset(cpu.curr_addr for cpu in self.cpus)
        self._idle = frozenset(cpu.idle_addr for cpu in self.cpus if cpu.idle_addr is not None)

    def _reader(self) -> TaskReader:
        return TaskReader(self._prog, self._layout, reading_neighbours(self._prog.read))

    def is_running(self, task: Task) -> bool:
        """Return whether a task is on a CPU; the kernel then gives -EBUSY for its stack.

        Follows task_curr() in kernel/sched/core.c, which is what
        klp_check_and_switch_task() asks (v5.16 and later). A task that is just being
        switched (``on_cpu`` only) is not at rest, either.
        """
        return task.on_cpu or task.addr in self._current

    def is_half_switched(self, task: Task) -> bool:
        """Return whether only a run queue says that a task is on a CPU, and the task that it is not.

        __schedule() in kernel/sched/core.c (v6.12) sets ``rq->curr`` some instructions before prepare_task()
        sets ``on_cpu``. In between, the CPU is still on the stack of another task. The same is seen if the run
        queue is damaged. A kernel with CONFIG_SMP=n has no ``on_cpu``: there the run queue alone decides.
        """
        return self._layout.on_cpu is not None and not task.on_cpu and self.is_running(task)

    def is_on_unclear_cpu(self, task: Task) -> bool:
        """Return whether a task is on a CPU whose per-CPU data say that they belong to another CPU.

        The crash note is among these data, so the registers may be those of the other CPU, too.
        """
        return task.cpu in self._unclear_cpus and self.is_running(task)

    def is_idle(self, task: Task) -> bool:
        """Return whether a task is the idle task of a CPU."""
        return task.addr in self._idle

    def __iter__(self) -> Iterator[Task]:
        self.problems[:] = self._problems_of_cpus
        seen: set[int] = set()
        for leader in self._leaders():
            for task in self._threads(leader):
                if task.addr not in seen:
                    seen.add(task.addr)
                    yield task
        for cpu in self.cpus:
            if cpu.idle_addr is not None and cpu.idle_addr not in seen:
                seen.add(cpu.idle_addr)
                idle = self._read(cpu.idle_addr)
                if idle is not None:
                    yield idle
                else:
                    self.problems.append(f"the idle task of CPU {cpu.number} is not in the dump")

    # ---- lists

    def _leaders(self) -> Iterator[Task]:
        """Follow for_each_process(): the list through ``tasks``, from init_task, which is not on it."""
        init_task = symbol_address(self._prog, "init_task")
        head = None if init_task is None else self._read(init_task)
        if init_task is None or head is None or head.pid:
            self.problems.append("init_task is not in the dump, or damaged: no task list")
            return
        offset = self._layout.tasks_next[0]
        forward = _ListWalk(init_task + offset, head.tasks_next, head.tasks_prev)
        yield from self._follow(forward, offset, TASKS)
        if forward.damage is None:
            return
        # The other end of the list may still be whole.
        backward = _ListWalk(
            init_task + offset, head.tasks_prev, head.tasks_next, passed=forward.passed
        )
        found = 0
        for task in self._follow(backward, offset, TASKS_BACKWARD):
            found += 1
            yield task
        self.problems.append(
            f"the task list is damaged: {forward.damage}; {found} more processes were found"
            " from its other end, others may be missing"
        )

    def _threads(self, leader: Task) -> Iterator[Task]:
        """Follow for_each_thread(): the list through ``thread_node``, headed in the signal struct."""
        offset = self._layout.thread_node_next[0]
        node = leader.addr + offset
        head = leader.signal_addr + self._layout.signal_thread_head
        prev_offset = self._layout.thread_node_prev[0] - offset  # of ``prev`` in struct list_head
        last = read_word_or_none(self._prog, head + prev_offset)
        if leader.thread_node_next == leader.thread_node_prev == head and last in (node, None):
            yield leader  # the only thread
            return
        if leader.thread_node_prev == head:
            # The leader is the first thread, except after an exec() by another
            # thread: this saves one read for each process.
            yield leader
            first, previous = leader.thread_node_next, node
        else:
            found = read_word_or_none(self._prog, head)
            first, previous = head if found is None else found, head
        threads = _ListWalk(head, first, last, previous, leader.signal_addr)
        if last is None:
            threads.damage = f"its head at {head:#x} is not in the dump"
        yield from self._follow(threads, offset, THREADS)
        if threads.damage is not None:
            yield leader  # __iter__() skips tasks that it has already yielded
            self.problems.append(
                f"the thread list of process {leader.tgid} is damaged: {threads.damage}"
            )

    def _follow(self, walk: _ListWalk, offset: int, links: Links) -> Iterator[Task]:
        while walk.node != walk.head:
            if walk.passed >= _MAX_TASKS:
                walk.damage = "it does not end"
                return
            addr = walk.node - offset
            # A link that leads 8 bytes too far or not far enough finds a ``next`` where the ``prev`` should be.
            if addr % _TASK_ALIGNMENT:
                walk.damage = f"it leads to {addr:#x}, where no task can be"
                return
            task = self._read(addr)
            if task is None:
                walk.damage = f"it leads to {addr:#x}, which is not in the dump"
                return
            ahead, behind = links(task)
            if behind != walk.previous or walk.signal_addr not in (None, task.signal_addr):
                # This is not the next task, or not a task at all: do not go on from here.
                if self._was_passed(walk, offset, links):
                    walk.damage = f"it loops back to {walk.node:#x}"
                else:
                    walk.damage = f"{addr:#x} does not point back to the node before it"
                return
            yield task
            walk.passed += 1
            walk.previous, walk.node = walk.node, ahead
        if walk.last not in (walk.previous, None):
            walk.damage = f"its head at {walk.head:#x} does not point back to {walk.previous:#x}"

    def _was_passed(self, walk: _ListWalk, offset: int, links: Links) -> bool:
        """Return whether the walk has visited its node before. It walks again, once for a damaged list."""
        node = walk.first
        for _ in range(walk.passed):
            task = None if node == walk.node else self._read(node - offset)
            if task is None:
                break
            node = links(task)[0]
        else:
            return False
        return node == walk.node

    def _read(self, addr: int) -> Optional[Task]:
        addr &= ADDRESS_MASK
        if addr & self._layout.ones != self._layout.ones:
            return None
        try:
            return self._read_task(addr)
        except FaultError:
            return None

    # ---- CPUs

    def _cpu_numbers(self) -> list[int]:
        """Return the CPUs that are online, or were when the machine panicked."""
        if self._layout.on_cpu is None:
            return [0]  # CONFIG_SMP=n
        # panic() stops the other CPUs with stop_this_cpu() in arch/x86/kernel/process.c (v6.12), which
        # removes them from the online mask. Only a hot-unplug removes a CPU from the active mask.
        masks = [self._prog[f"__cpu_{name}_mask"] for name in ("online", "active")]
        numbers = sorted({cpu for mask in masks for cpu in cpus_in(mask)})
        if not numbers or any(map(has_impossible_cpus, masks)):
            self.problems.append(
                "which CPUs were online is not known: the masks of CPUs are damaged, or nr_cpu_ids"
            )
        return numbers

    def _read_cpus(self) -> Iterator[Cpu]:
        prog = self._prog
        try:
            numbers = self._cpu_numbers()
            runqueues = prog["runqueues"]
        except UNUSABLE as e:
            self.problems.append(f"which tasks are running cannot be read: {e}")
            return
        idle_tasks: set[int] = set()
        for number in numbers:
            try:
                rq = per_cpu(runqueues, number)
                curr, idle = int(rq.curr.value_()), int(rq.idle.value_())
                its_number = _number_in(rq)
            except UNUSABLE as e:
                self.problems.append(f"what runs on CPU {number} cannot be read: {e}")
                continue
            if its_number not in (None, number):
                self._unclear_cpus.add(number)
                self.problems.append(
                    f"what runs on CPU {number} is not known: its run queue says that it belongs to CPU {its_number}"
                )
                continue
            # Any memory can be read as a task.
            if idle in idle_tasks or not self._may_be_idle(idle):
                self.problems.append(
                    f"the run queue of CPU {number} leads to {idle:#x}, which is not its idle task"
                )
                yield Cpu(number, curr, None)
            else:
                idle_tasks.add(idle)
                yield Cpu(number, curr, idle)

    def _may_be_idle(self, addr: int) -> bool:
        """Return whether an idle task is at an address, or the memory there is not in the dump."""
        task = self._read(addr)
        return task is None or (not task.pid and task.comm.startswith(_INIT_TASK_COMM))


def _number_in(rq: Object) -> Optional[int]:
    """Return ``rq->cpu``; ``None`` with CONFIG_SMP=n."""
    return int(rq.cpu.value_()) if rq.type_.has_member("cpu") else None
