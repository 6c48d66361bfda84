# SPDX-License-Identifier: LGPL-2.1-or-later
"""arm64, as :class:`~..base.Arch`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Callable, Optional

from drgn import Program

from ...kernel.stack_memory import FindStack
from ...kernel.tasks import Task
from ...kernel.text import TextRange
from ..base import Arch, Layout
from ..cpu_registers import kept_prstatus, registers_by_drgn
from .entry import enters_from_user_mode, entry_of, entry_of_handler, is_interrupt_entry
from .layout import probe_arm64
from .pt_regs import REGS
from .stacks import CpuStacks
from .trampolines import is_trampoline

__all__ = ("ARM64",)

_LR = "x30"
# The order of __show_regs() in arch/arm64/kernel/process.c (v7.2), which people know from oopses.
_ROWS = (
    ("pstate",),
    ("pc", _LR),
    ("sp", "orig_x0", "syscallno"),
    ("x29", "x28", "x27"),
    *(tuple(f"x{n}" for n in range(first, first - 3, -1)) for first in range(26, 0, -3)),
)


class Arm64(Arch):
    """arm64."""

    name = "aarch64"
    digits = 16
    regs = REGS
    register_rows = _ROWS
    segments: frozenset[str] = frozenset()
    needs_original = True
    lacks_reliable_stacktrace = (
        "this arm64 kernel has no reliable stack traces (arch_stack_walk_reliable)"
    )

    def register_title(self, name: str) -> str:
        """Return a register's name as an oops prints it; x30 is lr."""
        return "lr" if name == _LR else name

    def probe(self, prog: Program) -> Layout:
        """Find the layout of one kernel.

        :raises TypesError: if a type that every stack needs is missing or damaged
        """
        return probe_arm64(prog, self)

    def cpu_stacks(self, prog: Program, layout: Layout, task: Task) -> FindStack:
        """Return the stacks that a task on a CPU can be on: see :class:`~.stacks.CpuStacks`."""
        return CpuStacks(prog, layout, task)

    def cpu_registers(self, prog: Program, task: Task) -> Optional[dict[str, int]]:
        """Return the registers of the CPU that a task is on, as the dump has them."""
        found = None if kept_prstatus(prog) is not None else registers_by_drgn(prog, task)
        # If the task is just being switched, drgn returns only the few registers that cpu_switch_to() saved.
        if found is None or "pstate" not in found.by_name:
            return None
        by_name = {**found.by_name, REGS.ip_name: found.pc}
        return {name: by_name[name] for name in REGS.names if name in by_name}

    def entry_of(self, stub: Optional[str]) -> Optional[str]:
        """Return what entered the kernel, in words: see :func:`~.entry.entry_of`."""
        return entry_of(stub)

    def entry_of_handler(self, function: str) -> Optional[str]:
        """Return what entered the kernel, in words: see :func:`~.entry.entry_of_handler`."""
        return entry_of_handler(function)

    def is_interrupt_entry(self, function: str) -> bool:
        """Return whether a function handles an interrupt, by its name."""
        return is_interrupt_entry(function)

    def enters_from_user_mode(self, entry: Optional[str]) -> bool:
        """Return whether user mode can have entered in this way: see :func:`~.entry.enters_from_user_mode`."""
        return enters_from_user_mode(entry)

    def is_trampoline(
        self,
        name: str,
        address: int,
        code: bytes,
        symbol_address: Callable[[str], Optional[int]],
    ) -> bool:
        """Return whether code is that of a trampoline: see :func:`~.trampolines.is_trampoline`."""
        return is_trampoline(name, address, code, symbol_address)

    def extra_text(self, prog: Program) -> Mapping[str, Iterable[TextRange]]:
        """Return nothing: no text is kernel text only on arm64."""
        return {}


ARM64 = Arm64()
