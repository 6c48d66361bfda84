# SPDX-License-Identifier: LGPL-2.1-or-later
"""The registers of a CPU of a machine that was stopped."""

from __future__ import annotations

from typing import Optional

from drgn import Object, Program, UnsupportedOperation

from ...kernel.tasks import Task
from ...memory import UNUSABLE
from ..base import RegsLayout

__all__ = ("cpu_registers",)

_OTHER_NAMES = {"rflags": "flags", "eflags": "flags"}
"""drgn's name -> the kernel's, where it is not drgn's without its first letter (rip -> ip)."""


def cpu_registers(prog: Program, regs: RegsLayout, task: Task) -> Optional[dict[str, int]]:
    """Registers of the CPU that *task* was running on, by the kernel's names.

    They are those of the NT_PRSTATUS note (or the crash note) of that CPU; drgn
    knows which note is whose. ``None`` if the dump has none, as on a live kernel.

    :param regs: names those of interest, in their order (there is no orig_ax in a CPU).
    """
    try:
        trace = prog.stack_trace(Object(prog, "struct task_struct *", task.addr))
        registers = trace[0].registers()
    except (UnsupportedOperation, IndexError, *UNUSABLE):
        return None
    # Of a task that is just being switched, drgn gives what __switch_to_asm
    # saved: a few registers, and none that a CPU held.
    if "cs" not in registers:
        return None
    by_name = {_kernels_name(name): value for name, value in registers.items()}
    return {name: by_name[name] for name in regs.names if name in by_name}


def _kernels_name(name: str) -> str:
    if name in _OTHER_NAMES:
        return _OTHER_NAMES[name]
    # rax -> ax, eip -> ip; but r8 to r15, cs, ss and the like are the same.
    return name[1:] if len(name) == 3 and name[0] in "re" and name[1:].isalpha() else name
