# SPDX-License-Identifier: LGPL-2.1-or-later
"""The lines that stand above and below a result: which kernel, how many of what."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from ..records import KernelInfo, Reason, Verdict

__all__ = ("audit_warnings", "kernel_line", "unjudged_line", "unreadable_line", "verdict_line")


def kernel_line(kernel: KernelInfo) -> str:
    """Which kernel, and how its stacks are read."""
    unwinder = {"frame_pointer": "frame pointers", "orc": "ORC", "guess": "guess"}
    how = unwinder.get(kernel.unwinder or "", "unknown")
    encoding = f" ({kernel.encoding} encoding)" if kernel.encoding else ""
    return (
        f"{kernel.source}: Linux {kernel.release} {kernel.arch}, {_count(kernel.cpus, 'CPU')}, "
        f"unwinder: {how}{encoding}, types: {kernel.types}"
    )


def verdict_line(counts: Mapping[Verdict, int]) -> str:
    """How many tasks have which verdict."""
    each = ", ".join(f"{counts.get(verdict, 0)} {verdict.value}" for verdict in Verdict)
    return f"{_count(sum(counts.values()), 'task')}: {each}"


def unjudged_line(reasons: Counter[Reason], why: Mapping[Reason, str]) -> str:
    """How many tasks could not be judged, and why.

    :param reasons: how many for which reason.
    :param why: the sentences of reasons that all tasks of a kernel share.
    """
    each = (
        f"{number} {reason}{f' ({why[reason]})' if reason in why else ''}"
        for reason, number in reasons.most_common()
    )
    return f"{_count(sum(reasons.values()), 'task')} could not be judged: {', '.join(each)}"


def unreadable_line(count: int) -> str:
    """How many stacks have a verdict of ``unreadable``."""
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
