# SPDX-License-Identifier: LGPL-2.1-or-later
"""rt_mutexes, whose waiters are in a red-black tree: ``task->pi_blocked_on`` leads to the waiter.

With PREEMPT_RT, mutexes, rw-semaphores and spinlocks are made of them.
"""

from __future__ import annotations

from typing import Optional

from .memory import MAX_WAITERS, Sleeper, WaitMemory
from .records import Wait, WaitKind

__all__ = ("RtLocks",)

_RT_MUTEX_HAS_WAITERS = 1
"""Of ``owner``; kernel/locking/rtmutex_common.h."""
_RB_COLOR_BITS = 3
"""Of ``__rb_parent_color``; linux/rbtree_augmented.h."""
_MAX_HEIGHT = 128
_WRITER_BIAS_BIT = 30
"""WRITER_BIAS of ``rwbase_rt.readers``, and READER_BIAS above it: linux/rwbase_rt.h. With either set, no writer waits for readers."""

_IN_WORDS = (
    ("rtlock_", "spinlock"),
    ("rwbase_", "rw_semaphore or rwlock"),
    ("__rwbase_", "rw_semaphore or rwlock"),
    ("futex_lock_pi", "futex with priority inheritance"),
    ("__mutex_lock", "mutex"),
    ("mutex_lock", "mutex"),
)
"""Prefix of the name of the function that waits -> what lock is made of the rt_mutex."""


class RtLocks:
    """Finds the rt_mutex that a task waits for."""

    def __init__(self, memory: WaitMemory) -> None:
        self._memory = memory
        # Since v5.15 the inner part of struct rt_mutex is struct rt_mutex_base, so that PREEMPT_RT can
        # make other locks of it.
        self._lock = next(
            (
                name
                for name in ("struct rt_mutex_base", "struct rt_mutex")
                if memory.has(name, "waiters.rb_root.rb_node", "owner")
            ),
            None,
        )
        waiter = "struct rt_mutex_waiter"
        self._node = next(
            (
                offset
                for member in ("tree.entry", "tree_entry")
                if (offset := memory.offset(waiter, member)) is not None
            ),
            None,
        )
        self._is_known = (
            self._lock is not None
            and self._node is not None
            and memory.has(waiter, "task", "lock")
            and memory.has("struct rb_node", "__rb_parent_color", "rb_left", "rb_right")
            and memory.has("struct task_struct", "pi_blocked_on")
        )

    def find(self, sleeper: Sleeper) -> Optional[Wait]:
        """Return the rt_mutex that a task waits for; ``None`` if that cannot be proven."""
        if not self._is_known:
            return None
        memory, task = self._memory, sleeper.task.addr
        waiter = memory.word(task + memory.at("struct task_struct", "pi_blocked_on"))
        if not waiter or memory.tasks.on_stack_of(waiter) is None:
            return None
        if self._task_of(waiter) != task:
            return None
        lock = memory.word(waiter + memory.at("struct rt_mutex_waiter", "lock"))
        if not lock:
            return None
        assert self._lock is not None
        root = memory.word(lock + memory.at(self._lock, "waiters.rb_root.rb_node"))
        owner = memory.word(lock + memory.at(self._lock, "owner"))
        if owner is None or not root or not self._is_in_tree(waiter, root):
            return None
        tasks = self._tasks_in(root)
        if tasks is None or task not in tasks:
            return None
        holder = owner & ~_RT_MUTEX_HAS_WAITERS
        if holder and not memory.may_be_task(holder):
            return None
        return Wait(
            WaitKind.RT_MUTEX,
            lock,
            waiter,
            detail=_in_words(sleeper.functions),
            waiters=tasks,
            holder=holder or None,
            is_free=not holder,
        )

    def _task_of(self, waiter: int) -> Optional[int]:
        return self._memory.word(waiter + self._memory.at("struct rt_mutex_waiter", "task"))

    def _is_in_tree(self, waiter: int, root: int) -> bool:
        """Return whether the path up from a waiter ends at the root of the lock's tree."""
        memory = self._memory
        assert self._node is not None
        node = waiter + self._node
        for _ in range(_MAX_HEIGHT):
            colored = memory.word(node + memory.at("struct rb_node", "__rb_parent_color"))
            if colored is None:
                return False
            parent = colored & ~_RB_COLOR_BITS
            if not parent:
                return node == root
            children = [
                memory.word(parent + memory.at("struct rb_node", side))
                for side in ("rb_left", "rb_right")
            ]
            if node not in children:
                return False
            node = parent
        return False

    def _tasks_in(self, root: int) -> Optional[tuple[int, ...]]:
        """Return the tasks of a tree in order: the task that gets the lock first comes first.

        :return: ``None`` if it is not a tree of waiters, each on the stack of the task that it names
        """
        memory = self._memory
        assert self._node is not None
        task_offset = memory.at("struct rt_mutex_waiter", "task") - self._node
        tasks: list[int] = []
        above: list[int] = []
        seen: set[int] = set()
        node: Optional[int] = root
        while node or above:
            while node:
                if node in seen or len(seen) >= MAX_WAITERS or len(above) >= _MAX_HEIGHT:
                    return None
                seen.add(node)
                above.append(node)
                node = memory.word(node + memory.at("struct rb_node", "rb_left"))
            node = above.pop()
            task = memory.waiting_task(node + task_offset)
            if task is None:
                return None
            tasks.append(task)
            node = memory.word(node + memory.at("struct rb_node", "rb_right"))
        return tuple(tasks)

    def find_readers(self, sleeper: Sleeper) -> Optional[Wait]:
        """Return the rw-semaphore or rwlock of PREEMPT_RT whose readers a writer waits for.

        The writer holds the rt_mutex of the lock, and has no waiter struct: rwbase_write_lock() in
        kernel/locking/rwbase_rt.c, v6.12. The address of the lock is on its stack.
        """
        memory, task = self._memory, sleeper.task.addr
        if self._lock is None or not memory.has("struct rwbase_rt", "readers", "rtmutex.owner"):
            return None
        if not any("rwbase_write_lock" in name for name in sleeper.functions):
            return None
        found = []
        for addr in memory.words_of(sleeper):
            if not addr or addr % memory.word_bytes or memory.tasks.on_stack_of(addr):
                continue
            owner = memory.word(addr + memory.at("struct rwbase_rt", "rtmutex.owner"))
            readers = memory.u32(addr + memory.at("struct rwbase_rt", "readers"))
            if owner is None or owner & ~_RT_MUTEX_HAS_WAITERS != task:
                continue
            # The task also owns the rt_mutex of a lock that it already holds to write.
            if readers and not readers >> _WRITER_BIAS_BIT:
                found.append((addr, readers))
        if len(found) != 1:
            return None
        ((addr, readers),) = found
        return Wait(WaitKind.RWSEM, addr, 0, mode="write", readers=readers)


def _in_words(functions: tuple[str, ...]) -> Optional[str]:
    for name in functions:
        for beginning, words in _IN_WORDS:
            if name.startswith(beginning):
                return words
    return None
