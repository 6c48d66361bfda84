# SPDX-License-Identifier: LGPL-2.1-or-later
"""The reason of a verdict in words: a sentence, and a few words for a table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Optional

import msgspec

from ..memory import ADDRESS_MASK
from ..records import Frame, Reason, SavedRegs
from ..unwind.base import End, Walk
from .reliable import MAX_STACK_ENTRIES, Judgement, reason_of_error

__all__ = (
    "Explanation",
    "explain",
    "explain_changed",
    "explain_half_switched",
    "explain_running",
    "explain_unclear_cpu",
    "explain_without_registers",
    "place",
)

_PREEMPTION = (
    "preempt_schedule_irq",
    "raw_irqentry_exit_cond_resched",
    "irqentry_exit_cond_resched",
)
"""Functions that take the CPU away from interrupted code: kernel/sched/core.c, kernel/entry/common.c, v6.12.

Code is preempted if what interrupted it has called one of them."""


_FAULTS = {
    Reason.NO_UNWIND_DATA: "no unwind data",
    Reason.UNDEFINED_UNWIND_STATE: "undefined unwind state",
    Reason.REGISTER_NOT_SAVED: "register not saved",
    Reason.OFF_STACK: "leads off the stack",
    Reason.WRONG_DIRECTION: "wrong direction",
    Reason.BAD_FRAME_RECORD: "bad frame record",
    Reason.ADDRESS_NOT_RECOVERED: "return address not recovered",
}
"""Faults of a walk in a few words."""


class Explanation(msgspec.Struct, frozen=True):
    """The reason of a verdict in words."""

    sentence: str
    """A sentence that names the place: ``page fault in vfs_read+0x8f``."""
    brief: str
    """A few words for a table: ``page fault in vfs_read``."""


def explain(
    judgement: Judgement, walk: Walk, frames: Sequence[Frame], regs: Sequence[SavedRegs]
) -> Optional[Explanation]:
    """Return the reason of a verdict in words.

    :param judgement: The verdict on *walk*
    :param walk: The walk of a task that is not on a CPU
    :param frames: One for each step of *walk*, with its symbol
    :param regs: The ``pt_regs`` among *frames*, in the same order
    :return: ``None`` for a reliable stack
    """
    reason, at = judgement.reason, judgement.step
    if reason is None:
        return None
    if reason is Reason.KERNEL_MODE_REGS:
        assert at is not None  # judge() has named the pt_regs
        saved = next(r for r in regs if r.address == frames[at].regs)
        return _interrupted(saved, frames[:at], frames[at])
    if reason is Reason.BAD_RETURN_ADDRESS:
        assert at is not None  # judge() has named the frame
        return Explanation(
            f"return address {frames[at].ip:#x}{_above(frames, at)} is not kernel text",
            "bad return address",
        )
    if reason is Reason.BROKEN_CHAIN:
        last = place(frames[at]) if at is not None else "the saved stack pointer"
        return Explanation(_broken(walk, last), "broken frame pointer")
    if reason in _FAULTS:
        return Explanation(_fault(reason, walk, frames, at), _FAULTS[reason])
    if reason is Reason.UNWIND_DATA_UNCLEAR:
        return Explanation(_unclear(walk, frames[-1:]), "unwind data unclear")
    if reason is Reason.TOO_MANY_ENTRIES:
        return Explanation(
            f"{MAX_STACK_ENTRIES} or more entries; live patching can use {MAX_STACK_ENTRIES - 1}",
            f"{MAX_STACK_ENTRIES} or more entries",
        )
    if reason is Reason.TEXT_UNCLEAR:
        assert at is not None  # judge() has named the frame
        return Explanation(
            f"return address {frames[at].ip:#x}{_above(frames, at)} may or may not be kernel text:"
            " the lists of modules, trampolines or BPF programs are damaged",
            "may not be kernel text",
        )
    if reason is Reason.END_UNCLEAR:
        return Explanation(
            "the stack ends without user registers, which kernels before 5.8 judge differently",
            "no user registers",
        )
    return Explanation(_missing(walk), "not in the dump")


def explain_without_registers(cpu: int, is_live: bool) -> Explanation:
    """Explain that a task is on a CPU, and that there are no registers from which to walk its stack.

    :param cpu: Number of the CPU
    :param is_live: Whether the kernel is running: its registers cannot be read
    """
    brief = f"running on CPU {cpu}"
    return Explanation(
        brief if is_live else f"{brief}; the dump does not have its registers", brief
    )


def explain_running(cpu: int, walk: Walk, frames: Sequence[Frame]) -> Explanation:
    """Explain that a task is on a CPU, so that its verdict is unknown, and how its stack is damaged.

    :param cpu: Number of the CPU
    :param walk: The walk from the registers of the CPU
    :param frames: The frame that the CPU is in, then one for each step of *walk*
    """
    brief = f"running on CPU {cpu}"
    sentence = [brief]
    if walk.overflowed is not None:
        brief += ", stack overflow"
        sentence.append(f"the {walk.overflowed} stack overflowed")
    if walk.end is End.ERROR:
        sentence.append(_ended(walk, frames))
    elif walk.end is End.UNWIND_DATA_UNCLEAR:
        sentence.append(_unclear(walk, frames[-1:]))
    elif walk.end is End.NOT_IN_DUMP:
        sentence.append(_missing(walk))
    elif walk.end is End.EMPTY:
        sentence.append("its registers lead to no frame")
    return Explanation("; ".join(sentence), brief)


def explain_half_switched() -> Explanation:
    """Explain that only a run queue says that a task is on a CPU."""
    return Explanation(
        "a run queue says that the task is running, but the task says that it is not on a CPU:"
        " the CPU was switching to it, or the run queue is damaged",
        "running, by its run queue only",
    )


def explain_unclear_cpu(cpu: int) -> Explanation:
    """Explain that a task is on a CPU whose per-CPU data are damaged.

    :param cpu: Number of the CPU
    """
    brief = f"running on CPU {cpu}"
    return Explanation(
        f"{brief}; its per-CPU data say that they belong to another CPU, and so may its registers",
        brief,
    )


def explain_changed(times: int) -> Explanation:
    """Explain that a task of a running kernel ran each time it was read.

    :param times: How often it was read
    """
    return Explanation(f"it ran during each of {times} reads", "changed while it was read")


def _ended(walk: Walk, frames: Sequence[Frame]) -> str:
    """Return why the walk of a task on a CPU ended. *frames* begin with the frame that the CPU is in."""
    if walk.fault is None:
        return _broken(walk, place(frames[-1]))
    at = max(i for i, frame in enumerate(frames) if not frame.guessed)
    return _fault(reason_of_error(walk), walk, frames, at)


def _broken(walk: Walk, last: str) -> str:
    return f"frame pointer {_bad_addr(walk)} after {last} does not lead up the stack"


def _fault(reason: Reason, walk: Walk, frames: Sequence[Frame], at: Optional[int]) -> str:
    where = "the saved stack pointer" if at is None else place(frames[at])
    if reason is Reason.NO_UNWIND_DATA:
        return f"no unwind data for {where}"
    if reason is Reason.UNDEFINED_UNWIND_STATE:
        return f"the unwind data say that the stack is undefined at {where}"
    if reason is Reason.REGISTER_NOT_SAVED:
        return f"the unwind data of {where} need a register that is not saved"
    if reason is Reason.BAD_FRAME_RECORD:
        return f"the frame record at {_bad_addr(walk)}, after {where}, has neither a return address nor a known type"
    if reason is Reason.ADDRESS_NOT_RECOVERED:
        return f"the return address after {where} was rewritten by a tracer, and its original is not found"
    if reason is Reason.OFF_STACK:
        return f"{where} leads to {_bad_addr(walk)}, off the stack"
    return f"{where} leads down the stack, to {_bad_addr(walk)}"


def _unclear(walk: Walk, last: Sequence[Frame]) -> str:
    where = f" of {place(last[0])}" if last else ""
    return f"the unwind data{where} are damaged at {_bad_addr(walk)}"


def _missing(walk: Walk) -> str:
    return f"memory at {_bad_addr(walk)} is not in the dump"


def _bad_addr(walk: Walk) -> str:
    return f"{(walk.bad_addr or 0) & ADDRESS_MASK:#x}"


def place(frame: Frame) -> str:
    """Return where a frame is: ``vfs_read+0x8f``, ``foo+0x3 [module]``, or its bare address."""
    if frame.symbol is None:
        return f"{frame.ip:#x}"
    return f"{frame.symbol} [{frame.module}]" if frame.module else str(frame.symbol)


def _interrupted(saved: SavedRegs, inner: Sequence[Frame], at: Frame) -> Explanation:
    by, where = saved.entry, place(at)
    function = where if at.symbol is None else at.symbol.name
    preempted = any(
        frame.symbol is not None and frame.symbol.name in _PREEMPTION for frame in inner
    )
    if preempted:
        sentence = f"preempted by {_the(by)} in {where}" if by else f"preempted in {where}"
        return Explanation(sentence, f"preempted in {function}")
    what = by or "interrupt or exception"
    return Explanation(f"{what} in {where}", f"{what} in {function}")


def _the(entry: str) -> str:
    if entry.endswith("interrupt"):
        return f"the {entry}"
    return f"an {entry}" if entry[0] in "aeio" else f"a {entry}"


def _above(frames: Sequence[Frame], at: int) -> str:
    return f" above {place(frames[at - 1])}" if at > 0 else ""
