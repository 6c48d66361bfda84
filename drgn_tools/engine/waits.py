# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the tasks of one kernel wait for: from its tasks and their stacks to what can be proven."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Optional

import msgspec
from drgn import FaultError, Program

from ..debuginfo.kallsyms import kallsyms_of
from ..kernel.live_tasks import LiveTaskList
from ..kernel.stack_memory import TaskStackReader
from ..kernel.symbolizer import Symbolizer
from ..kernel.tasks import Task, TaskReader
from ..kernel.waiting.clock import NotRunFor, SchedulerClock
from ..kernel.waiting.find import Waits
from ..kernel.waiting.memory import Sleeper, TasksByStack, WaitMemory
from ..kernel.waiting.records import Wait, WaitKind
from ..records import TaskStack
from .kernel import Kernel

__all__ = ("FoundWait", "KernelWaits")

_MAX_TRIES = 5
"""Limit of looks at one task of a running kernel, if it runs each time."""


class FoundWait(msgspec.Struct, frozen=True):
    """A task that does not run, and what was found out about it."""

    stack: TaskStack
    """The task."""
    wait: Optional[Wait]
    """What it waits for; ``None`` if that cannot be proven."""
    not_run_for: NotRunFor
    """How long it has not run."""


class KernelWaits:
    """Finds what the tasks of one kernel wait for.

    :param stacks: All of its tasks
    """

    def __init__(self, prog: Program, kernel: Kernel, stacks: Iterable[TaskStack]) -> None:
        layout = kernel.layout
        self._kernel = kernel
        self._read_task = TaskReader(prog, layout.task).read
        self.stacks = {stack.task: stack for stack in stacks}
        """All tasks, by the address of their ``struct task_struct``."""
        self.tasks: dict[int, Task] = {}
        """The same, as :class:`.Task`."""
        for addr in self.stacks:
            task = self._task(addr)
            if task is not None:
                self.tasks[addr] = task
        symbolizer = Symbolizer(prog, kernel.text)

        def name_exact(addr: int) -> Optional[str]:
            symbol = symbolizer.name_exact(addr)
            return symbol.name if symbol is not None and symbol.offset == 0 else None

        by_stack = TasksByStack(self.tasks.values(), layout.thread_size_bytes)
        memory = WaitMemory(prog, layout.word_bytes, by_stack, name_exact)
        self._stack_reader = TaskStackReader(
            prog, layout.thread_size_bytes, layout.page_bytes, layout.first_frame_offset
        )
        self._waits = Waits(memory)
        self._clock = SchedulerClock(prog, memory, [cpu.number for cpu in kernel.tasks.cpus])
        self._kallsyms = kallsyms_of(prog)
        self._memory = memory
        self._processes: Optional[dict[int, TaskStack]] = None

    def find(self, addr: int) -> Optional[FoundWait]:
        """Return what a task waits for.

        :param addr: Virtual address of its ``struct task_struct``, one of :attr:`tasks`
        :return: ``None`` if it runs, is runnable, has no stack or has exited, or if it ran during each look
            (on a running kernel)
        """
        tasks = self._kernel.tasks
        if not isinstance(tasks, LiveTaskList):
            return self._find(self.tasks[addr], self.stacks[addr])
        task = tasks.now(self.tasks[addr])
        for _ in range(_MAX_TRIES):
            # What was read is valid if the task did not run meanwhile.
            stack = None if task is None else self._kernel.stack(task)
            if task is None or stack is None:
                return None
            found = self._find(task, stack)
            now = tasks.now(task)
            if now is not None and task.was_at_rest_until(now):
                return found
            task = now
        return None

    def _find(self, task: Task, stack: TaskStack) -> Optional[FoundWait]:
        if stack.on_cpu or task.is_runnable or not task.has_stack:
            return None
        functions = tuple(frame.symbol.name for frame in stack.frames if frame.symbol is not None)
        memory = self._stack_reader.read(task.stack_addr, task.thread_sp)
        wait = self._waits.find(Sleeper(task, memory, functions))
        return FoundWait(stack, wait, self._clock.not_run_for(task))

    def is_younger(self, addr: int, seconds: float) -> bool:
        """Return whether a task certainly did not exist so many seconds ago.

        :param addr: Virtual address of its ``struct task_struct``
        """
        task = self.tasks.get(addr)
        return task is not None and self._clock.is_younger(task, seconds)

    def name_of(self, wait: Wait) -> Optional[str]:
        """Return what the kernel calls a lock.

        :return: A variable of the kernel image, with the offset if the lock is not at its start, or
            ``mmap_lock of COMM (TGID)``; ``None`` if it is neither, or in user memory
        """
        if wait.kind is WaitKind.FUTEX:
            return None
        return self._variable_at(wait.address) or self._mmap_lock_at(wait.address)

    def _mmap_lock_at(self, addr: int) -> Optional[str]:
        memory, mm = self._memory, "struct mm_struct"
        # Since v5.8; mmap_sem before.
        member = next((name for name in ("mmap_lock", "mmap_sem") if memory.has(mm, name)), None)
        if member is None or not memory.has("struct task_struct", "mm"):
            return None
        # With PREEMPT_RT, a task that waits for an rwsem waits for the rt_mutex in it.
        inner = memory.offset("struct rw_semaphore", "rwbase.rtmutex") or 0
        processes = self._process_of_mm()
        for offset in (0, inner):
            process = processes.get(addr - offset - memory.at(mm, member))
            if process is not None:
                return f"{member} of {process.comm} ({process.tgid})"
        return None

    def _process_of_mm(self) -> dict[int, TaskStack]:
        """Return a task of each process by ``task->mm``: the leader, unless it no longer has one."""
        if self._processes is None:
            self._processes = {}
            offset = self._memory.at("struct task_struct", "mm")
            for addr, stack in self.stacks.items():
                mm = self._memory.word(addr + offset)
                if mm and (stack.pid == stack.tgid or mm not in self._processes):
                    self._processes[mm] = stack
        return self._processes

    def _variable_at(self, addr: int) -> Optional[str]:
        found = None if self._kallsyms is None else self._kallsyms.at(addr)
        if found is None:
            return None
        offset = addr - found.start
        return found.name if not offset else f"{found.name}+{offset:#x}"

    def _task(self, addr: int) -> Optional[Task]:
        try:
            return self._read_task(addr)
        except FaultError:
            return None
