# SPDX-License-Identifier: LGPL-2.1-or-later
"""The ORC unwinder, re-stated from arch/x86/kernel/unwind_orc.c (v5.10 to v7.2).

Pure: bytes of stacks and rules in, the kernel's sequence of frames out. Bad data never raises: it
ends the walk, and :attr:`.base.Walk.end` says how. The functions have the kernel's names, so that
both files can be read side by side.

The rule of an address (:class:`~..arch.x86.orc_entry.OrcEntry`) leads to the CFA, and from there to the
next outer frame. Higher addresses are above::

    a call                                  an interrupt or exception
    ...                                     ...
                      <- CFA: the next sp   struct pt_regs
    return address                            sp, ss     -> the next sp
    saved bp          <- CFA + bp_offset      ip, cs, flags   <- CFA, if only these five are saved
    ...                                       ...
                      <- sp                   r15        <- CFA
                                            ...          <- sp

The walk of a sleeping task begins at the frame that __switch_to_asm left::

    ret_addr   -> the first ip
    bp         -> the first bp
    ...
    r15        <- thread.sp
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Callable, Optional

import msgspec

from ..arch.x86.orc_entry import FRAME_POINTER_ENTRY, OrcEntry, OrcType
from ..arch.x86.orc_tables import UnwindDataUnclear
from ..arch.x86.pt_regs import IRET_FRAME_OFFSET, X86Regs
from ..kernel.stack_memory import FindStack, NotInDump, StackMemory
from ..kernel.tasks import Task
from ..memory import ADDRESS_MASK
from .base import End, Fault, Recover, Signature, Step, Walk, Walker
from .orc_fast_path import OrcFastPath
from .stack_cursor import StackCursor, only_stack

__all__ = ("OrcRules", "OrcWalker")

_WORD_BYTES = 8
_PAGE_BYTES = 4096
_MAX_STEPS = 8192
"""The number of frames on 64 KiB (KASAN), if each had one word. If registers on a damaged stack lead off it, the
kernel's test of the direction does not notice a loop, and a walk might never end."""


class OrcRules(msgspec.Struct, frozen=True):
    """What unwind_orc.c knows of one kernel."""

    find: Callable[[int], Optional[OrcEntry]]
    """orc_find(): see :meth:`.OrcTables.find`."""
    regs: X86Regs
    """Layout of ``struct pt_regs``."""
    frame_bp_offset: int
    """``offsetof(struct inactive_task_frame, bp)``. ``ret_addr`` follows, and is the last member."""
    first_exact_addrs: frozenset[int]
    """As :attr:`.OrcImage.first_exact_addrs`."""
    guesses: bool = True
    """As :attr:`.OrcImage.guesses`."""
    rethook_trampoline: Optional[int] = None
    """Virtual address that rethook writes over return addresses; ``None`` if unwinders do not see through it."""
    trampolines: frozenset[int] = frozenset()
    """All virtual addresses that are written over return addresses."""

    @property
    def starts_above_frame(self) -> bool:
        """A walk of a sleeping task begins above its ``struct inactive_task_frame``, and recognizes a task
        that never ran (v5.8). Before that it began below, and skipped the first frame."""
        return bool(self.first_exact_addrs)


class _Unwinder(StackCursor):
    """``struct unwind_state``, and the functions that change it."""

    def __init__(self, find: FindStack, rules: OrcRules, recover: Recover) -> None:
        super().__init__(find)
        self.rules = rules
        self.recover = recover
        self.ip: int
        self.sp: int
        self.bp: int
        self.regs: Optional[int] = None  # virtual address; the registers of a CPU have none
        self.registers: Optional[Mapping[str, int]] = None  # at regs; None if state->regs is NULL
        self.raw_regs: Optional[bytes] = None
        self.full_regs = False
        self.prev_registers: Optional[Mapping[str, int]] = None
        self.signal: bool
        self.found_at: int
        self.error = False
        self.fault: Optional[Fault] = None
        self.bad_addr: Optional[int]  # where the fault is, if there is one
        self.on_cpu = False
        self.overflowed: Optional[str] = None
        self.steps_left = _MAX_STEPS

    def note_error(self, fault: Fault, addr: int) -> None:
        """Set ``state->error``. The first fault is the one that counts."""
        if self.fault is None:
            self.fault, self.bad_addr = fault, addr
        self.error = True

    def fail(self, fault: Fault, addr: int) -> None:
        self.note_error(fault, addr)
        self.stack = None

    # ---- memory

    def stack_access_ok(self, addr: int, len_bytes: int) -> bool:
        """Unlike the kernel before v5.18, test the length also after a change of the stack."""
        if self.stack is not None and self.stack.on_stack(addr, len_bytes):
            return True
        if not self.get_stack_info(addr):
            return False
        assert self.stack is not None  # it was found
        return self.stack.on_stack(addr, len_bytes)

    def deref_stack(self, addr: int, len_bytes: int) -> Optional[bytes]:
        """Return memory of a stack; ``None`` if it is on no stack, which ends the walk."""
        if not self.stack_access_ok(addr, len_bytes):
            self.fail(Fault.OFF_STACK, addr)
            return None
        assert self.stack is not None  # stack_access_ok() has found it
        return self.stack.read(addr, len_bytes)

    def deref_stack_reg(self, addr: int) -> Optional[int]:
        raw = self.deref_stack(addr & ADDRESS_MASK, _WORD_BYTES)
        return None if raw is None else int.from_bytes(raw, "little")

    def get_reg(self, name: str) -> Optional[int]:
        """Return a register of the interrupted code; ``None`` if it is not saved.

        If only ip to ss are saved here, the registers of the frame before are still valid: the
        interrupted entry code has not changed them yet.
        """
        if self.registers is None:
            return None
        saved = self.registers if self.full_regs else self.prev_registers
        return None if saved is None else saved[name]

    # ---- steps

    def unwind_next_frame(self) -> None:
        # End-of-stack check for user tasks.
        if self.registers is not None and self.rules.regs.user_mode(self.registers):
            self.stack = None
            return
        self.steps_left -= 1
        if not self.steps_left:
            self.fail(Fault.WRONG_DIRECTION, self.sp)
            return

        # If the call never returns, the return address may be in another function.
        entry = self.rules.find(self.ip if self.signal else (self.ip - 1) & ADDRESS_MASK)
        if entry is None:
            self.note_error(Fault.NO_UNWIND_DATA, self.ip)
            if not self.rules.guesses:
                self.stack = None
                return
            entry = FRAME_POINTER_ENTRY
        elif entry.type is OrcType.UNDEFINED:
            self.fail(Fault.UNDEFINED_UNWIND_STATE, self.ip)
            return
        elif entry.type is OrcType.END_OF_STACK:
            self.stack = None
            return

        prev_sp, prev_stack = self.sp, self.stack
        self.signal = entry.signal
        cfa = self.find_cfa(entry)
        if cfa is None or not self.find_ip_and_sp(entry.type, cfa) or not self.find_bp(entry, cfa):
            return
        # Prevent a recursive loop.
        if (
            self.stack is not None
            and prev_stack is not None
            and self.stack.kind == prev_stack.kind
            and self.stack.on_stack(self.sp, _WORD_BYTES)
            and self.sp <= prev_sp
        ):
            self.fail(Fault.WRONG_DIRECTION, self.sp)

    def find_cfa(self, entry: OrcEntry) -> Optional[int]:
        if entry.base == "sp":
            cfa = self.sp + entry.offset
        elif entry.base == "bp":
            cfa = self.bp + entry.offset
        else:
            register = self.get_reg(entry.base)
            if register is None:
                self.fail(Fault.REGISTER_NOT_SAVED, self.ip)
                return None
            cfa = register
        if entry.indirect:
            word = self.deref_stack_reg(cfa)
            if word is None:
                return None
            cfa = word + entry.offset_after
        return cfa & ADDRESS_MASK

    def find_ip_and_sp(self, type_: OrcType, cfa: int) -> bool:
        if type_ is OrcType.CALL:
            addr_p = (cfa - _WORD_BYTES) & ADDRESS_MASK
            return_addr = self.deref_stack_reg(addr_p)
            if return_addr is None:
                return False
            self.ip, self.sp = self.recover(return_addr, addr_p), cfa
            self.found_at = addr_p
            self.regs = self.registers = self.raw_regs = self.prev_registers = None
            return True
        full = type_ is OrcType.REGS
        raw = self.deref_stack(cfa, self.rules.regs.size_bytes - (0 if full else IRET_FRAME_OFFSET))
        if raw is None:
            return False
        if not full and self.full_regs:
            self.prev_registers = self.registers
        self.regs = cfa if full else (cfa - IRET_FRAME_OFFSET) & ADDRESS_MASK
        self.raw_regs, self.registers = raw, self.rules.regs.read(raw)
        self.full_regs = full
        self.ip, self.sp = self.registers["ip"], self.registers["sp"]
        self.found_at = (self.regs + self.rules.regs.ip_offset) & ADDRESS_MASK
        # The interrupt may have hit the first instruction of the trampoline, right after the ret
        # that went there. The kernel does not consider the function graph tracer's trampoline here.
        if self.ip == self.rules.rethook_trampoline:
            self.ip = self.recover(self.ip, (self.sp - _WORD_BYTES) & ADDRESS_MASK)
        return True

    def find_bp(self, entry: OrcEntry, cfa: int) -> bool:
        if entry.bp_from is None:
            saved = self.get_reg("bp")
            if saved is not None:
                self.bp = saved
            return True
        base = cfa if entry.bp_from == "cfa" else self.bp
        bp = self.deref_stack_reg(base + entry.bp_offset)
        if bp is None:
            return False
        self.bp = bp
        return True

    # ---- the start

    def unwind_start_at_regs(self, registers: Mapping[str, int]) -> None:
        """Follows __unwind_start() with ``regs``, the registers of a CPU. The walk begins at the next frame."""
        self.ip, self.sp, self.bp = registers["ip"], registers["sp"], registers["bp"]
        self.registers, self.full_regs, self.signal = registers, True, True
        self.go_to_first_stack()
        if not self.done:
            self.unwind_next_frame()

    def unwind_start_inactive(self, stack: StackMemory, thread_sp: int) -> None:
        """Follows __unwind_start() of a task that is not running.

        :param stack: The task's stack
        :param thread_sp: ``task->thread.sp``: virtual address of the ``struct inactive_task_frame``
        """
        bp_at = thread_sp + self.rules.frame_bp_offset
        ret_addr_at = bp_at + _WORD_BYTES
        above = self.rules.starts_above_frame
        self.sp = (ret_addr_at + _WORD_BYTES if above else thread_sp) & ADDRESS_MASK
        self.go_to_first_stack()
        if self.done:
            return
        # Unlike the kernel, read the frame with a check of its bounds.
        self.bp = int.from_bytes(stack.read(bp_at, _WORD_BYTES), "little")
        self.ip = int.from_bytes(stack.read(ret_addr_at, _WORD_BYTES), "little")
        self.found_at = ret_addr_at
        self.signal = self.ip in self.rules.first_exact_addrs
        while self.stack is not None and (
            not self.stack.on_stack(thread_sp, _WORD_BYTES) or self.sp <= thread_sp
        ):
            self.unwind_next_frame()

    def go_to_first_stack(self) -> None:
        if self.get_stack_info(self.sp):
            return
        # We were not on a valid stack. It may have overflowed into its guard page: try the next page.
        # Unlike the kernel, do not treat this as an error for a task on a CPU: its frames are still right.
        if not self.on_cpu:
            self.note_error(Fault.OFF_STACK, self.sp)
        if self.get_stack_info(-(-self.sp // _PAGE_BYTES) * _PAGE_BYTES & ADDRESS_MASK):
            assert self.stack is not None  # it was found
            self.overflowed = self.stack.kind
        else:
            self.note_error(Fault.OFF_STACK, self.sp)

    def step(self) -> Step:
        assert self.stack is not None  # there is no step after the walk is done
        return Step(
            self.ip,
            self.registers is not None or self.signal,
            self.found_at,
            self.regs,
            self.registers is not None and self.rules.regs.user_mode(self.registers),
            self.stack.kind,
            self.raw_regs,
            self.error,
        )


def _walk(
    unwinder: _Unwinder, start: Callable[[], None], partly_read: Optional[StackMemory] = None
) -> Walk:
    """Return the walk that *start* begins.

    :param partly_read: A stack whose lower part is missing only because it was not read yet
    """
    steps: list[Step] = []
    has_more = False

    def ended(end: End, addr: Optional[int] = None, fault: Optional[Fault] = None) -> Walk:
        return Walk(tuple(steps), end, addr, unwinder.overflowed, fault, has_more)

    try:
        start()
        while not unwinder.done:
            steps.append(unwinder.step())
            unwinder.unwind_next_frame()
    except NotInDump as missing:
        # After an error the verdict is clear, whatever the missing frames are.
        may_be_read = partly_read is not None and partly_read.is_below_data(missing.addr)
        if not unwinder.error or may_be_read:
            return ended(End.NOT_IN_DUMP, missing.addr)
        has_more = True
    except UnwindDataUnclear as unclear:
        if not unwinder.error:
            return ended(End.UNWIND_DATA_UNCLEAR, unclear.addr)
        has_more = True
    if unwinder.error:
        return ended(End.ERROR, unwinder.bad_addr, unwinder.fault)
    if not steps:
        return ended(End.EMPTY)
    return ended(End.USER_REGS if steps[-1].user_mode else End.LAST_FRAME)


class OrcWalker(Walker):
    """CONFIG_UNWINDER_ORC.

    :param rules: What the unwinder knows of this kernel
    """

    name = "orc"
    kernel_regs_are_unreliable = False

    def __init__(self, rules: OrcRules) -> None:
        self._rules = rules
        self._fast_path: Optional[OrcFastPath] = None
        if rules.starts_above_frame:
            self._fast_path = OrcFastPath(
                rules.find,
                rules.regs,
                rules.frame_bp_offset,
                rules.first_exact_addrs,
                rules.trampolines,
            )

    def walk_sleeping(self, task: Task, stack: StackMemory, recover: Recover) -> Walk:
        """Walk the stack of a task that is not on a CPU, as the kernel would.

        :param stack: The task's own stack. Only on a damaged stack is memory below the saved stack pointer needed.
        :return: A walk that ends with NOT_IN_DUMP if *stack* does not go far enough down, even after an
            error
        """
        unwinder = _Unwinder(only_stack(stack), self._rules, recover)
        return _walk(
            unwinder,
            lambda: unwinder.unwind_start_inactive(stack, task.thread_sp),
            stack,
        )

    def walk_running(
        self, task: Task, registers: Mapping[str, int], find_stack: FindStack, recover: Recover
    ) -> Walk:
        """Walk the stacks of a task that is on a CPU, from the registers of that CPU, as the kernel would."""
        if self._rules.regs.user_mode(registers):
            return Walk((), End.USER_REGS)
        unwinder = _Unwinder(find_stack, self._rules, recover)
        unwinder.on_cpu = True
        return _walk(unwinder, lambda: unwinder.unwind_start_at_regs(registers))

    def signature(
        self, task: Task, stack: StackMemory, recovery_of: Callable[[Task], Recover]
    ) -> Optional[Signature]:
        """Return the walk of :meth:`walk_sleeping` in short form: see :class:`~.orc_fast_path.OrcFastPath`."""
        if self._fast_path is None:
            return None
        return self._fast_path.signature(stack, task.thread_sp, lambda: recovery_of(task))
