# SPDX-License-Identifier: LGPL-2.1-or-later
"""Templates: what the records of equal stacks have in common, made once for all of them.

Stacks with the same signature have the same verdict and the same frames. Only their
``pt_regs`` differ: their addresses, the values of the registers, and the caller of each
interrupted function.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Callable, Optional

import msgspec

from ..arch.base import Registers
from ..bounded_cache import BoundedCache
from ..records import Frame, Reason, SavedRegs, Verdict

__all__ = ("Answer", "FindCaller", "Template", "Templates")

_MAX_TEMPLATES = 20_000
"""Different stacks of a kernel that are cached."""

FindCaller = Callable[[Sequence[Frame], int, int, Registers], Optional[Frame]]
"""(frames, index of one that was interrupted, address and registers of its ``pt_regs``) -> frame of the
interrupted function's caller; ``None`` if the walk did not skip it."""


class Answer(msgspec.Struct, frozen=True):
    """The verdict on a stack: a part of its record."""

    verdict: Verdict
    """:attr:`.TaskStack.verdict`"""
    reason: Optional[Reason] = None
    """:attr:`.TaskStack.reason`"""
    why: Optional[str] = None
    """:attr:`.TaskStack.why`"""
    brief: Optional[str] = None
    """:attr:`.TaskStack.brief`"""
    reason_frame: Optional[int] = None
    """:attr:`.TaskStack.reason_frame`"""


class Template(msgspec.Struct, frozen=True):
    """The record of the first stack with its signature, without the task."""

    answer: Answer
    """The verdict."""
    frames: tuple[Frame, ...] = ()
    """:attr:`.TaskStack.frames`"""
    regs: tuple[SavedRegs, ...] = ()
    """:attr:`.TaskStack.regs`"""
    flags: tuple[str, ...] = ()
    """Those of :attr:`.TaskStack.flags` that depend on the stack."""
    regs_at: tuple[int, ...] = ()
    """Index in :attr:`frames` of each of :attr:`regs`."""

    def with_regs(
        self, found: Sequence[tuple[int, Registers]], ip_name: str, find_caller: FindCaller
    ) -> tuple[tuple[Frame, ...], tuple[SavedRegs, ...]]:
        """Return frames and saved registers of another stack with the same signature.

        :param found: Virtual address and registers of each of its ``pt_regs``, in stack order;
            not empty
        :param ip_name: As :attr:`.RegsLayout.ip_name`
        :param find_caller: Finds the caller of an interrupted function of that stack
        """
        frames, regs = self.frames, self.regs
        if frames[-1].user_mode:
            (address, registers), stack = found[-1], frames[-1].stack
            frames = (*frames[:-1], Frame(registers[ip_name], None, stack, address, True, True))
            regs = (*regs[:-1], SavedRegs(address, regs[-1].entry, True, registers))
            found = found[:-1]
        if not found:
            return frames, regs
        all_frames, all_regs = list(frames), list(regs)
        # The outermost first: find_caller() compares the caller that it finds with the next outer frame.
        for i in range(len(found) - 1, -1, -1):
            at, (address, registers) = self.regs_at[i], found[i]
            frame, entry = frames[at], regs[i].entry
            all_frames[at] = Frame(frame.ip, frame.symbol, frame.stack, address, False, True)
            caller = find_caller(all_frames, at, address, registers)
            all_regs[i] = SavedRegs(address, entry, False, registers, frame.symbol, caller)
        return tuple(all_frames), tuple(all_regs)


class Templates(BoundedCache[object, Template]):
    """Templates of one kernel. The keys are the signature and whatever else the verdict depends on."""

    def __init__(self) -> None:
        super().__init__(_MAX_TEMPLATES)
