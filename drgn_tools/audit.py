# SPDX-License-Identifier: LGPL-2.1-or-later
"""One kernel -> its records: every task, its stack, the verdict.

This is the Python API: :func:`task_stack`, :func:`task_stacks`,
:func:`audit_kernel`, :func:`kernel_info`. Bad data never raises here; it is a
verdict of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Callable, NamedTuple, Optional, Union

from drgn import FaultError, Object, Program, Thread, TypeKind
from drgn.helpers.common.prog import takes_program_or_default

from .bounded import Bounded
from .caller import Code, ReadMemory, is_entered_by_call, missing_caller
from .entry import enters_from_user_mode, entry_of
from .errors import TaskNotFoundError, UsageError
from .foreign import foreign_frames
from .kallsyms import UNUSABLE
from .last_words import last_words
from .layout import Layout, layout_of
from .left_out import fault_where_left_out
from .live import LiveTaskList, is_live
from .on_cpu import cpu_registers, crashed_task
from .outline import Outlines
from .program import build_id, source_of, types_source
from .pt_regs import Registers
from .records import Frame, KernelAudit, KernelInfo, Reason, SavedRegs, TaskStack, Verdict
from .recover import Recovery, probe_recovery
from .reliable import Judgement, judge
from .slotted import maker_of
from .stacks import CpuStacks, read_task_stack
from .tasks import Task, TaskList, read_task
from .text import KernelText, SymbolName, TextKind
from .unwind_frame import (
    End,
    FindStack,
    NotInDump,
    StackBytes,
    Step,
    UnwindRules,
    Walk,
    walk_from_regs,
    walk_task_stack,
)
from .why import Why, changed, no_verdict_here, running, why

__all__ = (
    "AuditUnderWay",
    "audit_kernel",
    "audit_under_way",
    "crashed_stack",
    "kernel_info",
    "task_stack",
    "task_stacks",
)

_PID_MAX_LIMIT = 4 * 1024 * 1024
"""linux/threads.h: no PID reaches this; every address of the kernel is above."""

_MAX_TRIES = 5
"""How often a task of a running kernel is read that runs each time."""
_MAX_TEXT_READS = 50
"""How often the lists of modules and the like are read again in an audit of a running kernel."""
_OF_TEXT = frozenset((Reason.BAD_RETURN_ADDRESS, Reason.TEXT_UNCLEAR))
"""What may have another answer when these lists have changed."""

_MAX_STORIES = 20_000
"""Different stacks that are kept of a kernel."""
_MAX_FRAMES = 100_000
"""Different frames that are kept of a kernel."""

_made_frame, _made_regs, _made_stack = maker_of(Frame), maker_of(SavedRegs), maker_of(TaskStack)

WhichTask = Union[int, Object, Thread]
"""A PID, the address of a ``struct task_struct``, a pointer to one, one itself, a drgn Thread."""


@takes_program_or_default
def task_stack(prog: Program, which: WhichTask) -> TaskStack:
    """The stack of one task, with its verdict and saved registers.

    :param which: PID (of the initial PID namespace; 0 is the idle task of the
        boot CPU), ``struct task_struct *`` as an int or an object, a ``struct
        task_struct``, or a :class:`drgn.Thread`.
    :raises TaskNotFoundError: there is no such task.
    :raises TypesError: the types this rests on are missing.
    """
    kernel = _Kernel(prog)
    task = kernel.find(which)
    stack = kernel.stack(task)
    if stack is None:
        raise TaskNotFoundError(f"pid {task.pid} of {source_of(prog)} exited")
    return stack


@takes_program_or_default
def crashed_stack(prog: Program) -> TaskStack:
    """The stack of the task that crashed the machine: the one that ran into panic().

    :raises TaskNotFoundError: none did, or the kernel is running.
    :raises TypesError: the types this rests on are missing.
    """
    addr = crashed_task(prog)
    if addr is None:
        raise TaskNotFoundError(f"no task crashed {source_of(prog)}: name one")
    return task_stack(prog, addr)


@takes_program_or_default
def task_stacks(prog: Program) -> Iterator[TaskStack]:
    """Every task's stack: processes and their threads, then the idle tasks.

    :raises TypesError: the types this rests on are missing.
    """
    kernel = _Kernel(prog)
    for task in kernel.tasks:
        stack = kernel.stack(task)
        if stack is not None:
            yield stack


@takes_program_or_default
def audit_kernel(
    prog: Program,
    progress: Optional[Callable[[int], None]] = None,
    max_tasks: Optional[int] = None,
) -> KernelAudit:
    """All tasks of a kernel, and what could not be looked at.

    :param progress: called after each task with the number of tasks done.
    :param max_tasks: look at no more than so many; if there are more, that is a problem
        of the audit.
    :raises TypesError: the types this rests on are missing.
    """
    audit = AuditUnderWay(prog, progress, max_tasks)
    tasks = tuple(audit)
    return KernelAudit(audit.kernel, tasks, tuple(audit.problems))


@takes_program_or_default
def audit_under_way(
    prog: Program,
    progress: Optional[Callable[[int], None]] = None,
    max_tasks: Optional[int] = None,
) -> Union[KernelAudit, AuditUnderWay]:
    """As :func:`audit_kernel`, but the records of a dump come one by one and are not kept.

    A kernel that runs does not wait for who reads them: there all are taken first.
    """
    if is_live(prog):
        return audit_kernel(prog, progress, max_tasks)
    return AuditUnderWay(prog, progress, max_tasks)


class AuditUnderWay:
    """An audit that keeps no records: of a million tasks it takes little more memory than of one.

    The records come from iterating over it, once. Parameters are those of :func:`audit_kernel`.
    """

    kernel: KernelInfo
    """The kernel."""
    problems: list[str]
    """As :attr:`KernelAudit.problems`; complete when the last record was taken."""

    def __init__(
        self, prog: Program, progress: Optional[Callable[[int], None]], max_tasks: Optional[int]
    ) -> None:
        self._kernel = _Kernel(prog)
        self._progress = progress
        self._max_tasks = max_tasks
        self.kernel = self._kernel.info()
        self.problems = []

    def __iter__(self) -> Iterator[TaskStack]:
        kernel, progress = self._kernel, self._progress
        done = empty = 0
        too_many = []
        for task in kernel.tasks:
            if self._max_tasks is not None and done >= self._max_tasks:
                too_many = [f"there are more than the {self._max_tasks} tasks that were looked at"]
                break
            stack = kernel.stack(task)
            if stack is not None:
                done += 1
                empty += stack.verdict is Verdict.RELIABLE and not stack.frames
                yield stack
            if progress is not None:
                progress(done)
        self.problems[:] = (*kernel.problems(), *too_many, *_suspicious_emptiness(empty, done))


@takes_program_or_default
def kernel_info(prog: Program) -> KernelInfo:
    """Which kernel this is, and how its stacks are to be read.

    :raises TypesError: the types this rests on are missing.
    """
    return _Kernel(prog).info()


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


class _Kernel:
    """One kernel with all that its stacks need, and the way from a task to its record."""

    def __init__(self, prog: Program) -> None:
        fault_where_left_out(prog)  # if drgn opened it
        self.prog = prog
        self.layout: Layout = layout_of(prog)
        self._use_text(_text_of(prog))
        self.tasks = (LiveTaskList if is_live(prog) else TaskList)(prog, self.layout)
        self.recover_layout = probe_recovery(prog)
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
        self.text = text
        self._code = Code(_reader(self.prog), self.layout.word_bytes)
        self._calls: Bounded[tuple[int, str], Frame] = Bounded(_MAX_FRAMES)
        self._stories: Bounded[object, _Story] = Bounded(_MAX_STORIES)

    def problems(self) -> tuple[str, ...]:
        return (*self.text.problems, *self.tasks.problems)

    # ---- which task

    def find(self, which: WhichTask) -> Task:
        number = _pid_or_address(which)
        if number < _PID_MAX_LIMIT:
            task, wanted = self._task_of_pid(number), f"pid {number}"
        else:
            # Whatever can be read would make a task; only what the kernel has on
            # its list, or runs when idle, is one.
            task = next((task for task in self.tasks if task.addr == number), None)
            wanted = f"address {number:#x}"
        if task is None:
            raise TaskNotFoundError(f"no task with {wanted} in {source_of(self.prog)}")
        return task

    def _task_of_pid(self, pid: int) -> Optional[Task]:
        from drgn.helpers.linux.pid import find_task  # with all of drgn's helpers

        try:
            addr = find_task(self.prog, pid).value_() if pid else self.tasks.cpus[0].idle_addr
            task = read_task(self.prog, self.layout, addr)
        except (IndexError, *UNUSABLE):
            task = None
        if task is not None and task.pid == pid:
            return task
        # The PID tree is damaged; the task list may not be.
        return next((task for task in self.tasks if task.pid == pid), None)

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
        return self._record(task, Judgement(Verdict.UNKNOWN, Reason.CHANGED), changed(_MAX_TRIES))

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
            return self._record(task, Judgement(Verdict.RELIABLE), None, flags=("no_stack",))
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
        frames = [self._frame(step) for step in walk.steps]
        regs_at = tuple(i for i, step in enumerate(walk.steps) if step.regs is not None)
        regs = [
            self._saved_regs(task, frames, i, walk.steps[i].raw_regs or b"", stack) for i in regs_at
        ]
        judgement = judge(walk, self.text.is_kernel_text, needs_user_regs)
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
        flags = story.flags
        if task.addr in self._marks:
            flags = (*self._marks[task.addr], *flags)
        verdict, reason, sentence, brief, reason_frame = story.answer
        return _made_stack(
            task.addr,
            task.pid,
            task.tgid,
            task.comm,
            task.state,
            task.cpu,
            False,
            task.kthread,
            verdict,
            reason,
            sentence,
            brief,
            reason_frame,
            flags,
            frames,
            regs,
        )

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
            caller = self._missing_caller(task, all_frames, at, registers["sp"], stack)
            all_regs[i] = _made_regs(address, entry, False, registers, symbol, module, caller)
        return tuple(all_frames), tuple(all_regs)

    def _running(self, task: Task) -> TaskStack:
        """A task on a CPU: no verdict, but the stacks from the registers that the dump has of it."""
        judgement = Judgement(Verdict.UNKNOWN, Reason.RUNNING)
        registers = cpu_registers(self.prog, self.layout.regs, task)
        if registers is None or self.rules is None:
            return self._record(task, judgement, running(task.cpu), cpu_registers=registers)
        find_stack = CpuStacks(self.prog, self.layout, task)
        walk = walk_from_regs(
            registers,
            find_stack,
            task.stack_addr + self.layout.thread_size_bytes,
            self.rules,
            Recovery(self.prog, self.recover_layout, task, current=True),
        )
        here = self._here(registers, find_stack, walk)
        frames = [here, *(self._frame(step) for step in walk.steps)]
        regs = [
            self._saved_regs(task, frames, i, step.raw_regs)
            for i, step in enumerate(walk.steps, 1)
            if step.raw_regs is not None
        ]
        because = running(task.cpu, walk, frames)
        flags = []
        if walk.overflowed is not None:
            flags.append("stack_overflow")
        if walk.end in (End.ERROR, End.NOT_IN_DUMP, End.EMPTY):
            flags.append("ends_early")
        caller = self._missing_caller(task, frames, 0, registers["sp"])
        record = self._record(task, judgement, because, frames, regs, flags, registers)
        return replace(record, cpu_caller=caller)

    def _here(self, registers: Mapping[str, int], find_stack: FindStack, walk: Walk) -> Frame:
        """The frame that the CPU is in."""
        ip = registers["ip"]
        if self.layout.regs.user_mode(registers):
            return Frame(ip, user_mode=True)
        try:
            found = find_stack(registers["sp"])
        except NotInDump:
            found = None
        if found is not None:
            stack = found.kind
        else:
            stack = walk.steps[0].stack if walk.steps else "unknown"
        return _named_frame(ip, self.text.name_exact(ip), stack)

    def _foreign(self, task: Task) -> TaskStack:
        frames = []
        for pc, exact in foreign_frames(self.prog, self.text, task):
            exact = exact or pc in self.layout.fork_return_addrs
            name = self.text.name_exact(pc) if exact else self.text.name_return_address(pc)
            frames.append(_named_frame(pc, name))
        regs = []
        flags = []
        if frames and frames[0].ip in self.layout.fork_return_addrs:
            flags.append("never_run")
        saved = self._entry_regs(task, frames)
        if saved is not None:
            # Between user mode and the outermost frame there is entry code, or
            # drgn's unwinder has lost its way.
            if not (frames and enters_from_user_mode(self._entry(frames[-1]))):
                flags.append("ends_early")
            frames.append(Frame(saved["ip"], regs=saved.address, user_mode=True))
            regs.append(saved)
        return self._record(task, Judgement(Verdict.UNKNOWN), None, frames, regs, flags)

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
        entry = self._entry(frames[-1]) if frames else None
        if entry != "fork" and is_syscall:
            entry = "syscall"
        elif entry == "syscall" or not enters_from_user_mode(entry):
            entry = None
        return SavedRegs(address, entry, True, registers)

    def _frame(self, step: Step) -> Frame:
        if step.user_mode:
            return Frame(step.ip, stack=step.stack, regs=step.regs, user_mode=True)
        if step.regs is not None:  # whose ip is exact
            name = self.text.name_exact(step.ip)
            return _named_frame(step.ip, name, step.stack, step.regs)
        return self._call_frame(step.ip, step.stack)

    def _call_frame(self, ip: int, stack: str) -> Frame:
        frame = self._calls.get((ip, stack))
        if frame is None:
            # Where a new task begins is exact as well: nothing called ret_from_fork_asm,
            # so there is no call before its first byte.
            exact = ip in self.layout.fork_return_addrs
            look_up = self.text.name_exact if exact else self.text.name_return_address
            frame = self._calls[ip, stack] = _named_frame(ip, look_up(ip), stack)
        return frame

    def _saved_regs(
        self,
        task: Task,
        frames: Sequence[Frame],
        at: int,
        raw: bytes,
        stack: Optional[StackBytes] = None,
    ) -> SavedRegs:
        frame = frames[at]
        assert frame.regs is not None  # callers pick the frames that are a pt_regs
        registers = self.layout.regs.read(raw)
        return SavedRegs(
            address=frame.regs,
            entry=self._entry(frames[at - 1]) if at > 0 else None,
            user_mode=frame.user_mode,
            registers=registers,
            symbol=frame.symbol,
            module=frame.module,
            caller=self._missing_caller(task, frames, at, registers["sp"], stack),
        )

    def _missing_caller(
        self,
        task: Task,
        frames: Sequence[Frame],
        at: int,
        sp: int,
        stack: Optional[StackBytes] = None,
    ) -> Optional[Frame]:
        """Who called the function of the frame *at*, which was interrupted, if the walk has skipped him.

        :param stack: what was read already of the stack that *sp* points into.
        """
        frame = frames[at]
        name = None if frame.user_mode else self.text.name_exact(frame.ip)
        # Without a name nothing tells where a function begins; but what is no text is none.
        if frame.user_mode or (name is None and self.text.is_kernel_text(frame.ip) is not False):
            return None
        if name is not None and not is_entered_by_call(name.name):
            return None
        found = missing_caller(
            sp,
            frame.ip,
            None if name is None else frame.ip - name.offset,
            self._code,
            self._code.read if stack is None else partial(_read_first_from, stack, self._code.read),
            Recovery(self.prog, self.recover_layout, task, current=self.tasks.is_running(task)),
        )
        outer = frames[at + 1].ip if at + 1 < len(frames) else None
        if found is None or found.addr == outer or not self.text.is_kernel_text(found.addr):
            return None
        return self._call_frame(found.addr, frame.stack)

    def _entry(self, below: Frame) -> Optional[str]:
        """What entered, by the frame of the code that saved the ``pt_regs`` above it."""
        if below.symbol is not None:
            return entry_of(below.symbol.rsplit("+", 1)[0])
        # Copies of entry code that the kernel made at run time have no symbol.
        where = self.text.find(below.ip)
        return entry_of(where.kind.value) if where is not None else None

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
            where = None if step.user_mode else self.text.find(step.ip)
            if where is not None and where.kind is TextKind.INIT:
                flags.append("init_text")
                break
        return flags

    def _record(
        self,
        task: Task,
        judgement: Judgement,
        because: Optional[Why],
        frames: Sequence[Frame] = (),
        regs: Sequence[SavedRegs] = (),
        flags: Sequence[str] = (),
        cpu_registers: Optional[Mapping[str, int]] = None,
    ) -> TaskStack:
        verdict, reason, sentence, brief, reason_frame = self._answer(judgement, because)
        return TaskStack(
            task=task.addr,
            pid=task.pid,
            tgid=task.tgid,
            comm=task.comm,
            state=task.state,
            cpu=task.cpu,
            on_cpu=self.tasks.is_running(task),
            kthread=task.kthread,
            verdict=verdict,
            reason=reason,
            why=sentence,
            brief=brief,
            reason_frame=reason_frame,
            flags=(*self._marks.get(task.addr, ()), *flags),
            frames=tuple(frames),
            regs=tuple(regs),
            cpu_registers=cpu_registers,
        )

    def _answer(self, judgement: Judgement, because: Optional[Why]) -> _Answer:
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
    text = KernelText(prog)
    if is_live(prog):
        # A list that seems damaged may have been changed while it was read.
        for _ in range(_MAX_TRIES):
            if not text.problems:
                break
            text = KernelText(prog)
    return text


def _suspicious_emptiness(empty: int, tasks: int) -> Iterator[str]:
    # One stack without frames is the kernel's own oddity. Most stacks without
    # are a layout that is wrong, and all those "reliable" would be a lie.
    if 2 * empty > tasks:
        yield (
            f"{empty} of {tasks} stacks have no frame on them: the types are likely damaged,"
            " and the verdicts not to be believed"
        )


def _pid_or_address(which: WhichTask) -> int:
    if isinstance(which, Thread):
        which = which.object
    if isinstance(which, Object):
        kind = which.type_.kind
        if kind is TypeKind.STRUCT and which.address_ is not None:
            return int(which.address_)
        if kind not in (TypeKind.POINTER, TypeKind.INT, TypeKind.TYPEDEF):
            raise UsageError(f"neither a PID nor a task: {which.type_.type_name()}")
        which = int(which.value_())
    if isinstance(which, bool) or not isinstance(which, int) or which < 0:
        raise UsageError(f"neither a PID nor a task: {which!r}")
    return which


def _named_frame(
    ip: int, name: Optional[SymbolName], stack: str = "task", regs: Optional[int] = None
) -> Frame:
    if name is None:
        return Frame(ip, stack=stack, regs=regs)
    return Frame(ip, str(name), name.module, stack, regs)


def _reader(prog: Program) -> ReadMemory:
    def read(addr: int, size: int) -> Optional[bytes]:
        try:
            return bytes(prog.read(addr, size))
        except (FaultError, OverflowError):
            return None

    return read


def _read_first_from(
    stack: StackBytes, read: ReadMemory, addr: int, size_bytes: int
) -> Optional[bytes]:
    try:
        return stack.read(addr, size_bytes)
    except NotInDump:
        return read(addr, size_bytes)
