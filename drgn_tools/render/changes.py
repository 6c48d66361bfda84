# SPDX-License-Identifier: LGPL-2.1-or-later
"""The changes that ``tasks --watch`` found, one line each: as a table, or as JSON."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator

from ..analysis.changes import Change
from ..terminal.escape import escape

__all__ = ("change_lines",)


def change_lines(changes: Iterable[Change], when: float, style: str) -> Iterator[str]:
    """Return one line for each change.

    :param when: Time of the audit, in seconds since 1970.
    :param style: ``table`` (columns for people, in local time) or ``jsonl``.
    :return: Lines without newlines, safe for a terminal.
    """
    for change in changes:
        yield _json(change, when) if style == "jsonl" else _text(change, when)


def _text(change: Change, when: float) -> str:
    clock = time.strftime("%H:%M:%S", time.localtime(when))
    task = change.task
    return (
        f"{clock}  {_verdict(change):<10}  {task.pid:>7}  {escape(task.comm):<16}  {_why(change)}"
    ).rstrip()


def _verdict(change: Change) -> str:
    return "exited" if change.verdict is None else change.verdict.value


def _why(change: Change) -> str:
    parts = [] if change.verdict is None else [escape(change.task.why or "")]
    if change.before is not None:
        parts.append(f"was {change.before.value} for {change.seconds:.0f} s")
    return "; ".join(filter(None, parts))


def _json(change: Change, when: float) -> str:
    task = change.task
    gone = change.verdict is None
    return json.dumps(
        {
            "time": round(when, 3),
            "task": hex(task.task),
            "pid": task.pid,
            "comm": task.comm,
            "verdict": change.verdict and change.verdict.value,
            "reason": None if gone or task.reason is None else task.reason.value,
            "why": None if gone else task.why,
            "before": change.before and change.before.value,
            "seconds": round(change.seconds, 3),
        }
    )
