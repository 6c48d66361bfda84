# SPDX-License-Identifier: LGPL-2.1-or-later
"""Find the task that a PID, an address or a drgn object stands for."""

from __future__ import annotations

from typing import Optional, Union

from drgn import Object, Program, Thread, Type, TypeKind

from ..errors import TaskNotFoundError, UsageError
from ..kernel.task_layout import TaskLayout
from ..kernel.task_list import TaskList
from ..kernel.tasks import Task, read_task
from ..memory import UNUSABLE
from ..program.open import source_of
from .selection import PID_MAX_LIMIT

__all__ = ("WhichTask", "find_task")

WhichTask = Union[int, Object, Thread]
"""A PID, the virtual address of a ``struct task_struct``, a ``struct task_struct`` or a pointer to one, or a
:class:`drgn.Thread`."""


def find_task(prog: Program, layout: TaskLayout, tasks: TaskList, which: WhichTask) -> Task:
    """Return the task that *which* stands for.

    :param layout: Layout of ``struct task_struct``
    :param tasks: All tasks of the kernel
    :param which: As for :func:`~.audit.task_stack`
    :raises TaskNotFoundError: if there is no such task
    :raises UsageError: if *which* is neither a PID nor a task, or is of another program
    """
    number, is_address = _number(prog, which)
    if not is_address and number < PID_MAX_LIMIT:
        task, wanted = _task_of_pid(prog, layout, tasks, number), f"pid {number}"
    else:
        # Any memory can be read as a task_struct. Only an address on the task list, or the address of
        # an idle task, is a task.
        task = next((task for task in tasks if task.addr == number), None)
        wanted = f"address {number:#x}"
    if task is None:
        raise TaskNotFoundError(f"no task with {wanted} in {source_of(prog)}")
    return task


def _task_of_pid(prog: Program, layout: TaskLayout, tasks: TaskList, pid: int) -> Optional[Task]:
    from drgn.helpers.linux.pid import find_task  # this loads all of drgn's helpers

    try:
        addr = find_task(prog, pid).value_() if pid else tasks.cpus[0].idle_addr
        task = None if addr is None else read_task(prog, layout, addr)
    except (IndexError, *UNUSABLE):
        task = None
    if task is not None and task.pid == pid:
        return task
    # The PID tree is damaged, but the task list may not be.
    return next((task for task in tasks if task.pid == pid), None)


def _number(prog: Program, which: WhichTask) -> tuple[int, bool]:
    # The PID or address, and whether it is known to be an address. A null pointer (drgn's find_task()
    # returns one for a PID that does not exist) is not a task, and does not mean PID 0.
    if isinstance(which, Thread):
        which = which.object
    if isinstance(which, Object):
        if which.prog_ is not prog:
            raise UsageError(
                f"{which.type_.type_name()} is of another program than {source_of(prog)}"
            )
        type_ = _without_typedefs(which.type_)
        if _is_task(type_) and which.address_ is not None:
            return int(which.address_), True
        if type_.kind is TypeKind.POINTER and _points_to_task(type_):
            return int(which.value_()), True
        if type_.kind is not TypeKind.INT:
            raise UsageError(f"neither a PID nor a task: {which.type_.type_name()}")
        which = int(which.value_())
    if isinstance(which, bool) or not isinstance(which, int) or which < 0:
        raise UsageError(f"neither a PID nor a task: {which!r}")
    return which, False


def _without_typedefs(type_: Type) -> Type:
    while type_.kind is TypeKind.TYPEDEF:
        type_ = type_.type
    return type_


def _is_task(type_: Type) -> bool:
    return type_.kind is TypeKind.STRUCT and type_.tag == "task_struct"


def _points_to_task(type_: Type) -> bool:
    pointed = _without_typedefs(type_.type)
    return _is_task(pointed) or pointed.kind is TypeKind.VOID
