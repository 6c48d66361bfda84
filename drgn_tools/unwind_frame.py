# SPDX-License-Identifier: LGPL-2.1-or-later
"""The frame-pointer unwinder, re-stated from arch/x86/kernel/unwind_frame.c (v6.12).

Pure: bytes of one task stack in, the kernel's sequence of frames out. No drgn
object, no printing, and bad data never raises: it ends the walk, and the walk
says how. Function names are the kernel's, so both files can be read side by side.

x86-32 up to v5.2 saved ``pt_regs`` of kernel mode without sp and ss; they are taken for whole here.

For a task that is not ``current`` the kernel accepts no stack but the task's own
(get_stack_info_noinstr(): ``if (task != current) return false``), so one stack
is all there is here.

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

import enum
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Callable, NamedTuple, Optional

from .encoding import Encoding, decode_frame_pointer
from .pt_regs import PtRegsLayout

__all__ = (
    "End",
    "NotInDump",
    "Recover",
    "StackBytes",
    "Step",
    "UnwindRules",
    "Walk",
    "walk_task_stack",
)

Recover = Callable[[int, int], int]
"""``unwind_recover_ret_addr()``: (address found, where it was found) -> the real return address."""


class NotInDump(Exception):
    """Memory that the walk needs is not in the dump. It ends the walk, and leaves it as a value."""

    def __init__(self, addr: int) -> None:
        super().__init__(hex(addr))
        self.addr = addr


@dataclass(frozen=True)
class StackBytes:
    """One task stack: its bounds, and as much of its memory as could be read."""

    begin_addr: int
    """Lowest address of the stack (``task->stack``), virtual."""
    size_bytes: int
    """THREAD_SIZE."""
    data_addr: int
    """Where :attr:`data` begins. The unwinder only moves up, so from thread.sp is enough."""
    data: bytes
    """Memory from :attr:`data_addr` to the end of the stack; holes are filled with zeros."""
    holes: Sequence[tuple[int, int]] = field(default=())
    """[start, end) of what could not be read, ascending; empty when all was."""

    @property
    def end_addr(self) -> int:
        """One past the highest address of the stack."""
        return self.begin_addr + self.size_bytes

    def read(self, addr: int, size_bytes: int) -> bytes:
        """Bytes at *addr*, or :class:`NotInDump`."""
        offset = addr - self.data_addr
        if offset < 0 or offset + size_bytes > len(self.data):
            raise NotInDump(addr)
        if self.holes:
            i = bisect_right(self.holes, (addr + size_bytes - 1, 1 << 64)) - 1
            if i >= 0 and self.holes[i][1] > addr:
                raise NotInDump(max(addr, self.holes[i][0]))
        return self.data[offset : offset + size_bytes]

    def on_stack(self, addr: int, len_bytes: int) -> bool:
        """Does [addr, addr + len) lie on this stack? Follows on_stack() in asm/stacktrace.h."""
        return (
            self.begin_addr <= addr < self.end_addr
            and self.begin_addr < addr + len_bytes <= self.end_addr
        )


@dataclass(frozen=True)
class UnwindRules:
    """What of a kernel decides how its stacks are walked."""

    encoding: Encoding
    """The form of ENCODE_FRAME_POINTER."""
    regs: PtRegsLayout
    """Layout of ``struct pt_regs``."""
    top_padding_bytes: int
    """TOP_OF_KERNEL_STACK_PADDING: 0, or 16 with CONFIG_X86_FRED; x86-32: 8, or 16 with VM86."""
    frame_bp_offset: int
    """``offsetof(struct inactive_task_frame, bp)``."""

    @property
    def gcc_realign_words(self) -> int:
        """GCC_REALIGN_WORDS: how far gcc moves a frame that it realigns (see is_last_aligned_frame)."""
        return 1 if self.regs.word_bytes == 8 else 3


class Step(NamedTuple):
    """One state of the unwinder between two calls of unwind_next_frame()."""

    ip: int
    """Return address, or ``regs->ip``. Unlike the kernel, also for user mode (there it is 0)."""
    bp: Optional[int]
    """Address of the frame {saved bp, return address}; ``None`` for a ``pt_regs``."""
    regs: Optional[int]
    """Address of the ``pt_regs``; ``None`` for an ordinary frame."""
    user_mode: bool
    """:attr:`regs` are of user mode."""


class End(enum.Enum):
    """How a walk ended."""

    USER_REGS = "user_regs"
    """At user-mode ``pt_regs``: complete."""
    LAST_FRAME = "last_frame"
    """At the last frame of a kernel thread: complete."""
    ERROR = "error"
    """``unwind_error()``: the next frame pointer cannot be followed."""
    EMPTY = "empty"
    """No frame at all: thread.sp or the first frame is not on the stack, or every frame was skipped.
    The kernel takes that for a complete, empty trace."""
    NOT_IN_DUMP = "not_in_dump"
    """Memory that decides how to go on could not be read (the kernel never meets this)."""


class Walk(NamedTuple):
    """A finished walk."""

    steps: tuple[Step, ...]
    """What ``unwind_get_return_address()`` and ``unwind_get_entry_regs()`` see, innermost first."""
    end: End
    """How it ended."""
    bad_addr: Optional[int] = None
    """ERROR: the frame pointer that could not be followed. NOT_IN_DUMP: the missing address."""


class _Unwinder:
    """``struct unwind_state`` and what moves it."""

    def __init__(self, stack: StackBytes, rules: UnwindRules, recover: Recover) -> None:
        self.stack = stack
        self.rules = rules
        self.recover = recover
        self.word_bytes = rules.regs.word_bytes
        self.frame_header_bytes = 2 * self.word_bytes
        self.task_pt_regs = stack.end_addr - rules.top_padding_bytes - rules.regs.size_bytes
        self.done = False
        self.error = False
        self.bp: Optional[int] = None
        self.regs: Optional[int] = None
        self.regs_user_mode = False
        self.regs_bp = 0
        self.ip = 0
        self.bad_bp: Optional[int] = None

    # ---- words of the stack

    def word(self, addr: int) -> int:
        return int.from_bytes(self.stack.read(addr, self.word_bytes), "little")

    def registers(self, regs: int) -> dict[str, int]:
        return self.rules.regs.read(self.stack.read(regs, self.rules.regs.size_bytes))

    # ---- the end of the stack

    def last_frame(self) -> int:
        return self.task_pt_regs - 2 * self.word_bytes

    def is_last_frame(self) -> bool:
        return self.bp == self.last_frame()

    def is_last_aligned_frame(self) -> bool:
        """gcc realigned the stack of the first function and pushed its return address again."""
        # <x86_64_start_kernel>:            higher addresses above:
        #   lea  0x8(%rsp),%r10               return address    <- last_frame() + 1 word
        #   and  $0xfffffffffffffff0,%rsp     (realigned)       <- last_frame()
        #   pushq -0x8(%r10)                  return address, again
        #   push %rbp                         saved bp          <- last_aligned_frame()
        #   mov  %rsp,%rbp
        last_bp = self.last_frame()
        aligned_bp = last_bp - self.rules.gcc_realign_words * self.word_bytes
        return self.bp == aligned_bp and self.word(aligned_bp + self.word_bytes) == self.word(
            last_bp + self.word_bytes
        )

    def is_last_ftrace_frame(self) -> bool:
        """The last frame as a function tracer's trampoline left it."""
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
            and bp == self.last_frame() - 3 * word
            and self.word(bp) == self.word(bp + 2 * word)
            and self.word(bp + word) == self.word(bp + 4 * word)
        )

    def is_last_task_frame(self) -> bool:
        return self.is_last_frame() or self.is_last_aligned_frame() or self.is_last_ftrace_frame()

    # ---- steps

    def update_stack_state(self, next_bp: int) -> bool:
        """Move to the frame that *next_bp* points to, if it is safe. Check, then commit."""
        if self.regs is not None:
            prev_frame_end = self.regs + self.rules.regs.size_bytes
        else:
            prev_frame_end = (self.bp or 0) + self.frame_header_bytes

        # Is the next frame pointer an encoded pointer to pt_regs?
        regs = decode_frame_pointer(next_bp, self.rules.encoding, self.word_bytes)
        if regs is not None:
            frame, len_bytes = regs, self.rules.regs.size_bytes
        else:
            frame, len_bytes = next_bp, self.frame_header_bytes

        # There is no next stack to switch to: get_stack_info(NULL) fails and
        # leaves the type unknown, which is what unwind_done() tests.
        if not self.stack.on_stack(frame, len_bytes):
            self.done = True
            return False

        # Make sure it only unwinds up and doesn't overlap the prev frame. (For
        # the first frame there is none, prev_frame_end is two words, and the
        # kernel's test of orig_sp comes to the same.)
        if frame < prev_frame_end:
            return False

        if regs is not None:
            registers = self.registers(regs)
            user_mode = self.rules.regs.user_mode(registers)
            ip = registers["ip"]
            if not user_mode:
                ip = self.recover(ip, regs + self.rules.regs.ip_offset)
            self.regs, self.bp = regs, None
            self.regs_bp, self.regs_user_mode = registers["bp"], user_mode
        else:
            addr_p = next_bp + self.word_bytes
            ip = self.recover(self.word(addr_p), addr_p)
            self.regs, self.bp = None, next_bp
        self.ip = ip
        return True

    def unwind_next_frame(self) -> None:
        # Have we reached the end?
        if self.regs is not None and self.regs_user_mode:
            self.done = True
            return

        if self.is_last_task_frame():
            registers = self.registers(self.task_pt_regs)
            if not self.rules.regs.user_mode(registers):
                # A kernel thread: what lies there was put by copy_thread().
                self.done = True
                return
            # Entry code does not encode the regs of a syscall: set them by hand.
            self.regs, self.bp = self.task_pt_regs, None
            self.regs_user_mode = True
            self.ip = registers["ip"]
            return

        if self.regs is not None:
            next_bp = self.regs_bp
        else:
            assert self.bp is not None  # a state is a frame or a pt_regs
            next_bp = self.word(self.bp)

        if not self.update_stack_state(next_bp):
            self.error = True
            self.done = True
            self.bad_bp = next_bp

    def unwind_start(self, thread_sp: int) -> None:
        """Follows __unwind_start() for a task that is not running."""
        bp = thread_sp + self.rules.frame_bp_offset
        # The kernel ignores whether these fail: a first frame off the stack
        # leaves the stack type unknown, which is "done", and no error.
        if not self.stack.on_stack(bp, 1):  # get_stack_info(), before bp is decoded
            self.done = True
            return
        self.update_stack_state(bp)
        # Skip to first_frame, which is thread.sp (get_stack_pointer()).
        while not self.done and (
            not self.stack.on_stack(thread_sp, self.word_bytes) or (self.bp or 0) < thread_sp
        ):
            self.unwind_next_frame()

    def step(self) -> Step:
        return Step(self.ip, self.bp, self.regs, self.regs is not None and self.regs_user_mode)


def _nothing_swapped(addr: int, addr_p: int) -> int:
    return addr


def walk_task_stack(
    stack: StackBytes, thread_sp: int, rules: UnwindRules, recover: Recover = _nothing_swapped
) -> Walk:
    """Walk the stack of a task that is not on a CPU, as the kernel would.

    :param stack: the task's stack; what lies below *thread_sp* is not needed.
    :param thread_sp: ``task->thread.sp``, virtual address of the
        ``struct inactive_task_frame``.
    :param rules: how this kernel's stacks are walked.
    :param recover: gives back return addresses that the kernel swapped out; called
        for every one, in order. It may raise :class:`NotInDump`.
    """
    unwinder = _Unwinder(stack, rules, recover)
    steps: list[Step] = []
    try:
        unwinder.unwind_start(thread_sp)
        # Bounded without a counter: each frame lies above the one before it.
        while not unwinder.done:
            steps.append(unwinder.step())
            unwinder.unwind_next_frame()
    except NotInDump as missing:
        return Walk(tuple(steps), End.NOT_IN_DUMP, missing.addr)
    if unwinder.error:
        return Walk(tuple(steps), End.ERROR, unwinder.bad_bp)
    if not steps:
        return Walk((), End.EMPTY)
    return Walk(tuple(steps), End.USER_REGS if steps[-1].user_mode else End.LAST_FRAME)
