# SPDX-License-Identifier: LGPL-2.1-or-later
"""Folded stacks, the input of flamegraph.pl, inferno and speedscope.

A line is ``outermost;...;innermost COUNT``: functions without offsets, so
stacks that differ only in where a function calls the next become one.
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
    """The stacks of *tasks* in the kernel, most frequent first.

    A task without frames counts as ``[running]``, or by its verdict.

    :param by_comm: put the name of the task first, as perf does.
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
    # The two characters the format is made of; perf's scripts use _ as well.
    return escape(name).replace(";", ":").replace(" ", "_") or "_"
