# SPDX-License-Identifier: LGPL-2.1-or-later
"""Mutexes, rw-semaphores and semaphores, whose waiters are nodes of a list.

Each waiter begins with ``struct list_head list; struct task_struct *task``, so the list alone does not
show the kind of lock. The words of the lock and the function that waits do.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Callable, Optional

import msgspec

from ...memory import ADDRESS_MASK
from .memory import Sleeper, WaitMemory
from .records import Wait, WaitKind

__all__ = ("ListLocks",)

_FLAGS = 7
"""Low bits of ``mutex.owner`` (kernel/locking/mutex.h) and ``rw_semaphore.owner`` (kernel/locking/rwsem.c): a
``struct task_struct`` is aligned to a cache line. v5.10 to v7.2."""
_MUTEX_FLAG_WAITERS = 1
_MUTEX_FLAG_PICKUP = 4
_RWSEM_WRITER_LOCKED = 1
_RWSEM_FLAG_WAITERS = 2
_RWSEM_READER_SHIFT = 8
_RWSEM_READER_OWNED = 1
"""Of ``rw_semaphore.owner``; kernel/locking/rwsem.c, v5.3 to v7.2."""
_RWSEM_WAITING_FOR = ("write", "read")
"""enum rwsem_waiter_type."""


class _Lock(msgspec.Struct, frozen=True):
    """A lock with waiters: its address, and the tasks that wait, in the order of the list."""

    addr: int
    tasks: tuple[int, ...]


class _Kind(msgspec.Struct, frozen=True):
    """One kind of lock."""

    kind: WaitKind
    lock: str
    waiter: str
    members: tuple[str, ...]
    """Members of the lock that are read."""
    functions: tuple[str, ...]
    """Prefixes of the names of the functions that wait for it."""
    check: Callable[[_Lock, int], Optional[Wait]]
    """(lock, waiter of the task) -> what the words of the lock say; ``None`` if it is not such
    a lock."""


class ListLocks:
    """Finds the lock that a task waits for. A kind whose types are missing (as with PREEMPT_RT) is not looked for."""

    def __init__(self, memory: WaitMemory) -> None:
        self._memory = memory
        self._known: dict[tuple[WaitKind, int], list[_Lock]] = {}
        kinds = (
            _Kind(
                WaitKind.MUTEX,
                "struct mutex",
                "struct mutex_waiter",
                ("owner",),
                ("__mutex_lock", "__ww_mutex_lock", "mutex_lock", "ww_mutex_lock"),
                self._mutex,
            ),
            _Kind(
                WaitKind.RWSEM,
                "struct rw_semaphore",
                "struct rwsem_waiter",
                ("count", "owner"),
                ("rwsem_down_", "__down_read", "__down_write", "down_read", "down_write"),
                self._rwsem,
            ),
            _Kind(
                WaitKind.SEMAPHORE,
                "struct semaphore",
                "struct semaphore_waiter",
                ("count",),
                ("__down", "___down", "down"),
                self._semaphore,
            ),
        )
        self._all_kinds = kinds
        self._kinds = tuple(filter(self._is_known, kinds))
        self._word_mask = ADDRESS_MASK >> (64 - 8 * memory.word_bytes)
        self._last_holder = memory.offset("struct semaphore", "last_holder")

    def _is_known(self, kind: _Kind) -> bool:
        memory = self._memory
        return (
            memory.has(kind.lock, *kind.members)
            and memory.has(kind.waiter, "list", "task")
            and (memory.has(kind.lock, "wait_list") or memory.has(kind.lock, "first_waiter"))
            # A pointer instead of a word: mutex.owner before v4.10; rw_semaphore.owner before Linux kernel commit
            # 94a9717b3c40 ("locking/rwsem: Make rwsem->owner an atomic_long_t") in v5.3, where commit 64489e78004c
            # ("locking/rwsem: Implement a new locking scheme") gave count its bits.
            and not any(memory.is_pointer(kind.lock, member) for member in kind.members)
        )

    def kinds_of(self, functions: Sequence[str]) -> Sequence[_Kind]:
        """Return the kinds of lock that a task may wait for: the kind of the innermost function that waits for a lock.

        :param functions: Innermost first. If there are none (no symbols), it may be any kind but a semaphore,
            whose words say too little.
        """
        if not functions:
            return [kind for kind in self._kinds if kind.kind is not WaitKind.SEMAPHORE]
        for name in functions:
            # down_read() begins as down() does, so the longest prefix decides, whether or not its kind is known.
            found = [
                (len(beginning), number)
                for number, kind in enumerate(self._all_kinds)
                for beginning in kind.functions
                if name.startswith(beginning)
            ]
            if found:
                kind = self._all_kinds[max(found)[1]]
                return [kind] if kind in self._kinds else []
        return []

    def finder(self, kinds: Sequence[_Kind]) -> Callable[[Sleeper, int], Optional[Wait]]:
        """Return the function that finds the lock that a task waits for.

        It takes the task, and the virtual address of a slot of its stack that holds its own address.

        :param kinds: What :meth:`kinds_of` returned for its stack
        """

        def find(sleeper: Sleeper, slot: int) -> Optional[Wait]:
            proven = [wait for kind in kinds for wait in self._proven(sleeper, slot, kind)]
            # More than one is not a proof.
            return proven[0] if len(proven) == 1 else None

        return find

    def _proven(self, sleeper: Sleeper, slot: int, kind: _Kind) -> Iterator[Wait]:
        memory = self._memory
        waiter = slot - memory.at(kind.waiter, "task")
        node_offset = memory.at(kind.waiter, "list")
        ring = memory.ring(waiter + node_offset, sleeper)
        if ring is None:
            return
        key = (kind.kind, ring[0])
        locks = self._known.get(key)
        if locks is None:
            locks = list(self._locks(sleeper, kind, [node - node_offset for node in ring]))
            if memory.keeps and locks:
                self._known[key] = locks
        for lock in locks:
            wait = kind.check(lock, waiter)
            if wait is not None:
                yield wait

    def _locks(self, sleeper: Sleeper, kind: _Kind, ring: list[int]) -> Iterator[_Lock]:
        """Yield the locks that a ring may belong to, with the waiters in the order of the list."""
        memory = self._memory
        if memory.has(kind.lock, "wait_list"):
            yield from self._lock_in_ring(kind, ring)
            return
        # Since Linux kernel commit 1ea4b473504b ("locking/rwsem: Remove the list_head from struct
        # rw_semaphore") (before v7.2), and the like for the others, the lock points to its first waiter
        # and is not in the ring. It is found by a word on the stack, where the function that waits keeps its address.
        first_offset = memory.at(kind.lock, "first_waiter")
        lock_offset = memory.offset(kind.lock, "wait_lock") or 0
        addrs: dict[int, int] = {}
        for word in memory.words_of(sleeper):
            for addr in {word, word - lock_offset}:
                if addr <= 0 or addr % memory.word_bytes or memory.tasks.on_stack_of(addr):
                    continue
                first = memory.word(addr + first_offset)
                if first is not None and first in ring:
                    addrs[addr] = first
        tasks = self._tasks_of(kind, ring)
        if tasks is None:
            return
        for addr, first in addrs.items():
            at = ring.index(first)
            yield _Lock(addr, tasks[at:] + tasks[:at])

    def _tasks_of(self, kind: _Kind, waiters: list[int]) -> Optional[tuple[int, ...]]:
        """Return the tasks that wait, ``None`` if one of the structs is not on the stack of the task that it names."""
        memory = self._memory
        offset = memory.at(kind.waiter, "task")
        tasks = [memory.waiting_task(addr + offset) for addr in waiters]
        certain = tuple(task for task in tasks if task is not None)
        return certain if len(certain) == len(tasks) else None

    def _lock_in_ring(self, kind: _Kind, ring: list[int]) -> Iterator[_Lock]:
        memory = self._memory
        offset = memory.at(kind.waiter, "task")
        heads = [
            number for number, addr in enumerate(ring) if memory.waiting_task(addr + offset) is None
        ]
        if len(heads) != 1:
            return
        (head,) = heads
        tasks = self._tasks_of(kind, ring[head + 1 :] + ring[:head])
        if tasks is not None:
            node = ring[head] + memory.at(kind.waiter, "list")
            yield _Lock(node - memory.at(kind.lock, "wait_list"), tasks)

    # ---- what the words of a lock say

    def _mutex(self, lock: _Lock, waiter: int) -> Optional[Wait]:
        """Follow __mutex_owner() and the flags in kernel/locking/mutex.h, v6.12."""
        memory = self._memory
        owner = memory.word(lock.addr + memory.at("struct mutex", "owner"))
        if owner is None or not owner & _MUTEX_FLAG_WAITERS:
            return None
        holder = owner & ~_FLAGS
        # MUTEX_FLAG_PICKUP: the mutex was handed to a waiter, which has not run yet.
        if owner & _MUTEX_FLAG_PICKUP and holder not in lock.tasks:
            return None
        if holder and not memory.may_be_task(holder):
            return None
        return Wait(
            WaitKind.MUTEX,
            lock.addr,
            waiter,
            waiters=lock.tasks,
            holder=holder or None,
            is_free=not holder or bool(owner & _MUTEX_FLAG_PICKUP),
        )

    def _rwsem(self, lock: _Lock, waiter: int) -> Optional[Wait]:
        """Follow the comment on ``count`` and ``owner`` in kernel/locking/rwsem.c, v6.12."""
        memory = self._memory
        count = memory.word(lock.addr + memory.at("struct rw_semaphore", "count"))
        owner = memory.word(lock.addr + memory.at("struct rw_semaphore", "owner"))
        mode = memory.u32(waiter + memory.at("struct rwsem_waiter", "type"))
        if count is None or owner is None or mode is None or mode >= len(_RWSEM_WAITING_FOR):
            return None
        if not count & _RWSEM_FLAG_WAITERS:
            return None
        readers = (count & self._word_mask >> 1) >> _RWSEM_READER_SHIFT
        is_written = bool(count & _RWSEM_WRITER_LOCKED)
        holder = owner & ~_FLAGS
        # A writer sets owner to itself. Readers leave a word there that may be old, but has RWSEM_READER_OWNED set.
        if is_written and (owner & _RWSEM_READER_OWNED or not holder):
            return None
        if readers and not is_written and holder and not owner & _RWSEM_READER_OWNED:
            return None
        if is_written and not memory.may_be_task(holder):
            return None
        return Wait(
            WaitKind.RWSEM,
            lock.addr,
            waiter,
            mode=_RWSEM_WAITING_FOR[mode],
            waiters=lock.tasks,
            holder=holder if is_written else None,
            readers=None if is_written else readers,
            hint=holder if not is_written and readers and memory.may_be_task(holder) else None,
            is_free=not is_written and not readers,
        )

    def _semaphore(self, lock: _Lock, waiter: int) -> Optional[Wait]:
        memory = self._memory
        count = memory.u32(lock.addr + memory.at("struct semaphore", "count"))
        up = memory.byte(waiter + memory.at("struct semaphore_waiter", "up"))
        # up() removes the waiter from the list and sets ``up``: a waiter on the list does not have the semaphore yet.
        if count is None or count or up:
            return None
        # CONFIG_DETECT_HUNG_TASK_BLOCKER: the task that took it last. Others may hold it, too.
        hint = None if self._last_holder is None else memory.word(lock.addr + self._last_holder)
        if hint is not None and not memory.may_be_task(hint):
            hint = None
        return Wait(WaitKind.SEMAPHORE, lock.addr, waiter, waiters=lock.tasks, hint=hint)
