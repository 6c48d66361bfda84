# SPDX-License-Identifier: LGPL-2.1-or-later
"""Records as text: the result of ``str()``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..analysis.hangups import Blocked
from ..analysis.hung import HungReport
from ..analysis.task_diff import ChangeKind, TaskDiff
from ..records import TaskStack
from ..terminal.escape import escape
from .columns import DIFF
from .hung import hung_line, hung_lines
from .stack import draw_stack
from .summary import diff_line, different_boots_line
from .table import table_lines
from .waits import task_name, wait_label

__all__ = ("text_of",)


def text_of(record: Any) -> str:
    """Return a record as lines joined by newlines, safe for a terminal.

    :param record: A :class:`.Drawn` record.
    """
    if isinstance(record, TaskStack):
        return draw_stack(record)
    if isinstance(record, HungReport):
        return "\n".join(_hung(record))
    if isinstance(record, Blocked):
        return escape(_blocked(record))
    if isinstance(record, TaskDiff):
        return "\n".join(_diff(record))
    return escape(repr(record))


def _hung(report: HungReport) -> Iterator[str]:
    hung = [task for task in report.tasks() if task.hangup is not None]
    yield from hung_lines(report, hung, None)
    yield hung_line(report)


def _blocked(blocked: Blocked) -> str:
    state = f"asleep ({blocked.stack.state})"
    return f"{task_name(blocked.stack)}, {state}: {wait_label(blocked)}"


def _diff(diff: TaskDiff) -> Iterator[str]:
    changes = [change for change in diff.changes if change.kind is not ChangeKind.STILL]
    yield from table_lines(DIFF, changes)
    yield ""
    if not diff.same_boot:
        yield escape(different_boots_line(diff))
    yield escape(diff_line(diff))
