# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a walk meets, as records: frames with their names, registers with what entered and who was skipped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Optional

from drgn import FaultError, Program

from ..arch.x86.entry import entry_of
from ..bounded_cache import BoundedCache
from ..kernel.layout import Layout
from ..kernel.symbolizer import Symbolizer
from ..kernel.tasks import Task
from ..kernel.text import KernelText
from ..records import Frame, SavedRegs
from ..unwind.frame_pointer import FindStack, NotInDump, StackBytes, Step, Walk
from ..unwind.interrupted_caller import Code, ReadMemory, is_entered_by_call, missing_caller
from ..unwind.recovery import RecoverLayout, Recovery

__all__ = ("Frames",)

_MAX_FRAMES = 100_000
"""Different frames that are kept of a kernel."""


class Frames:
    """Frames and saved registers of one kernel, by one reading of what is text.

    What is found out of it is kept: most frames are met again and again.
    """

    def __init__(
        self, prog: Program, layout: Layout, recover_layout: RecoverLayout, text: KernelText
    ) -> None:
        self.text = text
        self._symbolizer = Symbolizer(prog, text)
        self._prog = prog
        self._layout = layout
        self._recover_layout = recover_layout
        self._code = Code(_reader(prog), layout.word_bytes)
        self._frames: BoundedCache[tuple[int, bool, str], Frame] = BoundedCache(_MAX_FRAMES)

    def of_step(self, step: Step) -> Frame:
        """The frame that a walk stepped on."""
        if step.user_mode:
            return Frame(step.ip, stack=step.stack, regs=step.regs, user_mode=True)
        if step.regs is not None:
            return replace(self.of_ip(step.ip, exact=True, stack=step.stack), regs=step.regs)
        return self.of_call(step.ip, step.stack)

    def of_call(self, ip: int, stack: str = "task") -> Frame:
        """A frame that a call made.

        :param ip: what is found in the place of its return address.
        :param stack: which one it lies on.
        """
        # Where a new task begins is exact: nothing called ret_from_fork_asm, so there is no
        # call before its first byte.
        return self.of_ip(ip, ip in self._layout.fork_return_addrs, stack)

    def of_ip(self, ip: int, exact: bool, stack: str = "task") -> Frame:
        """A frame in the kernel by its address.

        :param exact: *ip* is the instruction that is next, not what a call returns to.
        """
        key = ip, exact, stack
        frame = self._frames.get(key)
        if frame is None:
            names = self._symbolizer
            name = names.name_exact(ip) if exact else names.name_return_address(ip)
            symbol, module = (None, None) if name is None else (str(name), name.module)
            frame = self._frames[key] = Frame(ip, symbol, module, stack)
        return frame

    def of_cpu(self, registers: Mapping[str, int], find_stack: FindStack, walk: Walk) -> Frame:
        """The frame that a CPU is in.

        :param registers: its own.
        :param walk: from there on.
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
        stack: Optional[StackBytes] = None,
    ) -> SavedRegs:
        """The ``pt_regs`` that a frame is.

        :param frames: of the whole stack of *task*.
        :param at: which of them.
        :param raw: its bytes.
        :param stack: what was read already of the stack; ``None`` for a task that is on a CPU, and on others.
        """
        frame = frames[at]
        assert frame.regs is not None  # callers pick the frames that are a pt_regs
        registers = self._layout.regs.read(raw)
        return SavedRegs(
            address=frame.regs,
            entry=self.entry(frames[at - 1]) if at > 0 else None,
            user_mode=frame.user_mode,
            registers=registers,
            symbol=frame.symbol,
            module=frame.module,
            caller=self.missing_caller(task, frames, at, registers["sp"], stack),
        )

    def missing_caller(
        self,
        task: Task,
        frames: Sequence[Frame],
        at: int,
        sp: int,
        stack: Optional[StackBytes] = None,
    ) -> Optional[Frame]:
        """Who called the function of the frame *at*, which was interrupted, if the walk has skipped him.

        :param stack: as for :meth:`saved_regs`.
        """
        frame = frames[at]
        name = None if frame.user_mode else self._symbolizer.name_exact(frame.ip)
        # Without a name nothing tells where a function begins; but what is no text is none.
        if frame.user_mode or (name is None and self.text.is_kernel_text(frame.ip) is not False):
            return None
        if name is not None and not is_entered_by_call(name.name):
            return None
        found = missing_caller(
            sp,
            frame.ip,
            None if name is None else frame.ip - name.offset,
            self._code,
            self._code.read if stack is None else partial(_read_first_from, stack, self._code.read),
            Recovery(self._prog, self._recover_layout, task, current=stack is None),
        )
        outer = frames[at + 1].ip if at + 1 < len(frames) else None
        if found is None or found.addr == outer or not self.text.is_kernel_text(found.addr):
            return None
        return self.of_ip(found.addr, exact=False, stack=frame.stack)

    def entry(self, below: Frame) -> Optional[str]:
        """What entered, by the frame of the code that saved the ``pt_regs`` above it."""
        if below.symbol is not None:
            return entry_of(below.symbol.rsplit("+", 1)[0])
        # Copies of entry code that the kernel made at run time have no symbol.
        where = self.text.find(below.ip)
        return entry_of(where.kind.value) if where is not None else None


def _reader(prog: Program) -> ReadMemory:
    def read(addr: int, size: int) -> Optional[bytes]:
        try:
            return bytes(prog.read(addr, size))
        except (FaultError, OverflowError):
            return None

    return read


def _read_first_from(
    stack: StackBytes, read: ReadMemory, addr: int, size_bytes: int
) -> Optional[bytes]:
    try:
        return stack.read(addr, size_bytes)
    except NotInDump:
        return read(addr, size_bytes)
