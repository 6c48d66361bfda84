# SPDX-License-Identifier: LGPL-2.1-or-later
"""From a kernel to its records: every task, its stack, its verdict.

This is the Python API: :func:`task_stack`, :func:`task_stacks`,
:func:`audit_kernel`, :func:`kernel_info`. Bad data never raises here: a stack that cannot be
read has the verdict ``unknown``, with the reason.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Callable, Optional, Union

from drgn import Program
from drgn.helpers.common.prog import takes_program_or_default

from ..engine.crash_log import crashed_task
from ..engine.kernel import kernel_of
from ..errors import TaskNotFoundError
from ..kernel.live_tasks import is_live
from ..program.open import input_error_if_vanished, require_kernel, source_of
from ..records import KernelAudit, KernelInfo, TaskStack, Verdict
from .resolve_task import WhichTask, find_task

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
    """Return the stack of one task, with its verdict and saved registers.

    :param which: PID in the initial PID namespace (0 is the idle task of the boot CPU),
        ``struct task_struct *`` as an int or an object, ``struct task_struct``, or a
        :class:`drgn.Thread`
    :raises TaskNotFoundError: if there is no such task
    :raises TypesError: if types that a stack needs are missing or damaged
    """
    kernel = kernel_of(prog)
    task = find_task(prog, kernel.layout.task, kernel.tasks, which)
    stack = kernel.stack(task)
    if stack is None:
        raise TaskNotFoundError(f"pid {task.pid} of {source_of(prog)} exited")
    return stack


@takes_program_or_default
def crashed_stack(prog: Program) -> TaskStack:
    """Return the stack of the task that crashed the machine: the one that called panic().

    ``print()`` of it does not show the lines of the kernel's log that the command ``stack`` shows above the stack.
    They are :attr:`.KernelInfo.last_words`; ``drgn_tools.render.stack.draw_stack(stack, kernel_info(prog))`` draws both.

    :raises TaskNotFoundError: if no task has called panic(), or the kernel is running
    :raises TypesError: if types that a stack needs are missing or damaged
    """
    require_kernel(prog)
    addr = crashed_task(prog)
    if addr is None:
        raise TaskNotFoundError(f"no task crashed {source_of(prog)}: name a task")
    return task_stack(prog, addr)


@takes_program_or_default
def task_stacks(prog: Program) -> Iterator[TaskStack]:
    """Yield the stack of every task: processes and their threads, then the idle tasks.

    :raises TypesError: if types that a stack needs are missing or damaged
    """
    kernel = kernel_of(prog)
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
    """Return the stacks of all tasks of a kernel, and what could not be read.

    :param progress: Called after each task with the number of tasks done so far
    :param max_tasks: Largest number of tasks to read. If there are more,
        :attr:`.KernelAudit.problems` says so.
    :raises TypesError: if types that a stack needs are missing or damaged
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
    """Return an audit as :func:`audit_kernel` does, but make the records of a dump while the caller iterates.

    A running kernel changes meanwhile, so all of its records are made first.

    :param progress: As for :func:`audit_kernel`
    :param max_tasks: As for :func:`audit_kernel`
    :raises TypesError: if types that a stack needs are missing or damaged
    """
    if is_live(prog):
        return audit_kernel(prog, progress, max_tasks)
    return AuditUnderWay(prog, progress, max_tasks)


class AuditUnderWay:
    """An audit that keeps no records, so its memory does not grow with the number of tasks.

    Iterate over it once to get the records. The parameters are those of :func:`audit_kernel`.
    """

    kernel: KernelInfo
    """The kernel."""
    problems: list[str]
    """As :attr:`.KernelAudit.problems`; complete after the last record."""

    def __init__(
        self, prog: Program, progress: Optional[Callable[[int], None]], max_tasks: Optional[int]
    ) -> None:
        self._prog = prog
        self._kernel = kernel_of(prog)
        self._progress = progress
        self._max_tasks = max_tasks
        self.kernel = self._kernel.info()
        self.problems = []

    def __iter__(self) -> Iterator[TaskStack]:
        with input_error_if_vanished(self._prog):
            yield from self._records()

    def _records(self) -> Iterator[TaskStack]:
        kernel, progress = self._kernel, self._progress
        done = empty = 0
        too_many = []
        for task in kernel.tasks:
            if self._max_tasks is not None and done >= self._max_tasks:
                too_many = [f"there are more than the {self._max_tasks} tasks that were read"]
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
    """Return which kernel this is, and how its stacks are read.

    :raises TypesError: if types that a stack needs are missing or damaged
    """
    return kernel_of(prog).info()


def _suspicious_emptiness(empty: int, tasks: int) -> Iterator[str]:
    # For the kernel a stack without frames is reliable. If most stacks have none, the layout is
    # probably wrong, and so are the verdicts.
    if 2 * empty > tasks:
        yield (
            f"{empty} of {tasks} stacks have no frames: the types are probably damaged, and the"
            " verdicts wrong"
        )
