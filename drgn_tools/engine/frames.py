# SPDX-License-Identifier: LGPL-2.1-or-later
"""The steps of a walk as records: frames with their symbols, ``pt_regs`` with what entered the kernel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Optional

from drgn import Program

from ..arch.base import Layout
from ..bounded_cache import BoundedCache
from ..kernel.stack_memory import FindStack, NotInDump, StackMemory
from ..kernel.symbolizer import Symbolizer
from ..kernel.tasks import Task
from ..kernel.text import KernelText
from ..memory import read_or_none
from ..records import Frame, SavedRegs
from ..unwind.base import FindCaller, Interrupted, ReadMemory, Step, Walk
from ..unwind.interrupted_caller import is_entered_by_call
from ..unwind.recovery import RecoverLayout, Recovery

__all__ = ("Frames",)

_MAX_FRAMES = 100_000
"""Different frames of a kernel that are cached."""
_MAX_HANDLERS = 3
"""How many frames below entry code are searched for a function that handles the exception."""


class Frames:
    """Makes the frames and the saved registers of one kernel's records.

    Frames are cached: most of them are on many stacks.

    :param recover_layout: What rewrites return addresses in this kernel
    :param text: What is kernel text; on a running kernel, at one moment
    :param find_caller: Finds the caller of an interrupted function; ``None`` if the walker skips none
    :param may_miss_frames: The walker may miss frames between user mode and the outermost frame
    """

    def __init__(
        self,
        prog: Program,
        layout: Layout,
        recover_layout: RecoverLayout,
        text: KernelText,
        find_caller: Optional[FindCaller],
        may_miss_frames: bool,
    ) -> None:
        self._text = text
        self._symbolizer = Symbolizer(prog, text)
        self._prog = prog
        self._layout = layout
        self._recover_layout = recover_layout
        self._find_caller = find_caller
        self._read = partial(read_or_none, prog)
        self._may_miss_frames = may_miss_frames
        self._frames: BoundedCache[tuple[int, bool, str], Frame] = BoundedCache(_MAX_FRAMES)

    def of_step(self, step: Step) -> Frame:
        """Return the frame of one step of a walk."""
        if step.user_mode:
            return Frame(step.ip, None, step.stack, step.regs, True, True, step.guessed)
        if step.exact:
            frame = self.of_ip(step.ip, True, step.stack)
        else:
            frame = self.of_call(step.ip, step.stack)
        if step.regs is None and not step.guessed:
            return frame
        return Frame(
            frame.ip, frame.symbol, frame.stack, step.regs, False, frame.exact, step.guessed
        )

    def of_call(self, ip: int, stack: str = "task") -> Frame:
        """Return the frame of a call.

        :param ip: Return address (virtual)
        :param stack: Name of the stack that it is on
        """
        # A new task returns to the first byte of ret_from_fork_asm. No call comes before it, so
        # the address is exact.
        return self.of_ip(ip, ip in self._layout.fork_return_addrs, stack)

    def of_ip(self, ip: int, exact: bool, stack: str = "task") -> Frame:
        """Return a frame in the kernel.

        :param ip: Virtual address
        :param exact: *ip* is the address of the next instruction, not a return address
        :param stack: Name of the stack that it is on
        """
        key = ip, exact, stack
        frame = self._frames.get(key)
        if frame is None:
            symbol = (
                self._symbolizer.name_exact(ip)
                if exact
                else self._symbolizer.name_return_address(ip)
            )
            frame = self._frames[key] = Frame(ip, symbol, stack, exact=exact)
        return frame

    def of_cpu(self, registers: Mapping[str, int], find_stack: FindStack, walk: Walk) -> Frame:
        """Return the frame that a CPU is in.

        :param registers: Registers of the CPU, by the kernel's names
        :param find_stack: The stacks of that CPU and task
        :param walk: The walk from these registers
        """
        ip = registers[self._layout.regs.ip_name]
        if self._layout.regs.user_mode(registers):
            return Frame(ip, user_mode=True, exact=True)
        try:
            found = find_stack(registers["sp"])
        except NotInDump:
            found = None
        if found is not None:
            stack = found.kind
        else:
            stack = walk.steps[0].stack if walk.steps else "unknown"
        return self.of_ip(ip, exact=True, stack=stack)

    def saved_regs(
        self,
        task: Task,
        frames: Sequence[Frame],
        at: int,
        raw: bytes,
        stack: Optional[StackMemory] = None,
    ) -> SavedRegs:
        """Return the registers of a frame that is a ``pt_regs``.

        :param frames: The whole stack of *task*
        :param at: Index of that frame in *frames*
        :param raw: The bytes of the ``struct pt_regs``
        :param stack: What was read of the task's stack; ``None`` for a task on a CPU, which may
            be on other stacks
        """
        frame = frames[at]
        assert frame.regs is not None  # callers pick the frames that are a pt_regs
        registers = self._layout.regs.read(raw)
        entry = self.entry(frames[at - 1]) if at > 0 else None
        if entry is None:
            entry = self._entry_by_handler(
                raw, frames[max(at - 1 - _MAX_HANDLERS, 0) : max(at - 1, 0)]
            )
        if frame.user_mode and self._may_miss_frames:
            entry = self._entry_by_orig_ax(entry, registers)
        return SavedRegs(
            address=frame.regs,
            entry=entry,
            user_mode=frame.user_mode,
            registers=registers,
            symbol=frame.symbol,
            caller=self.interrupted_caller(
                task,
                frames,
                at,
                registers,
                self._layout.regs.interrupted_sp(frame.regs, registers),
                stack,
            ),
        )

    def interrupted_caller(
        self,
        task: Task,
        frames: Sequence[Frame],
        at: int,
        registers: Mapping[str, int],
        sp: int,
        stack: Optional[StackMemory] = None,
    ) -> Optional[Frame]:
        """Return the frame of the interrupted function's caller, if the walk skipped it.

        :param frames: The whole stack of *task*
        :param at: Index in *frames* of the frame that was interrupted
        :param registers: Those of the interrupted code, by the kernel's names
        :param sp: Stack pointer at the interrupt (virtual address)
        :param stack: As for :meth:`saved_regs`
        """
        frame = frames[at]
        if frame.user_mode or self._find_caller is None:
            return None
        symbol = self._symbolizer.name_exact(frame.ip)
        # Without a symbol the start of the function is not known. But if ip is not kernel text,
        # the CPU has called that address and executed nothing there.
        if symbol is None and self._text.is_kernel_text(frame.ip) is not False:
            return None
        if symbol is not None and not is_entered_by_call(symbol.name):
            return None
        found = self._find_caller(
            Interrupted(
                registers,
                sp,
                frame.ip,
                None if symbol is None else frame.ip - symbol.offset,
                self._read if stack is None else partial(_read_first_from, stack, self._read),
                Recovery(self._prog, self._recover_layout, task, current=stack is None),
            )
        )
        outer = frames[at + 1].ip if at + 1 < len(frames) else None
        if found is None or found.addr == outer or not self._text.is_kernel_text(found.addr):
            return None
        return self.of_ip(found.addr, exact=False, stack=frame.stack)

    def entry(self, below: Frame) -> Optional[str]:
        """Return what entered the kernel, in words.

        :param below: The frame of the code that saved the ``pt_regs``: the next inner one
        :return: ``None`` if that is not entry code
        """
        arch = self._layout.arch
        if below.symbol is not None:
            return arch.entry_of(below.symbol.name)
        # Copies of entry code that the kernel made at run time have no symbol.
        where = self._text.find(below.ip)
        return arch.entry_of(where.kind.value) if where is not None else None

    def is_complete(self, frames: Sequence[Frame]) -> bool:
        """Return whether the outermost frame in the kernel is that of entry code.

        :param frames: The frames in the kernel of a stack that ends at user-mode ``pt_regs``
        """
        arch = self._layout.arch
        return bool(frames) and arch.enters_from_user_mode(self.entry(frames[-1]))

    def _entry_by_handler(self, raw: bytes, called: Sequence[Frame]) -> Optional[str]:
        """Return what entered the kernel, judging by the C functions that entry code called.

        :param called: Frames of these functions, outermost last. Entry code called the outermost one.
        """
        arch = self._layout.arch
        handler = arch.entered_handler(raw)
        if handler is not None:
            symbol = self._symbolizer.name_exact(handler)
            if symbol is not None and not symbol.offset:
                return arch.entry_of_handler(symbol.name)
        names = (frame.symbol.name for frame in reversed(called) if frame.symbol is not None)
        return next(filter(None, map(arch.entry_of_handler, names)), None)

    def _entry_by_orig_ax(
        self, entry: Optional[str], registers: Mapping[str, int]
    ) -> Optional[str]:
        # If the walker has missed frames, the next inner frame is not that of the entry code.
        if entry != "fork" and self._layout.regs.is_syscall(registers):
            return "syscall"
        if entry == "syscall" or not self._layout.arch.enters_from_user_mode(entry):
            return None
        return entry


def _read_first_from(
    stack: StackMemory, read: ReadMemory, addr: int, size_bytes: int
) -> Optional[bytes]:
    try:
        return stack.read(addr, size_bytes)
    except NotInDump:
        return read(addr, size_bytes)
