# SPDX-License-Identifier: LGPL-2.1-or-later
"""Questions asked of finished records: which tasks, in what order, which stacks are the same.

What the options of the command line and of the REPL commands mean is said here,
once. Everything works on any iterable of records and keeps its order.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Callable, Optional

from ..errors import UsageError
from ..records import Frame, Reason, SavedRegs, TaskStack, Verdict

__all__ = (
    "KERNEL_WIDE",
    "SORT_KEYS",
    "STATES",
    "Selection",
    "StackGroup",
    "TaskFrame",
    "TaskRegs",
    "each_frame",
    "group_stacks",
    "kernel_frames",
    "parse_pids",
    "saved_regs",
    "sort_tasks",
    "tasks_on_cpu",
    "waiting_function",
)

KERNEL_WIDE = frozenset(
    (Reason.NOT_ENCODED, Reason.NO_RELIABLE_STACKTRACE, Reason.ENCODING_UNCLEAR)
)
"""Reasons that all tasks of a kernel share: the sentence need be said only once."""

STATES = "RSDTtXZPI?"
"""Letters of :attr:`TaskStack.state`."""

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
    )
)
"""Functions that every task off its CPU is in: they say nothing of why."""

_INTERRUPTS = re.compile(
    # Entry code and the C function that it calls, since v5.8, and before.
    r"(?:asm_|__|smp_)?(?:sysvec_\w+|common_interrupt|spurious_interrupt|apic_timer_interrupt"
    r"|reschedule_interrupt|\w+_ipi_interrupt)|do_IRQ|ret_from_intr|retint_kernel|retint_user"
)
"""Functions in which an interrupt takes the CPU away: what was interrupted says more."""


def kernel_frames(task: TaskStack) -> tuple[Frame, ...]:
    """The frames of *task* without the user-mode ``pt_regs`` at the end.

    As many as the kernel's own stack trace of the task has entries.
    """
    return tuple(frame for frame in task.frames if not frame.user_mode)


def waiting_function(task: TaskStack) -> Optional[Frame]:
    """The innermost frame that is not the scheduler itself (``__schedule``, ``schedule`` ...).

    Of a task that an interrupt took its CPU from, what was interrupted: the
    first ``pt_regs``, which may be of user mode. The same of a task on a CPU, which
    stands where it died or was stopped; else what called panic(). The very innermost
    frame where all are the scheduler, ``None`` for a task without frames in the kernel.
    """
    kernel = kernel_frames(task)
    if task.on_cpu:
        return _stopped_at(kernel)
    for number, frame in enumerate(task.frames):
        name = frame.symbol and frame.symbol.name
        if frame.user_mode or name in _SCHEDULER:
            continue
        if name and _INTERRUPTS.fullmatch(name):
            outer = task.frames[number:]
            return next((frame for frame in outer if frame.regs is not None), frame)
        return frame
    return kernel[0] if kernel else None


def tasks_on_cpu(tasks: Iterable[TaskStack]) -> list[TaskStack]:
    """Those that are on a CPU: the one that crashed the machine, then by CPU."""
    return sorted(
        (task for task in tasks if task.on_cpu),
        key=lambda task: ("crashed" not in task.flags, task.cpu),
    )


def _stopped_at(kernel: Sequence[Frame]) -> Optional[Frame]:
    interrupted = next((frame for frame in kernel if frame.regs is not None), None)
    if interrupted is not None or not kernel:
        return interrupted
    for frame, caller in zip(kernel, kernel[1:]):
        if frame.symbol and frame.symbol.name in ("panic", "vpanic"):
            return caller
    return kernel[0]


@dataclass(frozen=True)
class Selection:
    """Which tasks are asked for. What is empty selects everything; all that is given must hold."""

    pids: tuple[range, ...] = ()
    """Thread IDs."""
    comms: tuple[str, ...] = ()
    """Shell patterns of task names (``kworker/*``); one must match."""
    states: frozenset[str] = frozenset()
    """State letters, see :data:`STATES`."""
    functions: tuple[str, ...] = ()
    """Shell patterns of function names; one must match a function anywhere on the stack."""
    verdicts: frozenset[Verdict] = frozenset()
    """Verdicts."""

    def __contains__(self, task: TaskStack) -> bool:
        return (
            (not self.pids or any(task.pid in pids for pids in self.pids))
            and (not self.comms or _matches(task.comm, self.comms))
            and (not self.states or task.state in self.states)
            and (not self.verdicts or task.verdict in self.verdicts)
            and (not self.functions or self._has_function(task))
        )

    def _has_function(self, task: TaskStack) -> bool:
        return any(
            frame.symbol is not None and _matches(frame.symbol.name, self.functions)
            for frame in task.frames
        )

    def of_any_verdict(self) -> Selection:
        """The same, of whatever verdict."""
        return replace(self, verdicts=frozenset())

    def of(self, tasks: Iterable[TaskStack]) -> Iterator[TaskStack]:
        """Those of *tasks* that are asked for."""
        return (task for task in tasks if task in self)


def parse_pids(text: str) -> tuple[range, ...]:
    """``"1,5-9"`` -> ``(range(1, 2), range(5, 10))``. Hex numbers begin with 0x.

    :raises UsageError: *text* is anything else.
    """
    ranges = []
    for part in text.split(","):
        first, dash, last = part.partition("-")
        if not (_NUMBER.fullmatch(first) and (_NUMBER.fullmatch(last) if dash else True)):
            raise UsageError(f"{text!r} is no list of PIDs and ranges of them (as in 1,5-9)")
        pids = range(_number(first), _number(last or first) + 1)
        if not pids:
            raise UsageError(f"{text!r} has an empty range: its end comes before its start")
        ranges.append(pids)
    return tuple(ranges)


_NUMBER = re.compile(r"[0-9]{1,9}|0x[0-9a-f]{1,8}", re.IGNORECASE)
"""int() alone would take "+1", "1_000" and digits of other scripts. No PID is longer."""


def _number(text: str) -> int:
    return int(text, 16 if text[:2] in ("0x", "0X") else 10)


def _matches(text: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(text, pattern) for pattern in patterns)


_VERDICT_ORDER = {Verdict.UNRELIABLE: 0, Verdict.UNKNOWN: 1, Verdict.RELIABLE: 2}

SORT_KEYS: dict[str, Callable[[TaskStack], object]] = {
    "pid": lambda task: task.pid,
    "comm": lambda task: task.comm,
    "state": lambda task: task.state,
    "cpu": lambda task: task.cpu,
    "verdict": lambda task: ("crashed" not in task.flags, _VERDICT_ORDER[task.verdict]),
    "depth": lambda task: -len(kernel_frames(task)),
}
"""Orders that tasks can be put in: the one that crashed and unreliable ones first, deepest stacks first, the rest ascending."""


def sort_tasks(tasks: Iterable[TaskStack], key: str) -> list[TaskStack]:
    """*tasks* by one of :data:`SORT_KEYS`; the kernel's order decides between equals."""
    return sorted(tasks, key=SORT_KEYS[key])  # type: ignore[arg-type]


@dataclass(frozen=True)
class StackGroup:
    """Tasks whose stacks are the same: function by function, offset by offset, with the same verdict."""

    verdict: Verdict
    """Of each of them."""
    reason: Optional[Reason]
    """Of each of them."""
    why: Optional[str]
    """Of the first."""
    frames: tuple[Frame, ...]
    """Frames in the kernel of the first, innermost first."""
    pids: tuple[int, ...]
    """Thread IDs, in the order they came."""
    comms: tuple[tuple[str, int], ...]
    """Names of the tasks and how many bear each, most frequent first."""

    @property
    def count(self) -> int:
        """How many tasks."""
        return len(self.pids)


@dataclass
class _GroupSoFar:
    first: TaskStack
    pids: list[int] = field(default_factory=list)
    comms: Counter[str] = field(default_factory=Counter)

    def add(self, task: TaskStack) -> None:
        self.pids.append(task.pid)
        self.comms[task.comm] += 1

    def finished(self) -> StackGroup:
        return StackGroup(
            self.first.verdict,
            self.first.reason,
            self.first.why,
            kernel_frames(self.first),
            tuple(self.pids),
            tuple(self.comms.most_common()),
        )


def group_stacks(tasks: Iterable[TaskStack]) -> list[StackGroup]:
    """Fold identical stacks together, most frequent first.

    Compared are the frames in the kernel by symbol (by address where there is
    none), which of them are ``pt_regs``, and verdict and reason. Of each group
    only the first stack is kept.
    """
    groups: dict[object, _GroupSoFar] = {}
    for task in tasks:
        groups.setdefault(_group_key(task), _GroupSoFar(task)).add(task)
    return sorted((group.finished() for group in groups.values()), key=lambda group: -group.count)


def _group_key(task: TaskStack) -> object:
    frames = ((frame.symbol or frame.ip, frame.regs is not None) for frame in kernel_frames(task))
    return task.verdict, task.reason, tuple(frames)


@dataclass(frozen=True)
class TaskFrame:
    """One frame and the task whose it is."""

    task: TaskStack
    """The task."""
    number: int
    """Index in its :attr:`TaskStack.frames`, 0 the innermost."""
    frame: Frame
    """The frame."""


def each_frame(tasks: Iterable[TaskStack]) -> Iterator[TaskFrame]:
    """Every frame of every stack."""
    return (
        TaskFrame(task, number, frame) for task in tasks for number, frame in enumerate(task.frames)
    )


@dataclass(frozen=True)
class TaskRegs:
    """One saved ``pt_regs`` and the task on whose stack it lies."""

    task: TaskStack
    """The task."""
    regs: SavedRegs
    """The registers."""


def saved_regs(tasks: Iterable[TaskStack], user_mode: Optional[bool] = None) -> Iterator[TaskRegs]:
    """Every ``pt_regs`` on the stacks of *tasks*.

    :param user_mode: only those saved in user mode (true) or in the kernel (false).
    """
    return (
        TaskRegs(task, regs)
        for task in tasks
        for regs in task.regs
        if user_mode is None or regs.user_mode == user_mode
    )
