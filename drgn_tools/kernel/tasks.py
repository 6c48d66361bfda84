# SPDX-License-Identifier: LGPL-2.1-or-later
"""All tasks of a kernel, one bulk read each, not one read per member.

Of the tasks that were passed only their addresses are remembered: there may be millions.

The order is that of for_each_process_thread() in linux/sched/signal.h: every
process from init_task's list, every thread of it; then the idle task of each
online CPU, which are on no list. (An offline CPU's idle task is not looked at.)
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from operator import attrgetter, itemgetter
from struct import Struct
from typing import Any, Callable, NamedTuple, Optional

from drgn import FaultError, Program

from ..bounded_cache import BoundedCache
from ..memory import UNUSABLE
from ..slotted import tuple_maker_of
from .layout import Layout, TaskLayout, probing, symbol_address
from .per_cpu import cpus_in, per_cpu

__all__ = ("Task", "TaskList", "TaskReader", "read_task")

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

_ADDRESS_MASK = (1 << 64) - 1

_MAX_NAMES = 1000
"""Different ones that are kept: threads of a kind bear the same."""
_MAX_COMM_BYTES = 64
"""TASK_COMM_LEN is 16; longer ones, of damaged types, are not kept."""

_MAX_TASKS = 8 * 1024 * 1024
"""Twice PID_MAX_LIMIT of a 64-bit kernel (linux/threads.h)."""


class Task(NamedTuple):
    """What is needed of one ``struct task_struct``, all of it read at once."""

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
    on_cpu: bool
    """``task->on_cpu``: running, or in the middle of being switched to or away."""
    kthread: bool
    stack_addr: int
    """``task->stack``, lowest address of the stack."""
    thread_sp: int
    """``task->thread.sp``; stale for a task that is running."""
    has_stack: bool
    """``try_get_task_stack()`` would succeed: false for a zombie whose stack is gone."""
    switches: int
    """``nvcsw + nivcsw``: how often it has left its CPU."""
    tasks_next: int
    tasks_prev: int
    thread_node_next: int
    thread_node_prev: int
    signal_addr: int

    def was_at_rest_until(self, later: Task) -> bool:
        """Did it not run between two looks at it? Then its stack has not changed, either.

        __schedule() counts when a task leaves its CPU, and ``on_cpu`` is set as long as
        it is there: a task that ran differs in one of them.
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
        )


_task = tuple_maker_of(Task)


@lru_cache(maxsize=256)
def task_state_to_char(state: int, exit_state: int) -> str:
    """One letter for a task's state.

    Follows __task_state_index() and task_index_to_char() in linux/sched.h, v6.12;
    the bits of TASK_REPORT are the same since v4.14.
    """
    report = (state | exit_state) & _TASK_REPORT
    if state & _TASK_IDLE == _TASK_IDLE:
        report = _TASK_REPORT_IDLE
    if state & (_TASK_RTLOCK_WAIT | _TASK_FROZEN):
        report = _TASK_UNINTERRUPTIBLE
    return _STATE_CHARS[report.bit_length()]


_Read = Callable[[int, int], bytes]
"""Address, size -> so many bytes; a FaultError where they are not in the dump."""

_BLOCK_BYTES = 32 * 1024
"""How much is read at once where tasks lie side by side: as much as their slabs have, on most kernels."""


def _with_neighbours(read: _Read) -> _Read:
    """Reads of a memory that does not change, with what lies around them where that saves some.

    Much of what a read costs is to find the place: drgn goes through the page tables for each.
    Tasks made one after another follow each other on the list, and lie in one slab. But where
    they do not, more would be read for nothing: so a block is read when a second task of it is
    wanted, and with the first behind a block of which a second was.
    """
    last, data, pays = -1, b"", False

    def read_block(block: int) -> bytes:
        try:
            return read(block, _BLOCK_BYTES)
        except FaultError:
            return b""  # of one task that is missing, the others are read each for itself

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

    :param read: what reads memory, if not the program itself.
    :raises TypesError: the members of ``struct task_struct`` cannot lie as they are said to.
    """

    def __init__(self, prog: Program, layout: TaskLayout, read: Optional[_Read] = None) -> None:
        self._read_memory = prog.read if read is None else read
        self._size_bytes = layout.size_bytes
        self._names: BoundedCache[bytes, str] = BoundedCache(_MAX_NAMES)
        with probing(prog):
            self._unpack, self._absent, self._in_order = _members(layout)

    def read(self, addr: int) -> Task:
        """Read one task.

        :param addr: address of the ``struct task_struct``.
        :raises FaultError: it is not in the dump.
        """
        (
            pid, tgid, comm, state, exit_state, flags, stack, thread_sp, tasks_next, tasks_prev,
            thread_node_next, thread_node_prev, signal, nvcsw, nivcsw, stack_refcount, cpu, on_cpu,
        ) = self._in_order(
            self._unpack(self._read_memory(addr, self._size_bytes)) + self._absent
        )  # fmt: skip
        return _task(
            (
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
            )
        )

    def _name(self, comm: bytes) -> str:
        name = comm.split(b"\0", 1)[0].decode("utf-8", "backslashreplace")
        if len(comm) <= _MAX_COMM_BYTES:
            self._names[comm] = name
        return name


_MEMBERS = (
    "pid", "tgid", "comm", "state", "exit_state", "flags", "stack", "thread_sp", "tasks_next", "tasks_prev",
    "thread_node_next", "thread_node_prev", "signal", "nvcsw", "nivcsw", "stack_refcount", "cpu", "on_cpu",
)  # fmt: skip
"""Of :class:`.layout.TaskLayout`, in the order in which :class:`TaskReader` takes them."""
_WHERE_ABSENT = {"stack_refcount": 1, "cpu": 0, "on_cpu": 0}
_FORMATS = {1: "B", 2: "H", 4: "I", 8: "Q"}


class _Members(NamedTuple):
    """How to get all members out of the bytes of a task."""

    unpack: Callable[[bytes], tuple[Any, ...]]
    """In the order in which they lie in memory."""
    absent: tuple[int, ...]
    """What to take for those that this kernel does not have: to be put behind them."""
    in_order: Callable[[tuple[Any, ...]], tuple[Any, ...]]
    """Both -> as in :data:`_MEMBERS`."""


def _members(layout: TaskLayout) -> _Members:
    places = {name: place for name in _MEMBERS if (place := getattr(layout, name)) is not None}
    names = sorted(places, key=places.__getitem__)
    format_, end = "<", 0
    for name in names:
        offset, size = places[name]
        kind = f"{size}s" if name == "comm" else _FORMATS.get(size)
        if kind is None or offset < end:
            raise ValueError(f"struct task_struct cannot have {size} bytes at {offset} for {name}")
        format_ += f"{offset - end}x{kind}"
        end = offset + size
    names += _WHERE_ABSENT.keys() - places.keys()
    return _Members(
        Struct(f"{format_}{layout.size_bytes - end}x").unpack,
        tuple(_WHERE_ABSENT[name] for name in names[len(places) :]),
        itemgetter(*map(names.index, _MEMBERS)),
    )


def read_task(prog: Program, layout: Layout, addr: int) -> Task:
    """Read one task; for more than one a :class:`TaskReader` is quicker.

    :param addr: address of the ``struct task_struct``.
    :raises FaultError: it is not in the dump.
    """
    return TaskReader(prog, layout.task).read(addr)


class Cpu(NamedTuple):
    """One CPU's run queue."""

    number: int
    curr_addr: int
    """``runqueues.curr``: the task that is running there."""
    idle_addr: int
    """``runqueues.idle``."""


Links = Callable[[Task], tuple[int, int]]
"""A task -> (node ahead, node behind) in the direction of a walk."""

_TASKS: Links = attrgetter("tasks_next", "tasks_prev")
_TASKS_BACKWARD: Links = attrgetter("tasks_prev", "tasks_next")
_THREADS: Links = attrgetter("thread_node_next", "thread_node_prev")


class _ListWalk:
    """Where a walk along a ``struct list_head`` is, and what ended it early.

    Every node has to point back to what led to it. So none can be met twice (two would lead
    to it), and none from the other end that was met from this one: none need be remembered.
    """

    def __init__(
        self,
        head: int,
        first: int,
        previous: Optional[int] = None,
        signal_addr: Optional[int] = None,
        passed: int = 0,
    ) -> None:
        self.head = head
        self.first = self.node = first
        self.previous = head if previous is None else previous
        self.signal_addr = signal_addr
        self.passed = passed
        self.damage: Optional[str] = None


class TaskList:
    """The tasks of one kernel.

    Iterating never raises for bad data. A list that is damaged is walked from
    both ends as far as it goes, and :attr:`problems` says so.
    """

    def __init__(self, prog: Program, layout: Layout) -> None:
        self._prog = prog
        self._layout = layout
        self._read_task = self._reader().read
        self.problems: list[str] = []
        self.cpus: tuple[Cpu, ...] = tuple(self._read_cpus())
        self._current = frozenset(cpu.curr_addr for cpu in self.cpus)
        self._idle = frozenset(cpu.idle_addr for cpu in self.cpus)

    def _reader(self) -> TaskReader:
        return TaskReader(self._prog, self._layout.task, _with_neighbours(self._prog.read))

    def is_running(self, task: Task) -> bool:
        """Is the task on a CPU? The kernel then answers -EBUSY.

        Follows task_curr() in kernel/sched/core.c, which is what
        klp_check_and_switch_task() asks (v5.16 and later); a task just being
        switched (``on_cpu`` only) is no more at rest than a current one.
        """
        return task.on_cpu or task.addr in self._current

    def is_idle(self, task: Task) -> bool:
        """Is this the idle task of a CPU?"""
        return task.addr in self._idle

    def __iter__(self) -> Iterator[Task]:
        seen: set[int] = set()
        head_offset = self._layout.task.signal_thread_head
        for leader in self._leaders():
            head = leader.signal_addr + head_offset
            alone = leader.thread_node_next == leader.thread_node_prev == head
            for task in (leader,) if alone else self._threads(leader):
                if task.addr not in seen:
                    seen.add(task.addr)
                    yield task
        for cpu in self.cpus:
            if cpu.idle_addr not in seen:
                seen.add(cpu.idle_addr)
                idle = self._read(cpu.idle_addr)
                if idle is not None:
                    yield idle
                else:
                    self.problems.append(f"the idle task of CPU {cpu.number} is not in the dump")

    # ---- lists

    def _leaders(self) -> Iterator[Task]:
        """for_each_process(): the list through ``tasks``, from init_task, which is not on it."""
        init_task = symbol_address(self._prog, "init_task")
        head = None if init_task is None else self._read(init_task)
        if init_task is None or head is None or head.pid:
            self.problems.append("init_task is not in the dump, or damaged: no task list")
            return
        offset = self._layout.task.tasks_next[0]
        forward = _ListWalk(init_task + offset, head.tasks_next)
        yield from self._follow(forward, offset, _TASKS)
        if forward.damage is None:
            return
        # The other end of the list may still be whole.
        backward = _ListWalk(init_task + offset, head.tasks_prev, passed=forward.passed)
        found = 0
        for task in self._follow(backward, offset, _TASKS_BACKWARD):
            found += 1
            yield task
        self.problems.append(
            f"the task list is damaged: {forward.damage}; {found} more processes were found"
            " from its other end, others may be missing"
        )

    def _threads(self, leader: Task) -> Iterator[Task]:
        """for_each_thread(): the list through ``thread_node``, headed in the signal struct."""
        offset = self._layout.task.thread_node_next[0]
        head = leader.signal_addr + self._layout.task.signal_thread_head
        if leader.thread_node_prev == head:
            # The leader is the first thread, as ever but after an exec() by
            # another thread: one read saved for each process.
            yield leader
            threads = _ListWalk(
                head,
                leader.thread_node_next,
                previous=leader.addr + offset,
                signal_addr=leader.signal_addr,
            )
        else:
            try:
                first = self._prog.read_word(head & _ADDRESS_MASK)
                threads = _ListWalk(head, first, signal_addr=leader.signal_addr)
            except FaultError:
                threads = _ListWalk(head, head)
                threads.damage = f"its head at {head:#x} is not in the dump"
        yield from self._follow(threads, offset, _THREADS)
        if threads.damage is not None:
            yield leader  # the caller drops what it has seen already
            self.problems.append(
                f"the thread list of process {leader.tgid} is damaged: {threads.damage}"
            )

    def _follow(self, walk: _ListWalk, offset: int, links: Links) -> Iterator[Task]:
        while walk.node != walk.head:
            if walk.passed >= _MAX_TASKS:
                walk.damage = "it does not end"
                return
            task = self._read(walk.node - offset)
            if task is None:
                walk.damage = f"it leads to {walk.node - offset:#x}, which is not in the dump"
                return
            ahead, behind = links(task)
            if behind != walk.previous or walk.signal_addr not in (None, task.signal_addr):
                # Not a task, or not the next one: whatever follows is not ours.
                if self._was_passed(walk, offset, links):
                    walk.damage = f"it loops back to {walk.node:#x}"
                else:
                    walk.damage = f"{walk.node - offset:#x} does not point back to what led to it"
                return
            yield task
            walk.passed += 1
            walk.previous, walk.node = walk.node, ahead

    def _was_passed(self, walk: _ListWalk, offset: int, links: Links) -> bool:
        """Was the walk at its node before? It is walked anew, which happens once for a damaged list."""
        node = walk.first
        for _ in range(walk.passed):
            task = None if node == walk.node else self._read(node - offset)
            if task is None:
                break
            node = links(task)[0]
        else:
            return False
        return node == walk.node

    def _read(self, addr: int) -> Optional[Task]:
        try:
            # Masked, as C would: addresses come from pointers that may be damaged.
            return self._read_task(addr & _ADDRESS_MASK)
        except FaultError:
            return None

    # ---- CPUs

    def _cpu_numbers(self) -> list[int]:
        """CPUs that are online, or were when the machine panicked."""
        if self._layout.task.on_cpu is None:
            return [0]  # CONFIG_SMP=n
        # stop_this_cpu() in arch/x86/kernel/process.c (v6.12), by which panic() stops
        # the others, takes them off the online mask; only a hot-unplug, off the active one.
        masks = (self._prog[f"__cpu_{name}_mask"] for name in ("online", "active"))
        return sorted({cpu for mask in masks for cpu in cpus_in(mask)})

    def _read_cpus(self) -> Iterator[Cpu]:
        prog = self._prog
        try:
            numbers = self._cpu_numbers()
            runqueues = prog["runqueues"]
        except UNUSABLE as e:
            self.problems.append(f"which tasks are running cannot be read: {e}")
            return
        for number in numbers:
            try:
                rq = per_cpu(runqueues, number)
                cpu = Cpu(number, int(rq.curr.value_()), int(rq.idle.value_()))
            except UNUSABLE as e:
                self.problems.append(f"what runs on CPU {number} cannot be read: {e}")
            else:
                yield cpu
