# SPDX-License-Identifier: LGPL-2.1-or-later
"""The registers that a CPU had when the dump was taken."""

from __future__ import annotations

from typing import Optional

from drgn import Object, Program, UnsupportedOperation

from ...kernel.tasks import Task
from ...memory import UNUSABLE
from ..base import RegsLayout

__all__ = ("cpu_registers",)

_OTHER_NAMES = {"rflags": "flags", "eflags": "flags"}
"""drgn's name of a register -> the kernel's, for those of which it is not the same without r or e (rip -> ip)."""


def cpu_registers(prog: Program, regs: RegsLayout, task: Task) -> Optional[dict[str, int]]:
    """Return the registers of the CPU that a task was running on, by the kernel's names.

    They are in the NT_PRSTATUS note of that CPU, or in its crash note. drgn finds the note of a
    task.

    :param regs: The registers to return, in their order. Those that a CPU does not have
        (``orig_ax``) are left out.
    :return: ``None`` if the dump has none, as on a live kernel
    """
    try:
        trace = prog.stack_trace(Object(prog, "struct task_struct *", task.addr))
        registers = trace[0].registers()
    except (UnsupportedOperation, IndexError, *UNUSABLE):
        return None
    # If the task is just being switched, drgn returns the few registers that __switch_to_asm
    # saved on its stack. They are not what the CPU held.
    if "cs" not in registers:
        return None
    by_name = {_kernels_name(name): value for name, value in registers.items()}
    return {name: by_name[name] for name in regs.names if name in by_name}


def _kernels_name(name: str) -> str:
    if name in _OTHER_NAMES:
        return _OTHER_NAMES[name]
    # rax -> ax, eip -> ip; but r8 to r15, cs, ss and the like are the same.
    return name[1:] if len(name) == 3 and name[0] in "re" and name[1:].isalpha() else name
