# SPDX-License-Identifier: LGPL-2.1-or-later
"""What equal stacks share: made once, and then put on each task with that stack.

Stacks with the same signature have the same verdict and the same frames. Only their
``pt_regs`` are each task's own: where they lie, what the registers hold, and who called
the function that was interrupted.
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
"""Different stacks that are kept of a kernel."""

FindCaller = Callable[[Sequence[Frame], int, int], Optional[Frame]]
"""(frames, index of an interrupted one, its stack pointer) -> the interrupted function's caller."""


class Answer(msgspec.Struct, frozen=True):
    """The verdict on a stack, from :attr:`.TaskStack.verdict` to :attr:`.TaskStack.reason_frame`."""

    verdict: Verdict
    reason: Optional[Reason] = None
    why: Optional[str] = None
    brief: Optional[str] = None
    reason_frame: Optional[int] = None


class Template(msgspec.Struct, frozen=True):
    """The record of a stack, and of every other with the same signature, but for its ``pt_regs``."""

    answer: Answer
    frames: tuple[Frame, ...] = ()
    regs: tuple[SavedRegs, ...] = ()
    flags: tuple[str, ...] = ()
    regs_at: tuple[int, ...] = ()
    """Which of the frames are ``pt_regs``."""

    def with_regs(
        self, found: Sequence[tuple[int, Registers]], find_caller: FindCaller
    ) -> tuple[tuple[Frame, ...], tuple[SavedRegs, ...]]:
        """Return frames and registers of another stack with the same signature.

        :param found: Address and registers of each of its ``pt_regs``, in stack order
        """
        frames, regs = self.frames, self.regs
        if frames[-1].user_mode:
            (address, registers), stack = found[-1], frames[-1].stack
            frames = (*frames[:-1], Frame(registers["ip"], None, stack, address, True))
            regs = (*regs[:-1], SavedRegs(address, regs[-1].entry, True, registers))
            found = found[:-1]
        if not found:
            return frames, regs
        all_frames, all_regs = list(frames), list(regs)
        # The outermost first: an interrupted function's caller is looked for in the frame above, too.
        for i in range(len(found) - 1, -1, -1):
            at, (address, registers) = self.regs_at[i], found[i]
            frame, entry = frames[at], regs[i].entry
            all_frames[at] = Frame(frame.ip, frame.symbol, frame.stack, address)
            caller = find_caller(all_frames, at, registers["sp"])
            all_regs[i] = SavedRegs(address, entry, False, registers, frame.symbol, caller)
        return tuple(all_frames), tuple(all_regs)


class Templates(BoundedCache[object, Template]):
    """Templates of one kernel, by signature."""

    def __init__(self) -> None:
        super().__init__(_MAX_TEMPLATES)
