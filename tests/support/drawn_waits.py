# SPDX-License-Identifier: LGPL-2.1-or-later
"""Locks of a drawn kernel, and tasks that wait for them with a waiter struct on their stacks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Optional

from drgn_tools.kernel.stack_memory import StackMemory
from drgn_tools.kernel.tasks import Task
from drgn_tools.kernel.waiting.find import Waits
from drgn_tools.kernel.waiting.memory import Sleeper, TasksByStack, WaitMemory
from drgn_tools.kernel.waiting.records import Wait

from .drawn_kernel import THREAD_SIZE_BYTES, DrawnKernel

_TASK_BYTES = 256
_LIVE_BYTES = 1024
"""How much of a stack is in use, at its end."""

OLD_LOCKS = {
    "mutex": "unsigned long owner; unsigned int wait_lock; unsigned int osq; struct list_head wait_list",
    "rw_semaphore": (
        "unsigned long count; unsigned long owner; unsigned int osq; unsigned int wait_lock;"
        "struct list_head wait_list"
    ),
    "semaphore": "unsigned int lock; unsigned int count; struct list_head wait_list",
}
"""The locks up to 6.12, with the list in them."""
NEW_LOCKS = {
    "mutex": (
        "unsigned long owner; unsigned int wait_lock; unsigned int osq; struct mutex_waiter *first_waiter"
    ),
    "rw_semaphore": (
        "unsigned long count; unsigned long owner; unsigned int osq; unsigned int wait_lock;"
        "struct rwsem_waiter *first_waiter"
    ),
    "semaphore": "unsigned int lock; unsigned int count; struct semaphore_waiter *first_waiter",
}
"""The locks of 7.2, which point to their first waiter."""
_WAITERS = {
    "mutex_waiter": "struct list_head list; struct task_struct *task; void *ww_ctx",
    "rwsem_waiter": (
        "struct list_head list; struct task_struct *task; unsigned int type; unsigned long timeout"
    ),
    "semaphore_waiter": "struct list_head list; struct task_struct *task; _Bool up",
}
_OTHERS = {
    "task_struct": "unsigned long pi_blocked_on; char rest[240]",
    "rb_node": "unsigned long __rb_parent_color; struct rb_node *rb_right; struct rb_node *rb_left",
    "rb_root": "struct rb_node *rb_node",
    "rb_root_cached": "struct rb_root rb_root; struct rb_node *rb_leftmost",
    "rt_mutex_base": "unsigned long wait_lock; struct rb_root_cached waiters; unsigned long owner",
    "rwbase_rt": "unsigned int readers; struct rt_mutex_base rtmutex",
    "rt_waiter_node": "struct rb_node entry; int prio; unsigned long deadline",
    "rt_mutex_waiter": (
        "struct rt_waiter_node tree; struct rt_waiter_node pi_tree; struct task_struct *task;"
        "struct rt_mutex_base *lock"
    ),
    "swait_queue_head": "unsigned int lock; struct list_head task_list",
    "swait_queue": "struct task_struct *task; struct list_head task_list",
    "completion": "unsigned int done; struct swait_queue_head wait",
    "wait_queue_head": "unsigned int lock; struct list_head head",
    "wait_queue_entry": "unsigned int flags; void *private; void *func; struct list_head entry",
    "pipe_inode_info": (
        "struct wait_queue_head rd_wait; struct wait_queue_head wr_wait; unsigned int ring_size;"
        "unsigned int readers; unsigned int writers; unsigned int files"
    ),
}


class DrawnWaits:
    """A kernel with three tasks, and memory for locks.

    :param locks: :data:`OLD_LOCKS` or :data:`NEW_LOCKS`
    """

    def __init__(self, locks: dict[str, str]) -> None:
        kernel = self.kernel = DrawnKernel()
        for name, members in {**_WAITERS, **locks, **_OTHERS}.items():
            kernel.struct(name, members)
        self.functions: dict[int, str] = {}
        """Address -> name of the function that begins there."""
        pages = kernel.base + 0x10_000
        self.tasks = [
            _task(
                number,
                pages + number * THREAD_SIZE_BYTES,
                kernel.base + 0x8000 + number * _TASK_BYTES,
            )
            for number in (1, 2, 3)
        ]

    def on_stack(self, task: Task, offset: int) -> int:
        """Return an address on the live part of a stack."""
        return task.thread_sp + offset

    def member(self, type_name: str, addr: int, member: str, word: int, size: int = 8) -> None:
        """Write a member of a struct."""
        at = addr + self.memory().at(type_name, member)
        self.kernel.put(at, word.to_bytes(size, "little"))

    def waiter(self, kind: str, task: Task, offset: int = 0x40) -> int:
        """Put a waiter struct on the stack of a task. It is not on a list yet."""
        addr = self.on_stack(task, offset)
        self.member(f"struct {kind}", addr, "task", task.addr)
        return addr

    def link(self, *nodes: int) -> None:
        """Link nodes into a ring."""
        self.kernel.ring(*nodes)

    def keep_on_stack(self, task: Task, word: int, offset: int = 0x100) -> None:
        """Put a pointer on a stack, as a function would keep it there."""
        self.kernel.put_word(self.on_stack(task, offset), word)

    def memory(self) -> WaitMemory:
        return WaitMemory(
            self.kernel.prog, 8, TasksByStack(self.tasks, THREAD_SIZE_BYTES), self.functions.get
        )

    def find(self, task: Task, *functions: str) -> Optional[Wait]:
        """Return what a task waits for if these functions are on its stack, innermost first."""
        data = self.kernel.prog.read(task.thread_sp, _LIVE_BYTES)
        memory = StackMemory(task.stack_addr, THREAD_SIZE_BYTES, task.thread_sp, data)
        return Waits(self.memory()).find(Sleeper(task, memory, functions))

    def find_all(self, *functions: str) -> Sequence[Optional[Wait]]:
        """Do the same for each task."""
        return [self.find(task, *functions) for task in self.tasks]


def _task(number: int, stack_addr: int, addr: int) -> Task:
    return Task(
        addr, number, number, f"t{number}", "D", False, 0, False, False, stack_addr,
        stack_addr + THREAD_SIZE_BYTES - _LIVE_BYTES, True, 1, 0, 0, 0, 0, 0,
    )  # fmt: skip
