# SPDX-License-Identifier: LGPL-2.1-or-later
"""Compare an audit of arm64 with the answer sheet that the kernel itself left in the dump.

The sheet has the return addresses and the verdicts. Since v6.13, the kernel's log says which of the addresses
come from a ``pt_regs`` (see tests/lab/arm64/oracle.c).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Optional

from drgn_tools import KernelAudit, TaskStack

from ..lab.sheet import SheetTask
from .answers import kernels_symbol, symbol, verdict_differences

__all__ = ("Comparison", "compare_arm64", "marks_in", "task_differences")

_ENTRY = re.compile(
    r" ?([^\s+]+\+0x[0-9a-f]+/0x[0-9a-f]+|0x[0-9a-f]+)((?: \[[^]]+\])?)(?: \(([A-Z]+)\))?$"
)


@dataclass(frozen=True)
class Comparison:
    """What was compared, and every difference in words."""

    tasks: int
    """Tasks on the sheet."""
    compared: int
    """Tasks that were not on a CPU while the sheet was written."""
    frames: int
    """Frames compared: address, symbol."""
    regs: int
    """Compared frames that we report as kernel-mode ``pt_regs``."""
    recovered: int
    """Compared return addresses that a tracer had rewritten, according to the kernel's log."""
    user_regs: int
    """Registers of user mode at the end of a stack."""
    unreliable: int
    """Compared tasks that the kernel calls unreliable."""
    differences: tuple[str, ...]

    def __str__(self) -> str:
        return (
            f"{self.compared} of {self.tasks} tasks compared, {self.unreliable} unreliable, {self.frames} frames,"
            f" {self.regs} pt_regs of kernel mode, {self.user_regs} of user mode, {self.recovered} addresses"
            f" recovered: {len(self.differences)} differences"
        )


def marks_in(log: str) -> Mapping[int, tuple[str, ...]]:
    """Return the mark of each frame of each task in the kernel's log: "P" for an address from a ``pt_regs``,
    "F" and "K" for one that was recovered, "T" for the first.

    :param log: Text of the kernel's log
    :return: By the address of the task; empty if the kernel prints no marks
    """
    found: dict[int, list[str]] = {}
    task: Optional[int] = None
    for line in log.splitlines():
        text = re.sub(r"^\[ *[0-9.]+\](?:\[[^]]*\])? ?", "", line)
        begins = re.match(r"LAB-TASK ([0-9a-f]+|end)", text)
        if begins:
            task = None if begins[1] == "end" else int(begins[1], 16)
            if task is not None:
                found[task] = []
            continue
        entry = _ENTRY.match(text)
        if task is not None and entry:
            found[task].append(entry[3] or "")
    if not any(any(marks) for marks in found.values()):
        return {}
    return {task: tuple(marks) for task, marks in found.items()}


def compare_arm64(
    audit: KernelAudit,
    sheet: list[SheetTask],
    marks: Mapping[int, tuple[str, ...]],
    verdicts: bool,
) -> Comparison:
    """Compare verdicts, return addresses, symbol names, and where registers were saved.

    :param marks: From marks_in()
    :param verdicts: False for a kernel that gives none
    """
    ours = {s.task: s for s in audit}
    asked = [t for t in sheet if not t.on_cpu]
    differences: list[str] = []
    regs = user_regs = 0
    for task in asked:
        stack = ours.get(task.task)
        if stack is None:
            differences.append(f"pid {task.pid} is not in the audit")
            continue
        found = task_differences(stack, task, marks.get(task.task), verdicts)
        differences += [f"pid {task.pid} ({task.comm!r}): {d}" for d in found]
        regs += sum(1 for f in stack.frames if f.regs and not f.user_mode)
        user_regs += sum(1 for f in stack.frames if f.user_mode)
    missing = {t.task for t in sheet}
    differences += [f"pid {s.pid} is not on the sheet" for s in audit if s.task not in missing]
    return Comparison(
        tasks=len(sheet),
        compared=len(asked),
        frames=sum(len(t.frames) for t in asked),
        regs=regs,
        recovered=sum(len(re.findall("[FK]", "".join(marks.get(t.task, ())))) for t in asked),
        user_regs=user_regs,
        unreliable=sum(1 for t in asked if t.reliable is False),
        differences=tuple(differences),
    )


def task_differences(
    stack: TaskStack, task: SheetTask, marks: Optional[tuple[str, ...]], verdicts: bool = True
) -> list[str]:
    """Compare the answers for one task.

    :param marks: Those of its frames, from marks_in()
    :param verdicts: False for a kernel that gives none
    """
    found = [*_frame_differences(stack, task), *_mark_differences(stack, marks)]
    return [*found, *verdict_differences(stack, task)] if verdicts else found


def _frame_differences(stack: TaskStack, task: SheetTask) -> Iterator[str]:
    if task.more_frames:
        yield "the sheet has not all frames of it"
    # The kernel's walk ends before the registers of user mode.
    frames = [f for f in stack.frames if not f.user_mode]
    if len(frames) != len(task.frames):
        yield f"{len(frames)} frames, kernel {len(task.frames)}"
    for i, (a, b) in enumerate(zip(frames, task.frames)):
        if a.ip != b.ip:
            yield f"frame {i}: ip {a.ip:#x}, kernel {b.ip:#x}"
        # The sheet does not say which addresses are exact: those from a pt_regs are.
        name = b.name.partition("/")[0] if a.exact else None
        theirs = _named(b.name) if name is not None else kernels_symbol(a, b)
        if symbol(a) != theirs:
            yield f"frame {i}: symbol {symbol(a)!r}, kernel {theirs!r}"


def _named(name: str) -> str:
    if name.startswith("0x"):
        return ""
    function, _, rest = name.partition("/")
    module = rest.partition(" ")[2]
    return f"{function} {module}" if module else function


def _mark_differences(stack: TaskStack, marks: Optional[tuple[str, ...]]) -> Iterator[str]:
    if marks is None:
        return
    theirs = ["P" in mark for mark in marks]
    ours = [f.regs is not None for f in stack.frames if not f.user_mode]
    if ours != theirs:
        yield f"pt_regs at {[i for i, x in enumerate(ours) if x]}, kernel {[i for i, x in enumerate(theirs) if x]}"
