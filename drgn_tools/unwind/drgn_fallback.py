# SPDX-License-Identifier: LGPL-2.1-or-later
"""drgn's own unwinder as a Walker, for kernels whose unwinder is not re-stated here.

Its stacks are for people to read: there is no verdict on them. drgn knows ORC, but it does not
recover rewritten return addresses, and it says neither how a walk ended nor where a ``pt_regs``
is. Only the registers that user mode entered with are found: they are at the top of the task's
stack. drgn 0.3.0 has no unwinder for x86-32: there, a walk finds nothing but these registers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Callable, Optional

from drgn import Object, Program, StackFrame, UnsupportedOperation

from ..arch.base import Layout
from ..kernel.stack_memory import FindStack, NotInDump, StackMemory
from ..kernel.tasks import Task
from ..memory import UNUSABLE, read_or_none
from ..program.drgn_modules import create_modules
from .base import End, Recover, Step, Walk, Walker

__all__ = ("DrgnWalker",)

_MAX_FRAMES = 1024
"""drgn stops there, too."""


class DrgnWalker(Walker):
    """drgn's unwinder.

    :param layout: Layout of this kernel
    :param is_kernel_text: ``__kernel_text_address()`` of a virtual address; returns ``None`` if
        the dump does not show it. A walk ends before the first address for which this does not return
        true: beyond the entry code, drgn would follow the registers of user mode.
    """

    name = "drgn"
    kernel_regs_are_unreliable = False
    may_miss_frames = True

    def __init__(
        self, prog: Program, layout: Layout, is_kernel_text: Callable[[int], Optional[bool]]
    ) -> None:
        self._prog = prog
        self._layout = layout
        self._is_kernel_text = is_kernel_text

    def walk_sleeping(self, task: Task, stack: StackMemory, recover: Recover) -> Walk:
        """Walk the stack of a task that is not on a CPU, as drgn does.

        :param stack: Not used: drgn reads what it needs
        :param recover: Not called
        """
        steps = [self._step(frame, number > 0) for number, frame in enumerate(self._frames(task))]
        return self._ended(task, steps)

    def walk_running(
        self, task: Task, registers: Mapping[str, int], find_stack: FindStack, recover: Recover
    ) -> Walk:
        """Walk the stacks of a task that is on a CPU, as drgn does.

        :param registers: Used only to detect user mode: drgn has the registers of the CPU, too
        :param find_stack: The stacks of that CPU and task
        :param recover: Not called
        """
        if self._layout.regs.user_mode(registers):
            return Walk((), End.USER_REGS)
        frames = list(self._frames(task))
        steps = [
            self._step(frame, True, _stack_of(frame, find_stack))
            for frame in frames[1:]  # the first is where the CPU is
        ]
        return self._ended(task, steps)

    def _frames(self, task: Task) -> Iterator[StackFrame]:
        """Yield drgn's frames in the kernel, innermost first; none if drgn cannot unwind the task."""
        create_modules(self._prog)
        try:
            trace = self._prog.stack_trace(Object(self._prog, "struct task_struct *", task.addr))
            for frame in list(trace)[:_MAX_FRAMES]:
                if frame.is_inline:
                    continue
                if not self._is_kernel_text(frame.pc):
                    return
                yield frame
        except (UnsupportedOperation, NotImplementedError, MemoryError, *UNUSABLE):
            # drgn raises NotImplementedError for x86-32, and MemoryError if a damaged module has a
            # huge number of ORC entries.
            return

    def _step(self, frame: StackFrame, may_be_interrupted: bool, stack: str = "task") -> Step:
        # drgn marks the frame of a pt_regs as interrupted, and its pc is exact. It also marks the
        # innermost frame of a sleeping task, but the pc of that frame is a return address.
        exact = frame.interrupted and may_be_interrupted
        return Step(frame.pc, exact, None, None, False, stack, None)

    def _ended(self, task: Task, steps: list[Step]) -> Walk:
        entry_regs = self._entry_regs(task)
        if entry_regs is None:
            return Walk(tuple(steps), End.UNKNOWN)
        return Walk((*steps, entry_regs), End.USER_REGS)

    def _entry_regs(self, task: Task) -> Optional[Step]:
        """Return the registers that user mode entered with, task_pt_regs(), if they are of user mode."""
        regs = self._layout.regs
        address = self._layout.task_pt_regs(task.stack_addr)
        raw = read_or_none(self._prog, address, regs.size_bytes)
        if raw is None:
            return None
        registers = regs.read(raw)
        if not regs.user_mode(registers):
            return None
        return Step(
            registers[regs.ip_name], True, address + regs.ip_offset, address, True, "task", raw
        )


def _stack_of(frame: StackFrame, find_stack: FindStack) -> str:
    try:
        stack = find_stack(frame.sp)
    except (LookupError, NotInDump):
        return "unknown"
    return "unknown" if stack is None else stack.kind
