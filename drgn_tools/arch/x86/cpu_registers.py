# SPDX-License-Identifier: LGPL-2.1-or-later
"""The registers that a CPU had when the dump was taken."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Optional

from drgn import Object, Program, UnsupportedOperation

from ...cache_key import cache_key
from ...kernel.tasks import Task
from ...memory import UNUSABLE
from ..base import RegsLayout

__all__ = ("cpu_registers", "keep_prstatus", "registers_in_prstatus")

_CACHE_KEY = cache_key(__name__)
_PR_PID_32, _PR_REG_32 = slice(24, 28), 72
"""``offsetof(struct elf_prstatus, pr_pid)`` and ``pr_reg`` on x86-32. There is a ``struct pt_regs`` (user_regs_struct in
arch/x86/include/asm/user_32.h)."""

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
    if _CACHE_KEY in prog.cache:
        return registers_in_prstatus(prog.cache[_CACHE_KEY], regs, task.pid, task.cpu)
    try:
        trace = prog.stack_trace(Object(prog, "struct task_struct *", task.addr))
        registers = trace[0].registers()
    except (UnsupportedOperation, NotImplementedError, IndexError, MemoryError, *UNUSABLE):
        # drgn raises NotImplementedError for a running x86-32 kernel, and MemoryError if a damaged
        # module has any number of ORC entries.
        return None
    # If the task is just being switched, drgn returns the few registers that __switch_to_asm
    # saved on its stack. They are not what the CPU held.
    if "cs" not in registers:
        return None
    by_name = {_kernels_name(name): value for name, value in registers.items()}
    return {name: by_name[name] for name in regs.names if name in by_name}


def keep_prstatus(prog: Program, prstatus: Sequence[bytes]) -> None:
    """Keep the NT_PRSTATUS notes of a dump, to be used instead of what drgn finds.

    drgn uses none of x86-32. A dump of another machine may be given without any notes.

    :param prstatus: Their contents, in the order of the file
    """
    prog.cache[_CACHE_KEY] = tuple(prstatus)


def registers_in_prstatus(
    prstatus: Sequence[bytes], regs: RegsLayout, pid: int, cpu: int
) -> Optional[dict[str, int]]:
    """Return the registers of a CPU of x86-32.

    :param prstatus: As for :func:`keep_prstatus`
    :param pid: Of the task that the CPU ran
    :param cpu: Number of the CPU
    :return: ``None`` if it is not clear which note is that of the CPU, or it is cut short
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
