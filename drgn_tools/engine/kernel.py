# SPDX-License-Identifier: LGPL-2.1-or-later
"""One kernel with all that its stacks need, and the way from a task to its record."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, Optional

from drgn import FaultError, Program

from ..arch.x86.cpu_registers import cpu_registers, crashed_task
from ..arch.x86.entry import enters_from_user_mode
from ..arch.x86.gate_area import gate_area
from ..arch.x86.pt_regs import Registers
from ..arch.x86.stacks import CpuStacks, read_task_stack
from ..bounded_cache import BoundedCache
from ..debuginfo.vmcoreinfo import build_id
from ..kernel.layout import Layout, layout_of
from ..kernel.live_tasks import LiveTaskList, is_live
from ..kernel.task_list import TaskList
from ..kernel.tasks import Task
from ..kernel.text import KernelText, TextKind
from ..program.dwarf import types_source
from ..program.excluded_pages import fault_on_excluded_pages
from ..program.open import source_of
from ..records import Frame, KernelInfo, Reason, SavedRegs, TaskStack, Verdict
from ..slotted import maker_of
from ..unwind.drgn_fallback import foreign_frames
from ..unwind.fast_path import Outlines
from ..unwind.frame_pointer import (
    End,
    StackBytes,
    UnwindRules,
    Walk,
    walk_from_regs,
    walk_task_stack,
)
from ..unwind.recovery import Recovery, probe_recovery
from ..verdict.reasons import Why, changed, no_verdict_here, running, why
from ..verdict.reliable import Judgement, judge
from .crash_log import last_words
from .frames import Frames

__all__ = ("Kernel",)

_MAX_TRIES = 5
"""How often a task of a running kernel is read that runs each time."""
_MAX_TEXT_READS = 50
"""How often the lists of modules and the like are read again in an audit of a running kernel."""
_OF_TEXT = frozenset((Reason.BAD_RETURN_ADDRESS, Reason.TEXT_UNCLEAR))
"""What may have another answer when these lists have changed."""

_MAX_STORIES = 20_000
"""Different stacks that are kept of a kernel."""

_made_frame, _made_regs, _made_stack = maker_of(Frame), maker_of(SavedRegs), maker_of(TaskStack)

_Answer = tuple[Verdict, Optional[Reason], Optional[str], Optional[str], Optional[int]]
"""From :attr:`TaskStack.verdict` to :attr:`TaskStack.reason_frame`."""


class _Story(NamedTuple):
    """What is said of a stack, and of every other with the same outline."""

    answer: _Answer
    frames: tuple[Frame, ...]
    regs: tuple[SavedRegs, ...]
    flags: tuple[str, ...]
    regs_at: tuple[int, ...]
    """Which of the frames are ``pt_regs``."""


class Kernel:
    """One kernel with all that its stacks need, and the way from a task to its record."""

    def __init__(self, prog: Program) -> None:
        fault_on_excluded_pages(prog)  # if drgn opened it
        self.prog = prog
        self.layout: Layout = layout_of(prog)
        self.recover_layout = probe_recovery(prog)
        self._use_text(_text_of(prog))
        self.tasks = (LiveTaskList if is_live(prog) else TaskList)(prog, self.layout)
        self._swapped_in = self.recover_layout.swapped_in
        self.crashed_addr = crashed_task(prog)
        self._text_reads_left = _MAX_TEXT_READS
        self._marks = _marks(self.crashed_addr, self.tasks)
        self.no_verdict = no_verdict_here(self.layout)
        # Frame pointers can be followed even where the kernel itself gives no
        # verdict (x86-32, CONFIG_STACK_VALIDATION=n).
        self.rules: Optional[UnwindRules] = None
        if self.no_verdict is None or self.no_verdict[0] is Reason.NO_RELIABLE_STACKTRACE:
            self.rules = UnwindRules(
                self.layout.encoding,
                self.layout.regs,
                self.layout.top_padding_bytes,
                self.layout.frame_bp_offset,
            )
            self._outlines = Outlines(self.rules)

    def _use_text(self, text: KernelText) -> None:
        # What was found out with another text may have another answer now.
        self.frames = Frames(self.prog, self.layout, self.recover_layout, text)
        self._stories: BoundedCache[object, _Story] = BoundedCache(_MAX_STORIES)

    def problems(self) -> tuple[str, ...]:
        return (*self.frames.text.problems, *self.tasks.problems)

    # ---- the record of one task

    def stack(self, task: Task) -> Optional[TaskStack]:
        """The record of a task; ``None`` if it has exited since (a running kernel)."""
        if isinstance(self.tasks, LiveTaskList):
            return self._stack_at_rest(self.tasks, task)
        return self._stack(task)

    def _stack_at_rest(self, tasks: LiveTaskList, task: Task) -> Optional[TaskStack]:
        # Nothing can be locked from here, so it is read until nothing has moved.
        text_is_new = False
        for _ in range(_MAX_TRIES):
            record = self._stack(task)
            if record.on_cpu:
                return record
            now = tasks.now(task)
            if now is None:
                return None
            if not task.was_at_rest_until(now):
                task = now
            elif record.reason in _OF_TEXT and not text_is_new and self._read_text_again():
                text_is_new = True
            else:
                return record
        answer = self._answer(Judgement(Verdict.UNKNOWN, Reason.CHANGED), changed(_MAX_TRIES))
        return self._record(task, answer, self.tasks.is_running(task))

    def _read_text_again(self) -> bool:
        # A module may have been loaded since.
        self._text_reads_left -= 1
        if self._text_reads_left >= 0:
            self._use_text(_text_of(self.prog))
        return self._text_reads_left >= 0

    def _stack(self, task: Task) -> TaskStack:
        if not task.has_stack:
            # stack_trace_save_tsk_reliable(): try_get_task_stack() fails, and
            # "no stack" is a complete, empty trace.
            answer = self._answer(Judgement(Verdict.RELIABLE))
            return self._record(task, answer, self.tasks.is_running(task), flags=("no_stack",))
        if self.tasks.is_running(task):
            return self._running(task)
        if self.rules is None:
            return self._foreign(task)
        stack = read_task_stack(self.prog, self.layout, task.stack_addr, task.thread_sp)
        needs_user_regs = self.layout.may_need_user_regs and not (
            task.kthread or self.tasks.is_idle(task)
        )
        outline = self._outlines.of(stack, task.thread_sp)
        if outline is not None and not self._swapped_in.isdisjoint(outline.place[0]):
            recovery = Recovery(self.prog, self.recover_layout, task)
            outline = outline.recovered(task.thread_sp, self._swapped_in, recovery)
        if outline is None:
            return self._told(task, stack, self._story(task, stack, needs_user_regs))
        key = outline.place, needs_user_regs
        story = self._stories.get(key)
        if story is not None:
            return self._told(task, stack, story, outline.regs)
        story = self._story(task, stack, needs_user_regs)
        # Of a running kernel, what was swapped out may have been another address by now.
        if outline.place[0] == tuple(frame.ip for frame in story.frames if not frame.user_mode):
            self._stories[key] = story
        return self._told(task, stack, story)

    def _story(self, task: Task, stack: StackBytes, needs_user_regs: bool) -> _Story:
        """What is to be said of the stack of a task that is not on a CPU."""
        assert self.rules is not None  # the caller looked
        recovery = Recovery(self.prog, self.recover_layout, task)
        walk = walk_task_stack(stack, task.thread_sp, self.rules, recovery)
        frames = [self.frames.of_step(step) for step in walk.steps]
        regs_at = tuple(i for i, step in enumerate(walk.steps) if step.regs is not None)
        regs = [
            self.frames.saved_regs(task, frames, i, walk.steps[i].raw_regs or b"", stack)
            for i in regs_at
        ]
        judgement = judge(walk, self.frames.text.is_kernel_text, needs_user_regs)
        answer = self._answer(judgement, why(judgement, walk, frames, regs))
        flags = tuple(self._flags(walk))
        return _Story(answer, tuple(frames), tuple(regs), flags, regs_at)

    def _told(
        self,
        task: Task,
        stack: StackBytes,
        story: _Story,
        regs_found: Sequence[tuple[int, Registers]] = (),
    ) -> TaskStack:
        """The record of a task that is not on a CPU.

        :param regs_found: its own ``pt_regs``, if the story is that of another task
        """
        frames, regs = story.frames, story.regs
        if regs_found:
            frames, regs = self._retold(task, stack, story, regs_found)
        return self._record(task, story.answer, False, frames, regs, story.flags)

    def _retold(
        self,
        task: Task,
        stack: StackBytes,
        story: _Story,
        found: Sequence[tuple[int, Registers]],
    ) -> tuple[tuple[Frame, ...], tuple[SavedRegs, ...]]:
        """Frames and registers of a stack with the same outline; only its ``pt_regs`` are its own."""
        frames, regs = story.frames, story.regs
        if frames[-1].user_mode:
            (address, registers), on = found[-1], frames[-1].stack
            frames = (*frames[:-1], _made_frame(registers["ip"], None, None, on, address, True))
            regs = (*regs[:-1], _made_regs(address, regs[-1].entry, True, registers))
            found = found[:-1]
        if not found:
            return frames, regs
        all_frames, all_regs = list(frames), list(regs)
        # The outermost first: who called what was interrupted is looked for in the frame above, too.
        for i in range(len(found) - 1, -1, -1):
            at, (address, registers) = story.regs_at[i], found[i]
            frame, entry = frames[at], regs[i].entry
            symbol, module = frame.symbol, frame.module
            all_frames[at] = _made_frame(frame.ip, symbol, module, frame.stack, address)
            caller = self.frames.missing_caller(task, all_frames, at, registers["sp"], stack)
            all_regs[i] = _made_regs(address, entry, False, registers, symbol, module, caller)
        return tuple(all_frames), tuple(all_regs)

    def _running(self, task: Task) -> TaskStack:
        """A task on a CPU: no verdict, but the stacks from the registers that the dump has of it."""
        judgement = Judgement(Verdict.UNKNOWN, Reason.RUNNING)
        registers = cpu_registers(self.prog, self.layout.regs, task)
        if registers is None or self.rules is None:
            answer = self._answer(judgement, running(task.cpu))
            return self._record(task, answer, True, cpu_registers=registers)
        find_stack = CpuStacks(self.prog, self.layout, task)
        walk = walk_from_regs(
            registers,
            find_stack,
            task.stack_addr + self.layout.thread_size_bytes,
            self.rules,
            Recovery(self.prog, self.recover_layout, task, current=True),
        )
        here = self.frames.of_cpu(registers, find_stack, walk)
        frames = [here, *(self.frames.of_step(step) for step in walk.steps)]
        regs = [
            self.frames.saved_regs(task, frames, i, step.raw_regs)
            for i, step in enumerate(walk.steps, 1)
            if step.raw_regs is not None
        ]
        answer = self._answer(judgement, running(task.cpu, walk, frames))
        flags = []
        if walk.overflowed is not None:
            flags.append("stack_overflow")
        if walk.end in (End.ERROR, End.NOT_IN_DUMP, End.EMPTY):
            flags.append("ends_early")
        caller = self.frames.missing_caller(task, frames, 0, registers["sp"])
        return self._record(task, answer, True, frames, regs, flags, registers, caller)

    def _foreign(self, task: Task) -> TaskStack:
        frames = []
        for pc, exact in foreign_frames(self.prog, self.frames.text, task):
            frames.append(self.frames.of_ip(pc, exact=True) if exact else self.frames.of_call(pc))
        regs = []
        flags = []
        if frames and frames[0].ip in self.layout.fork_return_addrs:
            flags.append("never_run")
        saved = self._entry_regs(task, frames)
        if saved is not None:
            # Between user mode and the outermost frame there is entry code, or
            # drgn's unwinder has lost its way.
            if not (frames and enters_from_user_mode(self.frames.entry(frames[-1]))):
                flags.append("ends_early")
            frames.append(Frame(saved["ip"], regs=saved.address, user_mode=True))
            regs.append(saved)
        answer = self._answer(Judgement(Verdict.UNKNOWN))
        return self._record(task, answer, False, frames, regs, flags)

    def _entry_regs(self, task: Task, frames: Sequence[Frame]) -> Optional[SavedRegs]:
        """task_pt_regs(): the registers user mode entered with, if it was user mode."""
        layout = self.layout
        size_bytes = layout.regs.size_bytes
        end = task.stack_addr + layout.thread_size_bytes
        address = end - layout.top_padding_bytes - size_bytes
        try:
            raw = self.prog.read(address, size_bytes)
        except (FaultError, OverflowError):
            return None
        registers = layout.regs.read(raw)
        if not layout.regs.user_mode(registers):
            return None
        # orig_ax is the number of the system call; interrupts and exceptions
        # leave a negative one. Frames below may be missing, so they come second.
        is_syscall = not registers["orig_ax"] >> (8 * layout.word_bytes - 1)
        entry = self.frames.entry(frames[-1]) if frames else None
        if entry != "fork" and is_syscall:
            entry = "syscall"
        elif entry == "syscall" or not enters_from_user_mode(entry):
            entry = None
        return SavedRegs(address, entry, True, registers)

    def _flags(self, walk: Walk) -> list[str]:
        """Oddities that the kernel does not mind and a reader may."""
        flags = []
        if walk.end is End.EMPTY:
            flags.append("empty_walk")
        if walk.steps and walk.steps[0].ip in self.layout.fork_return_addrs:
            flags.append("never_run")
        if any(s.bp is not None and s.bp % self.layout.word_bytes for s in walk.steps):
            flags.append("unaligned")
        for step in walk.steps:
            where = None if step.user_mode else self.frames.text.find(step.ip)
            if where is not None and where.kind is TextKind.INIT:
                flags.append("init_text")
                break
        return flags

    def _record(
        self,
        task: Task,
        answer: _Answer,
        on_cpu: bool,
        frames: Sequence[Frame] = (),
        regs: Sequence[SavedRegs] = (),
        flags: Sequence[str] = (),
        cpu_registers: Optional[Mapping[str, int]] = None,
        cpu_caller: Optional[Frame] = None,
    ) -> TaskStack:
        if task.addr in self._marks:
            flags = (*self._marks[task.addr], *flags)
        verdict, reason, sentence, brief, reason_frame = answer
        return _made_stack(  # by place: names would cost as much again
            task.addr,
            task.pid,
            task.tgid,
            task.comm,
            task.state,
            task.cpu,
            on_cpu,
            task.kthread,
            verdict,
            reason,
            sentence,
            brief,
            reason_frame,
            tuple(flags),
            tuple(frames),
            tuple(regs),
            cpu_registers,
            cpu_caller,
        )

    def _answer(self, judgement: Judgement, because: Optional[Why] = None) -> _Answer:
        if self.no_verdict is not None and judgement.reason is not Reason.RUNNING:
            reason, because = self.no_verdict
            judgement = Judgement(Verdict.UNKNOWN, reason)
        verdict, reason, step = judgement  # type: ignore[assignment]
        return verdict, reason, because and because.sentence, because and because.brief, step

    # ---- the kernel

    def info(self) -> KernelInfo:
        layout = self.layout
        return KernelInfo(
            source=source_of(self.prog),
            release=self.prog["UTS_RELEASE"].string_().decode("ascii", "backslashreplace"),
            build_id=build_id(self.prog),
            arch=layout.arch,
            unwinder=layout.unwinder,
            encoding=None if self.rules is None else layout.encoding.value,
            reliable_stacktrace=layout.reliable_stacktrace,
            types=types_source(self.prog),
            cpus=len(self.tasks.cpus),
            notes=tuple(self._notes()),
            last_words=() if self.crashed_addr is None else last_words(self.prog),
        )

    def _notes(self) -> Iterator[str]:
        if self.no_verdict is not None:
            note = f"no verdicts: {self.no_verdict[1].sentence}"
            if self.rules is None:
                note += "; stacks are drgn's, and of the saved registers only those of user mode are found"
            yield note


def _marks(crashed_addr: Optional[int], tasks: TaskList) -> dict[int, tuple[str, ...]]:
    """Flags of a task, whatever its stack, by its address."""
    idle: dict[int, tuple[str, ...]] = {cpu.idle_addr: ("idle",) for cpu in tasks.cpus}
    if crashed_addr is None:
        return idle
    return {**idle, crashed_addr: ("crashed", *idle.get(crashed_addr, ()))}


def _text_of(prog: Program) -> KernelText:
    text = _read_text(prog)
    if is_live(prog):
        # A list that seems damaged may have been changed while it was read.
        for _ in range(_MAX_TRIES):
            if not text.problems:
                break
            text = _read_text(prog)
    return text


def _read_text(prog: Program) -> KernelText:
    return KernelText(prog, extra={"vsyscall": gate_area(prog)})
