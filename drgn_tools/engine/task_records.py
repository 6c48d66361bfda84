# SPDX-License-Identifier: LGPL-2.1-or-later
"""From a task to its record: read its stack, walk it, judge the walk, look up the symbols of its frames."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Optional

import msgspec
from drgn import Program

from ..arch.base import Layout, Registers
from ..kernel.live_tasks import is_live
from ..kernel.relatives import Relatives
from ..kernel.stack_memory import FindStack, StackMemory, TaskStackReader
from ..kernel.tasks import Task
from ..kernel.text import KernelText, TextKind
from ..memory import read_or_none
from ..records import Frame, Reason, SavedRegs, Symbol, TaskStack, Verdict
from ..unwind.base import End, Walk, Walker
from ..unwind.recovery import RecoverLayout, Recovery
from ..verdict.no_verdict import NoVerdict
from ..verdict.reasons import (
    Explanation,
    explain,
    explain_changed,
    explain_running,
    explain_without_registers,
)
from ..verdict.reliable import Judgement, judge
from .frames import Frames
from .templates import Answer, Template, Templates

__all__ = ("TaskRecords", "WalkedStacks")

_RELIABLE = Answer(Verdict.RELIABLE)
_EARLY_ENDS = frozenset((End.ERROR, End.NOT_IN_DUMP, End.UNWIND_DATA_UNCLEAR, End.EMPTY))
"""Ends of the walk of a task on a CPU after which its stack has more frames than the walk found."""
_UNCLEAR_ENDS = frozenset((End.NOT_IN_DUMP, End.UNWIND_DATA_UNCLEAR))
"""Ends of a walk where the kernel would have gone on: the data for this are missing or damaged."""
_REASONS_OF_UNCLEAR_ENDS = frozenset((Reason.UNREADABLE, Reason.UNWIND_DATA_UNCLEAR))


class WalkedStacks(msgspec.Struct, frozen=True):
    """A walk, and the stacks that it went over."""

    walk: Walk
    """The walk."""
    find_stack: FindStack
    """Those stacks by address. It may raise :class:`~..kernel.stack_memory.NotInDump`."""
    sp_addr: int
    """Virtual address from which the innermost stack is in use."""
    first_step: int
    """Index in :attr:`.TaskStack.frames` of the first step of the walk."""


class TaskRecords:
    """Makes the records of the tasks of one kernel.

    :param layout: Layout of this kernel
    :param walker: Its unwinder
    :param no_verdict: Why this kernel gives no verdict on any stack; ``None`` if it gives one
    :param recover_layout: What rewrites return addresses in this kernel
    :param text: What is kernel text; on a running kernel, at one moment
    :param flags_of: Virtual address of a ``struct task_struct`` -> the flags that do not depend
        on the task's stack
    """

    def __init__(
        self,
        prog: Program,
        layout: Layout,
        walker: Walker,
        no_verdict: Optional[NoVerdict],
        recover_layout: RecoverLayout,
        text: KernelText,
        flags_of: Mapping[int, tuple[str, ...]],
    ) -> None:
        self._text = text
        self._prog = prog
        self._layout = layout
        self._walker = walker
        self._recover_layout = recover_layout
        self._flags_of = flags_of
        self._frames = Frames(
            prog,
            layout,
            recover_layout,
            text,
            walker.finds_callers(partial(read_or_none, prog)),
            may_miss_frames=walker.may_miss_frames,
        )
        self._stacks = TaskStackReader(
            prog, layout.thread_size_bytes, layout.page_bytes, layout.first_frame_offset
        )
        # In a table the reason is enough: the sentence is shown once for all tasks.
        self._no_answer = no_verdict and Answer(
            Verdict.UNKNOWN, no_verdict.reason, no_verdict.sentence, no_verdict.reason.value
        )
        self._relatives = Relatives(prog, layout.task)
        self._templates = Templates()

    def without_stack(self, task: Task, on_cpu: bool) -> TaskStack:
        """Return the record of a task whose stack was freed (a zombie): reliable and empty.

        If try_get_task_stack() fails, stack_trace_save_tsk_reliable() returns a complete, empty
        trace (kernel/stacktrace.c, v6.12).

        :param on_cpu: The task is on a CPU
        """
        return self._record(task, self._no_answer or _RELIABLE, on_cpu, flags=("no_stack",))

    def changed(self, task: Task, on_cpu: bool, tries: int) -> TaskStack:
        """Return the record of a task of a running kernel that ran each time it was read.

        :param on_cpu: The task is on a CPU now
        :param tries: How often it was read
        """
        reason = Judgement(Verdict.UNKNOWN, Reason.CHANGED)
        return self._record(
            task, self._no_answer or _answer(reason, explain_changed(tries)), on_cpu
        )

    # ---- a task that is not on a CPU

    def sleeping(self, task: Task, is_idle: bool) -> TaskStack:
        """Return the record of a task that is not on a CPU.

        :param is_idle: It is the idle task of a CPU
        """
        stack = self._stacks.read(task.stack_addr, task.thread_sp)
        needs_user_regs = self._layout.may_need_user_regs and not (task.kthread or is_idle)
        signature = self._walker.signature(task, stack, self._recovery)
        if signature is None:
            return self._of_template(task, self._template(task, stack, needs_user_regs))
        key = signature.key, needs_user_regs
        template = self._templates.get(key)
        if template is None:
            template = self._template(task, stack, needs_user_regs)
            # On a running kernel the second recovery may have found another address than the first.
            if signature.ips == tuple(f.ip for f in template.frames if not f.user_mode):
                self._templates[key] = template
            return self._of_template(task, template)
        if not signature.regs:
            return self._of_template(task, template)

        def find_caller(
            frames: Sequence[Frame], at: int, address: int, registers: Registers
        ) -> Optional[Frame]:
            sp = self._layout.regs.interrupted_sp(address, registers)
            return self._frames.interrupted_caller(task, frames, at, registers, sp, stack)

        frames, regs = template.with_regs(signature.regs, self._layout.regs.ip_name, find_caller)
        return self._record(task, template.answer, False, frames, regs, template.flags)

    def _template(self, task: Task, stack: StackMemory, needs_user_regs: bool) -> Template:
        walk, stack = self._walk_sleeping(task, stack)
        frames = [self._frames.of_step(step) for step in walk.steps]
        regs = self._saved_regs(task, walk, frames, stack)
        answer = self._no_answer or self._judged(walk, frames, regs, needs_user_regs)
        regs_at = tuple(i for i, step in enumerate(walk.steps) if step.regs is not None)
        flags = tuple(self._flags(walk, frames, answer))
        return Template(answer, tuple(frames), tuple(regs), flags, regs_at)

    def _walk_sleeping(self, task: Task, stack: StackMemory) -> tuple[Walk, StackMemory]:
        walk = self._walker.walk_sleeping(task, stack, self._recovery(task))
        if walk.end is not End.NOT_IN_DUMP or not stack.is_below_data(walk.bad_addr or 0):
            return walk, stack
        stack = self._stacks.read_whole(task.stack_addr)
        return self._walker.walk_sleeping(task, stack, self._recovery(task)), stack

    def _judged(
        self, walk: Walk, frames: Sequence[Frame], regs: Sequence[SavedRegs], needs_user_regs: bool
    ) -> Answer:
        judgement = judge(
            walk,
            self._text.is_kernel_text,
            self._walker.kernel_regs_are_unreliable,
            needs_user_regs,
            self._walker.needs_kernel_text,
        )
        return _answer(judgement, explain(judgement, walk, frames, regs))

    def _saved_regs(
        self, task: Task, walk: Walk, frames: Sequence[Frame], stack: Optional[StackMemory]
    ) -> list[SavedRegs]:
        # A task on a CPU has one frame more than steps: the first is where the CPU is.
        before = len(frames) - len(walk.steps)
        return [
            self._frames.saved_regs(task, frames, i, step.raw_regs, stack)
            for i, step in enumerate(walk.steps, before)
            if step.raw_regs is not None
        ]

    def _flags(self, walk: Walk, frames: Sequence[Frame], answer: Answer) -> Iterator[str]:
        """Yield flags for what is unusual about a stack but does not change the kernel's verdict."""
        if walk.end is End.EMPTY:
            yield "empty_walk"
        if walk.steps and walk.steps[0].ip in self._layout.fork_return_addrs:
            yield "never_run"
        word_bytes = self._layout.word_bytes
        if any(
            s.regs is None and s.found_at is not None and s.found_at % word_bytes
            for s in walk.steps
        ):
            yield "unaligned"
        if any(not step.user_mode and self._is_init_text(step.ip) for step in walk.steps):
            yield "init_text"
        if (
            self._walker.may_miss_frames
            and walk.end is End.USER_REGS
            and not self._frames.is_complete(frames[:-1])
        ):
            yield "ends_early"
        # If an inner frame or the whole kernel decided the verdict, the reason does not say that the walk ended early.
        is_unclear = walk.end in _UNCLEAR_ENDS and answer.reason not in _REASONS_OF_UNCLEAR_ENDS
        if is_unclear or walk.has_more:
            yield "ends_early"

    def _is_init_text(self, ip: int) -> bool:
        where = self._text.find(ip)
        return where is not None and where.kind is TextKind.INIT

    # ---- a task on a CPU

    def running(self, task: Task) -> TaskStack:
        """Return the record of a task on a CPU: its verdict is unknown, its stacks are walked from the CPU's registers."""
        judgement = Judgement(Verdict.UNKNOWN, Reason.RUNNING)
        registers = self._layout.arch.cpu_registers(self._prog, task)
        if registers is None:
            explanation = explain_without_registers(task.cpu, is_live(self._prog))
            return self._record(task, _answer(judgement, explanation), True)
        find_stack = self._layout.arch.cpu_stacks(self._prog, self._layout, task)
        walk = self._walker.walk_running(
            task, registers, find_stack, self._recovery(task, current=True)
        )
        here = self._frames.of_cpu(registers, find_stack, walk)
        frames = [here, *(self._frames.of_step(step) for step in walk.steps)]
        regs = self._saved_regs(task, walk, frames, None)
        flags = []
        if walk.overflowed is not None:
            flags.append("stack_overflow")
        if walk.end in _EARLY_ENDS:
            flags.append("ends_early")
        answer = _answer(judgement, explain_running(task.cpu, walk, frames))
        caller = self._frames.interrupted_caller(task, frames, 0, registers, registers["sp"])
        return self._record(task, answer, True, frames, regs, flags, registers, caller)

    def with_unclear_registers(self, task: Task, why: Explanation) -> TaskStack:
        """Return the record of a task on a CPU whose registers may be those of another task: unknown, without a stack.

        :param why: Why the registers are unclear
        """
        judgement = Judgement(Verdict.UNKNOWN, Reason.RUNNING)
        return self._record(task, _answer(judgement, why), True)

    # ---- both kinds of task

    def walked(self, task: Task, on_cpu: bool) -> Optional[WalkedStacks]:
        """Return the stacks of a task with what the walker found on them.

        :param on_cpu: The task is on a CPU
        :return: ``None`` if it is on a CPU whose registers are not known, as on a running kernel
        """
        if not on_cpu:
            walk, stack = self._walk_sleeping(
                task, self._stacks.read(task.stack_addr, task.thread_sp)
            )
            return WalkedStacks(walk, lambda addr: _if_on(stack, addr), stack.data_addr, 0)
        registers = self._layout.arch.cpu_registers(self._prog, task)
        if registers is None:
            return None
        find_stack = self._layout.arch.cpu_stacks(self._prog, self._layout, task)
        walk = self._walker.walk_running(
            task, registers, find_stack, self._recovery(task, current=True)
        )
        return WalkedStacks(walk, find_stack, registers["sp"], 1)

    def symbol_of(self, addr: int) -> Optional[Symbol]:
        """Return the symbol of an address of the kernel image or of kernel text; ``None`` if there is none."""
        return self._frames.of_ip(addr, exact=True).symbol

    def _recovery(self, task: Task, current: bool = False) -> Recovery:
        return Recovery(self._prog, self._recover_layout, task, current)

    def _of_template(self, task: Task, template: Template) -> TaskStack:
        return self._record(
            task, template.answer, False, template.frames, template.regs, template.flags
        )

    def _record(
        self,
        task: Task,
        answer: Answer,
        on_cpu: bool,
        frames: Sequence[Frame] = (),
        regs: Sequence[SavedRegs] = (),
        flags: Sequence[str] = (),
        cpu_registers: Optional[Mapping[str, int]] = None,
        cpu_caller: Optional[Frame] = None,
    ) -> TaskStack:
        if task.addr in self._flags_of:
            flags = (*self._flags_of[task.addr], *flags)
        return TaskStack(  # by position: keywords would double the time it takes
            task.addr,
            task.pid,
            task.tgid,
            task.comm,
            task.state,
            task.cpu,
            on_cpu,
            task.kthread,
            answer.verdict,
            answer.reason,
            answer.why,
            answer.brief,
            answer.reason_frame,
            tuple(flags),
            tuple(frames),
            tuple(regs),
            cpu_registers,
            cpu_caller,
            self._layout.arch.name,
            task.patch_state,
            self._relatives.full_name(task) if task.kthread else None,
            self._relatives.process(task),
            self._relatives.ppid(task),
            task.start_time_ns,
            task.switches,
        )


def _if_on(stack: StackMemory, addr: int) -> Optional[StackMemory]:
    return stack if stack.on_stack(addr, 1) else None


def _answer(judgement: Judgement, explanation: Optional[Explanation]) -> Answer:
    if explanation is None:
        return Answer(judgement.verdict, judgement.reason, reason_frame=judgement.step)
    return Answer(
        judgement.verdict,
        judgement.reason,
        explanation.sentence,
        explanation.brief,
        judgement.step,
    )
