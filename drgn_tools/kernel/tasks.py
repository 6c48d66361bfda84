# SPDX-License-Identifier: LGPL-2.1-or-later
"""``struct task_struct``, read in one go, not member by member."""

from __future__ import annotations

from functools import lru_cache
from operator import itemgetter
from struct import Struct
from typing import Any, Callable, Optional

import msgspec
from drgn import FaultError, Program

from ..bounded_cache import BoundedCache
from .probing import probing
from .task_layout import TaskLayout

__all__ = (
    "Task",
    "TaskReader",
    "read_task",
    "reading_neighbours",
    "task_state_to_char",
)

PF_KTHREAD = 0x0020_0000
"""linux/sched.h; the value has not changed since it came (v2.6.27)."""

_TASK_REPORT = 0x7F
_TASK_REPORT_IDLE = 0x80
_TASK_UNINTERRUPTIBLE = 0x2
_TASK_NOLOAD = 0x400
_TASK_IDLE = _TASK_UNINTERRUPTIBLE | _TASK_NOLOAD
_TASK_RTLOCK_WAIT = 0x1000
_TASK_FROZEN = 0x8000
_STATE_CHARS = "RSDTtXZPI"

_MAX_NAMES = 1000
"""How many names are cached; many threads have the same name."""
_MAX_COMM_BYTES = 64
"""TASK_COMM_LEN is 16; longer names, of damaged types, are not cached."""

_BLOCK_BYTES = 32 * 1024
"""How much is read at once where tasks are side by side: the size of their slabs on most kernels."""

_MEMBERS = (
    "pid", "tgid", "comm", "state", "exit_state", "flags", "stack", "thread_sp", "tasks_next", "tasks_prev",
    "thread_node_next", "thread_node_prev", "signal", "nvcsw", "nivcsw", "stack_refcount", "cpu", "on_cpu",
    "patch_state", "real_parent", "group_leader", "start_time", "kthread", "thread_fp", "thread_pc",
)  # fmt: skip
"""Members of :class:`.task_layout.TaskLayout`, in the order in which :class:`TaskReader` takes them."""
_WHERE_ABSENT = {
    "stack_refcount": 1, "cpu": 0, "on_cpu": 0, "patch_state": None, "real_parent": 0,
    "group_leader": 0, "start_time": None, "kthread": 0, "thread_fp": 0, "thread_pc": 0,
}  # fmt: skip
"""Values for the members that not every kernel has."""
_FORMATS = {1: "B", 2: "H", 4: "I", 8: "Q"}
_SIGNED = frozenset(("patch_state",))


class Task(msgspec.Struct, frozen=True):
    """The members of one ``struct task_struct`` that are needed, all read at once."""

    addr: int
    """Address of the ``struct task_struct``."""
    pid: int
    tgid: int
    comm: str
    """Undecodable bytes as ``\\xNN``."""
    state: str
    """One letter, as in ps(1)."""
    is_runnable: bool
    """``task_is_running()``: its state is TASK_RUNNING, on a CPU or not."""
    cpu: int
    """Number of the CPU that it runs on, or ran on last."""
    on_cpu: bool
    """``task->on_cpu``: running, or in the middle of being switched to or away."""
    kthread: bool
    """PF_KTHREAD: it never runs in user mode."""
    stack_addr: int
    """``task->stack``, lowest address of the stack."""
    thread_sp: int
    """``task->thread.sp``; out of date for a task that is running."""
    has_stack: bool
    """``try_get_task_stack()`` would succeed: false for a zombie whose stack is gone."""
    switches: int
    """``nvcsw + nivcsw``: how often it has left its CPU."""
    tasks_next: int
    """``task->tasks.next``; the nodes of both lists are addresses of a ``struct list_head``."""
    tasks_prev: int
    """``task->tasks.prev``."""
    thread_node_next: int
    """``task->thread_node.next``."""
    thread_node_prev: int
    """``task->thread_node.prev``."""
    signal_addr: int
    """``task->signal``, address of the ``struct signal_struct`` of its process."""
    patch_state: Optional[int] = None
    """``task->patch_state``; ``None`` on a kernel without live patching."""
    parent_addr: int = 0
    """``task->real_parent``, address of the ``struct task_struct`` of the thread that made its process."""
    leader_addr: int = 0
    """``task->group_leader``, address of the ``struct task_struct`` of the first thread of its process."""
    start_time_ns: Optional[int] = None
    """``task->start_time``: when it was forked, in ns of CLOCK_MONOTONIC, which begins with the boot."""
    kthread_addr: int = 0
    """Address of the ``struct kthread`` of a kernel thread, on a kernel that keeps full names there; meaningless
    otherwise."""
    thread_fp: int = 0
    """``task->thread.cpu_context.fp`` of arm64; out of date for a task that is running."""
    thread_pc: int = 0
    """``task->thread.cpu_context.pc`` of arm64."""

    def was_at_rest_until(self, later: Task) -> bool:
        """Return whether the task did not run between two reads, so that its stack is the same.

        __schedule() counts when a task leaves its CPU, and ``on_cpu`` is set as long as
        it is there: a task that ran differs in one of them.

        :param later: the same task, read again
        """
        return self._at_rest() == later._at_rest()

    def _at_rest(self) -> tuple[object, ...]:
        return (
            self.pid,
            self.state,
            self.on_cpu,
            self.stack_addr,
            self.thread_sp,
            self.has_stack,
            self.switches,
            self.patch_state,  # another task may change it
        )


@lru_cache(maxsize=256)
def task_state_to_char(state: int, exit_state: int) -> str:
    """Return the letter that ps(1) shows for the state of a task.

    Follows __task_state_index() and task_index_to_char() in linux/sched.h, v6.12;
    the bits of TASK_REPORT are the same since v4.14.

    :param state: ``task->__state``
    :param exit_state: ``task->exit_state``
    """
    report = (state | exit_state) & _TASK_REPORT
    if state & _TASK_IDLE == _TASK_IDLE:
        report = _TASK_REPORT_IDLE
    if state & (_TASK_RTLOCK_WAIT | _TASK_FROZEN):
        report = _TASK_UNINTERRUPTIBLE
    return _STATE_CHARS[report.bit_length()]


ReadMemory = Callable[[int, int], bytes]
"""Virtual address, size in bytes -> the bytes; FaultError if not all of them are in the dump."""


def reading_neighbours(read: ReadMemory) -> ReadMemory:
    """Return a function that reads tasks with fewer reads. The memory must not change.

    Much of the cost of a read is the translation of its address: drgn walks the page tables each time.
    Tasks that are made one after the other follow each other on the list and are in one slab.
    If they are not, a longer read is wasted. So a whole block is read when a second task in it is
    wanted, or when a second task in the block before was wanted.

    :param read: reads the memory of the program
    """
    last, data, pays = -1, b"", False

    def read_block(block: int) -> bytes:
        try:
            return read(block, _BLOCK_BYTES)
        except FaultError:
            return b""  # a page is missing: its tasks are read one by one

    def read_one(addr: int, size_bytes: int) -> bytes:
        nonlocal last, data, pays
        offset = addr % _BLOCK_BYTES
        block = addr - offset
        if block != last:
            last, data, pays = block, read_block(block) if pays else b"", False
        elif not pays:
            data, pays = data or read_block(block), True
        end = offset + size_bytes
        return data[offset:end] if end <= len(data) else read(addr, size_bytes)

    return read_one


class TaskReader:
    """Reads tasks of one kernel, each in one go.

    :param read: reads memory; the program itself if ``None``
    :raises TypesError: if the layout of ``struct task_struct`` is impossible
    """

    def __init__(
        self, prog: Program, layout: TaskLayout, read: Optional[ReadMemory] = None
    ) -> None:
        self._read_memory = prog.read if read is None else read
        self._size_bytes = layout.size_bytes
        self._names: BoundedCache[bytes, str] = BoundedCache(_MAX_NAMES)
        with probing(prog):
            members = _members(layout)
        self._unpack, self._absent = members.unpack, members.absent
        self._in_order = members.in_order

    def read(self, addr: int) -> Task:
        """Read one task.

        :param addr: virtual address of the ``struct task_struct``
        :raises FaultError: if it is not in the dump
        """
        (
            pid, tgid, comm, state, exit_state, flags, stack, thread_sp, tasks_next, tasks_prev,
            thread_node_next, thread_node_prev, signal, nvcsw, nivcsw, stack_refcount, cpu, on_cpu,
            patch_state, real_parent, group_leader, start_time, kthread, thread_fp, thread_pc,
        ) = self._in_order(
            self._unpack(self._read_memory(addr, self._size_bytes)) + self._absent
        )  # fmt: skip
        return Task(
            addr,
            pid,
            tgid,
            self._names.get(comm) or self._name(comm),
            task_state_to_char(state, exit_state),
            state == 0,
            cpu,
            on_cpu != 0,
            flags & PF_KTHREAD != 0,
            stack,
            thread_sp,
            stack_refcount != 0 and stack != 0,
            nvcsw + nivcsw,
            tasks_next,
            tasks_prev,
            thread_node_next,
            thread_node_prev,
            signal,
            patch_state,
            real_parent,
            group_leader,
            start_time,
            kthread,
            thread_fp,
            thread_pc,
        )

    def _name(self, comm: bytes) -> str:
        name = comm.split(b"\0", 1)[0].decode("utf-8", "backslashreplace")
        if len(comm) <= _MAX_COMM_BYTES:
            self._names[comm] = name
        return name


class _Members(msgspec.Struct, frozen=True):
    """How to take all members out of the bytes of a task."""

    unpack: Callable[[bytes], tuple[Any, ...]]
    """Bytes of a task -> its members, in the order in which they are in memory."""
    absent: tuple[Optional[int], ...]
    """Values for the members that this kernel does not have."""
    in_order: Callable[[tuple[Any, ...]], tuple[Any, ...]]
    """What :attr:`unpack` gives with :attr:`absent` behind it -> ordered as :data:`_MEMBERS`."""


def _members(layout: TaskLayout) -> _Members:
    places = {name: place for name in _MEMBERS if (place := getattr(layout, name)) is not None}
    names = sorted(places, key=places.__getitem__)
    format_, end = "<", 0
    for name in names:
        offset, size = places[name]
        kind = f"{size}s" if name == "comm" else _FORMATS.get(size)
        if kind is None or offset < end:
            raise ValueError(f"struct task_struct cannot have {size} bytes at {offset} for {name}")
        if name in _SIGNED:
            kind = kind.lower()
        format_ += f"{offset - end}x{kind}"
        end = offset + size
    names += _WHERE_ABSENT.keys() - places.keys()
    return _Members(
        Struct(f"{format_}{layout.size_bytes - end}x").unpack,
        tuple(_WHERE_ABSENT[name] for name in names[len(places) :]),
        itemgetter(*map(names.index, _MEMBERS)),
    )


def read_task(prog: Program, layout: TaskLayout, addr: int) -> Task:
    """Read one task; a :class:`TaskReader` is faster for more than one.

    :param addr: virtual address of the ``struct task_struct``
    :raises FaultError: if it is not in the dump
    :raises TypesError: if the layout of ``struct task_struct`` is impossible
    """
    return TaskReader(prog, layout).read(addr)
