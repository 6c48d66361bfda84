# SPDX-License-Identifier: LGPL-2.1-or-later
"""Find wrong answers in the audit of a damaged dump, by comparing it with the audit of the whole dump."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Optional, TypeVar

from msgspec.structs import replace

from drgn_tools import Frame, KernelAudit, Reason, SavedRegs, TaskStack, Verdict

__all__ = ("wrong", "wrong_of_task")


def wrong(whole: KernelAudit, holed: KernelAudit) -> Iterator[str]:
    """Yield the wrong answers in the audit of a dump with missing pages, compared with that of the whole dump."""
    found = {s.task: s for s in holed}
    expected = {s.task: s for s in whole}
    for task in found.keys() - expected.keys():
        yield f"task {task:#x} is not one"
    if whole.kernel.encoding != holed.kernel.encoding:
        # Then the stacks are from drgn, and the note on the kernel says so.
        if not holed.kernel.notes or any(s.verdict is not Verdict.UNKNOWN for s in holed):
            yield f"encoding is {holed.kernel.encoding}, was {whole.kernel.encoding}"
        if any(s.reason is Reason.NOT_ENCODED for s in holed):
            yield "does not encode, it says"
        return
    for task, stack in expected.items():
        if task not in found:
            if not holed.problems:
                yield f"pid {stack.pid} is missing, and nothing says so"
        elif found[task] != stack:
            for what in wrong_of_task(stack, found[task]):
                yield f"pid {stack.pid}: {what}"


def wrong_of_task(whole: TaskStack, holed: TaskStack) -> Iterator[str]:
    if holed.verdict is not Verdict.UNKNOWN and holed.verdict is not whole.verdict:
        yield f"{holed.verdict} ({holed.why}), was {whole.verdict} ({whole.why})"
    if holed.verdict is Verdict.UNKNOWN and not holed.why:
        yield "unknown without a reason"
    is_short = 0 < len(holed.frames) < len(whole.frames)
    if is_short and holed.on_cpu and "ends_early" not in holed.flags:
        yield "a stack of a CPU is not whole, and nothing says so"
    # A verdict needs all the frames, or only the inner ones if the flag says so.
    frames, regs = len(holed.frames), len(holed.regs)
    if holed.verdict is not Verdict.UNKNOWN and "ends_early" not in holed.flags:
        frames, regs = len(whole.frames), len(whole.regs)
    ours = holed.frames
    if holed.on_cpu and is_short and ours[0].stack == "unknown":
        # The data that show which stack the CPU is on may be missing, too.
        ours = (replace(ours[0], stack=whole.frames[0].stack), *ours[1:])
    if not same(whole.frames[:frames], ours):
        yield f"frames {holed.frames}, were {whole.frames}"
    if not same(whole.regs[:regs], without_next_frame(whole, holed)):
        yield f"registers {holed.regs}, were {whole.regs}"
    if holed.cpu_caller != caller_as(whole.cpu_caller, holed.cpu_caller):
        yield f"caller {holed.cpu_caller}, was {whole.cpu_caller}"


def without_next_frame(whole: TaskStack, holed: TaskStack) -> Sequence[SavedRegs]:
    """Return the registers of a task. If its stack ends early, the caller may be the next frame, and is removed."""
    regs = holed.regs
    if "ends_early" not in holed.flags or not regs or regs[-1].caller is None:
        return regs
    following = whole.frames[len(holed.frames) :]
    if not following or following[0].ip != regs[-1].caller.ip:
        return regs
    return (*regs[:-1], replace(regs[-1], caller=None))


Named = TypeVar("Named", Frame, SavedRegs)


def same(whole: Sequence[Named], holed: Sequence[Named]) -> bool:
    """Return whether these are the same, except that a symbol may be unknown."""
    return [*map(unnamed_as, whole, holed)] == [*holed] and len(whole) == len(holed)


def unnamed_as(whole: Named, holed: Named) -> Named:
    if holed.symbol is None:
        whole = replace(whole, symbol=None)
    if isinstance(whole, SavedRegs) and isinstance(holed, SavedRegs) and holed.entry is None:
        whole = replace(whole, entry=None)  # depends on the name of the frame before
    if isinstance(whole, SavedRegs) and isinstance(holed, SavedRegs):
        whole = replace(whole, caller=caller_as(whole.caller, holed.caller))
    return whole


def caller_as(whole: Optional[Frame], holed: Optional[Frame]) -> Optional[Frame]:
    # Depends on the code of the function and of its caller, and on names.
    return None if whole is None or holed is None else unnamed_as(whole, holed)
