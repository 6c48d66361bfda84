# SPDX-License-Identifier: LGPL-2.1-or-later
"""drgn's own unwinder as a Walker, for kernels whose unwinder is not re-stated here.

It gives a stack to read, never a verdict. drgn knows ORC, but it neither recovers
rewritten return addresses as the kernel does, nor says how a walk ended, nor where a
``pt_regs`` lies. Of these only the ones that user mode entered with are known: they lie
at the top of the task's stack.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Callable, Optional

from drgn import FaultError, Object, Program, StackFrame, UnsupportedOperation

from ..arch.base import Layout
from ..kernel.layout import symbol_address
from ..kernel.stack_memory import FindStack, NotInDump, StackMemory
from ..kernel.tasks import Task
from ..memory import UNUSABLE
from .base import End, Recover, Step, Walk, Walker

__all__ = ("DrgnWalker", "use_orc_of_the_dump")

_MAX_FRAMES = 1024
"""drgn stops there as well."""

_PREPARED = "drgn_tools.drgn_fallback.prepared"


def use_orc_of_the_dump(prog: Program) -> None:
    """Let drgn find the ORC tables inside the dump, where there is no debuginfo.

    drgn reads them for a module whose addresses it knows, and takes those of the
    kernel image from vmlinux; kallsyms knows them as well.
    """
    if _PREPARED in prog.cache:
        return
    prog.cache[_PREPARED] = True
    start, end = symbol_address(prog, "_text"), symbol_address(prog, "_end")
    try:
        prog.create_loaded_modules()
        image = prog.main_module()
        if image.address_ranges is None and start is not None and end is not None and start < end:
            image.address_ranges = [(start, end)]
    except UNUSABLE:
        # A damaged module list: stacks then end early, and have no verdict anyway.
        return


class DrgnWalker(Walker):
    """drgn's unwinder.

    :param is_kernel_text: ``__kernel_text_address()``; ``None`` where that cannot be told.
        A walk ends before the first address that is none: past the entry registers drgn goes
        on with whatever user-mode registers point to.
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

        :param stack: Not looked at: drgn reads what it needs
        :param recover: Not called
        """
        steps = [self._step(frame, number > 0) for number, frame in enumerate(self._frames(task))]
        return self._ended(task, steps)

    def walk_running(
        self, task: Task, registers: Mapping[str, int], find_stack: FindStack, recover: Recover
    ) -> Walk:
        """Walk the stacks of a task that is on a CPU, as drgn does, from the registers it has of the CPU."""
        if self._layout.regs.user_mode(registers):
            return Walk((), End.USER_REGS)
        frames = list(self._frames(task))
        steps = [
            self._step(frame, True, _stack_of(frame, find_stack))
            for frame in frames[1:]  # the first is where the CPU is
        ]
        return self._ended(task, steps)

    def _frames(self, task: Task) -> Iterator[StackFrame]:
        """Yield drgn's frames in the kernel, innermost first; none if it cannot unwind the task at all."""
        use_orc_of_the_dump(self._prog)
        try:
            trace = self._prog.stack_trace(Object(self._prog, "struct task_struct *", task.addr))
            for frame in list(trace)[:_MAX_FRAMES]:
                if frame.is_inline:
                    continue
                if not self._is_kernel_text(frame.pc):
                    return
                yield frame
        except (UnsupportedOperation, *UNUSABLE):
            return

    def _step(self, frame: StackFrame, may_be_interrupted: bool, stack: str = "task") -> Step:
        # The frame of a pt_regs is interrupted: its pc is exact. So is, to drgn, the
        # innermost frame of a sleeping task, which is where a call returns to.
        exact = frame.interrupted and may_be_interrupted
        return Step(frame.pc, exact, None, None, False, stack, None)

    def _ended(self, task: Task, steps: list[Step]) -> Walk:
        entry_regs = self._entry_regs(task)
        if entry_regs is None:
            return Walk(tuple(steps), End.UNKNOWN)
        return Walk((*steps, entry_regs), End.USER_REGS)

    def _entry_regs(self, task: Task) -> Optional[Step]:
        """Return task_pt_regs(), the registers user mode entered with, if it was user mode."""
        regs = self._layout.regs
        address = self._layout.task_pt_regs(task.stack_addr)
        try:
            raw = self._prog.read(address, regs.size_bytes)
        except (FaultError, OverflowError):
            return None
        registers = regs.read(raw)
        if not regs.user_mode(registers):
            return None
        return Step(registers["ip"], True, address + regs.ip_offset, address, True, "task", raw)


def _stack_of(frame: StackFrame, find_stack: FindStack) -> str:
    try:
        stack = find_stack(frame.sp)
    except (LookupError, NotInDump):
        return "unknown"
    return "unknown" if stack is None else stack.kind
