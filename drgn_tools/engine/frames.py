# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a walk meets, as records: frames with their names, registers with what entered the kernel."""

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
from ..unwind.base import Step, Walk
from ..unwind.interrupted_caller import Code, ReadMemory, is_entered_by_call, missing_caller
from ..unwind.recovery import RecoverLayout, Recovery

__all__ = ("Frames",)

_MAX_FRAMES = 100_000
"""Different frames that are kept of a kernel."""


class Frames:
    """Frames and saved registers of one kernel, by one reading of its text.

    Frames are kept: most are met again and again.

    :param find_callers: Look for callers of interrupted functions; the walker may skip them
    :param may_miss_frames: The walker may miss frames between user mode and the outermost frame
    """

    def __init__(
        self,
        prog: Program,
        layout: Layout,
        recover_layout: RecoverLayout,
        text: KernelText,
        find_callers: bool,
        may_miss_frames: bool,
    ) -> None:
        self.text = text
        self._symbolizer = Symbolizer(prog, text)
        self._prog = prog
        self._layout = layout
        self._recover_layout = recover_layout
        self._find_callers = find_callers
        self._may_miss_frames = may_miss_frames
        self._code = Code(partial(read_or_none, prog), layout.word_bytes)
        self._frames: BoundedCache[tuple[int, bool, str], Frame] = BoundedCache(_MAX_FRAMES)

    def of_step(self, step: Step) -> Frame:
        """Return the frame of one step of a walk."""
        if step.user_mode:
            return Frame(step.ip, None, step.stack, step.regs, True)
        if not step.exact:
            return self.of_call(step.ip, step.stack)
        frame = self.of_ip(step.ip, True, step.stack)
        if step.regs is None:
            return frame
        return Frame(frame.ip, frame.symbol, frame.stack, step.regs)

    def of_call(self, ip: int, stack: str = "task") -> Frame:
        """Return a frame that a call made.

        :param ip: Return address
        :param stack: Name of the stack that it is on
        """
        # Where a new task begins is exact: nothing called ret_from_fork_asm, so there is no
        # call before its first byte.
        return self.of_ip(ip, ip in self._layout.fork_return_addrs, stack)

    def of_ip(self, ip: int, exact: bool, stack: str = "task") -> Frame:
        """Return a frame in the kernel.

        :param exact: *ip* is the next instruction, not a return address
        """
        key = ip, exact, stack
        frame = self._frames.get(key)
        if frame is None:
            symbol = (
                self._symbolizer.name_exact(ip)
                if exact
                else self._symbolizer.name_return_address(ip)
            )
            frame = self._frames[key] = Frame(ip, symbol, stack)
        return frame

    def of_cpu(self, registers: Mapping[str, int], find_stack: FindStack, walk: Walk) -> Frame:
        """Return the frame that a CPU is in.

        :param registers: Of the CPU
        :param walk: From these registers on
        """
        ip = registers["ip"]
        if self._layout.regs.user_mode(registers):
            return Frame(ip, user_mode=True)
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
        """Return the ``pt_regs`` of a frame.

        :param frames: The whole stack of *task*
        :param at: Index in *frames* of a frame that is a ``pt_regs``
        :param raw: Its bytes
        :param stack: Memory of the stack as far as it was read; ``None`` for a task on a CPU, which
            may be on others
        """
        frame = frames[at]
        assert frame.regs is not None  # callers pick the frames that are a pt_regs
        registers = self._layout.regs.read(raw)
        entry = self.entry(frames[at - 1]) if at > 0 else None
        if frame.user_mode and self._may_miss_frames:
            entry = self._entry_by_orig_ax(entry, registers)
        return SavedRegs(
            address=frame.regs,
            entry=entry,
            user_mode=frame.user_mode,
            registers=registers,
            symbol=frame.symbol,
            caller=self.interrupted_caller(task, frames, at, registers["sp"], stack),
        )

    def interrupted_caller(
        self,
        task: Task,
        frames: Sequence[Frame],
        at: int,
        sp: int,
        stack: Optional[StackMemory] = None,
    ) -> Optional[Frame]:
        """Return the frame of the interrupted function's caller, if the walk skipped it.

        :param at: Index in *frames* of the frame that was interrupted
        :param sp: Its stack pointer
        :param stack: As for :meth:`saved_regs`
        """
        frame = frames[at]
        if frame.user_mode or not self._find_callers:
            return None
        symbol = self._symbolizer.name_exact(frame.ip)
        # Without a symbol nothing tells where a function begins. But an ip that is no text
        # was called: it is at its first instruction.
        if symbol is None and self.text.is_kernel_text(frame.ip) is not False:
            return None
        if symbol is not None and not is_entered_by_call(symbol.name):
            return None
        found = missing_caller(
            sp,
            frame.ip,
            None if symbol is None else frame.ip - symbol.offset,
            self._code,
            self._code.read if stack is None else partial(_read_first_from, stack, self._code.read),
            Recovery(self._prog, self._recover_layout, task, current=stack is None),
        )
        outer = frames[at + 1].ip if at + 1 < len(frames) else None
        if found is None or found.addr == outer or not self.text.is_kernel_text(found.addr):
            return None
        return self.of_ip(found.addr, exact=False, stack=frame.stack)

    def entry(self, below: Frame) -> Optional[str]:
        """Return what entered the kernel, in words.

        :param below: The frame of the code that saved the ``pt_regs``
        """
        arch = self._layout.arch
        if below.symbol is not None:
            return arch.entry_of(below.symbol.name)
        # Copies of entry code that the kernel made at run time have no symbol.
        where = self.text.find(below.ip)
        return arch.entry_of(where.kind.value) if where is not None else None

    def is_complete(self, frames: Sequence[Frame]) -> bool:
        """Is there entry code between user mode and the outermost of these frames?

        :param frames: Those in the kernel of a stack that user mode entered
        """
        arch = self._layout.arch
        return bool(frames) and arch.enters_from_user_mode(self.entry(frames[-1]))

    def _entry_by_orig_ax(
        self, entry: Optional[str], registers: Mapping[str, int]
    ) -> Optional[str]:
        # The frame below may not be that of the entry code.
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
