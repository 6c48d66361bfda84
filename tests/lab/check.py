# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a dump must contain. A case that quietly went missing would be a test that quietly stopped testing."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Callable

import drgn

from .sheet import Sheet, SheetFrame, SheetTask
from .variants import Variant

__all__ = ("CASES", "Case", "faults_of")

_EINVAL = -22
_LIMIT = 100
"""MAX_STACK_ENTRIES of kernel/livepatch/transition.c: as many as this are too many."""

SLEEPERS = frozenset(
    """
    w-accept w-clocksleep w-coredump w-core-reader w-epoll w-eventfd w-fcntl-lock w-fcntl-owner
    w-fifo-open w-futex w-futex-pi w-inode-lock w-inotify w-io-getevents w-io-uring w-mqueue
    w-msgrcv w-mutex w-nanosleep w-pause w-pidfd w-pipe-read w-pipe-write w-poll w-ppoll
    w-regs-fault w-regs-syscall w-select w-semop w-signalfd w-sigsuspend w-sigwait w-splice
    w-stopped w-timerfd w-traced-int3 w-traced-sig w-traced-sys w-tracer-int3 w-tracer-sig
    w-tracer-sys w-tty-read w-unix-dgram w-unix-recv w-unix-send w-vfork w-vfork-child w-wait4
    w-waitid
    """.split()
)
"""Tasks that sleep in a system call (or, regs-fault, in a page fault) taken from user mode."""


class _View:
    """A sheet, asked by the name of a task; tasks that are on a CPU are left out."""

    def __init__(self, sheet: Sheet, prog: drgn.Program) -> None:
        self.sheet = sheet
        self.prog = prog
        self.tasks = [task for task in sheet.tasks if task.comparable]

    def named(self, pattern: str) -> list[SheetTask]:
        return [task for task in self.tasks if re.fullmatch(pattern, task.comm.decode("latin-1"))]

    def swapped(self, task: SheetTask) -> list[SheetFrame]:
        """Frames whose return address is not the one that lies on the stack."""
        return [
            frame
            for frame in task.frames
            if frame.ip and not frame.regs and self.prog.read_word(frame.at) != frame.ip
        ]

    def ends_as_user(self, task: SheetTask) -> bool:
        """A task that never was in user mode: with frame pointers the walk goes on to the user
        mode registers it was given; ORC ends at ret_from_fork."""
        return not task.kthread and (self.sheet.unwinder == "orc" or _ends_in_user_mode(task))

    def verdict_is(self, task: SheetTask, on_frame_pointers: bool) -> bool:
        """The kernel's verdict is the one given, on a kernel with frame pointers; ORC accepts all.

        x86-32 kernels give none.
        """
        expected = on_frame_pointers or self.sheet.unwinder != "frame_pointer"
        return task.reliable in (None, expected)


def _returned(task: SheetTask, ret: int) -> bool:
    """stack_trace_save_tsk_reliable() returned that, if this kernel has it."""
    return task.reliable is None or task.ret == ret


def _kernel_regs(task: SheetTask) -> list[SheetFrame]:
    return [frame for frame in task.frames if frame.regs and not frame.user_mode]


def _ends_in_user_mode(task: SheetTask) -> bool:
    return bool(task.frames) and task.frames[-1].user_mode


def _all_sleepers(v: _View) -> bool:
    return not _absent_sleepers(v)


def _absent_sleepers(v: _View) -> list[str]:
    there = {
        task.comm.decode("latin-1")
        for task in v.tasks
        if (v.verdict_is(task, True) and _ends_in_user_mode(task) and not _kernel_regs(task))
        or _lost_in_kretprobe(v, task)
    }
    return sorted(SLEEPERS - there)


def _lost_in_kretprobe(v: _View, task: SheetTask) -> bool:
    """Below a kretprobe, before v5.16: ORC has no rule for what the return address is then."""
    last = task.frames[-1].name if task.frames else ""
    return v.sheet.unwinder == "orc" and last.startswith("kretprobe_trampoline+")


def _fault_from_kernel(v: _View) -> bool:
    tasks = v.named("w-kfault-(read|write|get|put|file)")
    return len(tasks) == 5 and all(
        _kernel_regs(task) and _ends_in_user_mode(task) and v.verdict_is(task, False)
        for task in tasks
    )


def _fault_from_user(v: _View) -> bool:
    tasks = v.named("w-ufault-(load|store)")
    return len(tasks) == 2 and all(
        not _kernel_regs(task) and _ends_in_user_mode(task) and v.verdict_is(task, True)
        for task in tasks
    )


def _preempted_in_kernel(v: _View) -> bool:
    tasks = [task for task in v.named("spin-.*") if task.state == 0 and _kernel_regs(task)]
    return len(tasks) >= 2 and all(v.verdict_is(task, False) for task in tasks)


def _switched_in_kernel(v: _View) -> bool:
    """Also where the kernel is not preempted: tasks that would go on, switched out in it."""
    tasks = [task for task in v.named("spin-.*|lab-spinner/.*") if task.state == 0]
    inside = [
        task
        for task in tasks
        if _kernel_regs(task) or any("cond_resched" in frame.name for frame in task.frames)
    ]
    return any(task.kthread for task in inside) and not all(task.kthread for task in inside)


def _preempted_kthread(v: _View) -> bool:
    return any(_kernel_regs(task) and task.kthread for task in v.named("lab-spinner/.*"))


def _preempted_in_user(v: _View) -> bool:
    return any(
        task.state == 0 and not _kernel_regs(task) and _ends_in_user_mode(task)
        for task in v.named("spin-user")
    )


def _depth(wanted: int) -> Callable[[_View], bool]:
    def test(v: _View) -> bool:
        tasks = v.named(f"w-deep-{wanted}")
        ret = wanted if wanted < _LIMIT else _EINVAL
        return len(tasks) == 1 and tasks[0].depth == wanted and _returned(tasks[0], ret)

    return test


def _never_run(v: _View) -> bool:
    users = [task for task in v.named("w-neverran") if task.depth == 1 and v.ends_as_user(task)]
    kernel = [
        task for task in v.named("lab-neverran|lab-freezer") if task.depth == 1 and task.kthread
    ]
    group = {task.tgid for task in users}
    return len(users) >= 3 and len(group) >= 3 and bool(kernel)


def _zombies(v: _View) -> bool:
    tasks = v.named("w-zombie|w-dead-leader")
    return len(tasks) == 2 and all(
        not task.has_stack and _returned(task, 0) and not task.frames for task in tasks
    )


def _in_module(v: _View) -> bool:
    return any("[lab_helper]" in frame.name for t in v.named("w-module") for frame in t.frames)


def _kthread_in_module(v: _View) -> bool:
    return any("[lab_helper]" in frame.name for t in v.named("lab-sleeper") for frame in t.frames)


def _kthread_unwoken(v: _View) -> bool:
    return any(task.kthread and not task.user_frames for task in v.named("lab-unwoken"))


def _below_trampoline(v: _View) -> bool:
    # A trampoline has no symbol: its address comes out as a bare number.
    return any(
        frame.ip and "+" not in frame.name for task in v.named("w-ftrace") for frame in task.frames
    )


def _below_bpf(v: _View) -> bool:
    return any(
        frame.name.startswith("bpf_trampoline_") for t in v.named("w-flock") for frame in t.frames
    )


def _function_graph(v: _View) -> bool:
    return any(v.swapped(task) for task in v.named("w-eventfd"))


def _kretprobe(v: _View) -> bool:
    return any(v.swapped(task) for task in v.named("w-inotify"))


def _twice_swapped(v: _View) -> bool:
    return any(len(v.swapped(task)) >= 2 for task in v.tasks)


def _idle(v: _View) -> bool:
    return {task.idle_of for task in v.tasks} >= set(range(v.sheet.cpus))


def _exec_by_kthread(v: _View) -> bool:
    return all(any(_ends_in_user_mode(t) for t in v.named(name)) for name in ("init", "w-umh"))


def _io_workers(v: _View) -> bool:
    return all(
        any(v.ends_as_user(task) for task in v.named(name)) for name in ("iou-sqp.*", "iou-wrk.*")
    )


def _hostile(v: _View) -> bool:
    return any(task.comm == b'\x1b[31m"x\n,\xff%s\\' for task in v.tasks)


def _kworkers(v: _View) -> bool:
    return len(v.named("kworker/.*")) >= 2 and bool(v.named("kthreadd"))


@dataclass(frozen=True)
class Case:
    """One thing a dump must contain."""

    name: str
    what: str
    test: Callable[[_View], bool]


CASES = (
    Case("sleepers", "every common wait", _all_sleepers),
    Case("fault-from-kernel", "page faults taken in kernel mode, asleep", _fault_from_kernel),
    Case("fault-from-user", "page faults taken in user mode, asleep", _fault_from_user),
    Case("preempted-kernel", "two or more tasks preempted in kernel mode", _preempted_in_kernel),
    Case("preempted-kthread", "a kernel thread preempted", _preempted_kthread),
    Case(
        "switched-kernel", "a task and a kernel thread to go on in the kernel", _switched_in_kernel
    ),
    Case("preempted-user", "a task preempted in user mode", _preempted_in_user),
    *(
        Case(f"deep-{depth}", f"a stack with exactly {depth} return addresses", _depth(depth))
        for depth in (50, 98, 99, 100, 101, 120)
    ),
    Case("never-run", "processes, a thread and a kernel thread that never ran", _never_run),
    Case("zombies", "dead tasks whose stack is gone", _zombies),
    Case("module", "a task asleep in a module", _in_module),
    Case("kthread-module", "a kernel thread asleep in a module", _kthread_in_module),
    Case("kthread-unwoken", "a kernel thread created and never woken", _kthread_unwoken),
    Case("ftrace", "a task asleep below an ftrace trampoline", _below_trampoline),
    Case("bpf", "a task asleep below a BPF trampoline", _below_bpf),
    Case(
        "function-graph", "a return address swapped by the function graph tracer", _function_graph
    ),
    Case("kretprobe", "a return address swapped by a kretprobe", _kretprobe),
    Case("swapped-twice", "two swapped return addresses on one stack", _twice_swapped),
    Case("idle", "the idle task of every CPU", _idle),
    Case("exec-by-kthread", "kernel threads that have exec'd", _exec_by_kthread),
    Case("io-uring", "an io_uring worker and its polling thread", _io_workers),
    Case("hostile-comm", "a comm with terminal escapes, quote, newline, bad UTF-8", _hostile),
    Case("kthreads", "kworkers and kthreadd", _kworkers),
)


def faults_of(variant: Variant, sheet: Sheet, prog: drgn.Program, console: str) -> list[str]:
    """Everything that makes a dump useless as a test, as lines; none if it is good."""
    return list(_faults(variant, sheet, prog, console))


def _faults(variant: Variant, sheet: Sheet, prog: drgn.Program, console: str) -> Iterator[str]:
    if sheet.unwinder != variant.unwinder:
        yield f"the unwinder is {sheet.unwinder}, not {variant.unwinder}"
    view = _View(sheet, prog)
    for case in CASES:
        if case.name not in variant.cannot and not case.test(view):
            detail = f" ({', '.join(_absent_sleepers(view))})" if case.name == "sleepers" else ""
            yield f"{case.name}: {case.what}: missing{detail}"
    yield from _contradictions(sheet.tasks)
    for trouble in re.findall(r"(?:BUG: |WARNING: |Oops: ).*", console):
        yield f"the kernel complained: {trouble.strip()}"


def _contradictions(tasks: Iterable[SheetTask]) -> Iterator[str]:
    """The two walks of the sheet have to agree with each other."""
    for task in tasks:
        seen = tuple(frame.ip for frame in task.frames if frame.ip)
        if task.comparable and task.entries != seen[: len(task.entries)]:
            yield f"{task.comm!r} ({task.pid}): the two walks differ"
