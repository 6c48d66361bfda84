# SPDX-License-Identifier: LGPL-2.1-or-later
"""The fast path of the arm64 walker: the signature of an ordinary stack, much faster than by a walk.

If a stack has a signature, :meth:`.arm64.Arm64Walker.walk_sleeping` finds the same frames on it. If something
about a stack is unusual, it has no signature. Pure, as the walker is.
"""

from __future__ import annotations

from struct import Struct
from typing import Callable, Optional

from ..arch.arm64.pt_regs import FRAME_META_FINAL, FRAME_META_PT_REGS
from ..arch.base import Registers
from ..kernel.stack_memory import NotInDump, StackMemory
from ..kernel.tasks import Task
from .arm64_rules import Arm64Rules
from .base import Recover, Signature

__all__ = ("signature_of",)

_RECORD = Struct("<QQ")
_WORD = Struct("<Q")


def signature_of(
    task: Task, stack: StackMemory, rules: Arm64Rules, make_recover: Callable[[], Recover]
) -> Optional[Signature]:
    """Return the signature of the stack of a task that is not on a CPU.

    :param stack: The task's stack from the saved stack pointer on
    :param make_recover: Called if a return address was rewritten
    :return: ``None`` if something is unusual: a frame pointer does not lead up, an original is not found, or
        memory is missing
    """
    data, base = stack.data, stack.data_addr
    if stack.holes or task.thread_sp != base or base + len(data) != stack.end_addr:
        return None
    layout, trampolines = rules.regs, rules.trampolines
    last = len(data) - layout.size_bytes + layout.stackframe_offset
    ips, kernel_regs = [task.thread_pc], []
    regs: list[tuple[int, Registers]] = []
    recover: Optional[Recover] = None
    if task.thread_pc in trampolines:
        return None
    # This ends: each record is above the one before it.
    at, lowest = task.thread_fp - base, 0
    while at != last:
        if not lowest <= at < last or at & 0x7:
            return None
        fp, pc = _RECORD.unpack_from(data, at)
        regs_at = at - layout.stackframe_offset
        if fp or pc or not layout.has_metadata:
            lowest = at + _RECORD.size
            is_regs = not layout.has_metadata and rules.are_regs_around(data, regs_at, fp, pc)
        else:
            is_regs = _WORD.unpack_from(data, at + _RECORD.size)[0] == FRAME_META_PT_REGS
            if not is_regs or regs_at < lowest:
                return None
            lowest = regs_at + layout.size_bytes
        if is_regs:
            registers = layout.read(data[regs_at : regs_at + layout.size_bytes])
            kernel_regs.append(len(ips))
            regs.append((base + regs_at, registers))
            fp, pc = registers["x29"], registers["pc"]
        pc = rules.strip(pc)
        if pc in trampolines:
            recover = recover or make_recover()
            try:
                pc = recover(pc, fp)
            except NotInDump:
                return None
            if not pc:
                return None
        ips.append(pc)
        at = fp - base
    if layout.has_metadata and data[last : last + 24] != _FINAL:
        return None
    user_mode = False
    if not task.kthread:
        regs_at = len(data) - layout.size_bytes
        registers = layout.read(data[regs_at:])
        user_mode = layout.user_mode(registers)
        if user_mode:
            regs.append((base + regs_at, registers))
    return Signature(tuple(ips), tuple(kernel_regs), user_mode, tuple(regs))


_FINAL = bytes(_RECORD.size) + _WORD.pack(FRAME_META_FINAL)
