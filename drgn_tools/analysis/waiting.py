# SPDX-License-Identifier: LGPL-2.1-or-later
"""Find the function that a task waits in: the innermost one that is not the scheduler."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Optional

from ..records import Frame, TaskStack

__all__ = ("kernel_frames", "waiting_function")

_SCHEDULER = frozenset(
    (
        "__schedule",
        "__switch_to",
        "__switch_to_asm",
        "preempt_schedule",
        "preempt_schedule_common",
        "preempt_schedule_irq",
        "preempt_schedule_notrace",
        "preempt_schedule_thunk",
        "preempt_schedule_notrace_thunk",
        "schedule",
        "schedule_hrtimeout",
        "schedule_hrtimeout_range",
        "schedule_hrtimeout_range_clock",
        "schedule_idle",
        "schedule_preempt_disabled",
        "schedule_rtlock",
        "schedule_timeout",
        "io_schedule",
        "io_schedule_timeout",
        # Preempted on the way back from an interrupt.
        "exit_to_usermode_loop",
        "exit_to_user_mode_loop",
        "exit_to_user_mode_prepare",
        "irqentry_exit",
        "irqentry_exit_cond_resched",
        "irqentry_exit_to_user_mode",
        "prepare_exit_to_usermode",
        "raw_irqentry_exit_cond_resched",
        # The same on arm64, before it had the generic code for that, and with it.
        "arm64_preempt_schedule_irq",
        "arm64_exit_to_kernel_mode_preempt",
        "do_notify_resume",
    )
)
"""Functions that give up the CPU for any reason, so they do not show what a task waits for.

kernel/sched/core.c, kernel/time/sleep_timeout.c and kernel/entry/common.c, v4.10 to v7.2;
arch/arm64/kernel/entry-common.c, v6.1 to v7.2."""


def kernel_frames(task: TaskStack) -> tuple[Frame, ...]:
    """Return the frames of *task* without the user-mode ``pt_regs`` at the end.

    The kernel's own stack trace of the task has as many entries.
    """
    return tuple(frame for frame in task.frames if not frame.user_mode)


def waiting_function(task: TaskStack) -> Optional[Frame]:
    """Return the frame that shows what a task waits for.

    That is the innermost frame that is not of the scheduler (``__schedule``, ``schedule`` and the
    like). For a task that an interrupt has preempted, it is the first ``pt_regs``, which may be
    of user mode. For a task on a CPU it is the first ``pt_regs`` of kernel mode, else the caller of
    panic(), else the innermost frame.

    :return: The innermost frame if all are of the scheduler; ``None`` if there is none in the kernel
    """
    from ..arch.registry import arch_named  # imports drgn, which --help does not need

    kernel = kernel_frames(task)
    if task.on_cpu:
        return _stopped_at(kernel)
    for number, frame in enumerate(task.frames):
        name = frame.symbol and frame.symbol.name
        if frame.user_mode or name in _SCHEDULER:
            continue
        if name and arch_named(task.arch).is_interrupt_entry(name):
            outer = task.frames[number:]
            return next((frame for frame in outer if frame.regs is not None), frame)
        return frame
    return kernel[0] if kernel else None


def _stopped_at(kernel: Sequence[Frame]) -> Optional[Frame]:
    interrupted = next((frame for frame in kernel if frame.regs is not None), None)
    if interrupted is not None or not kernel:
        return interrupted
    for frame, caller in zip(kernel, kernel[1:]):
        if frame.symbol and frame.symbol.name in ("panic", "vpanic"):
            return caller
    return kernel[0]
