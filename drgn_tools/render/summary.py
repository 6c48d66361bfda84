# SPDX-License-Identifier: LGPL-2.1-or-later
"""The lines before and after a result: which kernel, and how many tasks have which verdict."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Optional

from ..analysis.selection import STATES, Selection
from ..analysis.task_diff import ChangeKind, TaskDiff
from ..records import KernelInfo, Reason, Verdict

__all__ = (
    "audit_warnings",
    "diff_line",
    "different_boots_line",
    "kernel_line",
    "nothing_selected_line",
    "unjudged_line",
    "unreadable_line",
    "verdict_line",
)


def kernel_line(kernel: KernelInfo) -> str:
    """Return a line that says which kernel this is, and how its stacks are read."""
    unwinder = {"frame_pointer": "frame pointers", "orc": "ORC", "guess": "guess", "arm64": "arm64"}
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


_COMM_BYTES = 15
"""TASK_COMM_LEN without the zero (include/linux/sched.h)."""


def nothing_selected_line(selection: Selection, is_file: Optional[bool] = None) -> str:
    """Return a line that says that no task matches, with a hint if the user may have meant something else.

    :param selection: The selection that no task matches.
    :param is_file: Whether :attr:`.Selection.lone_name` is a file; ``None`` if words cannot be files.
    """
    return f"no task matches {selection.typed}{_meant(selection, is_file)}"


def _meant(selection: Selection, is_file: Optional[bool]) -> str:
    long = [pattern for pattern in selection.comms if len(pattern.replace("*", "")) > _COMM_BYTES]
    if long:
        least = shlex.quote(long[0][: _COMM_BYTES - 1] + "*")
        return (
            f": the kernel keeps {_COMM_BYTES} bytes of the name of a process, as in --comm {least}"
        )
    word = selection.lone_name
    if word is None:
        return ""
    if word in {verdict.value for verdict in Verdict}:
        return f": --verdict {word} chooses by the verdict"
    if set(word) <= set(STATES):
        return f": --state {selection.typed} chooses by the state"
    if is_file:
        return ": it is a file, but another kernel was chosen"
    if "/" in word:  # not in the name of a function
        return "" if is_file is None or set(word) & set("*?[") else ", and there is no such file"
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


def diff_line(diff: TaskDiff) -> str:
    """Return a line that says how many tasks did not change between two snapshots, and what happened to the others."""
    counts = Counter(change.kind for change in diff.changes)
    both = sum(counts[kind] for kind in (ChangeKind.STILL, ChangeKind.CHANGED, ChangeKind.UNCLEAR))
    stayed = sum(change.ran is False for change in diff.of_kind(ChangeKind.STILL))
    did_not_run = f" ({stayed} of them did not run)" if stayed else ""
    apart = _apart(diff)
    return (
        f"{_count(both, 'task')} in both snapshots{apart}: {counts[ChangeKind.STILL]} still in the same"
        f" stack{did_not_run}, {counts[ChangeKind.CHANGED]} changed,"
        f" {counts[ChangeKind.UNCLEAR]} unclear; {counts[ChangeKind.WENT]} went,"
        f" {counts[ChangeKind.CAME]} came"
    )


def _apart(diff: TaskDiff) -> str:
    before, after = diff.before.uptime_s, diff.after.uptime_s
    if not diff.same_boot or before is None or after is None:
        return ""
    order = ", the second before the first" if after < before else ""
    return f", {_duration(abs(after - before))} apart{order}"


def different_boots_line(diff: TaskDiff) -> str:
    """Return a line that says how the tasks of two boots were matched."""
    old, new = diff.before, diff.after
    if (old.release, old.build_id) == (new.release, new.build_id):
        what = "two boots of this kernel"
    else:
        same = old.release == new.release
        what = f"two {'builds of' if same else 'kernels,'} {old.release}"
        what += "" if same else f" and {new.release}"
    return f"the snapshots are from {what}: tasks are matched by name and stack"


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
