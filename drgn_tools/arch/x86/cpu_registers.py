# SPDX-License-Identifier: LGPL-2.1-or-later
"""The registers of a CPU when the dump was taken."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Optional

from drgn import Program

from ...kernel.tasks import Task
from ..base import RegsLayout
from ..cpu_registers import kept_prstatus, registers_by_drgn

__all__ = ("cpu_registers", "registers_in_prstatus")

_PR_PID_32, _PR_REG_32 = slice(24, 28), 72
"""``offsetof(struct elf_prstatus, pr_pid)`` and ``pr_reg`` on x86-32. pr_reg has the layout of ``struct pt_regs`` (user_regs_struct
in arch/x86/include/asm/user_32.h)."""

_OTHER_NAMES = {"rflags": "flags", "eflags": "flags"}
"""drgn's name of a register -> the kernel's name, if dropping r or e (rip -> ip) is not enough."""


def cpu_registers(prog: Program, regs: RegsLayout, task: Task) -> Optional[dict[str, int]]:
    """Return the registers of the CPU that a task was running on, by the kernel's names.

    :param regs: The registers to return, in their order. Those that a CPU does not have
        (``orig_ax``) are left out.
    :return: ``None`` if the dump has none, as on a live kernel
    """
    prstatus = kept_prstatus(prog)
    if prstatus is not None:
        return registers_in_prstatus(prstatus, regs, task.pid, task.cpu)
    found = registers_by_drgn(prog, task)
    # If the task is just being switched, drgn returns only the few registers that __switch_to_asm
    # saved on its stack. They are not those of the CPU.
    if found is None or "cs" not in found.by_name:
        return None
    registers = found.by_name
    by_name = {_kernels_name(name): value for name, value in registers.items()}
    return {name: by_name[name] for name in regs.names if name in by_name}


def registers_in_prstatus(
    prstatus: Sequence[bytes], regs: RegsLayout, pid: int, cpu: int
) -> Optional[dict[str, int]]:
    """Return the registers of a CPU of x86-32.

    :param prstatus: As for :func:`..cpu_registers.keep_prstatus`
    :param pid: PID of the task that the CPU ran
    :param cpu: Number of the CPU
    :return: ``None`` if it is not clear which note is that of the CPU, or the note is cut short
    """
    note = _note_of(prstatus, pid, cpu)
    raw = b"" if note is None else note[_PR_REG_32 : _PR_REG_32 + regs.size_bytes]
    if len(raw) < regs.size_bytes:
        return None
    return {name: value for name, value in regs.read(raw).items() if name != "orig_ax"}


def _note_of(prstatus: Sequence[bytes], pid: int, cpu: int) -> Optional[bytes]:
    # QEMU numbers the notes of all CPUs from 1 (target/i386/arch_dump.c). The kernel writes the
    # pid of the task, and has no note of a CPU that was offline or did not answer.
    pids = [int.from_bytes(note[_PR_PID_32], "little") for note in prstatus]
    if pids == list(range(1, len(pids) + 1)) or pids[cpu : cpu + 1] == [pid]:
        return prstatus[cpu] if 0 <= cpu < len(prstatus) else None
    of_task = [note for note, its_pid in zip(prstatus, pids) if its_pid == pid]
    return of_task[0] if len(of_task) == 1 else None


def _kernels_name(name: str) -> str:
    if name in _OTHER_NAMES:
        return _OTHER_NAMES[name]
    # rax -> ax, eip -> ip; but r8 to r15, cs, ss and the like are the same.
    return name[1:] if len(name) == 3 and name[0] in "re" and name[1:].isalpha() else name
