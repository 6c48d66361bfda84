# SPDX-License-Identifier: LGPL-2.1-or-later
"""The stamps of the scheduler in a drawn task: how long it has not run, and whether it is younger than a wait."""

from __future__ import annotations

from typing import Optional

import pytest

from drgn_tools.kernel.tasks import Task
from drgn_tools.kernel.waiting.clock import NotRunFor, SchedulerClock

from ...support.drawn_waits import OLD_LOCKS, DrawnWaits

S = 1_000_000_000
NOW = 1000 * S


class Drawn:
    """A task, and two run queues: the one of CPU 1 has the newer clock."""

    def __init__(self, lag_ns: int = 0) -> None:
        waits = self.waits = DrawnWaits(OLD_LOCKS)
        kernel = waits.kernel
        kernel.struct("sched_entity", "unsigned long exec_start")
        kernel.struct("sched_info", "unsigned long last_arrival")
        kernel.struct(
            "task_struct",
            "struct sched_entity se; struct sched_info sched_info; unsigned long start_time;"
            "unsigned long last_switch_count; unsigned long last_switch_time",
        )
        kernel.struct("rq", "unsigned long clock; unsigned long clock_task")
        kernel.struct("clocksource", "unsigned int mult; unsigned int shift")
        queues = [
            kernel.new("struct rq", {"clock": clock, "clock_task": clock - lag_ns})
            for clock in (NOW - 5 * S, NOW)
        ]
        kernel.variable("runqueues", "struct rq")
        base = kernel.prog["runqueues"].address_
        kernel.variable("__per_cpu_offset", "unsigned long [2]", [addr - base for addr in queues])
        kernel.variable("jiffies", "unsigned long", 10_000)
        kernel.variable(
            "clocksource_jiffies", "struct clocksource", {"mult": 4_000_000 << 8, "shift": 8}
        )
        self.task: Task = waits.tasks[0]

    def write(self, **members: int) -> None:
        for name, value in members.items():
            full = {"exec_start": "se.exec_start", "last_arrival": "sched_info.last_arrival"}
            self.waits.member("struct task_struct", self.task.addr, full.get(name, name), value)

    @property
    def clock(self) -> SchedulerClock:
        return SchedulerClock(self.waits.kernel.prog, self.waits.memory(), [0, 1])

    def not_run_for(self) -> NotRunFor:
        return self.clock.not_run_for(self.task)


def test_since_it_left_its_cpu() -> None:
    drawn = Drawn()
    drawn.write(exec_start=NOW - 30 * S, last_arrival=NOW - 31 * S)
    assert drawn.not_run_for() == NotRunFor(30.0, "exec_start")


def test_the_clock_of_tasks_leaves_interrupts_out() -> None:
    drawn = Drawn(lag_ns=2 * S)
    drawn.write(exec_start=NOW - 32 * S)
    assert drawn.not_run_for().seconds == 30.0


@pytest.mark.parametrize("exec_start", [0, NOW + S, NOW - 40 * S])
def test_since_it_came_to_its_cpu_if_the_other_stamp_is_missing_or_impossible(
    exec_start: int,
) -> None:
    drawn = Drawn()
    drawn.write(exec_start=exec_start, last_arrival=NOW - 31 * S)
    assert drawn.not_run_for() == NotRunFor(31.0, "last_arrival")


def test_no_stamp_at_all() -> None:
    assert Drawn().not_run_for() == NotRunFor()


@pytest.mark.parametrize(("count", "seen"), [(1, 8.0), (2, None), (0, None)])
def test_what_khungtaskd_has_seen(count: int, seen: Optional[float]) -> None:
    """The task has switched once; 2000 jiffies of 4 ms ago it had, too."""
    drawn = Drawn()
    drawn.write(last_switch_count=count, last_switch_time=8_000)
    assert drawn.not_run_for().seen_seconds == seen


def test_younger_than_a_wait() -> None:
    drawn = Drawn()
    drawn.write(start_time=NOW - 10 * S)
    clock = drawn.clock
    assert clock.is_younger(drawn.task, 30.0)
    # The clocks may be apart: by 2 s, and 1 ms for each second of 1000.
    assert clock.is_younger(drawn.task, 13.1)
    assert not clock.is_younger(drawn.task, 12.9)
    assert not clock.is_younger(drawn.task, 5.0)
    drawn.write(start_time=0)
    assert not drawn.clock.is_younger(drawn.task, 30.0)
