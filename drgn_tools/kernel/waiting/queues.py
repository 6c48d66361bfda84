# SPDX-License-Identifier: LGPL-2.1-or-later
"""Wait queues, and what tasks wait for in them: bits, folios, completions, pages, pipes."""

from __future__ import annotations

from typing import Callable, Optional

from ...memory import UNUSABLE, read_or_none
from .memory import Sleeper, WaitMemory
from .records import Wait, WaitKind

__all__ = ("Queues",)

_ENTRY = "struct wait_queue_entry"
_HEAD = "struct wait_queue_head"
_FOLIO_LOCKED, _FOLIO_WRITEBACK = "PG_locked", "PG_writeback"
_MAX_RING_SIZE = 1 << 20
_WQ_FLAG_CUSTOM = 4 | 8
"""linux/wait.h: 8, and 4 since the removal of WQ_FLAG_BOOKMARK, which was 4 (v5.7 to v7.2)."""
_MAX_FILES = 1 << 24
_FORK_FUNCTIONS = frozenset(("_do_fork", "kernel_clone"))
_PIPE_QUEUES = {
    **dict.fromkeys(("pipe_read", "anon_pipe_read", "pipe_wait_readable"), "rd_wait"),
    **dict.fromkeys(("pipe_write", "anon_pipe_write", "pipe_wait_writable"), "wr_wait"),
    **dict.fromkeys(("fifo_open", "wait_for_partner"), "rd_wait"),
}
"""Functions of fs/pipe.c (v5.10 to v7.2) -> the member that they wait in."""
_OPENS_FIFO = frozenset(("fifo_open", "wait_for_partner"))


class Queues:
    """Finds the queue that a task waits in, and what it belongs to."""

    def __init__(self, memory: WaitMemory) -> None:
        self._memory = memory
        self._has_queues = memory.has(_ENTRY, "private", "func", "entry") and memory.has(
            _HEAD, "head"
        )
        self._heads: dict[int, Optional[int]] = {}
        self._page_bits = _page_bits(memory)
        self._by_function: dict[str, Callable[[Sleeper, int, int], Optional[Wait]]] = {
            "wake_page_function": self._folio,
            "wake_bit_function": self._bit,
            "userfaultfd_wake_function": self._userfaultfd,
            "percpu_rwsem_wake_function": self._percpu_rwsem,
        }

    # ---- wait queues

    def find(self, sleeper: Sleeper, slot: int) -> Optional[Wait]:
        """Return what a task waits for in a wait queue.

        :param slot: Virtual address of a slot of its stack that holds its own address
        """
        memory = self._memory
        if not self._has_queues:
            return None
        entry = slot - memory.at(_ENTRY, "private")
        function = self._function_of(entry)
        if function is None:
            return None
        node_offset = memory.at(_ENTRY, "entry")
        ring = memory.ring(entry + node_offset, sleeper)
        if ring is None:
            return None
        node = self._head_in(ring, node_offset)
        if node is None:
            return None
        head = node - memory.at(_HEAD, "head")
        special = self._by_function.get(function)
        if special is not None:
            return special(sleeper, entry, head)
        return (
            self._pipe(sleeper, entry, head)
            or self._epoll(sleeper, entry, head)
            or Wait(WaitKind.QUEUE, head, entry)
        )

    def _head_in(self, ring: tuple[int, ...], node_offset: int) -> Optional[int]:
        """Return the only node that is not in an entry: no function begins at the address where its ``func`` would be."""
        if ring[0] in self._heads:
            return self._heads[ring[0]]
        heads = [node for node in ring if self._function_of(node - node_offset) is None]
        head = heads[0] if len(heads) == 1 else None
        if self._memory.keeps:
            self._heads[ring[0]] = head
        return head

    def _function_of(self, entry: int) -> Optional[str]:
        func = self._memory.word(entry + self._memory.at(_ENTRY, "func"))
        return self._memory.name_exact(func) if func else None

    def _folio(self, sleeper: Sleeper, entry: int, head: int) -> Optional[Wait]:
        """``struct wait_page_queue``: folio_wait_bit_common() in mm/filemap.c."""
        memory, queue = self._memory, "struct wait_page_queue"
        if not memory.has(queue, "bit_nr", "wait"):
            return None
        # Before v5.16 it was a struct page.
        member = "folio" if memory.has(queue, "folio") else "page"
        if not memory.has(queue, member):
            return None
        outer = entry - memory.at(queue, "wait")
        folio = memory.word(outer + memory.at(queue, member))
        bit = memory.u32(outer + memory.at(queue, "bit_nr"))
        flags = folio and memory.word(folio + (memory.offset(f"struct {member}", "flags") or 0))
        if not folio or bit is None or flags is None or bit >= 8 * memory.word_bytes:
            return None
        return Wait(
            WaitKind.FOLIO,
            folio,
            entry,
            detail=self._page_bits.get(bit, f"bit {bit}"),
            is_free=not flags >> bit & 1,
        )

    def _bit(self, sleeper: Sleeper, entry: int, head: int) -> Optional[Wait]:
        """``struct wait_bit_queue_entry``: __wait_on_bit() in kernel/sched/wait_bit.c."""
        memory, queue = self._memory, "struct wait_bit_queue_entry"
        if not memory.has(queue, "key.flags", "key.bit_nr", "wq_entry"):
            return None
        outer = entry - memory.at(queue, "wq_entry")
        addr = memory.word(outer + memory.at(queue, "key.flags"))
        bit = memory.u32(outer + memory.at(queue, "key.bit_nr"))
        if not addr or bit is None or bit >= 8 * memory.word_bytes:
            return None
        word = memory.word(addr)
        if word is None:
            return None
        return Wait(WaitKind.BIT, addr, entry, detail=f"bit {bit}", is_free=not word >> bit & 1)

    def _userfaultfd(self, sleeper: Sleeper, entry: int, head: int) -> Optional[Wait]:
        """``struct userfaultfd_wait_queue``: handle_userfault() in fs/userfaultfd.c."""
        memory, queue, context = (
            self._memory,
            "struct userfaultfd_wait_queue",
            "struct userfaultfd_ctx",
        )
        if not memory.has(queue, "wq", "ctx", "msg.arg.pagefault.address"):
            return None
        outer = entry - memory.at(queue, "wq")
        ctx = memory.word(outer + memory.at(queue, "ctx"))
        page = read_or_none(memory.prog, outer + memory.at(queue, "msg.arg.pagefault.address"), 8)
        if not ctx or page is None:
            return None
        heads = [
            ctx + offset
            for name in ("fault_pending_wqh", "fault_wqh")
            if (offset := memory.offset(context, name)) is not None
        ]
        if head not in heads:
            return None
        where = int.from_bytes(page, "little")
        return Wait(WaitKind.USERFAULTFD, ctx, entry, detail=f"page at {where:#x}")

    def _percpu_rwsem(self, sleeper: Sleeper, entry: int, head: int) -> Optional[Wait]:
        """percpu_rwsem_wait() in kernel/locking/percpu-rwsem.c, v5.7 and later."""
        memory, lock = self._memory, "struct percpu_rw_semaphore"
        if not memory.has(lock, "waiters", "block"):
            return None
        addr = head - memory.at(lock, "waiters")
        block = memory.u32(addr + memory.at(lock, "block"))
        flags = memory.u32(entry + (memory.offset(_ENTRY, "flags") or 0))
        if block is None or flags is None or block > 1:
            return None
        # percpu_rwsem_wait() marks a reader.
        is_reader = bool(flags & _WQ_FLAG_CUSTOM)
        return Wait(
            WaitKind.PERCPU_RWSEM,
            addr,
            entry,
            mode="read" if is_reader else "write",
            is_free=not block,
        )

    def _pipe(self, sleeper: Sleeper, entry: int, head: int) -> Optional[Wait]:
        """``struct pipe_inode_info``: fs/pipe.c. The function that waits shows which of the two queues it is."""
        memory, pipe = self._memory, "struct pipe_inode_info"
        member = next((_PIPE_QUEUES[n] for n in sleeper.functions if n in _PIPE_QUEUES), None)
        if member is None or not memory.has(
            pipe, "rd_wait", "wr_wait", "ring_size", "readers", "writers", "files"
        ):
            return None
        addr = head - memory.at(pipe, member)
        size, readers, writers, files = (
            memory.u32(addr + memory.at(pipe, name))
            for name in ("ring_size", "readers", "writers", "files")
        )
        if readers is None or writers is None or not size or size > _MAX_RING_SIZE or not files:
            return None
        # The number of buffers is a power of two, and each file reads, writes or both.
        if size & (size - 1) or not 0 < readers + writers <= 2 * _MAX_FILES or files > _MAX_FILES:
            return None
        detail = f"{readers} {_plural('reader', readers)}, {writers} {_plural('writer', writers)}"
        mode: Optional[str] = "read" if member == "rd_wait" else "write"
        if _OPENS_FIFO.intersection(sleeper.functions):
            # A task that opens the pipe to write waits in rd_wait, too, for the first that opens it to read.
            mode = "write" if not readers else "read" if not writers else None
        return Wait(WaitKind.PIPE, addr, entry, mode=mode, detail=detail)

    def _epoll(self, sleeper: Sleeper, entry: int, head: int) -> Optional[Wait]:
        memory, poll = self._memory, "struct eventpoll"
        if not memory.has(poll, "wq"):
            return None
        if not any(
            name.startswith(("ep_poll", "do_epoll_wait", "ep_send_events"))
            for name in sleeper.functions
        ):
            return None
        return Wait(WaitKind.EPOLL, head - memory.at(poll, "wq"), entry)

    # ---- simple wait queues

    def find_simple(self, sleeper: Sleeper, slot: int) -> Optional[Wait]:
        """Return the completion, or the simple wait queue, that a task waits for.

        :param slot: As for :meth:`find`
        """
        memory, entry, head_type = self._memory, "struct swait_queue", "struct swait_queue_head"
        if not memory.has(entry, "task", "task_list") or not memory.has(head_type, "task_list"):
            return None
        waiter = slot - memory.at(entry, "task")
        node_offset = memory.at(entry, "task_list")
        ring = memory.ring(waiter + node_offset, sleeper)
        if ring is None:
            return None
        task_offset = memory.at(entry, "task") - node_offset
        tasks = [memory.waiting_task(node + task_offset) for node in ring]
        if tasks.count(None) != 1:
            return None
        at = tasks.index(None)
        head = ring[at] - memory.at(head_type, "task_list")
        waiters = tuple(task for task in (*tasks[at + 1 :], *tasks[:at]) if task is not None)
        return self._completion(sleeper, waiter, head, waiters) or Wait(
            WaitKind.QUEUE, head, waiter, waiters=waiters
        )

    def _completion(
        self, sleeper: Sleeper, waiter: int, head: int, waiters: tuple[int, ...]
    ) -> Optional[Wait]:
        memory, completion = self._memory, "struct completion"
        if not any("wait_for_co" in name for name in sleeper.functions):
            return None
        if not memory.has(completion, "done", "wait"):
            return None
        addr = head - memory.at(completion, "wait")
        done = memory.u32(addr + memory.at(completion, "done"))
        if done is None:
            return None
        detail = self._of_vfork(sleeper, addr)
        return Wait(
            WaitKind.COMPLETION, addr, waiter, detail=detail, waiters=waiters, is_free=bool(done)
        )

    def _of_vfork(self, sleeper: Sleeper, completion: int) -> Optional[str]:
        """Return whose exec() or exit a parent waits for after vfork(): ``task->vfork_done`` of that task points here."""
        memory, member = self._memory, ("struct task_struct", "vfork_done")
        if not memory.has(*member) or not _FORK_FUNCTIONS.intersection(sleeper.functions):
            return None
        for child in memory.tasks.by_addr.values():
            if memory.word(child.addr + memory.at(*member)) == completion:
                return f"vfork(), until {child.comm} ({child.pid}) execs or exits"
        return None


def _page_bits(memory: WaitMemory) -> dict[int, str]:
    """Return what some bits of a folio's flags are called."""
    try:
        found = memory.prog.type("enum pageflags").enumerators or ()
        values = dict(found)
    except UNUSABLE:
        return {}
    words = {_FOLIO_LOCKED: "its lock", _FOLIO_WRITEBACK: "writeback"}
    return {values[name]: text for name, text in words.items() if name in values}


def _plural(word: str, number: Optional[int]) -> str:
    return word if number == 1 else f"{word}s"
