# SPDX-License-Identifier: LGPL-2.1-or-later
"""Folded stacks, the input of flamegraph.pl, inferno and speedscope.

A line is ``outermost;...;innermost COUNT``. Functions have no offsets, so stacks that
differ only in the place of a call within a function are counted together.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from ..analysis.labels import function_label
from ..analysis.waiting import kernel_frames
from ..records import TaskStack
from ..terminal.escape import escape

__all__ = ("folded_lines",)


def folded_lines(tasks: Iterable[TaskStack], by_comm: bool = False) -> Iterator[str]:
    """Return the folded kernel stacks of tasks, most frequent first.

    A task without frames is counted under its reason, such as ``[running]``, or under ``[no_stack]``.

    :param by_comm: Put the name of the task first, as perf does.
    :return: Lines without newlines, safe for a terminal.
    """
    counts = Counter(_fold(task, by_comm) for task in tasks)
    return (f"{stack} {count}" for stack, count in counts.most_common())


def _fold(task: TaskStack, by_comm: bool) -> str:
    names = [function_label(frame) for frame in reversed(kernel_frames(task))]
    if not names:
        names = [f"[{task.reason.value if task.reason else 'no stack'}]"]
    if by_comm:
        names.insert(0, task.comm)
    return ";".join(map(_element, names))


def _element(name: str) -> str:
    # The format uses ";" and " " as separators; perf's scripts replace spaces with "_" as well.
    return escape(name).replace(";", ":").replace(" ", "_") or "_"
