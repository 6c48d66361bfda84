# SPDX-License-Identifier: LGPL-2.1-or-later
"""One kernel, with everything that its stacks need: probed once, then used for each task."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Optional

from drgn import Program

from ..arch.base import Arch, Layout
from ..arch.registry import layout_of
from ..cache_key import cache_key
from ..debuginfo.vmcoreinfo import build_id
from ..kernel.live_tasks import LiveTaskList, is_live
from ..kernel.machine import boot_id, nodename, uptime_s
from ..kernel.task_list import TaskList
from ..kernel.tasks import Task
from ..kernel.text import KernelText
from ..program.core_memory import correct_core_memory
from ..program.dwarf import types_source
from ..program.open import require_kernel, source_of
from ..records import KernelInfo, Reason, Symbol, TaskStack
from ..unwind.probe import probe_walker
from ..unwind.recovery import probe_recovery
from ..verdict.no_verdict import no_verdict
from ..verdict.reasons import Explanation, explain_half_switched, explain_unclear_cpu
from .crash_log import crash_headlines, crashed_task
from .task_records import TaskRecords, WalkedStacks

__all__ = ("Kernel", "kernel_of")

_MAX_TRIES = 5
"""Limit of reads of one task of a running kernel, if it runs each time."""
_MAX_TEXT_READS = 50
"""How often an audit of a running kernel may read again the lists of kernel text, such as the list of modules."""
_REASONS_OF_TEXT = frozenset(
    (
        Reason.BAD_RETURN_ADDRESS,
        Reason.TEXT_UNCLEAR,
        Reason.NO_UNWIND_DATA,
        Reason.UNDEFINED_UNWIND_STATE,
        Reason.REGISTER_NOT_SAVED,
        Reason.OFF_STACK,
        Reason.WRONG_DIRECTION,
        Reason.UNWIND_DATA_UNCLEAR,
    )
)
"""Reasons that may no longer hold when these lists have changed. The ORC table of a module is found through the list
of modules."""

_CACHE_KEY = cache_key(__name__)


def kernel_of(prog: Program) -> Kernel:
    """Return the kernel of a program.

    The kernel of a dump is probed once and kept in ``prog.cache``. A running kernel changes, so
    it is probed each time.

    :raises InputError: if the program is not a kernel, the architecture of the kernel is not supported, or its dump
        is no longer where it was opened
    :raises TypesError: if types that a stack needs are missing or damaged
    """
    require_kernel(prog)
    if is_live(prog):
        return Kernel(prog)
    try:
        kept: Kernel = prog.cache[_CACHE_KEY]
    except KeyError:
        kept = prog.cache[_CACHE_KEY] = Kernel(prog)
    return kept


class Kernel:
    """One kernel, which makes the records of its tasks.

    :raises InputError: if the architecture of the kernel is not supported, or its dump is no
        longer where it was opened
    :raises TypesError: if types that a stack needs are missing or damaged
    """

    layout: Layout
    """Layout of the kernel."""
    tasks: TaskList
    """Its tasks, in the order of the task list, the idle tasks last."""

    def __init__(self, prog: Program) -> None:
        correct_core_memory(prog)  # open_program() has done so; drgn itself does not
        self._prog = prog
        self.layout = layout_of(prog)
        self.tasks = (LiveTaskList if is_live(prog) else TaskList)(prog, self.layout.task)
        self._no_verdict = no_verdict(self.layout)
        self._crashed_addr = crashed_task(prog)
        self._flags_of = _flags_of(self._crashed_addr, self.tasks)
        self._recover_layout = probe_recovery(prog)
        self._text_reads_left = _MAX_TEXT_READS
        self._read_text()

    @property
    def text(self) -> KernelText:
        """The kernel text, as it was last read."""
        return self._text

    def problems(self) -> tuple[str, ...]:
        """Return a sentence for each part of this kernel that could not be read."""
        return (*self._text.problems, *self.tasks.problems)

    def stack(self, task: Task) -> Optional[TaskStack]:
        """Return the record of a task.

        :return: ``None`` if the task has exited since it was listed (on a running kernel)
        """
        if isinstance(self.tasks, LiveTaskList):
            return self._stack_at_rest(self.tasks, task)
        return self._stack(task)

    def walked(self, task: Task) -> Optional[tuple[TaskStack, WalkedStacks]]:
        """Return the record of a task, and its stacks with what the walker found on them, from the same moment.

        :return: ``None`` if the task has no stack, has exited, or is on a CPU whose registers are not known. On a
            running kernel also if it ran each time that it was read
        """
        if isinstance(self.tasks, LiveTaskList):
            return self._walked_at_rest(self.tasks, task)
        return self._walked(task)

    def symbol_of(self, addr: int) -> Optional[Symbol]:
        """Return the symbol of an address of the kernel image or of kernel text; ``None`` if there is none."""
        return self._records.symbol_of(addr)

    def is_kernel_text(self, addr: int) -> bool:
        """Return whether an address is known to be kernel text."""
        return self._text.is_kernel_text(addr) is True

    def _stack(self, task: Task) -> TaskStack:
        is_running = self.tasks.is_running(task)
        if not task.has_stack:
            return self._records.without_stack(task, is_running)
        if not is_running:
            return self._records.sleeping(task, self.tasks.is_idle(task))
        unclear = self._why_unclear_registers(task)
        if unclear is not None:
            return self._records.with_unclear_registers(task, unclear)
        return self._records.running(task)

    def _why_unclear_registers(self, task: Task) -> Optional[Explanation]:
        """Return why the registers of a task's CPU may be those of another task; ``None`` if it is on no CPU."""
        if self.tasks.is_half_switched(task):
            return explain_half_switched()
        if self.tasks.is_on_unclear_cpu(task):
            return explain_unclear_cpu(task.cpu)
        return None

    def _stack_at_rest(self, tasks: LiveTaskList, task: Task) -> Optional[TaskStack]:
        # A reader from outside cannot lock the task. It reads the task again if that ran meanwhile.
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
            elif record.reason in _REASONS_OF_TEXT and not text_is_new and self._text_reads_left:
                # A module may have been loaded since the lists were read.
                self._text_reads_left -= 1
                self._read_text()
                text_is_new = True
            else:
                return record
        return self._records.changed(task, tasks.is_running(task), _MAX_TRIES)

    def _walked(self, task: Task) -> Optional[tuple[TaskStack, WalkedStacks]]:
        if not task.has_stack or self._why_unclear_registers(task):
            return None
        walked = self._records.walked(task, self.tasks.is_running(task))
        return None if walked is None else (self._stack(task), walked)

    def _walked_at_rest(
        self, tasks: LiveTaskList, task: Task
    ) -> Optional[tuple[TaskStack, WalkedStacks]]:
        for _ in range(_MAX_TRIES):
            before = tasks.now(task)
            found = None if before is None else self._walked(before)
            if before is None or found is None:
                return None
            after = tasks.now(before)
            if after is not None and before.was_at_rest_until(after):
                return found
        return None

    def _read_text(self) -> None:
        self._text = _text_of(self._prog, self.layout.arch)
        self._walker = probe_walker(self._prog, self.layout, self._text, self._recover_layout)
        # The cached records were made with the text as it was read before.
        self._records = TaskRecords(
            self._prog,
            self.layout,
            self._walker,
            self._no_verdict,
            self._recover_layout,
            self._text,
            self._flags_of,
        )

    def info(self) -> KernelInfo:
        """Return which kernel this is, and how its stacks are read."""
        prog, layout = self._prog, self.layout
        return KernelInfo(
            source=source_of(prog),
            release=prog["UTS_RELEASE"].string_().decode("ascii", "backslashreplace"),
            build_id=build_id(prog),
            arch=layout.arch.name,
            unwinder=layout.unwinder,
            encoding=self._walker.encoding,
            reliable_stacktrace=layout.reliable_stacktrace,
            types=types_source(prog),
            cpus=len(self.tasks.cpus),
            notes=tuple(self._notes()),
            last_words=() if self._crashed_addr is None else crash_headlines(prog),
            host=nodename(prog),
            uptime_s=uptime_s(prog),
            boot_id=boot_id(prog),
        )

    def _notes(self) -> Iterator[str]:
        if self._no_verdict is not None:
            note = f"no verdicts: {self._no_verdict.sentence}"
            if self._walker.may_miss_frames:
                note += "; stacks come from drgn's unwinder, and only registers saved in user mode are found"
            yield note


def _flags_of(crashed_addr: Optional[int], tasks: TaskList) -> dict[int, tuple[str, ...]]:
    """Return the flags that do not depend on a task's stack, by the address of the task."""
    idle: dict[int, tuple[str, ...]] = {
        cpu.idle_addr: ("idle",) for cpu in tasks.cpus if cpu.idle_addr is not None
    }
    if crashed_addr is None:
        return idle
    return {**idle, crashed_addr: ("crashed", *idle.get(crashed_addr, ()))}


def _text_of(prog: Program, arch: Arch) -> KernelText:
    text = KernelText(prog, arch.extra_text(prog))
    if is_live(prog):
        # A list that seems damaged may have changed while it was read.
        for _ in range(_MAX_TRIES):
            if not text.problems:
                break
            text = KernelText(prog, arch.extra_text(prog))
    return text
