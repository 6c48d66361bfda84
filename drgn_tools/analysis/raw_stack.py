# SPDX-License-Identifier: LGPL-2.1-or-later
"""The words of a stack, and what each of them may be: :func:`raw_stack`."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Optional

from drgn import Program, sizeof
from drgn.helpers.common.prog import takes_program_or_default

from ..bounded_cache import BoundedCache
from ..engine.kernel import Kernel, kernel_of
from ..engine.task_records import WalkedStacks
from ..kernel.stack_memory import NotInDump, StackMemory
from ..kernel.tasks import Task
from ..memory import UNUSABLE
from ..records import TaskStack
from .labels import frame_label, place
from .raw_word import RawWord
from .resolve_task import WhichTask, find_task

__all__ = ("RawWords", "raw_stack")

_MAX_WORDS = 1 << 16
"""Most words of one stack: eight times what a stack of x86-64 with KASAN has."""
_MAX_TASKS = 100_000
"""Most tasks that are known as what a word may point to."""
_MAX_NAME_BYTES = 64
"""Limit of the name of a slab cache."""
_MAX_SLABS = 10_000
"""Most addresses that are cached with their slab cache, or as not from the slab allocator."""


@takes_program_or_default
def raw_stack(prog: Program, which: WhichTask) -> tuple[RawWord, ...]:
    """Return the words of a task's stacks, from the stack pointer up.

    A task on a CPU may have several stacks, innermost first; each is shown from the lowest word that the
    unwinder used there. On a running kernel, the words and the frames are from the same moment.

    :param which: As for :func:`~.audit.task_stack`
    :return: Empty for a task without a stack. On a running kernel also for a task on a CPU, and for one that ran
        each time that it was read
    :raises TaskNotFoundError: if there is no such task
    :raises TypesError: if types that a stack needs are missing or damaged
    """
    kernel = kernel_of(prog)
    task = find_task(prog, kernel.layout.task, kernel.tasks, which)
    return tuple(RawWords(prog).of(task.addr))


class RawWords:
    """Reads stacks of one kernel word by word."""

    def __init__(self, prog: Program) -> None:
        self._kernel = kernel_of(prog)
        self._pointers = _Pointers(prog, self._kernel)
        self._by_addr = self._pointers.tasks

    def of(self, task_addr: int) -> Iterator[RawWord]:
        """Yield the words of a task's stacks; see :func:`raw_stack`.

        :param task_addr: Address of its ``struct task_struct``. If the task has exited, nothing is yielded.
        """
        task = self._by_addr.get(task_addr)
        both = None if task is None else self._kernel.walked(task)
        if both is None:
            return
        record, walked = both
        found = _Found(record, walked, self._kernel)
        for memory, from_addr in _stacks_of(walked):
            yield from self._words(record, memory, from_addr, found)

    def _words(
        self, record: TaskStack, memory: StackMemory, from_addr: int, found: _Found
    ) -> Iterator[RawWord]:
        word_bytes = self._kernel.layout.word_bytes
        begin = from_addr - from_addr % word_bytes
        for addr in islice(range(begin, memory.end_addr, word_bytes), _MAX_WORDS):
            try:
                value = int.from_bytes(memory.read(addr, word_bytes), "little")
            except NotInDump:
                yield RawWord(record, memory.kind, addr, None)
                continue
            known = found.at(addr, value)
            if known is None and memory.begin_addr <= value < memory.end_addr:
                known = "stack", None, f"{value - addr:+#x}"
            if known is None:
                known = self._pointers.explain(value)
            yield RawWord(record, memory.kind, addr, value, *known)


_Known = tuple[Optional[str], Optional[int], Optional[str]]
"""Kind, frame, label of a :class:`RawWord`."""


def _stacks_of(walked: WalkedStacks) -> Iterator[tuple[StackMemory, int]]:
    """Yield each stack that a walk went over, with the lowest address that it used there."""
    places = [walked.sp_addr]
    for step in walked.walk.steps:
        place_ = step.found_at if step.regs is None else step.regs
        if place_ is not None:
            places.append(place_)
    lowest: dict[str, tuple[StackMemory, int]] = {}
    for addr in places:
        try:
            memory = walked.find_stack(addr)
        except NotInDump:
            continue
        if memory is not None:
            _, low = lowest.get(memory.kind, (memory, addr))
            lowest[memory.kind] = memory, min(low, addr)
    yield from lowest.values()


class _Found:
    """What the unwinder has found on the stacks of one task."""

    def __init__(self, record: TaskStack, walked: WalkedStacks, kernel: Kernel) -> None:
        regs = kernel.layout.regs
        self._kernel = kernel
        self._record = record
        self._frames: dict[int, int] = {}
        self._registers: dict[int, tuple[int, str]] = {}
        self._encoded: dict[int, int] = {}
        top_bit = 1 << 8 * regs.word_bytes - 1
        for number, step in enumerate(walked.walk.steps, walked.first_step):
            if step.regs is None:
                if step.found_at is not None:
                    self._frames[step.found_at] = number
                continue
            # If entry code had not yet completed a pt_regs, only its last registers are there.
            first = regs.size_bytes - len(step.raw_regs or b"")
            for name, offset, _ in regs.fields:
                if offset >= first:
                    self._registers[step.regs + offset] = number, name
            # ENCODE_FRAME_POINTER of asm/frame.h, on x86-64 and x86-32.
            self._encoded.update({step.regs | 1: number, step.regs & ~top_bit: number})

    def at(self, addr: int, value: int) -> Optional[_Known]:
        """Return what the word at an address is; ``None`` if the unwinder did not use it."""
        number = self._frames.get(addr)
        if number is not None:
            frame = self._record.frames[number]
            value = self._kernel.layout.code_address(value)
            rewritten = "" if frame.ip == value else f" (replaced by {_label(self._kernel, value)})"
            return "frame", number, frame_label(frame) + rewritten
        if addr in self._registers:
            number, name = self._registers[addr]
            is_text = (
                name == self._kernel.layout.regs.ip_name
                and not self._record.frames[number].user_mode
            )
            where = f" {_label(self._kernel, value)}" if is_text else ""
            return "regs", number, f"pt_regs.{name}{where}"
        if value in self._encoded:
            return "encoded", self._encoded[value], "pt_regs"
        return None


def _label(kernel: Kernel, addr: int) -> str:
    symbol = kernel.symbol_of(addr)
    return hex(addr) if symbol is None else place(addr, str(symbol), symbol.module)


class _Pointers:
    """What an address of one kernel may point to."""

    def __init__(self, prog: Program, kernel: Kernel) -> None:
        self._prog = prog
        self._kernel = kernel
        self._kernel_half = 1 << 8 * kernel.layout.word_bytes - 1
        self._slabs: BoundedCache[int, Optional[str]] = BoundedCache(_MAX_SLABS)
        self.tasks: Mapping[int, Task] = {
            task.addr: task for task in islice(kernel.tasks, _MAX_TASKS)
        }
        self._addrs = sorted(self.tasks)
        self._task_bytes = _size_of_task(prog)

    def explain(self, value: int) -> _Known:
        """Return what a value may be."""
        code = self._kernel.layout.code_address(value)
        if code & self._kernel_half and self._kernel.is_kernel_text(code):
            return "text", None, _label(self._kernel, code)
        if not value & self._kernel_half:
            return None, None, None
        symbol = self._kernel.symbol_of(value)
        if symbol is not None:
            return "symbol", None, place(value, str(symbol), symbol.module)
        task = self._task_at(value)
        if task is not None:
            offset = value - task.addr
            name = f'{task.pid} "{task.comm}"'
            return "task", None, f"{name}+{offset:#x}" if offset else name
        cache = self._slab_cache(value)
        return (None, None, None) if cache is None else ("slab", None, cache)

    def _task_at(self, value: int) -> Optional[Task]:
        i = bisect_right(self._addrs, value) - 1
        if i < 0 or value - self._addrs[i] >= self._task_bytes:
            return None
        return self.tasks[self._addrs[i]]

    def _slab_cache(self, value: int) -> Optional[str]:
        if value not in self._slabs:
            self._slabs[value] = _slab_cache_of(self._prog, value)
        return self._slabs[value]


def _size_of_task(prog: Program) -> int:
    try:
        return int(sizeof(prog.type("struct task_struct")))
    except UNUSABLE:
        return 1


def _slab_cache_of(prog: Program, value: int) -> Optional[str]:
    from drgn.helpers.linux.slab import (
        find_containing_slab_cache,  # this loads all of drgn's helpers
    )

    try:
        cache = find_containing_slab_cache(prog, value)
        if not cache:
            return None
        name = bytes(prog.read_c_string(cache.name.value_(), max_size=_MAX_NAME_BYTES))
    except (NotImplementedError, *UNUSABLE):  # drgn has no address translation for x86-32
        return None
    return name.decode("utf-8", "backslashreplace")
