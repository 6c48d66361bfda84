# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a task waits for, in words."""

from __future__ import annotations

from typing import Optional

from ..analysis.hangups import Blocked, Holder
from ..analysis.labels import function_label
from ..analysis.waiting import waiting_function
from ..kernel.waiting.records import Wait, WaitKind
from ..records import TaskStack

__all__ = ("duration", "exited_name", "named", "task_name", "wait_label")

_MINUTE_S = 60
_HOUR_S = 3600
_DAY_S = 86400


def task_name(task: TaskStack) -> str:
    """Return the name of a task with its PID: ``kworker/0:1 (42)``."""
    return f"{task.comm} ({task.pid})"


def exited_name(holder: Holder) -> str:
    """Return what is known of a holder that has exited."""
    if holder.successor is not None:
        return (
            f"a task that has exited (its memory is that of {task_name(holder.successor)} by now)"
        )
    return f"a task that has exited (no task is at {holder.address:x} any more)"


def duration(seconds: Optional[float]) -> str:
    """Return a time: ``8.3 s``, ``12 min``, ``3.2 h``; ``-`` for ``None``."""
    if seconds is None:
        return "-"
    if seconds < 2 * _MINUTE_S:
        return f"{seconds:.1f} s"
    if seconds < 2 * _HOUR_S:
        return f"{seconds / _MINUTE_S:.0f} min"
    if seconds < 2 * _DAY_S:
        return f"{seconds / _HOUR_S:.1f} h"
    return f"{seconds / _DAY_S:.1f} d"


def named(wait: Wait, name: Optional[str]) -> str:
    """Return the name of a wait: ``mutex ffffffffc05672a0``, ``mutex rtnl_mutex``, ``bit 3 of ff...``.

    :param name: As :attr:`.Blocked.name`.
    """
    place = name or f"{wait.address:x}"
    if wait.kind is WaitKind.BIT:
        return f"{wait.detail} of {place}"
    detail = f" ({wait.detail})" if wait.detail else ""
    return f"{wait.kind.value} {place}{detail}"


def wait_label(blocked: Blocked) -> str:
    """Return what a task waits for, and which task holds it."""
    wait = blocked.wait
    if wait is None:
        frame = waiting_function(blocked.stack)
        where = f", in {function_label(frame)}" if frame is not None and frame.symbol else ""
        return f"not known{where}"
    to = f", to {wait.mode}" if wait.mode else ""
    return f"{named(wait, blocked.name)}{to}{_held(blocked)}"


def _held(blocked: Blocked) -> str:
    wait, holder = blocked.wait, blocked.holder
    if wait is None or wait.is_free:
        return "" if wait is None else ", free by now"
    if holder is None:
        return ""
    if holder.task is None:
        return f", held by {exited_name(holder)}"
    return f", held by {task_name(holder.task)}"
