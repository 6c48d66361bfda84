# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a task waits for, as data."""

from __future__ import annotations

import enum
from typing import Optional

import msgspec

__all__ = ("LOCKS", "Wait", "WaitKind")


class WaitKind(str, enum.Enum):
    """What a task waits for. Later versions may add kinds, but remove none."""

    MUTEX = "mutex"
    """``struct mutex``."""
    RWSEM = "rwsem"
    """``struct rw_semaphore``."""
    RT_MUTEX = "rt_mutex"
    """``struct rt_mutex_base`` (``struct rt_mutex`` before v5.15): also a futex with priority
    inheritance, and with PREEMPT_RT a spinlock."""
    SEMAPHORE = "semaphore"
    """``struct semaphore``."""
    PERCPU_RWSEM = "percpu_rwsem"
    """``struct percpu_rw_semaphore``, as of a file system that is being frozen."""
    COMPLETION = "completion"
    """``struct completion``."""
    BIO = "bio"
    """``struct bio``: submit_bio_wait()."""
    REQUEST = "request"
    """``struct request``: blk_execute_rq()."""
    FOLIO = "folio"
    """A bit of ``struct folio`` (``struct page`` before v5.16): its lock, or that it is written back."""
    BIT = "bit"
    """A bit of some word: wait_on_bit()."""
    USERFAULTFD = "userfaultfd"
    """``struct userfaultfd_ctx``: a page that a process has to provide."""
    FUTEX = "futex"
    """A word of user memory."""
    PIPE = "pipe"
    """``struct pipe_inode_info``."""
    EPOLL = "epoll"
    """``struct eventpoll``."""
    POLL = "poll"
    """Files: poll(), select()."""
    QUEUE = "queue"
    """``struct wait_queue_head`` or ``struct swait_queue_head``; what it belongs to is not known."""
    TIMER = "timer"
    """``struct hrtimer`` and nothing else."""

    def __str__(self) -> str:
        return self.value


LOCKS = frozenset(
    (
        WaitKind.MUTEX,
        WaitKind.RWSEM,
        WaitKind.RT_MUTEX,
        WaitKind.SEMAPHORE,
        WaitKind.PERCPU_RWSEM,
        WaitKind.FOLIO,
        WaitKind.BIT,
    )
)
"""Kinds that a task holds, though the kernel may not know which task. A task that waits for one of these hangs,
whatever state it sleeps in."""


class Wait(msgspec.Struct, frozen=True):
    """What one task waits for. All of it was read from the lock and from its list of waiters."""

    kind: WaitKind
    """What it is."""
    address: int
    """Virtual address of the struct that :class:`WaitKind` names; for a bit, of its word; for a futex, of its word in
    user memory (0 if that is in a shared file); for poll, of ``struct poll_wqueues``."""
    waiter: int
    """Virtual address of the waiter struct on the stack of the task; 0 if it has none (a writer that waits for readers
    with PREEMPT_RT)."""
    mode: Optional[str] = None
    """``read`` or ``write``, if it makes a difference."""
    detail: Optional[str] = None
    """More about it in words: ``bit 3``, ``locked``, ``disk sda``."""
    waiters: tuple[int, ...] = ()
    """Addresses of the ``struct task_struct`` of all tasks that wait for it, in the order of its list; empty if the
    list has other entries, too, or is shared with other locks."""
    holder: Optional[int] = None
    """Address of the ``struct task_struct`` of the task that holds it, as the lock says; ``None`` if the lock does not
    keep that, or no task holds it."""
    readers: Optional[int] = None
    """Number of readers that hold it; ``None`` if it cannot have readers now, or does not count them."""
    hint: Optional[int] = None
    """Address of the ``struct task_struct`` of the task that last took it to read, or last took the semaphore. That
    task may have released it long ago."""
    is_free: bool = False
    """No task holds it: the first waiter has been woken, and has not taken it yet."""
