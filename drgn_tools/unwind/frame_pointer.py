# SPDX-License-Identifier: LGPL-2.1-or-later
"""The frame-pointer unwinder, re-stated from arch/x86/kernel/unwind_frame.c (v6.12).

Pure: bytes of stacks in, the kernel's sequence of frames out. Bad data never raises: it ends
the walk, and :attr:`.base.Walk.end` says how. The functions have the kernel's names, so that both
files can be read side by side.

Up to v5.2, x86-32 saved ``pt_regs`` of kernel mode without sp and ss. They are read as complete
ones here.

For a task that is not ``current`` the kernel accepts the task's own stack only
(get_stack_info_noinstr(): ``if (task != current) return false``). A task on a CPU may be on
several stacks. Each of them holds the stack pointer of the stack that it interrupted.

A stack, higher addresses above::

    begin + THREAD_SIZE   ---------------------
                          padding (FRED, x86-32)
                          struct pt_regs          <- task_pt_regs()
                          return address
    last_frame()       -> saved bp                <- pushed by the first C function
                          ...
                          return address          <- one ordinary frame:
                 bp    -> saved bp                   two words
                          ...
                          struct pt_regs          <- an interrupt or exception:
                          ...                        "saved bp" of the frame below
                          return address             is encoded and points here
                 bp    -> saved bp (encoded) --->
                          ...
                          ret_addr                <- struct inactive_task_frame,
             first bp  -> bp                         left by __switch_to_asm
         thread.sp     -> r15 ...
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Callable, Optional

from ..arch.x86.encoding import decode_frame_pointer
from ..arch.x86.frame_pointer_rules import UnwindRules
from ..kernel.stack_memory import FindStack, NotInDump, StackMemory
from ..kernel.tasks import Task
from .base import (
    End,
    FindCaller,
    ReadMemory,
    Recover,
    Signature,
    Step,
    Walk,
    Walker,
    nothing_rewritten,
)
from .fast_path import FastPath
from .interrupted_caller import Code, find_interrupted_caller
from .stack_cursor import StackCursor, only_stack

__all__ = ("FramePointerWalker", "walk_from_regs", "walk_task_stack")

_GUARD_BYTES = 4096
"""Size of the guard page below a stack."""


class _Unwinder(StackCursor):
    """``struct unwind_state``, and the functions that change it."""

    def __init__(
        self, find: FindStack, task_stack_end: int, rules: UnwindRules, recover: Recover
    ) -> None:
        super().__init__(find)
        self.rules = rules
        self.recover = recover
        self.word_bytes = rules.regs.word_bytes
        self.frame_header_bytes = 2 * self.word_bytes
        self.task_pt_regs = task_stack_end - rules.top_padding_bytes - rules.regs.size_bytes
        self.last_frame = self.task_pt_regs - self.frame_header_bytes
        # A state is a frame, at bp, or a pt_regs. Before the first it is neither (orig_sp is 0).
        self.ip: int
        self.bp: Optional[int] = None
        self.next_bp: Optional[int] = None
        self.regs: Optional[int] = None
        self.raw_regs: bytes
        self.regs_user_mode: bool
        self.regs_bp: int
        self.regs_sp: int
        self.on_cpu = False
        self.been_at_hidden_regs = False
        self.overflowed: Optional[str] = None
        self.bad_bp: Optional[int] = None  # unwind_error(): it could not be followed

    # ---- memory

    def read(self, addr: int, size_bytes: int) -> bytes:
        assert self.stack is not None  # nothing is read after the walk is done
        return self.stack.read(addr, size_bytes)

    def word(self, addr: int) -> int:
        assert self.stack is not None  # as above
        return int.from_bytes(self.stack.read(addr, self.word_bytes), "little")

    def get_stack_of_frame(self, sp: Optional[int], frame: int, sp_is_lost: bool) -> bool:
        """Go to the stack of *frame*, if *sp* is in the guard page below it or is lost.

        The kernel finds no stack for such an *sp* and ends. But a frame pointer that was saved
        before the stack overflowed is still valid.
        """
        stack = self.find(frame) if self.on_cpu and (sp or sp_is_lost) else None
        if stack is None or stack.kind in self.visited:
            return False
        if _below(stack, sp or 0):
            self.overflowed = stack.kind
        elif not sp_is_lost:
            return False
        self.visited.add(stack.kind)
        self.stack = stack
        return True

    # ---- the end of the stack

    def is_last_frame(self) -> bool:
        return self.bp == self.last_frame

    def is_last_aligned_frame(self) -> bool:
        # gcc realigned the stack of the first function and pushed its return address again.
        #
        # <x86_64_start_kernel>:            higher addresses above:
        #   lea  0x8(%rsp),%r10               return address    <- last_frame() + 1 word
        #   and  $0xfffffffffffffff0,%rsp     (realigned)       <- last_frame()
        #   pushq -0x8(%r10)                  return address, again
        #   push %rbp                         saved bp          <- last_aligned_frame()
        #   mov  %rsp,%rbp
        last_bp = self.last_frame
        aligned_bp = last_bp - self.rules.gcc_realign_words * self.word_bytes
        return self.bp == aligned_bp and self.word(aligned_bp + self.word_bytes) == self.word(
            last_bp + self.word_bytes
        )

    def is_last_ftrace_frame(self) -> bool:
        # The last frame, as the trampoline of a function tracer leaves it.
        #
        # higher addresses above:
        #   pt_regs
        #   parent return address        <- bp + 4 words
        #   function return address
        #   bp                           <- bp + 2 words
        #   parent return address
        #   bp                           <- self.bp
        bp, word = self.bp, self.word_bytes
        return (
            bp is not None
            and bp == self.last_frame - 3 * word
            and self.word(bp) == self.word(bp + 2 * word)
            and self.word(bp + word) == self.word(bp + 4 * word)
        )

    def is_last_task_frame(self) -> bool:
        # Each form of the last frame is near the end of the stack. Most frames are not.
        if self.bp is None or self.bp < self.last_frame - 3 * self.word_bytes:
            return False
        return self.is_last_frame() or self.is_last_aligned_frame() or self.is_last_ftrace_frame()

    # ---- steps

    def update_stack_state(self, next_bp: int) -> bool:
        """Move to the frame that *next_bp* points to, if it is safe. All checks come before the first change."""
        if self.regs is not None:
            prev_frame_end = self.regs + self.rules.regs.saved_bytes(self.raw_regs)
        elif self.bp is not None:
            prev_frame_end = self.bp + self.frame_header_bytes
        else:
            prev_frame_end = 0

        # Is the next frame pointer an encoded pointer to pt_regs?
        regs = decode_frame_pointer(next_bp, self.rules.encoding, self.word_bytes)
        if regs is not None:
            frame, len_bytes = regs, self.rules.regs.kernel_mode_bytes
        else:
            frame, len_bytes = next_bp, self.frame_header_bytes

        # If the next frame is not on the current stack, go to the next stack. A stack may be
        # empty, so this may pass several of them. The last one has no next_sp.
        assert self.stack is not None  # not done
        prev_stack = self.stack
        sp_is_lost = self.regs is not None and self.regs == prev_stack.hidden_regs
        while not self.stack.on_stack(frame, len_bytes):
            next_sp = self.stack.next_sp
            if not self.get_stack_info(next_sp) and not self.get_stack_of_frame(
                next_sp, frame, sp_is_lost
            ):
                return False

        # The next frame must be above the previous one and must not overlap it.
        if self.stack is prev_stack and frame < prev_frame_end:
            return False

        if regs is not None:
            raw_regs = self.read(regs, len_bytes)
            if (saved_bytes := self.rules.regs.saved_bytes(raw_regs)) > len_bytes:
                if not self.stack.on_stack(regs, saved_bytes):
                    return False
                raw_regs = self.read(regs, saved_bytes)
            self.move_to_regs(regs, raw_regs)
        else:
            addr_p = next_bp + self.word_bytes
            self.ip = self.recover(self.word(addr_p), addr_p)
            self.regs, self.bp = None, next_bp
        return True

    def move_to_regs(self, regs: int, raw_regs: bytes) -> None:
        registers = self.rules.regs.read(raw_regs)
        user_mode = self.rules.regs.user_mode(registers)
        ip = registers["ip"]
        if not user_mode:
            ip = self.recover(ip, regs + self.rules.regs.ip_offset)
        self.ip = ip
        self.regs, self.raw_regs, self.bp = regs, raw_regs, None
        self.regs_bp = registers["bp"]
        self.regs_sp = self.rules.regs.interrupted_sp(regs, registers)
        self.regs_user_mode = user_mode

    def unwind_next_frame(self) -> None:
        # Have we reached the end?
        if self.regs is not None and self.regs_user_mode:
            self.stack = None
            return

        if self.on_cpu and self.regs is not None and self.ip == 0:
            self.unwind_null_call()
            return

        if self.is_last_task_frame():
            raw_regs = self.read(self.task_pt_regs, self.rules.regs.size_bytes)
            registers = self.rules.regs.read(raw_regs)
            if not self.rules.regs.user_mode(registers):
                # A kernel thread: copy_thread() made these pt_regs.
                self.stack = None
                return
            # The entry code does not encode the pt_regs of a system call.
            self.regs, self.raw_regs, self.bp = self.task_pt_regs, raw_regs, None
            self.regs_user_mode = True
            self.ip = registers["ip"]
            return

        if self.next_bp is not None:
            next_bp, self.next_bp = self.next_bp, None
        elif self.regs is not None:
            next_bp = self.regs_bp
        else:
            assert self.bp is not None  # a state is a frame or a pt_regs
            next_bp = self.word(self.bp)
            if next_bp == 0 and self.unwind_double_fault():
                return

        if not self.update_stack_state(next_bp):
            self.stack = None
            self.bad_bp = next_bp

    def unwind_double_fault(self) -> bool:
        """Move to the ``pt_regs`` of a double fault of x86-32, if this is its outermost frame.

        Unlike the kernel, which ends here: a task gate pushes nothing, and doublefault_shim() does not
        encode the ``pt_regs`` that it makes (arch/x86/kernel/doublefault_32.c, v6.12, says so). The
        fault had no stack to be pushed to, so the sp in them may be any number.
        """
        assert self.stack is not None  # not done
        regs = self.stack.hidden_regs
        if regs is None or self.been_at_hidden_regs:
            return False
        self.been_at_hidden_regs = True
        self.move_to_regs(regs, self.read(regs, self.rules.regs.size_bytes))
        return True

    def unwind_null_call(self) -> None:
        """Move from the ``pt_regs`` of a call of NULL to the caller.

        The kernel does this in __unwind_start() only, because an oops starts its trace at these
        registers. The walk of a CPU that has panicked starts at panic() and reaches them later.
        """
        #     return address    <- regs->sp
        #     (bp)              <- what bp would be: may be the last word of pt_regs
        assert self.stack is not None  # not done
        assert self.regs is not None  # the caller has checked it
        # The word must be above the pt_regs and on this stack.
        prev_frame_end = self.regs + self.rules.regs.saved_bytes(self.raw_regs)
        if self.regs_sp < prev_frame_end or not self.stack.on_stack(self.regs_sp, self.word_bytes):
            self.stack, self.bad_bp = None, self.regs_sp
            return
        self.next_bp, self.regs = self.regs_bp, None
        self.bp = self.regs_sp - self.word_bytes
        self.ip = self.recover(self.word(self.regs_sp), self.regs_sp)

    def unwind_start(self, bp: int, first_frame: int) -> None:
        """Follows __unwind_start(), after it has found the frame pointer."""
        # The kernel ignores whether these fail. If the first frame is not on the stack, the
        # stack type stays unknown: the walk is done, without an error.
        if self.get_stack_info(bp):
            if self.on_cpu and self.stack is not None and _below(self.stack, first_frame):
                first_frame, self.overflowed = self.stack.begin_addr, self.stack.kind
            self.update_stack_state(bp)
        while self.stack is not None and (
            not self.stack.on_stack(first_frame, self.word_bytes)
            or (self.next_bp is None and (self.bp or 0) < first_frame)
        ):
            self.unwind_next_frame()

    def step(self) -> Step:
        assert self.stack is not None  # there is no step after the walk is done
        stack = self.stack.kind
        if self.regs is not None:
            found_at = self.regs + self.rules.regs.ip_offset
            return Step(
                self.ip, True, found_at, self.regs, self.regs_user_mode, stack, self.raw_regs
            )
        assert self.bp is not None  # a state is a frame or a pt_regs
        found_at = self.bp + self.word_bytes
        return Step(self.ip, False, found_at, None, False, stack, None)


def _below(stack: StackMemory, sp: int) -> bool:
    """Return whether *sp* is in the guard page below *stack* (CONFIG_VMAP_STACK)."""
    return stack.begin_addr - _GUARD_BYTES <= sp < stack.begin_addr


def walk_task_stack(
    stack: StackMemory, thread_sp: int, rules: UnwindRules, recover: Recover = nothing_rewritten
) -> Walk:
    """Walk the stack of a task that is not on a CPU, as the kernel would.

    :param stack: The task's stack; memory below *thread_sp* is not needed
    :param thread_sp: ``task->thread.sp``: virtual address of the ``struct inactive_task_frame``
    :param rules: How this kernel's frame pointers are followed
    :param recover: Returns the original of a return address that the kernel has rewritten. It is
        called for each return address and each kernel-mode ``regs->ip``, in order.
    """
    # get_frame_pointer(), get_stack_pointer() for a task that is not current
    bp = thread_sp + rules.frame_bp_offset
    return _walk(_Unwinder(only_stack(stack), stack.end_addr, rules, recover), bp, thread_sp)


def walk_from_regs(
    registers: Mapping[str, int],
    find: FindStack,
    task_stack_end: int,
    rules: UnwindRules,
    recover: Recover = nothing_rewritten,
) -> Walk:
    """Walk the stacks of a task that was on a CPU, from the registers of that CPU.

    :param registers: At least ip, sp, bp, cs and flags, by the kernel's names
    :param find: The stacks of that CPU and task
    :param task_stack_end: End of the task's own stack: one past its highest virtual address
    :param rules: How this kernel's frame pointers are followed
    :param recover: As for :func:`walk_task_stack`
    :return: A walk without a step for the frame that the CPU is in, because *registers* show that frame
    """
    # The kernel's stacks of a CPU in user mode are empty.
    if rules.regs.user_mode(registers):
        return Walk((), End.USER_REGS)
    unwinder = _Unwinder(find, task_stack_end, rules, recover)
    unwinder.on_cpu = True
    bp, sp = registers["bp"], registers["sp"]
    if registers["ip"] == 0:
        # After a call of NULL, sp points to the return address, and bp was not pushed. Go on as
        # if it had been.
        #     return address    <- sp
        #     (bp)              <- what bp would be
        unwinder.next_bp = bp or None
        bp = (sp - rules.regs.word_bytes) & ((1 << 8 * rules.regs.word_bytes) - 1)
    return _walk(unwinder, bp, sp)


def _walk(unwinder: _Unwinder, bp: int, first_frame: int) -> Walk:
    steps: list[Step] = []
    try:
        unwinder.unwind_start(bp, first_frame)
        # This ends: each frame is above the one before it on the same stack, and no stack is
        # visited twice.
        while not unwinder.done:
            steps.append(unwinder.step())
            unwinder.unwind_next_frame()
    except NotInDump as missing:
        return Walk(tuple(steps), End.NOT_IN_DUMP, missing.addr, unwinder.overflowed)
    if unwinder.bad_bp is not None:
        return Walk(tuple(steps), End.ERROR, unwinder.bad_bp, unwinder.overflowed)
    if not steps:
        return Walk((), End.EMPTY, overflowed=unwinder.overflowed)
    end = End.USER_REGS if steps[-1].user_mode else End.LAST_FRAME
    return Walk(tuple(steps), end, overflowed=unwinder.overflowed)


class FramePointerWalker(Walker):
    """CONFIG_UNWINDER_FRAME_POINTER with ENCODE_FRAME_POINTER.

    :param rules: How this kernel's frame pointers are followed
    :param trampolines: The addresses that the kernel writes over return addresses
    """

    name = "frame_pointer"
    kernel_regs_are_unreliable = True

    def __init__(self, rules: UnwindRules, trampolines: frozenset[int] = frozenset()) -> None:
        self.encoding = rules.encoding.value
        self._rules = rules
        self._fast_path = FastPath(rules, trampolines)

    def walk_sleeping(self, task: Task, stack: StackMemory, recover: Recover) -> Walk:
        """Walk the stack of a task that is not on a CPU: see :func:`walk_task_stack`."""
        return walk_task_stack(stack, task.thread_sp, self._rules, recover)

    def walk_running(
        self, task: Task, registers: Mapping[str, int], find_stack: FindStack, recover: Recover
    ) -> Walk:
        """Walk the stacks of a task that is on a CPU: see :func:`walk_from_regs`."""
        end_addr = task.stack_addr + self._rules.thread_size_bytes
        return walk_from_regs(registers, find_stack, end_addr, self._rules, recover)

    def finds_callers(self, read: ReadMemory) -> Optional[FindCaller]:
        """Return a function that finds the callers of interrupted functions: see :mod:`.interrupted_caller`."""
        code = Code(read, self._rules.regs.word_bytes)
        return lambda i: find_interrupted_caller(i.sp, i.ip, i.start, code, i.read_stack, i.recover)

    def signature(
        self, task: Task, stack: StackMemory, recovery_of: Callable[[Task], Recover]
    ) -> Optional[Signature]:
        """Return the walk of :meth:`walk_sleeping` in short form: see :class:`~.fast_path.FastPath`."""
        return self._fast_path.signature(stack, task.thread_sp, lambda: recovery_of(task))
