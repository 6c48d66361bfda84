# SPDX-License-Identifier: LGPL-2.1-or-later
"""``tasks --watch``: what changes on a running kernel."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Iterator
from functools import partial

from ..analysis.changes import Watch
from ..records import TaskStack
from ..render.changes import change_lines
from .session import Session
from .tasks import TasksArguments

__all__ = ("watch_tasks",)


def watch_tasks(args: TasksArguments, every_s: float, session: Session) -> None:
    """Audit the tasks again and again, and show the changes.

    Ends when Ctrl-C is pressed, or with ``--until-reliable`` when each task was reliable once.

    :param every_s: Seconds from one audit to the next.
    """
    watch = Watch()
    for look in itertools.count(1):
        began = time.monotonic()
        audit = session.audit_all(args.max_tasks)
        tasks = list(session.select(audit, args.selection, args.check))
        session.show(tasks, partial(_changes, watch, began, session.style))
        if args.until_reliable and not watch.waiting:
            break
        session.console.progress(
            f"look {look}: {len(tasks)} tasks, {watch.waiting} not reliable yet"
        )
        time.sleep(max(0.0, began + every_s - time.monotonic()))


def _changes(
    watch: Watch, looked_at: float, style: str, tasks: Iterable[TaskStack]
) -> Iterator[str]:
    return change_lines(watch.look(tasks, looked_at), time.time(), style)
