# SPDX-License-Identifier: LGPL-2.1-or-later
"""Compare an audit with the answer sheet that the kernel itself left in the dump."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from drgn_tools import Frame, KernelAudit, TaskStack, Verdict

from ..lab.sheet import SheetFrame, SheetTask

EINVAL = 22


@dataclass(frozen=True)
class Comparison:
    """What was compared, and every difference in words."""

    tasks: int
    """Tasks on the sheet."""
    compared: int
    """Tasks that were not on a CPU while the sheet was written."""
    frames: int
    """Frames compared: ip, address of the pt_regs, symbol."""
    regs: int
    """Compared frames that are a pt_regs."""
    unreliable: int
    """Compared tasks that the kernel calls unreliable."""
    differences: tuple[str, ...]

    def __str__(self) -> str:
        return (
            f"{self.compared} of {self.tasks} tasks compared, {self.unreliable} unreliable,"
            f" {self.frames} frames, {self.regs} pt_regs: {len(self.differences)} differences"
        )


def compare(audit: KernelAudit, sheet: list[SheetTask], verdicts: bool = True) -> Comparison:
    """Compare verdicts, return addresses, ``pt_regs`` addresses and symbol names.

    :param verdicts: False for a kernel that gets no verdicts from us.
    """
    ours = {s.task: s for s in audit}
    asked = [t for t in sheet if not t.on_cpu]
    differences: list[str] = []
    for task in asked:
        stack = ours.get(task.task)
        if stack is None:
            differences.append(f"pid {task.pid} is not in the audit")
            continue
        found = list(frame_differences(stack, task))
        if verdicts:
            found = [*verdict_differences(stack, task), *found]
        differences += [f"pid {task.pid} ({task.comm!r}): {d}" for d in found]
    missing = {t.task for t in sheet}
    differences += [f"pid {s.pid} is not on the sheet" for s in audit if s.task not in missing]
    return Comparison(
        tasks=len(sheet),
        compared=len(asked),
        frames=sum(len(t.frames) for t in asked),
        regs=sum(1 for t in asked for f in t.frames if f.regs),
        unreliable=sum(1 for t in asked if t.ret < 0),
        differences=tuple(differences),
    )


def verdict_differences(stack: TaskStack, task: SheetTask) -> Iterator[str]:
    want = {True: Verdict.RELIABLE, False: Verdict.UNRELIABLE}[task.ret >= 0]
    if task.ret < 0 and task.ret != -EINVAL:
        yield f"the kernel answered {task.ret}, which is no verdict"
    if stack.verdict is not want:
        yield f"kernel {task.ret} ({want.value}), ours {stack.verdict.value}: {stack.why}"
    elif want is Verdict.RELIABLE:
        # The entries of a reliable trace are its return addresses, without user regs.
        entries = tuple(f.ip for f in stack.frames if not f.user_mode)
        if entries != task.entries:
            yield f"entries {hexes(entries)}, kernel {hexes(task.entries)}"


def frame_differences(stack: TaskStack, task: SheetTask) -> Iterator[str]:
    if task.more_frames:
        yield "the sheet has not all frames of it"
    if len(stack.frames) != len(task.frames):
        yield f"{len(stack.frames)} frames, kernel {len(task.frames)}"
    for i, (ours, theirs) in enumerate(zip(stack.frames, task.frames)):
        for what, a, b in (
            ("ip", 0 if ours.user_mode else ours.ip, theirs.ip),
            ("pt_regs", ours.regs or 0, theirs.regs),
            ("user mode", ours.user_mode, theirs.user_mode),
            ("symbol", symbol(ours), kernels_symbol(ours, theirs)),
        ):
            if a != b:
                yield f"frame {i}: {what} {a!r}, kernel {b!r}"


def symbol(frame: Frame) -> str:
    if frame.user_mode or frame.symbol is None:
        return ""
    return f"{frame.symbol} [{frame.module}]" if frame.module else str(frame.symbol)


def kernels_symbol(ours: Frame, theirs: SheetFrame) -> str:
    """Return the name that printk printed, without the size of the symbol: ``vfs_read+0x8f/0x330 [module]``."""
    if theirs.user_mode or not theirs.ip:
        return ""
    # Where a new task begins: ret_from_fork up to v6.4, ret_from_fork_asm since.
    new_task = theirs.name.startswith(("ret_from_fork_asm+0x0/", "ret_from_fork+0x0/"))
    exact = bool(theirs.regs) or new_task
    name = theirs.name if exact else theirs.call_name
    if name.startswith("0x"):
        return ""  # printk found no symbol and printed the address
    function, _, rest = name.partition("/")
    _, _, module = rest.partition(" ")
    return f"{function} {module}" if module else function


def hexes(values: tuple[int, ...]) -> str:
    return " ".join(f"{v:#x}" for v in values)
