# SPDX-License-Identifier: LGPL-2.1-or-later
"""What other structs say about a task: its parent, the name of its process, its full name."""

from __future__ import annotations

from typing import Optional

from drgn import Program

from ..bounded_cache import BoundedCache
from ..memory import NOT_THERE, read_up_to, read_word_or_none
from .task_layout import TaskLayout
from .tasks import Task, TaskReader

__all__ = ("Relatives",)

_MAX_TASKS = 10_000
"""How many parents and leaders are cached."""
_CUT_OFF_BYTES = 15
"""TASK_COMM_LEN - 1 (linux/sched.h): a name of this length may be cut off."""
_MAX_FULL_NAME_BYTES = 256


class Relatives:
    """Parents, leaders and full names of the tasks of one kernel; on a running kernel, at one moment.

    :raises TypesError: if the layout of ``struct task_struct`` is impossible
    """

    def __init__(self, prog: Program, layout: TaskLayout) -> None:
        self._prog = prog
        self._reader = TaskReader(prog, layout)
        self._full_name_offset = layout.kthread_full_name
        self._tasks: BoundedCache[int, Optional[Task]] = BoundedCache(_MAX_TASKS)

    def ppid(self, task: Task) -> Optional[int]:
        """Return the process ID of the parent, as ``/proc/PID/stat`` has it in the initial PID namespace.

        :return: 0 for init, kthreadd and the idle tasks; ``None`` if the parent cannot be read
        """
        parent = self._at(task.parent_addr)
        return None if parent is None else parent.tgid

    def process(self, task: Task) -> Optional[str]:
        """Return the name of the process: that of its first thread, the leader of the thread group.

        :return: ``None`` if the leader cannot be read, or is not the leader of this thread group
        """
        if task.pid == task.tgid:
            return task.comm
        leader = self._at(task.leader_addr)
        return leader.comm if leader is not None and leader.pid == task.tgid else None

    def full_name(self, task: Task) -> Optional[str]:
        """Return the name of a kernel thread whose ``comm`` is cut off.

        Follows get_kthread_comm() in kernel/kthread.c, v6.12. Unlike the kernel, it does not look at
        threads whose ``comm`` is shorter than 15 bytes, and accepts only a name that begins with ``comm``.
        So memory at a damaged pointer is not mistaken for a name.

        :return: ``None`` if *task* is not such a thread, or the kernel does not keep full names
        """
        if not task.kthread or self._full_name_offset is None or not task.kthread_addr:
            return None
        if len(task.comm.encode()) < _CUT_OFF_BYTES:
            return None
        pointer = read_word_or_none(self._prog, task.kthread_addr + self._full_name_offset)
        data = read_up_to(self._prog, pointer or 0, _MAX_FULL_NAME_BYTES)
        name = data.split(b"\0", 1)[0].decode("utf-8", "backslashreplace")
        return name if name.startswith(task.comm) and name != task.comm else None

    def _at(self, addr: int) -> Optional[Task]:
        try:
            return self._tasks[addr]
        except KeyError:
            pass
        try:
            task = self._reader.read(addr) if addr else None
        except NOT_THERE:
            task = None
        self._tasks[addr] = task
        return task
