# SPDX-License-Identifier: LGPL-2.1-or-later
"""The unwinder of arm64, re-stated from arch/arm64/kernel/stacktrace.c (v6.1, v6.12 and v7.2).

Pure: bytes of stacks in, the kernel's sequence of frames out. Bad data never raises: it ends
the walk, and :attr:`.base.Walk.end` says how. The functions have the kernel's names (of v7.2), so that
both files can be read side by side.

A function that calls others stores a frame record, which x29 points to: the frame pointer of its
caller and its own return address. Entry code stores one inside the ``pt_regs``. A stack, higher
addresses above::

    begin + THREAD_SIZE   ---------------------
                          type = FINAL
                          0                          (return address)
             record       0                       <- &task_pt_regs()->stackframe: the end
                          x0 ... pstate           <- task_pt_regs()
                          ...
                          return address
                          frame pointer  --------->  of the frame above
                          ...
                          type = PT_REGS
                          0
             record       0                       <- an interrupt or exception in the kernel:
                          ... pc, x29 ...            go on at the pc and x29 in the pt_regs
                          x0                      <- regs
                          ...
                          return address
             record       frame pointer  ------->    leads to the record above
    thread.cpu_context.fp ^
    thread.cpu_context.sp ^

Before v6.13 there are no types. The record in the ``pt_regs`` of an interrupt is {x29, pc}, so the walk goes
through it as through a call. The last one is known by its address.

The lr in a ``pt_regs`` is not visited: it is not known whether it was the return address of the interrupted
function.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Callable, ClassVar, Optional

from ..arch.arm64.pt_regs import FRAME_META_FINAL, FRAME_META_PT_REGS
from ..kernel.stack_memory import FindStack, NotInDump, StackMemory
from ..kernel.tasks import Task
from .arm64_caller import Arm64Callers
from .arm64_fast_path import signature_of
from .arm64_rules import Arm64Rules
from .base import End, Fault, FindCaller, ReadMemory, Recover, Signature, Step, Walk, Walker
from .stack_cursor import only_stack

__all__ = ("Arm64Walker",)

_WORD = 8
_RECORD_BYTES = 2 * _WORD
_META_BYTES = 3 * _WORD


class _Ended(Exception):
    """The walk ended: how, and where."""

    def __init__(self, end: End, addr: Optional[int] = None, fault: Optional[Fault] = None) -> None:
        super().__init__(end)
        self.end, self.addr, self.fault = end, addr, fault


class _Unwinder:
    """``struct kunwind_state``, and the functions that change it.

    :param find: The stacks that can be unwound
    :param task_pt_regs: Virtual address of the registers at the top of the task's stack
    """

    def __init__(
        self, find: FindStack, task_pt_regs: int, rules: Arm64Rules, recover: Recover
    ) -> None:
        self.find = find
        self.rules = rules
        self.recover = recover
        self.final_record = task_pt_regs + rules.regs.stackframe_offset
        self.fp = self.pc = 0
        self.found_at: Optional[int] = None
        self.regs: Optional[int] = None
        self.raw_regs: Optional[bytes] = None
        self.stack: Optional[StackMemory] = None
        self.low = 0  # memory of the stack below this address was consumed
        self.left: set[str] = set()

    # ---- stacks

    def unwind_find_stack(self, addr: int, size_bytes: int) -> StackMemory:
        """Return the stack that contains the whole object. It cannot be a stack that the walk has left."""
        stack = self.stack
        if stack is not None and self.low <= addr and stack.on_stack(addr, size_bytes):
            return stack
        found = self.find(addr)
        if (
            found is None
            or not found.on_stack(addr, size_bytes)
            or found.kind in self.left
            or (stack is not None and found.kind == stack.kind)
        ):
            raise _Ended(End.ERROR, self.fp)
        return found

    def unwind_consume_stack(self, stack: StackMemory, addr: int, size_bytes: int) -> None:
        """Go to a stack. From now on, only memory above the object can be found on it."""
        if self.stack is not None and self.stack.kind != stack.kind:
            self.left.add(self.stack.kind)
        self.stack, self.low = stack, addr + size_bytes

    # ---- steps

    def kunwind_next(self) -> None:
        """Go to the next frame. Ends by :class:`_Ended`."""
        if not self.rules.regs.has_metadata and self.fp == self.final_record:
            raise _Ended(End.LAST_FRAME)
        if self.fp & 0x7:
            raise _Ended(End.ERROR, self.fp)
        stack = self.unwind_find_stack(self.fp, _RECORD_BYTES)
        record = self.fp
        new_fp = _word(stack, record)
        new_pc = _word(stack, record + _WORD)
        if self.rules.regs.has_metadata and not new_fp and not new_pc:
            self.kunwind_next_frame_record_meta()
        else:
            self.unwind_consume_stack(stack, record, _RECORD_BYTES)
            self.fp, self.pc, self.found_at = new_fp, new_pc, record + _WORD
            self.regs, self.raw_regs = self.regs_around(stack, record)
        self.pc = self.rules.strip(self.pc)
        self.kunwind_recover_return_address()

    def kunwind_next_frame_record_meta(self) -> None:
        stack = self.unwind_find_stack(self.fp, _META_BYTES)
        kind = _word(stack, self.fp + _RECORD_BYTES)
        if kind == FRAME_META_PT_REGS:
            self.kunwind_next_regs_pc()
            return
        if kind == FRAME_META_FINAL and self.fp == self.final_record:
            raise _Ended(End.LAST_FRAME)
        raise _Ended(End.ERROR, self.fp, Fault.BAD_FRAME_RECORD)

    def kunwind_next_regs_pc(self) -> None:
        layout = self.rules.regs
        regs = self.fp - layout.stackframe_offset
        stack = self.unwind_find_stack(regs, layout.size_bytes)
        raw = stack.read(regs, layout.size_bytes)
        self.unwind_consume_stack(stack, regs, layout.size_bytes)
        registers = layout.read(raw)
        self.fp, self.pc, self.found_at = registers["x29"], registers["pc"], regs + layout.ip_offset
        self.regs, self.raw_regs = regs, raw

    def regs_around(self, stack: StackMemory, record: int) -> tuple[Optional[int], Optional[bytes]]:
        """Return address and bytes of the ``pt_regs`` that contains a frame record, on a kernel without types."""
        layout = self.rules.regs
        regs = record - layout.stackframe_offset
        if layout.has_metadata or not stack.on_stack(regs, layout.size_bytes):
            return None, None
        try:
            raw = stack.read(regs, layout.size_bytes)
        except NotInDump:
            return None, None
        return (regs, raw) if self.rules.are_regs_around(raw, 0, self.fp, self.pc) else (None, None)

    def kunwind_recover_return_address(self) -> None:
        # The kernel looks up the original by the frame pointer of the caller, which the tracers
        # have kept.
        if self.pc not in self.rules.trampolines:
            return
        original = self.recover(self.pc, self.fp)
        # The original that kretprobes have may be return_to_handler, if a traced function ended with a jump to
        # the probed one. The kernel does not look up the original of that.
        if not original:
            raise _Ended(End.ERROR, self.pc, Fault.ADDRESS_NOT_RECOVERED)
        self.pc = original

    def step(self) -> Step:
        kind = "task" if self.stack is None else self.stack.kind
        if self.regs is not None:
            return Step(self.pc, True, self.found_at, self.regs, False, kind, self.raw_regs)
        return Step(self.pc, False, self.found_at, None, False, kind, None)


def _word(stack: StackMemory, addr: int) -> int:
    return int.from_bytes(stack.read(addr, _WORD), "little")


class Arm64Walker(Walker):
    """The unwinder of arm64.

    :param rules: What differs between arm64 kernels
    """

    name = "arm64"
    kernel_regs_are_unreliable = True
    needs_kernel_text: ClassVar[bool] = False

    def __init__(self, rules: Arm64Rules) -> None:
        self._rules = rules

    def walk_sleeping(self, task: Task, stack: StackMemory, recover: Recover) -> Walk:
        """Walk the stack of a task that is not on a CPU, as the kernel would."""
        unwinder = self._unwinder(task, only_stack(stack), recover)
        unwinder.fp, unwinder.pc = task.thread_fp, task.thread_pc
        steps: list[Step] = []
        try:
            unwinder.kunwind_recover_return_address()
            steps.append(unwinder.step())
            self._go_on(unwinder, steps)
        except (_Ended, NotInDump) as e:
            return self._walk(task, stack, steps, e)
        raise AssertionError("a walk ends")

    def walk_running(
        self, task: Task, registers: Mapping[str, int], find_stack: FindStack, recover: Recover
    ) -> Walk:
        """Walk the stacks of a task that is on a CPU, from the registers of that CPU."""
        if self._rules.regs.user_mode(registers):
            return Walk((), End.USER_REGS)
        unwinder = self._unwinder(task, find_stack, recover)
        unwinder.fp, unwinder.pc = registers["x29"], registers["pc"]
        steps: list[Step] = []
        try:
            self._go_on(unwinder, steps)
        except (_Ended, NotInDump) as e:
            try:
                stack = find_stack(task.stack_addr)
            except NotInDump:
                stack = None
            return self._walk(task, stack, steps, e)
        raise AssertionError("a walk ends")

    def signature(
        self, task: Task, stack: StackMemory, recovery_of: Callable[[Task], Recover]
    ) -> Optional[Signature]:
        """Return the walk of :meth:`walk_sleeping` in short form: see :mod:`.arm64_fast_path`."""
        return signature_of(task, stack, self._rules, lambda: recovery_of(task))

    def finds_callers(self, read: ReadMemory) -> Optional[FindCaller]:
        """Return a function that finds the callers of interrupted functions, which are still in lr: see
        :mod:`.arm64_caller`."""
        return Arm64Callers(read, self._rules.strip)

    def _unwinder(self, task: Task, find: FindStack, recover: Recover) -> _Unwinder:
        end_addr = task.stack_addr + self._rules.thread_size_bytes
        return _Unwinder(find, end_addr - self._rules.regs.size_bytes, self._rules, recover)

    def _go_on(self, unwinder: _Unwinder, steps: list[Step]) -> None:
        # This ends: each record is above the one before it on the same stack, and no stack is
        # visited twice.
        while True:
            unwinder.kunwind_next()
            steps.append(unwinder.step())

    def _walk(
        self,
        task: Task,
        stack: Optional[StackMemory],
        steps: list[Step],
        why: Exception,
    ) -> Walk:
        overflowed = _overflowed(steps)
        if isinstance(why, NotInDump):
            return Walk(tuple(steps), End.NOT_IN_DUMP, why.addr, overflowed)
        assert isinstance(why, _Ended)
        if why.end is not End.LAST_FRAME:
            return Walk(tuple(steps), why.end, why.addr, overflowed, why.fault)
        entry_regs = self._entry_regs(task, stack)
        if entry_regs is None:
            return Walk(tuple(steps), End.LAST_FRAME, overflowed=overflowed)
        return Walk((*steps, entry_regs), End.USER_REGS, overflowed=overflowed)

    def _entry_regs(self, task: Task, stack: Optional[StackMemory]) -> Optional[Step]:
        """Return the registers that user mode entered with, at the end of a complete walk.

        Unlike the kernel, which ends at the frame record in them.
        """
        # The kernel's first task never entered from user mode. But its pt_regs are zeros, which look
        # like user mode.
        if task.kthread or stack is None:
            return None
        layout = self._rules.regs
        regs = stack.end_addr - layout.size_bytes
        try:
            raw = stack.read(regs, layout.size_bytes)
        except NotInDump:
            return None
        registers = layout.read(raw)
        if not layout.user_mode(registers):
            return None
        return Step(registers["pc"], True, regs + layout.ip_offset, regs, True, stack.kind, raw)


def _overflowed(steps: list[Step]) -> Optional[str]:
    """Return the kind of the stack that overflowed: the walk goes on there after the overflow stack."""
    kinds = [step.stack for step in steps]
    if "overflow" not in kinds:
        return None
    return next((kind for kind in kinds[kinds.index("overflow") :] if kind != "overflow"), "task")
