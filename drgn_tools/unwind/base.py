# SPDX-License-Identifier: LGPL-2.1-or-later
"""What every unwinder takes and gives: steps, a finished walk, and the Walker itself.

A kernel has one unwinder (CONFIG_UNWINDER_*), so there is one :class:`Walker` for it.
A walker is pure: bytes of stacks in, steps out. Bad data never raises: it ends the walk,
and the walk says how. Only :class:`~.drgn_fallback.DrgnWalker`, which asks drgn, reads
memory by itself.
"""

from __future__ import annotations

import abc
import enum
from collections.abc import Mapping, Set
from typing import Callable, ClassVar, Optional

import msgspec

from ..arch.base import Registers
from ..kernel.stack_memory import FindStack, NotInDump, StackMemory
from ..kernel.tasks import Task

__all__ = ("End", "Recover", "Signature", "Step", "Walk", "Walker", "nothing_rewritten")

Recover = Callable[[int, int], int]
"""``unwind_recover_ret_addr()``: (address found, virtual address of the word where it was found)
-> the original return address. It may raise :class:`~..kernel.stack_memory.NotInDump`."""


def nothing_rewritten(addr: int, addr_p: int) -> int:
    """Return *addr* as it is: a :data:`Recover` for a kernel that rewrites no return address."""
    return addr


class Step(msgspec.Struct, frozen=True):
    """One state of the unwinder between two calls of unwind_next_frame()."""

    ip: int
    """Return address, or ``regs->ip``. Unlike the kernel, also for user mode (there it is 0)."""
    exact: bool
    """:attr:`ip` is the next instruction, not the one after a ``call``."""
    found_at: Optional[int]
    """Virtual address of the word that holds :attr:`ip`; ``None`` if the unwinder does not say."""
    regs: Optional[int]
    """Virtual address of the ``pt_regs``; ``None`` for the frame of a call."""
    user_mode: bool
    """:attr:`regs` are of user mode."""
    stack: str
    """:attr:`StackMemory.kind` of the stack that this is on."""
    raw_regs: Optional[bytes]
    """The ``pt_regs`` as they lie in memory; ``None`` for the frame of a call."""


class End(enum.Enum):
    """How a walk ended."""

    USER_REGS = "user_regs"
    """At user-mode ``pt_regs``: complete."""
    LAST_FRAME = "last_frame"
    """At the last frame of a kernel thread: complete."""
    ERROR = "error"
    """``unwind_error()``: the next frame cannot be found."""
    EMPTY = "empty"
    """No frame at all: the saved stack pointer or the first frame is not on the stack, or every frame
    was skipped. The kernel takes that for a complete, empty trace."""
    NOT_IN_DUMP = "not_in_dump"
    """Memory that decides how to go on could not be read (the kernel never meets this)."""
    UNKNOWN = "unknown"
    """The unwinder (drgn's) does not say how it ended."""


class Walk(msgspec.Struct, frozen=True):
    """A finished walk."""

    steps: tuple[Step, ...]
    """What ``unwind_get_return_address()`` and ``unwind_get_entry_regs()`` see, innermost first."""
    end: End
    """How it ended."""
    bad_addr: Optional[int] = None
    """ERROR: the address that could not be followed. NOT_IN_DUMP: the missing address."""
    overflowed: Optional[str] = None
    """:attr:`StackMemory.kind` of a stack whose stack pointer had run off its low end."""


class Signature(msgspec.Struct, frozen=True):
    """A walk in short. Stacks with equal :attr:`key` differ only in where they lie and in their registers."""

    ips: tuple[int, ...]
    """Innermost first, return addresses and the ip of each kernel-mode ``pt_regs``."""
    kernel_regs: tuple[int, ...]
    """Indexes in :attr:`ips` of the ``pt_regs``."""
    user_mode: bool
    """The walk ends at user-mode ``pt_regs``."""
    regs: tuple[tuple[int, Registers], ...]
    """Address and registers of each ``pt_regs``, those of user mode last."""
    ip_offsets: tuple[int, ...]
    """Where each of :attr:`ips` was found, in bytes from the saved stack pointer."""

    @property
    def key(self) -> tuple[tuple[int, ...], tuple[int, ...], bool]:
        """What equal stacks have in common; hashable."""
        return self.ips, self.kernel_regs, self.user_mode

    def recovered(
        self, saved_sp: int, trampolines: Set[int], recover: Recover
    ) -> Optional[Signature]:
        """Return this signature with the original return addresses.

        :param saved_sp: Saved stack pointer of the task
        :param trampolines: What is found in the place of a rewritten return address
        :return: ``None`` if memory that tells them is missing
        """
        try:
            ips = tuple(
                [
                    recover(ip, saved_sp + at) if ip in trampolines else ip
                    for ip, at in zip(self.ips, self.ip_offsets)
                ]
            )
        except NotInDump:
            return None
        return Signature(ips, self.kernel_regs, self.user_mode, self.regs, self.ip_offsets)


class Walker(abc.ABC):
    """The unwinder of one kernel."""

    name: ClassVar[str]
    """As :attr:`.records.KernelInfo.unwinder`, or ``drgn``."""
    kernel_regs_are_unreliable: ClassVar[bool]
    """arch_stack_walk_reliable() gives up at kernel-mode ``pt_regs``; it does so only with
    CONFIG_FRAME_POINTER."""
    skips_interrupted_caller: ClassVar[bool] = False
    """A walk from a ``pt_regs`` may skip the caller of the function that was interrupted."""
    encoding: Optional[str] = None
    """How ``pt_regs`` are encoded in the frame pointer, as :attr:`.records.KernelInfo.encoding`."""
    may_miss_frames: ClassVar[bool] = False
    """The walk may end before the outermost frame and not say so."""

    @abc.abstractmethod
    def walk_sleeping(self, task: Task, stack: StackMemory, recover: Recover) -> Walk:
        """Walk the stack of a task that is not on a CPU, as the kernel would.

        :param stack: The task's own stack, from its saved stack pointer up
        :param recover: Called for every return address, in order
        """

    @abc.abstractmethod
    def walk_running(
        self, task: Task, registers: Mapping[str, int], find_stack: FindStack, recover: Recover
    ) -> Walk:
        """Walk the stacks of a task that is on a CPU, from the registers of that CPU.

        The frame that the CPU is in is none of the steps: *registers* say it.

        :param registers: At least ip, sp, bp, cs and flags, by the kernel's names
        :param find_stack: The stacks of that CPU and task
        :param recover: Called for every return address, in order
        """

    def signature(self, task: Task, stack: StackMemory) -> Optional[Signature]:
        """Return in short what :meth:`walk_sleeping` would see, without recovery of return addresses.

        :return: ``None`` if the walker has no fast path, or something about this stack is unusual
        """
        return None
