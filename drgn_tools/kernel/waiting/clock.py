# SPDX-License-Identifier: LGPL-2.1-or-later
"""How long a task has not run: the stamps that the scheduler and khungtaskd leave in it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Optional

import msgspec
from drgn import Object, Program

from ...memory import UNUSABLE
from ..per_cpu import per_cpu
from ..probing import symbol_address
from ..tasks import Task
from .memory import WaitMemory

__all__ = ("NotRunFor", "SchedulerClock")

_NS_PER_S = 1_000_000_000
_CLOCKS_APART_NS = 2 * _NS_PER_S
_CLOCKS_DRIFT = 1000
"""Limits of the difference between the two clocks: what they began with, and 1/1000 of the time since then, twice
the 500 ppm by which NTP may adjust one."""


class NotRunFor(msgspec.Struct, frozen=True):
    """How long a task has not run, and by which stamp."""

    seconds: Optional[float] = None
    """Time from the stamp to the newest clock of a run queue; ``None`` without a stamp."""
    stamp: Optional[str] = None
    """``exec_start`` (``task->se.exec_start``: when it left its CPU) or ``last_arrival``
    (``task->sched_info.last_arrival``: when it last came to its CPU; the time that it has not run is shorter)."""
    seen_seconds: Optional[float] = None
    """khungtaskd has seen it for so long without a switch (``task->last_switch_time``); ``None`` if it has not looked."""


class SchedulerClock:
    """The clocks of the run queues of one kernel, read once.

    :param cpus: Numbers of its CPUs
    """

    def __init__(self, prog: Program, memory: WaitMemory, cpus: Sequence[int]) -> None:
        self._memory = memory
        self._lag: dict[int, int] = {}
        clocks = []
        for cpu in cpus:
            found = _clocks_of(prog, cpu)
            if found is not None:
                clock, clock_task = found
                clocks.append(clock)
                # clock_task excludes the time of interrupts, and the time that a hypervisor took.
                self._lag[cpu] = max(clock - clock_task, 0)
        self.now_ns: Optional[int] = max(clocks, default=None)
        """``rq->clock`` of the CPU that updated it last, in ns; ``None`` if none can be read."""
        self._jiffies = _variable(prog, "jiffies", "unsigned long")
        self._tick_ns = _tick_ns(prog)

    def not_run_for(self, task: Task) -> NotRunFor:
        """Return how long a task that sleeps has not run."""
        seen = self._seen_seconds(task)
        if self.now_ns is None:
            return NotRunFor(seen_seconds=seen)
        arrival = self._word(task, "sched_info.last_arrival") or 0
        left = self._word(task, "se.exec_start") or 0
        if left:
            left += self._lag.get(task.cpu, 0)
        for ns, stamp in ((left, "exec_start"), (arrival, "last_arrival")):
            # The task cannot have left its CPU before it came.
            if ns and arrival <= ns <= self.now_ns:
                return NotRunFor((self.now_ns - ns) / _NS_PER_S, stamp, seen)
        return NotRunFor(seen_seconds=seen)

    def is_younger(self, task: Task, seconds: float) -> bool:
        """Return whether a task certainly did not exist so many seconds ago.

        ``task->start_time`` is of CLOCK_MONOTONIC. NTP adjusts that clock, and it does not begin with the
        clock of the run queues. So a task counts as younger only by a margin that allows for both.
        """
        start = self._word(task, "start_time")
        if not start or self.now_ns is None:
            return False
        margin = _CLOCKS_APART_NS + self.now_ns // _CLOCKS_DRIFT
        return start - margin > self.now_ns - seconds * _NS_PER_S

    def _seen_seconds(self, task: Task) -> Optional[float]:
        """Follow check_hung_task() in kernel/hung_task.c, v6.12."""
        count = self._long(task, "last_switch_count")
        time = self._long(task, "last_switch_time")
        if not count or not time or count != task.switches:
            return None
        if self._jiffies is None or not self._tick_ns:
            return None
        ticks = self._jiffies - time
        return ticks * self._tick_ns / _NS_PER_S if ticks >= 0 else None

    def _word(self, task: Task, member: str) -> Optional[int]:
        """Read a u64 of a task."""
        offset = self._memory.offset("struct task_struct", member)
        if offset is None:
            return None
        low = self._memory.u32(task.addr + offset)
        high = self._memory.u32(task.addr + offset + 4)
        return None if low is None or high is None else high << 32 | low

    def _long(self, task: Task, member: str) -> Optional[int]:
        offset = self._memory.offset("struct task_struct", member)
        return None if offset is None else self._memory.word(task.addr + offset)


def _clocks_of(prog: Program, cpu: int) -> Optional[tuple[int, int]]:
    try:
        rq = per_cpu(prog["runqueues"], cpu)
        return int(rq.clock.value_()), int(rq.clock_task.value_())
    except UNUSABLE:
        return None


def _tick_ns(prog: Program) -> Optional[int]:
    """Return the length of a jiffy in ns, according to the clock source that counts jiffies."""
    address = symbol_address(prog, "clocksource_jiffies")
    if address is None:
        return None
    try:
        clock = Object(prog, "struct clocksource", address=address)
        return int(clock.mult.value_()) >> min(int(clock.shift.value_()), 64)
    except UNUSABLE:
        return None


def _variable(prog: Program, name: str, type_name: str) -> Optional[int]:
    address = symbol_address(prog, name)
    if address is None:
        return None
    try:
        return int(Object(prog, type_name, address=address).value_())
    except UNUSABLE:
        return None
