# SPDX-License-Identifier: LGPL-2.1-or-later
"""One kernel -> its records: every task, its stack, the verdict.

This is the Python API: :func:`task_stack`, :func:`task_stacks`,
:func:`audit_kernel`, :func:`kernel_info`. Bad data never raises here; it is a
verdict of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Callable, Optional, Union

from drgn import Program
from drgn.helpers.common.prog import takes_program_or_default

from .errors import TaskNotFoundError
from .kernel import Kernel
from .live import is_live
from .on_cpu import crashed_task
from .program import source_of, while_it_is_there
from .records import KernelAudit, KernelInfo, TaskStack, Verdict
from .which import WhichTask, find_task

__all__ = (
    "AuditUnderWay",
    "audit_kernel",
    "audit_under_way",
    "crashed_stack",
    "kernel_info",
    "task_stack",
    "task_stacks",
)


@takes_program_or_default
def task_stack(prog: Program, which: WhichTask) -> TaskStack:
    """The stack of one task, with its verdict and saved registers.

    :param which: PID (of the initial PID namespace; 0 is the idle task of the
        boot CPU), ``struct task_struct *`` as an int or an object, a ``struct
        task_struct``, or a :class:`drgn.Thread`.
    :raises TaskNotFoundError: there is no such task.
    :raises TypesError: the types this rests on are missing.
    """
    kernel = Kernel(prog)
    task = find_task(prog, kernel.layout, kernel.tasks, which)
    stack = kernel.stack(task)
    if stack is None:
        raise TaskNotFoundError(f"pid {task.pid} of {source_of(prog)} exited")
    return stack


@takes_program_or_default
def crashed_stack(prog: Program) -> TaskStack:
    """The stack of the task that crashed the machine: the one that ran into panic().

    :raises TaskNotFoundError: none did, or the kernel is running.
    :raises TypesError: the types this rests on are missing.
    """
    addr = crashed_task(prog)
    if addr is None:
        raise TaskNotFoundError(f"no task crashed {source_of(prog)}: name one")
    return task_stack(prog, addr)


@takes_program_or_default
def task_stacks(prog: Program) -> Iterator[TaskStack]:
    """Every task's stack: processes and their threads, then the idle tasks.

    :raises TypesError: the types this rests on are missing.
    """
    kernel = Kernel(prog)
    for task in kernel.tasks:
        stack = kernel.stack(task)
        if stack is not None:
            yield stack


@takes_program_or_default
def audit_kernel(
    prog: Program,
    progress: Optional[Callable[[int], None]] = None,
    max_tasks: Optional[int] = None,
) -> KernelAudit:
    """All tasks of a kernel, and what could not be looked at.

    :param progress: called after each task with the number of tasks done.
    :param max_tasks: look at no more than so many; if there are more, that is a problem
        of the audit.
    :raises TypesError: the types this rests on are missing.
    """
    audit = AuditUnderWay(prog, progress, max_tasks)
    tasks = tuple(audit)
    return KernelAudit(audit.kernel, tasks, tuple(audit.problems))


@takes_program_or_default
def audit_under_way(
    prog: Program,
    progress: Optional[Callable[[int], None]] = None,
    max_tasks: Optional[int] = None,
) -> Union[KernelAudit, AuditUnderWay]:
    """As :func:`audit_kernel`, but the records of a dump come one by one and are not kept.

    A kernel that runs does not wait for who reads them: there all are taken first.
    """
    if is_live(prog):
        return audit_kernel(prog, progress, max_tasks)
    return AuditUnderWay(prog, progress, max_tasks)


class AuditUnderWay:
    """An audit that keeps no records: of a million tasks it takes little more memory than of one.

    The records come from iterating over it, once. Parameters are those of :func:`audit_kernel`.
    """

    kernel: KernelInfo
    """The kernel."""
    problems: list[str]
    """As :attr:`KernelAudit.problems`; complete when the last record was taken."""

    def __init__(
        self, prog: Program, progress: Optional[Callable[[int], None]], max_tasks: Optional[int]
    ) -> None:
        self._kernel = Kernel(prog)
        self._progress = progress
        self._max_tasks = max_tasks
        self.kernel = self._kernel.info()
        self.problems = []

    def __iter__(self) -> Iterator[TaskStack]:
        with while_it_is_there(self._kernel.prog):
            yield from self._records()

    def _records(self) -> Iterator[TaskStack]:
        kernel, progress = self._kernel, self._progress
        done = empty = 0
        too_many = []
        for task in kernel.tasks:
            if self._max_tasks is not None and done >= self._max_tasks:
                too_many = [f"there are more than the {self._max_tasks} tasks that were looked at"]
                break
            stack = kernel.stack(task)
            if stack is not None:
                done += 1
                empty += stack.verdict is Verdict.RELIABLE and not stack.frames
                yield stack
            if progress is not None:
                progress(done)
        self.problems[:] = (*kernel.problems(), *too_many, *_suspicious_emptiness(empty, done))


@takes_program_or_default
def kernel_info(prog: Program) -> KernelInfo:
    """Which kernel this is, and how its stacks are to be read.

    :raises TypesError: the types this rests on are missing.
    """
    return Kernel(prog).info()


def _suspicious_emptiness(empty: int, tasks: int) -> Iterator[str]:
    # One stack without frames is the kernel's own oddity. Most stacks without
    # are a layout that is wrong, and all those "reliable" would be a lie.
    if 2 * empty > tasks:
        yield (
            f"{empty} of {tasks} stacks have no frame on them: the types are likely damaged,"
            " and the verdicts not to be believed"
        )
