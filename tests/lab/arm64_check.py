# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a dump of arm64 must contain: :mod:`.check` for a sheet that has no ``pt_regs`` on it.

The kernel's walk there visits neither the registers of user mode nor, before v6.14, those of the kernel.
That entry code is on a stack shows by its name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Callable

from .check import SLEEPERS
from .sheet import Sheet, SheetTask
from .variants import Variant

__all__ = ("ARM64_CASES", "faults_of_arm64")

_EINVAL = -22
_LIMIT = 100
"""MAX_STACK_ENTRIES of kernel/livepatch/transition.c: as many as this are too many."""


class _View:
    """A sheet, asked by the name of a task; tasks that are on a CPU are left out."""

    def __init__(self, sheet: Sheet) -> None:
        self.sheet = sheet
        self.tasks = [task for task in sheet.tasks if task.comparable]

    def named(self, pattern: str) -> list[SheetTask]:
        return [task for task in self.tasks if re.fullmatch(pattern, task.comm.decode("latin-1"))]

    def verdict_is(self, task: SheetTask, expected: bool) -> bool:
        """The kernel's verdict is the one given, if it gives one."""
        return task.reliable in (None, expected)


def _passes(task: SheetTask, *symbols: str) -> bool:
    return any(frame.name.startswith(f"{name}+") for frame in task.frames for name in symbols)


def _in_kernel_twice(task: SheetTask) -> bool:
    """Interrupted in the kernel: entry code of exceptions from EL1 is on the stack."""
    return _passes(task, "el1h_64_sync", "el1h_64_irq", "el1h_64_fiq")


def _from_user_mode(task: SheetTask) -> bool:
    return _passes(task, "el0t_64_sync", "el0t_64_irq", "ret_from_fork")


def absent_sleepers(v: _View) -> list[str]:
    """Names of tasks that ought to sleep in a system call and do not."""
    there = {
        task.comm.decode("latin-1")
        for task in v.tasks
        if v.verdict_is(task, True) and _from_user_mode(task) and not _in_kernel_twice(task)
    }
    return sorted(SLEEPERS - there)


def _fault_from_kernel(v: _View) -> bool:
    tasks = v.named("w-kfault-(read|write|get|put|file)")
    return len(tasks) == 5 and all(
        _in_kernel_twice(task) and v.verdict_is(task, False) for task in tasks
    )


def _fault_from_user(v: _View) -> bool:
    tasks = v.named("w-ufault-(load|store)")
    return len(tasks) == 2 and all(
        not _in_kernel_twice(task) and v.verdict_is(task, True) for task in tasks
    )


def _preempted_in_kernel(v: _View) -> bool:
    tasks = [task for task in v.named("spin-.*") if task.state == 0 and _in_kernel_twice(task)]
    return len(tasks) >= 2 and all(v.verdict_is(task, False) for task in tasks)


def _preempted_kthread(v: _View) -> bool:
    return any(_in_kernel_twice(task) for task in v.named("lab-spinner/.*"))


def _preempted_in_user(v: _View) -> bool:
    return any(task.state == 0 and not _in_kernel_twice(task) for task in v.named("spin-user"))


def _depth(wanted: int) -> Callable[[_View], bool]:
    def test(v: _View) -> bool:
        tasks = v.named(f"w-deep-{wanted}")
        ret = wanted if wanted < _LIMIT else _EINVAL
        return (
            len(tasks) == 1
            and tasks[0].depth == wanted
            and (tasks[0].reliable is None or tasks[0].ret == ret)
        )

    return test


def _never_run(v: _View) -> bool:
    users = [task for task in v.named("w-neverran") if task.depth == 1]
    kernel = [task for task in v.named("lab-neverran|lab-freezer") if task.depth == 1]
    return len(users) >= 3 and bool(kernel)


def _zombies(v: _View) -> bool:
    tasks = v.named("w-zombie|w-dead-leader")
    return len(tasks) == 2 and all(not task.has_stack and not task.frames for task in tasks)


def _in_module(v: _View) -> bool:
    return any("[lab_helper]" in frame.name for t in v.named("w-module") for frame in t.frames)


def _kthread_in_module(v: _View) -> bool:
    return any("[lab_helper]" in frame.name for t in v.named("lab-sleeper") for frame in t.frames)


def _below_bpf(v: _View) -> bool:
    return any(
        frame.name.startswith("bpf_trampoline_") for t in v.named("w-flock") for frame in t.frames
    )


def _function_graph(v: _View) -> bool:
    return any(_passes(task, "eventfd_read") for task in v.named("w-eventfd"))


def _kretprobe(v: _View) -> bool:
    return any(_passes(task, "inotify_read") for task in v.named("w-inotify"))


def _idle(v: _View) -> bool:
    return {task.idle_of for task in v.tasks} >= set(range(v.sheet.cpus))


def _io_workers(v: _View) -> bool:
    return bool(v.named("iou-sqp.*")) and bool(v.named("iou-wrk.*"))


def _hostile(v: _View) -> bool:
    return any(task.comm == b'\x1b[31m"x\n,\xff%s\\' for task in v.tasks)


@dataclass(frozen=True)
class Case:
    """One thing a dump must contain."""

    name: str
    what: str
    test: Callable[[_View], bool]


ARM64_CASES = (
    Case("sleepers", "every common wait", lambda v: not absent_sleepers(v)),
    Case("fault-from-kernel", "page faults taken in kernel mode, asleep", _fault_from_kernel),
    Case("fault-from-user", "page faults taken in user mode, asleep", _fault_from_user),
    Case("preempted-kernel", "two or more tasks preempted in kernel mode", _preempted_in_kernel),
    Case("preempted-kthread", "a kernel thread preempted", _preempted_kthread),
    Case("preempted-user", "a task preempted in user mode", _preempted_in_user),
    *(
        Case(f"deep-{depth}", f"a stack with exactly {depth} return addresses", _depth(depth))
        for depth in (50, 98, 99, 100, 101, 120)
    ),
    Case("never-run", "processes, a thread and a kernel thread that never ran", _never_run),
    Case("zombies", "dead tasks whose stack is gone", _zombies),
    Case("module", "a task asleep in a module", _in_module),
    Case("kthread-module", "a kernel thread asleep in a module", _kthread_in_module),
    Case("bpf", "a task asleep below a BPF trampoline", _below_bpf),
    Case("function-graph", "a task asleep in a function that is traced", _function_graph),
    Case("kretprobe", "a task asleep in a function with a kretprobe", _kretprobe),
    Case("idle", "the idle task of every CPU", _idle),
    Case("io-uring", "an io_uring worker and its polling thread", _io_workers),
    Case("hostile-comm", "a comm with terminal escapes, quote, newline, bad UTF-8", _hostile),
)


def faults_of_arm64(variant: Variant, sheet: Sheet, console: str) -> list[str]:
    """Everything that makes a dump useless as a test, as lines; none if it is good."""
    return list(_faults(variant, sheet, console))


def _faults(variant: Variant, sheet: Sheet, console: str) -> Iterator[str]:
    if sheet.unwinder != variant.unwinder:
        yield f"the unwinder is {sheet.unwinder}, not {variant.unwinder}"
    view = _View(sheet)
    for case in ARM64_CASES:
        if case.name not in variant.cannot and not case.test(view):
            detail = f" ({', '.join(absent_sleepers(view))})" if case.name == "sleepers" else ""
            yield f"{case.name}: {case.what}: missing{detail}"
    for task in view.tasks:
        seen = tuple(frame.ip for frame in task.frames)
        if task.entries != seen[: len(task.entries)]:
            yield f"{task.comm!r} ({task.pid}): the two walks differ"
    for trouble in re.findall(r"(?:BUG: |WARNING: |Oops: ).*", console):
        yield f"the kernel complained: {trouble.strip()}"
