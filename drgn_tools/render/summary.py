# SPDX-License-Identifier: LGPL-2.1-or-later
"""The lines before and after a result: which kernel, and how many tasks have which verdict."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Mapping, Sequence

from ..analysis.selection import STATES, Selection
from ..records import KernelInfo, Reason, Verdict

__all__ = (
    "audit_warnings",
    "kernel_line",
    "nothing_selected_line",
    "unjudged_line",
    "unreadable_line",
    "verdict_line",
)


def kernel_line(kernel: KernelInfo) -> str:
    """Return a line that says which kernel this is, and how its stacks are read."""
    unwinder = {"frame_pointer": "frame pointers", "orc": "ORC", "guess": "guess"}
    how = unwinder.get(kernel.unwinder or "", "unknown")
    encoding = f" ({kernel.encoding} encoding)" if kernel.encoding else ""
    return (
        f"{kernel.source}: Linux {kernel.release} {kernel.arch}, {_count(kernel.cpus, 'CPU')}, "
        f"unwinder: {how}{encoding}, types: {kernel.types}"
    )


def verdict_line(counts: Mapping[Verdict, int]) -> str:
    """Return a line that says how many tasks have which verdict.

    :param counts: Number of tasks for each verdict; a verdict without tasks may be missing.
    """
    each = ", ".join(f"{counts.get(verdict, 0)} {verdict.value}" for verdict in Verdict)
    return f"{_count(sum(counts.values()), 'task')}: {each}"


def unjudged_line(reasons: Counter[Reason], why: Mapping[Reason, str]) -> str:
    """Return a line that says how many tasks could not be judged, and why.

    :param reasons: Number of tasks for each reason.
    :param why: Sentences for the reasons that all tasks of a kernel share.
    """
    each = (
        f"{number} {reason}{f' ({why[reason]})' if reason in why else ''}"
        for reason, number in reasons.most_common()
    )
    return f"{_count(sum(reasons.values()), 'task')} could not be judged: {', '.join(each)}"


_COMM_BYTES = 15
"""TASK_COMM_LEN without the zero (include/linux/sched.h)."""


def nothing_selected_line(selection: Selection) -> str:
    """Return a line that says that no task matches, with a hint where something else may be meant.

    :param selection: What selected nothing.
    """
    return f"no task matches {selection.typed}{_meant(selection)}"


def _meant(selection: Selection) -> str:
    long = [pattern for pattern in selection.comms if len(pattern.replace("*", "")) > _COMM_BYTES]
    if long:
        least = shlex.quote(long[0][: _COMM_BYTES - 1] + "*")
        return (
            f": the kernel keeps {_COMM_BYTES} bytes of the name of a process, as in --comm {least}"
        )
    word = selection.tasks[0] if len(selection.tasks) == 1 else None
    if not isinstance(word, str) or shlex.quote(word) != selection.typed:
        return ""
    if word in {verdict.value for verdict in Verdict}:
        return f": --verdict {word} chooses by the verdict"
    if set(word) <= set(STATES):
        return f": --state {selection.typed} chooses by the state"
    return f": --function {selection.typed} chooses by functions on the stack"


def unreadable_line(count: int) -> str:
    """Return a line that says how many stacks are unknown for the reason ``unreadable``."""
    return f"{count} of the stacks could not be read to the end (unreadable)"


def audit_warnings(problems: Sequence[str], unreadable: int) -> list[str]:
    """Return a line for each thing that an audit could not read.

    :param problems: :attr:`~drgn_tools.records.KernelAudit.problems` of the audit.
    :param unreadable: Number of stacks that could not be read to the end.
    :return: The lines. If there are none, the audit is complete.
    """
    return [*problems, *([unreadable_line(unreadable)] if unreadable else [])]


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
