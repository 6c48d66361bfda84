# SPDX-License-Identifier: LGPL-2.1-or-later
"""What else a task waits for: futexes, files of poll(), timers, and the disk behind a completion."""

from __future__ import annotations

from typing import Optional

import msgspec

from ...memory import UNUSABLE
from .memory import Sleeper, WaitMemory
from .records import Wait, WaitKind

__all__ = ("Others",)

_MAX_NAME_BYTES = 64
_MAX_FILES = 1 << 16
_FUT_OFF_BITS = 3
"""FUT_OFF_INODE and FUT_OFF_MMSHARED in linux/futex.h."""


class Others:
    """Finds what is neither a lock nor a wait queue."""

    def __init__(self, memory: WaitMemory) -> None:
        self._memory = memory

    def find_futex(self, sleeper: Sleeper, slot: int) -> Optional[Wait]:
        """Return the futex that a task waits for: ``struct futex_q`` in kernel/futex/futex.h, v6.12.

        :param slot: Virtual address of a slot of its stack that holds its own address
        """
        memory, queue, bucket = self._memory, "struct futex_q", "struct futex_hash_bucket"
        if not memory.has(
            queue, "task", "list.node_list", "lock_ptr", "key.both.offset", "key.both.word"
        ) or not memory.has(bucket, "lock", "chain.node_list"):
            return None
        q = slot - memory.at(queue, "task")
        ring = memory.ring(q + memory.at(queue, "list.node_list"), sleeper)
        lock = memory.word(q + memory.at(queue, "lock_ptr"))
        if ring is None or not lock:
            return None
        # The head of the ring is in the bucket whose lock the futex_q names.
        head = lock - memory.at(bucket, "lock") + memory.at(bucket, "chain.node_list")
        page = memory.word(q + memory.at(queue, "key.both.word"))
        offset = memory.u32(q + memory.at(queue, "key.both.offset"))
        if head not in ring or page is None or offset is None:
            return None
        if offset & _FUT_OFF_BITS == 1:
            # A futex in a file: the key has the number of the page in that file.
            return Wait(WaitKind.FUTEX, 0, q, detail="in a shared file")
        return Wait(WaitKind.FUTEX, page + (offset & ~_FUT_OFF_BITS), q)

    def find_poll(self, sleeper: Sleeper, slot: int) -> Optional[Wait]:
        """Return the files that a task polls: ``struct poll_wqueues`` in linux/poll.h.

        :param slot: As for :meth:`find_futex`
        """
        memory, table, entry = self._memory, "struct poll_wqueues", "struct poll_table_entry"
        if not memory.has(table, "polling_task", "inline_index", "inline_entries"):
            return None
        if not memory.has(entry, "wait.private", "wait.func", "wait.entry", "filp"):
            return None
        addr = slot - memory.at(table, "polling_task")
        count = memory.u32(addr + memory.at(table, "inline_index"))
        try:
            most = memory.prog.type(table).member("inline_entries").type.length
            size = memory.prog.type(entry).size
        except UNUSABLE:
            return None
        if count is None or most is None or size is None or count > min(most, _MAX_FILES):
            return None
        entries = [addr + memory.at(table, "inline_entries") + size * i for i in range(count)]
        if not entries or not all(self._is_polled(sleeper, at, addr) for at in entries):
            return None
        more = " or more" if count == most else ""
        files = len({memory.word(at + memory.at(entry, "filp")) for at in entries})
        return Wait(
            WaitKind.POLL, addr, addr, detail=f"{files} file{'' if files == 1 else 's'}{more}"
        )

    def _is_polled(self, sleeper: Sleeper, entry_addr: int, table_addr: int) -> bool:
        memory, entry = self._memory, "struct poll_table_entry"
        if memory.word(entry_addr + memory.at(entry, "wait.private")) != table_addr:
            return False
        func = memory.word(entry_addr + memory.at(entry, "wait.func"))
        if not func or memory.name_exact(func) is None:
            return False
        return memory.ring(entry_addr + memory.at(entry, "wait.entry"), sleeper) is not None

    def find_timer(self, sleeper: Sleeper, slot: int) -> Optional[Wait]:
        """Return the timer that wakes a task: ``struct hrtimer_sleeper``.

        :param slot: As for :meth:`find_futex`
        """
        memory, timer = self._memory, "struct hrtimer_sleeper"
        # ``state`` with HRTIMER_STATE_ENQUEUED; a bool in v7.2.
        queued = "timer.is_queued" if memory.has(timer, "timer.is_queued") else "timer.state"
        if not memory.has(timer, "task", "timer.function", queued):
            return None
        addr = slot - memory.at(timer, "task")
        func = memory.word(addr + memory.at(timer, "timer.function"))
        state = memory.byte(addr + memory.at(timer, queued))
        if not func or memory.name_exact(func) != "hrtimer_wakeup" or state != 1:
            return None
        return Wait(WaitKind.TIMER, addr, addr)

    def disk_of(self, sleeper: Sleeper, wait: Wait) -> Optional[Wait]:
        """Return the ``struct bio`` or ``struct request`` whose end completes a completion.

        :param wait: A completion on the stack of the task
        """
        names = " ".join(sleeper.functions)
        if "submit_bio" in names or "blkdev_issue" in names:
            found = self._owner_of(sleeper, wait, "struct bio", "bi_private", "bi_end_io")
            if found is not None:
                detail = self._disk_of_bio(found)
                return msgspec.structs.replace(
                    wait, kind=WaitKind.BIO, address=found, detail=detail, waiters=()
                )
        if "blk_execute_rq" in names:
            found = self._owner_of(sleeper, wait, "struct request", "end_io_data", "end_io")
            if found is not None:
                return msgspec.structs.replace(
                    wait,
                    kind=WaitKind.REQUEST,
                    address=found,
                    detail=self._disk_of_request(found),
                    waiters=(),
                )
        return None

    def _owner_of(
        self, sleeper: Sleeper, wait: Wait, type_name: str, data: str, func: str
    ) -> Optional[int]:
        """Return the struct whose end function gets the completion, if its address is on the stack."""
        memory = self._memory
        if not memory.has(type_name, data, func):
            return None
        found = []
        for addr in (
            *memory.words_of(sleeper),
            *self._structs_on_stack(sleeper, wait, type_name, data),
        ):
            if not addr or addr % memory.word_bytes:
                continue
            if memory.word(addr + memory.at(type_name, data)) != wait.address:
                continue
            end = memory.word(addr + memory.at(type_name, func))
            if end and memory.name_exact(end) is not None and addr not in found:
                found.append(addr)
        return found[0] if len(found) == 1 else None

    def _structs_on_stack(
        self, sleeper: Sleeper, wait: Wait, type_name: str, data: str
    ) -> list[int]:
        """Return where such structs may be on the stack itself, judging by the words that point to the completion."""
        memory = self._memory
        return [
            slot - memory.at(type_name, data) for slot in memory.slots_of(sleeper, wait.address)
        ]

    def _disk_of_bio(self, bio: int) -> Optional[str]:
        # Since v5.12 a bio points to its block device; before, to the disk.
        memory = self._memory
        if memory.has("struct bio", "bi_bdev"):
            bdev = memory.word(bio + memory.at("struct bio", "bi_bdev"))
            disk = bdev and self._pointer(bdev, "struct block_device", "bd_disk")
        else:
            disk = self._pointer(bio, "struct bio", "bi_disk")
        return self._disk_name(disk)

    def _disk_of_request(self, request: int) -> Optional[str]:
        memory = self._memory
        if memory.has("struct request_queue", "disk"):
            queue = self._pointer(request, "struct request", "q")
            return self._disk_name(queue and self._pointer(queue, "struct request_queue", "disk"))
        return self._disk_name(self._pointer(request, "struct request", "rq_disk"))

    def _pointer(self, addr: int, type_name: str, member: str) -> Optional[int]:
        offset = self._memory.offset(type_name, member)
        return None if offset is None else self._memory.word(addr + offset)

    def _disk_name(self, disk: Optional[int]) -> Optional[str]:
        offset = self._memory.offset("struct gendisk", "disk_name")
        if not disk or offset is None:
            return None
        try:
            name = self._memory.prog.read_c_string(disk + offset, max_size=_MAX_NAME_BYTES)
        except UNUSABLE:
            return None
        return f"disk {name.decode('ascii', 'backslashreplace')}" if name else None
