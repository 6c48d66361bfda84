# SPDX-License-Identifier: LGPL-2.1-or-later
"""The reason of a verdict as a sentence that a person understands."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Optional

import msgspec

from ..records import Frame, Reason, SavedRegs
from ..unwind.base import End, Walk
from .reliable import MAX_STACK_ENTRIES, Judgement

__all__ = ("Why", "changed", "running", "why")

_PREEMPTION = (
    "preempt_schedule_irq",
    "raw_irqentry_exit_cond_resched",
    "irqentry_exit_cond_resched",
)
"""On the stack above a ``pt_regs``, these say that the interrupted code lost its CPU there."""


class Why(msgspec.Struct, frozen=True):
    """A reason in words."""

    sentence: str
    """All of it, naming the place."""
    brief: str
    """For a table."""


def why(
    judgement: Judgement, walk: Walk, frames: Sequence[Frame], regs: Sequence[SavedRegs]
) -> Optional[Why]:
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
        return _interrupted(saved, frames[:at], frames[at])
    if reason is Reason.BAD_RETURN_ADDRESS:
        assert at is not None  # judge() says on which frame
        return Why(
            f"return address {frames[at].ip:#x}{_above(frames, at)} is not kernel text",
            "bad return address",
        )
    if reason is Reason.BROKEN_CHAIN:
        last = place(frames[at]) if at is not None else "the saved stack pointer"
        return Why(_broken(walk, last), "broken frame pointer")
    if reason is Reason.TOO_MANY_ENTRIES:
        return Why(
            f"{MAX_STACK_ENTRIES} or more entries; live patching can use {MAX_STACK_ENTRIES - 1}",
            f"{MAX_STACK_ENTRIES} or more entries",
        )
    if reason is Reason.TEXT_UNCLEAR:
        assert at is not None  # judge() says on which frame
        return Why(
            f"whether return address {frames[at].ip:#x}{_above(frames, at)} is kernel text"
            " cannot be told: the lists of modules, trampolines or BPF programs are damaged",
            "may be no kernel text",
        )
    if reason is Reason.END_UNCLEAR:
        return Why(
            "the stack ends without user registers, which kernels before 5.8 judge differently",
            "no user registers",
        )
    return Why(_missing(walk), "not in the dump")


def running(cpu: int, walk: Optional[Walk] = None, frames: Sequence[Frame] = ()) -> Why:
    """Why there is no verdict on a task that is on a CPU, and what is wrong with its stack.

    :param walk: from the registers of the CPU; ``None`` where these are not known.
    :param frames: where the CPU is, then one for each step of *walk*.
    """
    brief = f"running on CPU {cpu}"
    sentence = [brief]
    if walk is not None and walk.overflowed is not None:
        brief += ", stack overflow"
        sentence.append(f"the {walk.overflowed} stack overflowed")
    if walk is not None and walk.end is End.ERROR:
        sentence.append(_broken(walk, place(frames[-1])))
    elif walk is not None and walk.end is End.NOT_IN_DUMP:
        sentence.append(_missing(walk))
    elif walk is not None and walk.end is End.EMPTY:
        sentence.append("its registers lead to no frame")
    return Why("; ".join(sentence), brief)


def changed(times: int) -> Why:
    """Why there is no verdict on a task of a running kernel that does not stay at rest."""
    return Why(f"it ran each of {times} times that it was read", "changed while it was read")


def _broken(walk: Walk, last: str) -> str:
    return f"frame pointer {walk.bad_addr or 0:#x} after {last} does not lead up the stack"


def _missing(walk: Walk) -> str:
    where = (walk.bad_addr or 0) & ((1 << 64) - 1)
    return f"memory at {where:#x} is not in the dump"


def place(frame: Frame) -> str:
    """Where a frame is: ``vfs_read+0x8f``, ``foo+0x3 [module]``, or the bare address."""
    if frame.symbol is None:
        return f"{frame.ip:#x}"
    return f"{frame.symbol} [{frame.module}]" if frame.module else str(frame.symbol)


def _interrupted(saved: SavedRegs, inner: Sequence[Frame], at: Frame) -> Why:
    by, where = saved.entry, place(at)
    function = where if at.symbol is None else at.symbol.name
    preempted = any(
        frame.symbol is not None and frame.symbol.name in _PREEMPTION for frame in inner
    )
    if preempted:
        sentence = f"preempted by {_the(by)} in {where}" if by else f"preempted in {where}"
        return Why(sentence, f"preempted in {function}")
    what = by or "interrupt or exception"
    return Why(f"{what} in {where}", f"{what} in {function}")


def _the(entry: str) -> str:
    if entry.endswith("interrupt"):
        return f"the {entry}"
    return f"an {entry}" if entry[0] in "aeio" else f"a {entry}"


def _above(frames: Sequence[Frame], at: int) -> str:
    return f" above {place(frames[at - 1])}" if at > 0 else ""
