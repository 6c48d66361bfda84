# SPDX-License-Identifier: LGPL-2.1-or-later
"""Reading what connects waiting tasks: words, rings of nodes, stacks."""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping
from typing import Callable, Optional

import msgspec
from drgn import Program, TypeKind, offsetof

from ...memory import UNUSABLE, read_or_none
from ..live_tasks import is_live
from ..stack_memory import NotInDump, StackMemory
from ..tasks import Task

__all__ = ("MAX_WAITERS", "Sleeper", "TasksByStack", "WaitMemory")

MAX_WAITERS = 100_000
"""More nodes on one list are damage."""
_FORMATS = {4: "I", 8: "Q"}
_TASK_ALIGN_BYTES = 64
"""Least alignment of ``struct task_struct``: L1_CACHE_BYTES (kernel/fork.c)."""


class Sleeper(msgspec.Struct, frozen=True):
    """A task that does not run, and the live part of its stack."""

    task: Task
    """The task."""
    memory: StackMemory
    """Its stack, from the saved stack pointer up."""
    functions: tuple[str, ...] = ()
    """Names of the functions on its stack, innermost first. Frames without a symbol are left out."""


class TasksByStack:
    """The tasks of a kernel, by address and by the stack that an address is on.

    :param stack_bytes: THREAD_SIZE
    """

    def __init__(self, tasks: Iterable[Task], stack_bytes: int) -> None:
        self.by_addr: Mapping[int, Task] = {task.addr: task for task in tasks}
        self._stack_bytes = stack_bytes
        stacks = sorted(
            (task.stack_addr, task.addr) for task in self.by_addr.values() if task.has_stack
        )
        self._begins = [begin for begin, _ in stacks]
        self._addrs = [addr for _, addr in stacks]

    def on_stack_of(self, addr: int) -> Optional[int]:
        """Return the address of the ``struct task_struct`` of the task on whose stack a virtual address is."""
        i = bisect_right(self._begins, addr) - 1
        if i < 0 or addr >= self._begins[i] + self._stack_bytes:
            return None
        return self._addrs[i]


class WaitMemory:
    """Reads the memory of one kernel.

    :param name_exact: Virtual address -> name of the function that begins there; ``None`` if none does
    """

    def __init__(
        self,
        prog: Program,
        word_bytes: int,
        tasks: TasksByStack,
        name_exact: Callable[[int], Optional[str]],
    ) -> None:
        self.prog = prog
        self.word_bytes = word_bytes
        self.tasks = tasks
        self.name_exact = name_exact
        self._word = struct.Struct(f"<{_FORMATS[word_bytes]}")
        self._two = struct.Struct(f"<2{_FORMATS[word_bytes]}")
        self._offsets: dict[tuple[str, str], Optional[int]] = {}
        self._rings: dict[int, Optional[tuple[int, ...]]] = {}
        self.keeps = not is_live(prog)
        """What was read of a ring can be cached for all of its nodes, because the memory does not change."""

    def offset(self, type_name: str, member: str) -> Optional[int]:
        """Return the offset of a member in bytes, ``None`` if this kernel has no such type or member."""
        key = (type_name, member)
        if key not in self._offsets:
            try:
                self._offsets[key] = offsetof(self.prog.type(type_name), member)
            except (*UNUSABLE, SyntaxError):
                self._offsets[key] = None
        return self._offsets[key]

    def has(self, type_name: str, *members: str) -> bool:
        """Return whether this kernel has a type with these members."""
        return all(self.offset(type_name, member) is not None for member in members)

    def at(self, type_name: str, member: str) -> int:
        """Return the offset of a member that :meth:`has` has found."""
        offset = self.offset(type_name, member)
        assert offset is not None, (type_name, member)
        return offset

    def is_pointer(self, type_name: str, member: str) -> bool:
        """Return whether a member that :meth:`has` has found is a pointer."""
        try:
            return self.prog.type(type_name).member(member).type.kind is TypeKind.POINTER
        except UNUSABLE:
            return False

    def word(self, addr: int) -> Optional[int]:
        """Read an ``unsigned long``; ``None`` if it is not in the dump."""
        data = read_or_none(self.prog, addr, self.word_bytes)
        return None if data is None else int(self._word.unpack(data)[0])

    def u32(self, addr: int) -> Optional[int]:
        """Read an ``unsigned int``; ``None`` if it is not in the dump."""
        data = read_or_none(self.prog, addr, 4)
        return None if data is None else int.from_bytes(data, "little")

    def byte(self, addr: int) -> Optional[int]:
        """Read one byte; ``None`` if it is not in the dump."""
        data = read_or_none(self.prog, addr, 1)
        return None if data is None else data[0]

    def ring(self, node: int, sleeper: Sleeper) -> Optional[tuple[int, ...]]:
        """Return the addresses of all nodes of a ring of ``struct list_head``.

        They begin with the lowest address, so that the tuple is the same for each of the nodes.

        :param node: One of the nodes; a node on the stack of *sleeper* needs no read
        :return: ``None`` if it is not a ring: a node is not in the dump, or does not point back to the node that led
            to it, or there are too many nodes
        """
        if node in self._rings:
            return self._rings[node]
        nodes = self._walk(node, sleeper)
        ring = None
        if nodes is not None:
            first = nodes.index(min(nodes))
            ring = tuple(nodes[first:] + nodes[:first])
        if self.keeps:
            self._rings.update(dict.fromkeys(ring or (node,), ring))
        return ring

    def _walk(self, node: int, sleeper: Sleeper) -> Optional[list[int]]:
        links = self._links_on_stack(node, sleeper)
        if links is None:
            return None
        nodes = [node]
        first_prev = links[1]
        previous = node
        while (ahead := links[0]) != node:
            if len(nodes) >= MAX_WAITERS:
                return None
            links = self._links(ahead)
            if links is None or links[1] != previous:
                return None
            nodes.append(ahead)
            previous = ahead
        return nodes if first_prev == previous else None

    def _links_on_stack(self, node: int, sleeper: Sleeper) -> Optional[tuple[int, int]]:
        try:
            data = sleeper.memory.read(node, 2 * self.word_bytes)
        except NotInDump:
            return self._links(node)
        ahead, behind = self._two.unpack(data)
        return ahead, behind

    def _links(self, node: int) -> Optional[tuple[int, int]]:
        if node % self.word_bytes or not node:
            return None
        data = read_or_none(self.prog, node, 2 * self.word_bytes)
        if data is None:
            return None
        ahead, behind = self._two.unpack(data)
        return ahead, behind

    def slots_of(self, sleeper: Sleeper, value: int) -> Iterator[int]:
        """Yield the virtual addresses of the slots of a stack that hold a value, from the innermost on."""
        wanted = self._word.pack(value)
        memory = sleeper.memory
        at = memory.data.find(wanted)
        while at >= 0:
            addr = memory.data_addr + at
            if not addr % self.word_bytes:
                yield addr
            at = memory.data.find(wanted, at + 1)

    def words_of(self, sleeper: Sleeper) -> Iterator[int]:
        """Yield all words of a stack, from the innermost on, each value once."""
        memory = sleeper.memory
        begin = -memory.data_addr % self.word_bytes
        end = begin + (len(memory.data) - begin) // self.word_bytes * self.word_bytes
        seen: set[int] = set()
        for (word,) in self._word.iter_unpack(memory.data[begin:end]):
            if word not in seen:
                seen.add(word)
                yield word

    def may_be_task(self, addr: int) -> bool:
        """Return whether an address is that of a task, or may once have been one.

        A lock whose owner has exited points to memory that is no longer a task. But the address is aligned as
        that of a task, and is in the kernel's memory.
        """
        if addr in self.tasks.by_addr:
            return True
        is_kernel = addr >> (8 * self.word_bytes - 1) == 1
        return is_kernel and not addr % _TASK_ALIGN_BYTES and self.word(addr) is not None

    def waiting_task(self, task_slot: int) -> Optional[int]:
        """Return the task that a slot names, if the slot is on the stack of that very task."""
        task = self.tasks.on_stack_of(task_slot)
        return task if task is not None and self.word(task_slot) == task else None
