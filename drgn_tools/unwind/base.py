# SPDX-License-Identifier: LGPL-2.1-or-later
"""The interface of an unwinder: the Walker, and the finished walk of a stack that it returns.

A kernel has one unwinder (CONFIG_UNWINDER_*), so it has one :class:`Walker`. A walker is pure:
bytes of stacks in, steps out. Only :class:`~.drgn_fallback.DrgnWalker` reads memory itself,
through drgn. Bad data never raises: it ends the walk, and :attr:`Walk.end` says how.
"""

from __future__ import annotations

import abc
import enum
from collections.abc import Mapping
from typing import Callable, ClassVar, Optional

import msgspec

from ..arch.base import Registers
from ..kernel.stack_memory import FindStack, StackMemory
from ..kernel.tasks import Task

__all__ = (
    "Caller",
    "End",
    "Fault",
    "FindCaller",
    "Interrupted",
    "ReadMemory",
    "Recover",
    "Signature",
    "Step",
    "Walk",
    "Walker",
    "nothing_rewritten",
)

Recover = Callable[[int, int], int]
"""``unwind_recover_ret_addr()`` in asm/unwind.h: (address that was found on the stack, virtual address
of the word that holds it; on arm64 the frame pointer of the caller) -> the original return address; 0 if there is
none. It may raise :class:`~..kernel.stack_memory.NotInDump`."""


def nothing_rewritten(addr: int, addr_p: int) -> int:
    """Return *addr*: a :data:`Recover` for a kernel that rewrites no return address."""
    return addr


class Step(msgspec.Struct, frozen=True):
    """One state of the unwinder between two calls of unwind_next_frame()."""

    ip: int
    """Return address, or ``regs->ip``. For user mode the kernel has 0 here, and this is the user address."""
    exact: bool
    """:attr:`ip` is the address of the next instruction, not a return address."""
    found_at: Optional[int]
    """Virtual address of the word that holds :attr:`ip`; ``None`` if the unwinder does not say."""
    regs: Optional[int]
    """Virtual address of the ``pt_regs``; ``None`` for the frame of a call."""
    user_mode: bool
    """:attr:`regs` were saved in user mode."""
    stack: str
    """:attr:`.StackMemory.kind` of the stack that the frame is on."""
    raw_regs: Optional[bytes]
    """The bytes of the ``struct pt_regs``, or only the last of them (see :meth:`.RegsLayout.read`);
    ``None`` for the frame of a call."""
    guessed: bool = False
    """``unwind_error()`` was already true: the kernel shows this frame in an oops, but does not trust it."""


class End(enum.Enum):
    """How a walk ended."""

    USER_REGS = "user_regs"
    """At user-mode ``pt_regs``: complete."""
    LAST_FRAME = "last_frame"
    """At the last frame, without user-mode ``pt_regs``, as on the stack of a kernel thread: complete."""
    ERROR = "error"
    """The next frame cannot be found: ``unwind_error()`` is true."""
    EMPTY = "empty"
    """Without a frame: the saved stack pointer or the first frame is not on the stack, or every frame
    was skipped. For the kernel this is a complete, empty trace."""
    NOT_IN_DUMP = "not_in_dump"
    """Memory that the walk needs is not in the dump. This cannot happen in the kernel."""
    UNWIND_DATA_UNCLEAR = "unwind_data_unclear"
    """The unwind tables, or the lists that lead to them, are damaged. In the kernel the walk would have ended
    differently."""
    UNKNOWN = "unknown"
    """drgn's unwinder does not say how."""


class Fault(enum.Enum):
    """Why a walk of ORC or arm64 ended with an error: the first reason, if there are several. The values are those of
    :class:`.records.Reason`."""

    NO_UNWIND_DATA = "no_unwind_data"
    """No table has a rule for an address. The kernel then guesses that the code has a frame pointer."""
    UNDEFINED_UNWIND_STATE = "undefined_unwind_state"
    """The rule of an address says that the stack is undefined there: padding, or code that is not reached."""
    REGISTER_NOT_SAVED = "register_not_saved"
    """The rule takes the CFA from a register that is not on the stack."""
    OFF_STACK = "off_stack"
    """The rule leads off the stack."""
    WRONG_DIRECTION = "wrong_direction"
    """The next frame is not above the one before."""
    BAD_FRAME_RECORD = "bad_frame_record"
    """arm64: a frame record without a return address is not one that the kernel makes."""
    ADDRESS_NOT_RECOVERED = "address_not_recovered"
    """arm64: a tracer has rewritten a return address, and the original address is not found."""


class Walk(msgspec.Struct, frozen=True):
    """A finished walk."""

    steps: tuple[Step, ...]
    """The frames, innermost first: what ``unwind_get_return_address()`` and ``unwind_get_entry_regs()`` return."""
    end: End
    """How it ended."""
    bad_addr: Optional[int] = None
    """After ERROR, the frame pointer that could not be followed, or the address of the :attr:`fault`: of code
    without a usable rule, or of memory off the stack. After NOT_IN_DUMP, the missing virtual address. After
    UNWIND_DATA_UNCLEAR, the virtual address of what is damaged."""
    overflowed: Optional[str] = None
    """:attr:`.StackMemory.kind` of a stack that overflowed: its stack pointer is below its low end."""
    fault: Optional[Fault] = None
    """After ERROR, what the fault is; ``None`` if a frame pointer could not be followed."""
    has_more: bool = False
    """After ERROR the kernel would show more frames that it guesses, but memory or unwind data is missing for them."""


class Signature(msgspec.Struct, frozen=True):
    """A walk in short form. Two stacks with equal :attr:`key` differ only in their addresses and registers."""

    ips: tuple[int, ...]
    """Return addresses (the original ones) and the ip of each kernel-mode ``pt_regs``, innermost first."""
    kernel_regs: tuple[int, ...]
    """Indexes in :attr:`ips` of the kernel-mode ``pt_regs``."""
    user_mode: bool
    """The walk ends at user-mode ``pt_regs``."""
    regs: tuple[tuple[int, Registers], ...]
    """Virtual address and registers of each ``pt_regs``, those of user mode last."""

    @property
    def key(self) -> tuple[tuple[int, ...], tuple[int, ...], bool]:
        """What equal stacks have in common. It is hashable."""
        return self.ips, self.kernel_regs, self.user_mode


ReadMemory = Callable[[int, int], Optional[bytes]]
"""(virtual address, size in bytes) -> the memory there; ``None`` if it is not in the dump."""


class Interrupted(msgspec.Struct, frozen=True):
    """A function that was interrupted."""

    registers: Mapping[str, int]
    """The saved registers, by the kernel's names."""
    sp: int
    """Its stack pointer."""
    ip: int
    """Exact virtual address of the instruction that was not executed."""
    start: Optional[int]
    """Virtual address of the function. ``None`` if :attr:`ip` is not code: the CPU has called that address and executed
    nothing there."""
    read_stack: ReadMemory
    """Reads the stack that :attr:`sp` points into."""
    recover: Recover
    """Returns the original of a return address that the kernel has rewritten."""


class Caller(msgspec.Struct, frozen=True):
    """A caller that the walk has skipped."""

    addr: int
    """Return address (virtual)."""
    sure: bool
    """The code of the function shows where the return address is. Otherwise :attr:`addr` is a guess: it returns
    from a call of this function, or ip is not code."""


FindCaller = Callable[[Interrupted], Optional[Caller]]
"""Returns the caller of an interrupted function; ``None`` if the walk does not skip it, or it cannot be found."""


class Walker(abc.ABC):
    """The unwinder of one kernel."""

    name: ClassVar[str]
    """As :attr:`.records.KernelInfo.unwinder`, or ``drgn``."""
    kernel_regs_are_unreliable: ClassVar[bool]
    """For arch_stack_walk_reliable() a stack with kernel-mode ``pt_regs`` is unreliable
    (arch/x86/kernel/stacktrace.c, v6.12: only with CONFIG_FRAME_POINTER; arch/arm64/kernel/stacktrace.c, v7.2)."""
    needs_kernel_text: ClassVar[bool] = True
    """For arch_stack_walk_reliable() a stack with a return address that is not kernel text is unreliable: on x86."""
    encoding: Optional[str] = None
    """How ``pt_regs`` are encoded in the frame pointer, as :attr:`.records.KernelInfo.encoding`."""
    may_miss_frames: ClassVar[bool] = False
    """A walk may end before the outermost frame without saying so."""

    @abc.abstractmethod
    def walk_sleeping(self, task: Task, stack: StackMemory, recover: Recover) -> Walk:
        """Walk the stack of a task that is not on a CPU, as the kernel would.

        :param stack: The task's own stack, from its saved stack pointer up
        :param recover: Called for each return address and each kernel-mode ``regs->ip``, in order
        """

    @abc.abstractmethod
    def walk_running(
        self, task: Task, registers: Mapping[str, int], find_stack: FindStack, recover: Recover
    ) -> Walk:
        """Walk the stacks of a task that is on a CPU, from the registers of that CPU.

        :param registers: At least those that the walker and user_mode() need (on x86 ip, sp, bp, cs and
            flags), by the kernel's names
        :param find_stack: The stacks of that CPU and task
        :param recover: Called for each return address and each kernel-mode ``regs->ip``, in order
        :return: A walk without a step for the frame that the CPU is in, because *registers* show that frame
        """

    def finds_callers(self, read: ReadMemory) -> Optional[FindCaller]:
        """Return a function that finds the callers of interrupted functions, which a walk from a ``pt_regs`` may skip.

        :param read: Reads the memory of the kernel
        :return: ``None`` if walks skip none
        """
        return None

    def signature(
        self, task: Task, stack: StackMemory, recovery_of: Callable[[Task], Recover]
    ) -> Optional[Signature]:
        """Return the walk of :meth:`walk_sleeping` in short form.

        :param stack: As for :meth:`walk_sleeping`
        :param recovery_of: Makes the :data:`Recover` of the task, if a return address was rewritten
        :return: ``None`` if the walker has no fast path, or something about this stack is unusual
        """
        return None
