# SPDX-License-Identifier: LGPL-2.1-or-later
"""What would let a task switch to another version of a live patch, in words.

A task switches by itself when it returns to user mode, and in the idle loop. The kernel tries each second
to switch the tasks that are off their CPU. Every 15 seconds klp_send_signals() wakes the remaining
tasks: user tasks by the fake signal, kernel threads only if they sleep interruptibly
(kernel/livepatch/transition.c, v6.12).
"""

from __future__ import annotations

from typing import Optional

from ..records import TaskStack

__all__ = ("leaves_when",)

_NEVER_SIGNALLED = {
    "D": "its wait ends; no fake signal ends it",
    "I": "its wait ends; no fake signal ends it",
    "T": "SIGCONT continues it",
    "t": "its tracer continues it",
}


def leaves_when(
    stack: TaskStack, answer: str, function: Optional[str], signals_sent: Optional[int]
) -> Optional[str]:
    """Return what would let a task switch, as the end of "It leaves when ...".

    :param answer: Value of :class:`.patch_question.Answer`
    :param function: The function that it is in, if the answer is ``in_function``
    :param signals_sent: How often the fake signal was sent; ``None`` if that is not known
    :return: ``None`` if the task is done, nothing is in transition, or the answer is ``unknown``
    """
    if answer == "free":
        return "the kernel tries next (each second)"
    if answer == "running":
        return _of_running(stack)
    if answer == "no_reliable_stacktrace":
        return "it switches by itself, if ever" if stack.kthread else "it returns to user mode"
    if answer in ("in_function", "unreliable"):
        return _of_sleeper(stack, function, signals_sent or 0)
    return None


def _of_running(stack: TaskStack) -> str:
    if "idle" in stack.flags:
        return "its idle loop runs once more"
    return "it leaves its CPU" if stack.kthread else "it returns to user mode"


def _of_sleeper(stack: TaskStack, function: Optional[str], signals_sent: int) -> str:
    """Return what would let a task switch that is off its CPU.

    :param function: ``None`` if its stack is unreliable
    """
    sent = "a fake signal" if signals_sent == 1 else f"{signals_sent} fake signals"
    if stack.state in _NEVER_SIGNALLED:
        return _NEVER_SIGNALLED[stack.state]
    if stack.kthread:
        goal = "it sleeps with a reliable stack" if function is None else f"it leaves {function}"
        return f"{goal} by itself{f'; {sent} did not help' if signals_sent else ''}"
    if stack.state == "R":
        return "it runs on to user mode"
    if signals_sent:
        return f"its wait ends; {sent} did not end it"
    if function is None:
        # Some faults are taken again: then the signal does not help.
        return "it returns to user mode; a fake signal may help (within 15 s)"
    return "a fake signal ends its wait (within 15 s)"
