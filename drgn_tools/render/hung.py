# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which tasks hang, on one page: what holds them up, then the tasks that wait, then the tasks on CPUs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Optional

from ..analysis.hangups import Blocked, Hangup, Holder, RootKind
from ..analysis.hung import HungReport, HungTask
from ..analysis.labels import function_label
from ..analysis.run_queues import CpuQueue
from ..analysis.waiting import waiting_function
from ..kernel.waiting.records import WaitKind
from ..records import TaskStack
from ..terminal.escape import escape
from . import columns
from .table import row_lines, wrap_line
from .waits import duration, exited_name, named, task_name, wait_label

__all__ = ("hung_line", "hung_lines")

_MAX_RUNNABLE = 5
_MAX_CIRCLE = 8


def hung_lines(
    report: HungReport, shown: Sequence[HungTask], width: Optional[int]
) -> Iterator[str]:
    """Yield the lines of a report.

    :param shown: The tasks to list, those of one hangup together.
    :param width: Largest number of characters in a line; ``None`` for any.
    """
    if shown:
        rows = row_lines(columns.HUNG, shown, width)
        yield from next(rows)
        for title, tasks in groupby(shown, lambda task: _title(report, task)):
            yield ""
            yield from _wrapped(title, width)
            for _ in tasks:
                yield from next(rows)
        yield ""
    for cpu in report.cpus:
        yield from _wrapped(_cpu_line(cpu), width)


def _wrapped(text: str, width: Optional[int]) -> list[str]:
    if width is None:
        return [escape(text)]
    return wrap_line(escape(text), width, indent="    ")


def hung_line(report: HungReport) -> str:
    """Return how many tasks hang, in a line."""
    total = sum(hangup.count for hangup in report.hangups)
    if not total:
        return "no task hangs"
    in_deadlock = sum(hangup.count for hangup in report.deadlocks)
    unknown = sum(h.count for h in report.hangups if h.kind is RootKind.UNKNOWN)
    parts = []
    if in_deadlock:
        number = len(report.deadlocks)
        parts.append(f"{in_deadlock} in or behind {number} deadlock{'' if number == 1 else 's'}")
    held = sum(h.count for h in report.hangups if h.kind is RootKind.TASK)
    if held:
        parts.append(f"{held} behind a known task")
    exited = sum(h.count for h in report.hangups if h.kind is RootKind.EXITED)
    if exited:
        parts.append(f"{exited} behind a task that has exited")
    waits = sum(h.count for h in report.hangups if h.kind is RootKind.WAIT)
    if waits:
        parts.append(f"{waits} behind something that does not record its holder")
    if unknown:
        parts.append(f"{unknown} for reasons not known")
    return f"{total} {'task hangs' if total == 1 else 'tasks hang'}: {', '.join(parts)}"


# ---- what holds tasks up


def _title(report: HungReport, task: HungTask) -> str:
    if task.hangup is None:
        return "asleep, and not hung"
    hangup = report.hangups[task.hangup]
    if hangup.kind is RootKind.DEADLOCK:
        return _deadlock_title(hangup)
    if hangup.kind is RootKind.UNKNOWN and hangup.count == 1:
        return "not known what they wait for"
    return f"{_root_title(hangup)}: {_tasks(hangup.count)}"


def _deadlock_title(hangup: Hangup) -> str:
    circle = [task_name(blocked.stack) for blocked in hangup.root]
    behind = f"; {_tasks(len(hangup.behind))} behind" if hangup.behind else ""
    if len(circle) == 1:
        return f"deadlock: {circle[0]} waits for what it holds itself{behind}"
    names = circle[:_MAX_CIRCLE]
    more = [f"({len(circle) - _MAX_CIRCLE} more)"] if len(circle) > _MAX_CIRCLE else []
    way = " -> ".join([*names, *more, circle[0]])
    return f"deadlock of {len(circle)} tasks: {way}{behind}"


def _root_title(hangup: Hangup) -> str:
    if hangup.holder is not None:
        return f"held up by {_holder_now(hangup.holder, hangup.root)}"
    if hangup.wait is None:
        first = hangup.behind[0][1].stack
        return f"not known what {task_name(first)} waits for"
    return _wait_title(hangup)


def _holder_now(holder: Holder, root: Sequence[Blocked]) -> str:
    """Return which task is the holder, and what it is doing."""
    task = holder.task
    if task is None:
        return exited_name(holder)
    name = task_name(task)
    if holder.has_exited:
        return f"{name}, which has exited ({task.state})"
    if task.on_cpu:
        return f"{name}, on CPU {task.cpu}{_in_function(task)}"
    if task.state == "R":
        return f"{name}, which wants to run on CPU {task.cpu}{_in_function(task)}"
    waits = [f", {wait_label(blocked)}" for blocked in root if blocked.wait is not None]
    slept = [f" for {duration(blocked.seconds)}" for blocked in root if blocked.seconds is not None]
    return f"{name}, asleep ({task.state}){''.join(slept)}{_in_function(task)}{''.join(waits)}"


def _wait_title(hangup: Hangup) -> str:
    wait = hangup.wait
    assert wait is not None
    what = named(wait, hangup.name)
    if wait.is_free:
        return f"{what}, which is free (its first waiter has been woken)"
    if wait.readers is not None:
        readers = f"{wait.readers} reader{'' if wait.readers == 1 else 's'}"
        return f"{what}, held by {readers} (not recorded){_hint(hangup.hint, 'last to read')}"
    if wait.kind is WaitKind.SEMAPHORE:
        return f"{what} (its holder is not recorded){_hint(hangup.hint, 'last to take it')}"
    return what


def _hint(hint: Optional[Holder], what: str) -> str:
    if hint is None:
        return ""
    if hint.task is None:
        return f"; {what}: a task that has exited"
    return f"; {what}, may be: {task_name(hint.task)}{_in_function(hint.task)}"


def _in_function(task: TaskStack) -> str:
    frame = waiting_function(task)
    if frame is None:
        return ""
    if frame.user_mode:
        return " in user mode"
    return f" in {function_label(frame)}" if frame.symbol else ""


def _tasks(number: int) -> str:
    return f"{number} task waits" if number == 1 else f"{number} tasks wait"


# ---- CPUs


def _cpu_line(cpu: CpuQueue) -> str:
    if cpu.current is None:
        now = "what runs cannot be read"
    elif cpu.is_idle:
        now = "idle"
    else:
        now = f"{task_name(cpu.current)}{_in_function(cpu.current)}"
    if not cpu.waiting:
        return f"CPU {cpu.cpu}: {now}"
    names = ", ".join(map(task_name, cpu.waiting[:_MAX_RUNNABLE]))
    more = len(cpu.waiting) - _MAX_RUNNABLE
    others = f" and {more} more" if more > 0 else ""
    return f"CPU {cpu.cpu}: {now}; wait to run there: {names}{others}"
