# SPDX-License-Identifier: LGPL-2.1-or-later
"""From a finished walk to its verdict: what the kernel would answer, and for what reason.

The rules are those of arch_stack_walk_reliable() in arch/x86/kernel/stacktrace.c (the same from
v5.8 to v7.2) and in arch/arm64/kernel/stacktrace.c (v7.2). The callback stack_trace_consume_entry() in
kernel/stacktrace.c adds a limit: the MAX_STACK_ENTRIES entries of the array that kernel/livepatch/transition.c passes.
"""

from __future__ import annotations

from typing import Callable, Optional

import msgspec

from ..records import Reason, Verdict
from ..unwind.base import End, Walk

__all__ = ("MAX_STACK_ENTRIES", "Judgement", "judge", "reason_of_error")

MAX_STACK_ENTRIES = 100
"""kernel/livepatch/transition.c. A stack with 100 entries already fails: 99 can be used."""


class Judgement(msgspec.Struct, frozen=True):
    """A verdict, its reason, and the step of the walk that decided it."""

    verdict: Verdict
    """Reliable, unreliable or unknown."""
    reason: Optional[Reason] = None
    """Why it is not reliable; ``None`` if it is."""
    step: Optional[int] = None
    """Index of the step that decided the verdict, in :attr:`.Walk.steps`.

    If the next frame could not be found or read, it is the last step. ``None`` if no step decided it."""


def judge(
    walk: Walk,
    is_kernel_text: Callable[[int], Optional[bool]],
    kernel_regs_are_unreliable: bool,
    needs_user_regs: bool = False,
    needs_kernel_text: bool = True,
) -> Judgement:
    """Return what ``stack_trace_save_tsk_reliable()`` would answer (kernel/stacktrace.c, v6.12).

    The steps are checked in order, and the first rule that fails decides. If a stack is already
    unreliable, memory that is missing further up does not matter.

    :param walk: The walk of a task that is not on a CPU
    :param is_kernel_text: ``__kernel_text_address()`` of a virtual address; returns ``None`` if
        the dump does not show it
    :param kernel_regs_are_unreliable: Kernel-mode ``pt_regs`` make the stack unreliable, as they
        do with CONFIG_FRAME_POINTER. Otherwise they are an entry like any other.
    :param needs_user_regs: This kernel may require user-mode registers at the end of this
        task's stack (see :attr:`.arch.base.Layout.may_need_user_regs`)
    :param needs_kernel_text: Return addresses have to be kernel text (see :attr:`.Walker.needs_kernel_text`)
    """
    last = None
    for i, step in enumerate(walk.steps):
        # The loop ends at unwind_error(), before it looks at the frame.
        if step.guessed:
            break
        last = i
        if step.regs is not None:
            # Success path for user tasks.
            if step.user_mode:
                return Judgement(Verdict.RELIABLE)
            # An interrupt or exception in the kernel may have come before the function
            # saved its frame pointer.
            if kernel_regs_are_unreliable:
                return Judgement(Verdict.UNRELIABLE, Reason.KERNEL_MODE_REGS, i)
        if needs_kernel_text:
            # Recovery of a rewritten return address returns 0 if it does not find the original.
            is_text = is_kernel_text(step.ip) if step.ip else False
            if is_text is None:
                return Judgement(Verdict.UNKNOWN, Reason.TEXT_UNCLEAR, i)
            if not is_text:
                return Judgement(Verdict.UNRELIABLE, Reason.BAD_RETURN_ADDRESS, i)
        if i + 1 >= MAX_STACK_ENTRIES:
            return Judgement(Verdict.UNRELIABLE, Reason.TOO_MANY_ENTRIES, i)

    if walk.end is End.ERROR:
        return Judgement(Verdict.UNRELIABLE, reason_of_error(walk), last)
    if walk.end is End.NOT_IN_DUMP:
        return Judgement(Verdict.UNKNOWN, Reason.UNREADABLE, last)
    if walk.end is End.UNWIND_DATA_UNCLEAR:
        return Judgement(Verdict.UNKNOWN, Reason.UNWIND_DATA_UNCLEAR, last)
    if needs_user_regs:
        return Judgement(Verdict.UNKNOWN, Reason.END_UNCLEAR, last)
    return Judgement(Verdict.RELIABLE)


def reason_of_error(walk: Walk) -> Reason:
    """Return why a walk ended with an error.

    :param walk: A walk that ended with :attr:`.End.ERROR`
    """
    return Reason.BROKEN_CHAIN if walk.fault is None else Reason(walk.fault.value)
