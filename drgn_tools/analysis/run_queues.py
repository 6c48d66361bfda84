# SPDX-License-Identifier: LGPL-2.1-or-later
"""The run queue of each CPU: which task is on the CPU, and which tasks wait for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Optional

import msgspec

from ..engine.kernel import Kernel
from ..records import TaskStack

__all__ = ("CpuQueue", "cpu_queues")


class CpuQueue(msgspec.Struct, frozen=True):
    """The run queue of one CPU."""

    cpu: int
    """Number of the CPU."""
    current: Optional[TaskStack]
    """The task on the CPU (``rq->curr``); ``None`` if that cannot be read."""
    is_idle: bool
    """Whether :attr:`current` is the idle task of the CPU."""
    waiting: tuple[TaskStack, ...]
    """Runnable tasks that are not on the CPU, in the order of the task list."""


def cpu_queues(kernel: Kernel, stacks: Mapping[int, TaskStack]) -> tuple[CpuQueue, ...]:
    """Return the run queue of each CPU.

    :param stacks: All tasks of the kernel, by the address of their ``struct task_struct``
    """
    currents = {cpu.curr_addr for cpu in kernel.tasks.cpus}
    waiting: dict[int, list[TaskStack]] = {}
    for stack in stacks.values():
        is_idle_task = "idle" in stack.flags
        if (
            stack.state == "R"
            and stack.task not in currents
            and not stack.on_cpu
            and not is_idle_task
        ):
            waiting.setdefault(stack.cpu, []).append(stack)
    return tuple(
        CpuQueue(
            cpu.number,
            stacks.get(cpu.curr_addr),
            cpu.curr_addr == cpu.idle_addr,
            tuple(waiting.get(cpu.number, ())),
        )
        for cpu in kernel.tasks.cpus
    )
