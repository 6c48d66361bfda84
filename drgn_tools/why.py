# SPDX-License-Identifier: LGPL-2.1-or-later
"""The reason of a verdict as a sentence that a person understands."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Optional

from .encoding import Encoding
from .layout import Layout
from .records import Frame, Reason, SavedRegs
from .reliable import MAX_STACK_ENTRIES, Judgement
from .unwind_frame import Walk

__all__ = ("no_verdict_here", "why")

_PREEMPTION = (
    "preempt_schedule_irq",
    "raw_irqentry_exit_cond_resched",
    "irqentry_exit_cond_resched",
)
"""On the stack above a ``pt_regs``, these say that the interrupted code lost its CPU there."""


def why(
    judgement: Judgement, walk: Walk, frames: Sequence[Frame], regs: Sequence[SavedRegs]
) -> Optional[str]:
    """Why this verdict; ``None`` for a reliable stack.

    :param frames: one for each step of *walk*, named.
    :param regs: the ``pt_regs`` among them.
    """
    reason, at = judgement.reason, judgement.step
    if reason is None:
        return None
    if reason is Reason.KERNEL_MODE_REGS:
        assert at is not None  # judge() says on which pt_regs
        saved = next(r for r in regs if r.address == frames[at].regs)
        return _interrupted(saved, frames[:at], place(frames[at]))
    if reason is Reason.BAD_RETURN_ADDRESS:
        assert at is not None  # judge() says on which frame
        return f"return address {frames[at].ip:#x}{_above(frames, at)} is not kernel text"
    if reason is Reason.BROKEN_CHAIN:
        last = place(frames[at]) if at is not None else "the saved stack pointer"
        return f"frame pointer {walk.bad_addr or 0:#x} after {last} does not lead up the stack"
    if reason is Reason.TOO_MANY_ENTRIES:
        return f"{MAX_STACK_ENTRIES} or more entries; live patching can use {MAX_STACK_ENTRIES - 1}"
    return f"stack memory at {walk.bad_addr or 0:#x} is not in the dump"


def place(frame: Frame) -> str:
    """Where a frame is: ``vfs_read+0x8f``, ``foo+0x3 [module]``, or the bare address."""
    if frame.symbol is None:
        return f"{frame.ip:#x}"
    return f"{frame.symbol} [{frame.module}]" if frame.module else frame.symbol


def _interrupted(saved: SavedRegs, inner: Sequence[Frame], where: str) -> str:
    by = saved.entry
    preempted = any(
        frame.symbol is not None and frame.symbol.split("+")[0] in _PREEMPTION for frame in inner
    )
    if preempted:
        return f"preempted by {_the(by)} in {where}" if by else f"preempted in {where}"
    return f"{by or 'interrupt or exception'} in {where}"


def _the(entry: str) -> str:
    return f"the {entry}" if entry.endswith("interrupt") else f"a {entry}"


def _above(frames: Sequence[Frame], at: int) -> str:
    return f" above {place(frames[at - 1])}" if at > 0 else ""


def no_verdict_here(layout: Layout) -> Optional[tuple[Reason, str]]:
    """Why this kernel gives no verdict on any stack; ``None`` when it does.

    :return: the reason, and a sentence for people.
    """
    if layout.detection.problem is not None:
        return Reason.ENCODING_UNCLEAR, layout.detection.problem
    if layout.unwinder in ("orc", "guess"):
        name = {"orc": "ORC", "guess": "guess"}[layout.unwinder]
        return (
            Reason.NOT_ENCODED,
            f"this kernel uses the {name} unwinder, not encoded frame pointers",
        )
    if layout.encoding is Encoding.NONE:
        return Reason.NOT_ENCODED, "this kernel does not encode pt_regs in the frame pointer"
    if not layout.reliable_stacktrace:
        return (
            Reason.NO_RELIABLE_STACKTRACE,
            "this kernel was built without reliable stack traces (CONFIG_STACK_VALIDATION)",
        )
    return None
