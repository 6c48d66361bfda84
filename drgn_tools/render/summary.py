# SPDX-License-Identifier: LGPL-2.1-or-later
"""The lines before and after a result: which kernel, and how many tasks have which verdict."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from ..records import KernelInfo, Reason, Verdict

__all__ = ("audit_warnings", "kernel_line", "unjudged_line", "unreadable_line", "verdict_line")


def kernel_line(kernel: KernelInfo) -> str:
    """Return a line that says which kernel this is, and how its stacks are read."""
    unwinder = {"frame_pointer": "frame pointers", "orc": "ORC", "guess": "guess"}
    how = unwinder.get(kernel.unwinder or "", "unknown")
    encoding = f" ({kernel.encoding} encoding)" if kernel.encoding else ""
    return (
        f"{kernel.source}: Linux {kernel.release} {kernel.arch}, {_machine(kernel)}"
        f"{_count(kernel.cpus, 'CPU')}, unwinder: {how}{encoding}, types: {kernel.types}"
    )


def _machine(kernel: KernelInfo) -> str:
    host = "" if kernel.host is None else f"host {kernel.host}, "
    return host if kernel.uptime_s is None else f"{host}up {_duration(kernel.uptime_s)}, "


def _duration(seconds: int) -> str:
    """Return a time in its two largest units: ``3 d 5 h``, ``18 min 2 s``."""
    units = (("d", seconds // 86400), ("h", seconds // 3600 % 24), ("min", seconds // 60 % 60))
    parts = [f"{number} {unit}" for unit, number in (*units, ("s", seconds % 60))]
    first = next((i for i, part in enumerate(parts) if not part.startswith("0 ")), len(parts) - 1)
    return " ".join(part for part in parts[first : first + 2] if not part.startswith("0 ")) or "0 s"


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
