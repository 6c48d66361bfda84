# SPDX-License-Identifier: LGPL-2.1-or-later
"""A finished walk -> can the stack be trusted? The kernel's own judgement, with the reason kept.

A thin policy over the walker, as arch_stack_walk_reliable() is in
arch/x86/kernel/stacktrace.c (v5.8 to v7.2 alike) with the callback
stack_trace_consume_entry() of kernel/stacktrace.c and the array of
MAX_STACK_ENTRIES entries that kernel/livepatch/transition.c passes.
"""

from __future__ import annotations

from typing import Callable, Optional

import msgspec

from ..records import Reason, Verdict
from ..unwind.base import End, Walk

__all__ = ("MAX_STACK_ENTRIES", "Judgement", "judge")

MAX_STACK_ENTRIES = 100
"""kernel/livepatch/transition.c. Storing the last one already fails: 99 can be used."""


class Judgement(msgspec.Struct, frozen=True):
    """A verdict, and where it fell."""

    verdict: Verdict
    """Reliable, unreliable or unknown."""
    reason: Optional[Reason] = None
    """``None`` if reliable."""
    step: Optional[int] = None
    """Index of the step on which the verdict fell; for a broken chain the last good one."""


def judge(
    walk: Walk,
    is_kernel_text: Callable[[int], Optional[bool]],
    kernel_regs_are_unreliable: bool,
    needs_user_regs: bool = False,
) -> Judgement:
    """Return what ``stack_trace_save_tsk_reliable()`` would answer.

    Rules apply frame by frame, so what comes first decides: memory missing
    further up does not matter to a stack that is unreliable already.

    :param walk: the walk of a task that is not on a CPU.
    :param is_kernel_text: ``__kernel_text_address()``; ``None`` where that cannot be told.
    :param kernel_regs_are_unreliable: kernel-mode ``pt_regs`` end it, as they do with
        CONFIG_FRAME_POINTER; else they are an entry like any other.
    :param needs_user_regs: this kernel may want user-mode registers at the end of this
        task's stack (see :attr:`.arch.base.Layout.may_need_user_regs`).
    """
    for i, step in enumerate(walk.steps):
        if step.regs is not None:
            # Success path for user tasks.
            if step.user_mode:
                return Judgement(Verdict.RELIABLE)
            # Kernel mode registers mean an interrupt or exception in the
            # kernel, which may have hit before a frame pointer was saved.
            if kernel_regs_are_unreliable:
                return Judgement(Verdict.UNRELIABLE, Reason.KERNEL_MODE_REGS, i)
        # A rewritten return address whose original is not found becomes 0: never text.
        is_text = is_kernel_text(step.ip) if step.ip else False
        if is_text is None:
            return Judgement(Verdict.UNKNOWN, Reason.TEXT_UNCLEAR, i)
        if not is_text:
            return Judgement(Verdict.UNRELIABLE, Reason.BAD_RETURN_ADDRESS, i)
        if i + 1 >= MAX_STACK_ENTRIES:
            return Judgement(Verdict.UNRELIABLE, Reason.TOO_MANY_ENTRIES, i)

    last = len(walk.steps) - 1 if walk.steps else None
    if walk.end is End.ERROR:
        return Judgement(Verdict.UNRELIABLE, Reason.BROKEN_CHAIN, last)
    if walk.end is End.NOT_IN_DUMP:
        return Judgement(Verdict.UNKNOWN, Reason.UNREADABLE, last)
    if needs_user_regs:
        return Judgement(Verdict.UNKNOWN, Reason.END_UNCLEAR, last)
    return Judgement(Verdict.RELIABLE)
