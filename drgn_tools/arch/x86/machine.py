# SPDX-License-Identifier: LGPL-2.1-or-later
"""x86-64 and x86-32, as :class:`~..base.Arch`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Callable, Optional

from drgn import Program

from ...kernel.stack_memory import FindStack
from ...kernel.tasks import Task
from ...kernel.text import TextRange
from ..base import Arch, Layout
from .cpu_registers import cpu_registers
from .entry import enters_from_user_mode, entry_of, entry_of_handler, is_interrupt_entry
from .gate_area import gate_area
from .layout import X86Layout, probe_x86
from .pt_regs import REGS_32, REGS_64, SEGMENTS, X86Regs
from .stacks import CpuStacks
from .trampolines import is_trampoline

__all__ = ("X86", "X86_32", "X86_64")

# The order of __show_regs() in arch/x86/kernel/process_64.c and process_32.c (v6.12), which people
# know from oopses.
_ROWS_64 = (
    ("cs:ip",),
    ("ss:sp", "flags", "orig_ax"),
    ("ax", "bx", "cx"),
    ("dx", "si", "di"),
    ("bp", "r8", "r9"),
    ("r10", "r11", "r12"),
    ("r13", "r14", "r15"),
)
_ROWS_32 = (
    ("cs:ip", "flags", "orig_ax"),
    ("ax", "bx", "cx", "dx"),
    ("si", "di", "bp", "sp"),
    ("ds", "es", "fs", "ss"),
)


class X86(Arch):
    """x86-64 or x86-32.

    :param name: As :attr:`.records.KernelInfo.arch`
    :param regs: Layout of ``struct pt_regs``
    :param rows: As :attr:`.Arch.register_rows`
    :param title_prefix: What an oops puts before the name of a register: R of RAX, E of EAX
    :param lacks_reliable_stacktrace: As :attr:`.Arch.lacks_reliable_stacktrace`
    """

    segments = SEGMENTS
    regs: X86Regs
    """The registers that ``struct pt_regs`` holds."""

    def __init__(
        self,
        name: str,
        regs: X86Regs,
        rows: tuple[tuple[str, ...], ...],
        title_prefix: str,
        lacks_reliable_stacktrace: str,
    ) -> None:
        self.name = name
        self.digits = 2 * regs.word_bytes
        self.regs = regs
        self.register_rows = rows
        self.lacks_reliable_stacktrace = lacks_reliable_stacktrace
        self._title_prefix = title_prefix

    def register_title(self, name: str) -> str:
        """Return a register's name as an oops prints it: ax is RAX or EAX, r8 is R08 (as wide as RAX)."""
        if name in SEGMENTS:
            return name.upper()
        if name == "flags":
            return "EFLAGS"
        if name.startswith("orig_"):
            return f"ORIG_{self.register_title(name[len('orig_') :])}"
        if name.startswith("r") and name[1:].isdigit():
            return f"R{int(name[1:]):02}"
        return f"{self._title_prefix}{name.upper()}"

    def probe(self, prog: Program) -> Layout:
        """Find the layout of one kernel.

        :raises TypesError: if a type that every stack needs is missing or damaged
        """
        return probe_x86(prog, self, self.regs)

    def cpu_stacks(self, prog: Program, layout: Layout, task: Task) -> FindStack:
        """Return the stacks that a task on a CPU can be on: see :class:`~.stacks.CpuStacks`."""
        assert isinstance(layout, X86Layout)  # probe() made it
        return CpuStacks(prog, layout, task)

    def cpu_registers(self, prog: Program, task: Task) -> Optional[dict[str, int]]:
        """Return the registers of the CPU that a task is on: see :func:`~.cpu_registers.cpu_registers`."""
        return cpu_registers(prog, self.regs, task)

    def entry_of(self, stub: Optional[str]) -> Optional[str]:
        """Return what entered the kernel, in words: see :func:`~.entry.entry_of`."""
        return entry_of(stub)

    def entered_handler(self, raw: bytes) -> Optional[int]:
        """Return the address of the C function that entry code called, which x86-32 leaves in the ``pt_regs``.

        Up to v5.17 without CONFIG_X86_32_LAZY_GS, gs is there instead.
        """
        at = self.regs.handler_offset
        return None if at is None else int.from_bytes(raw[at : at + self.regs.word_bytes], "little")

    def entry_of_handler(self, function: str) -> Optional[str]:
        """Return what entered the kernel, in words: see :func:`~.entry.entry_of_handler`. On x86-64 the entry stub alone says it."""
        return None if self.regs.handler_offset is None else entry_of_handler(function)

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
        return is_trampoline(name, address, code, symbol_address, self.regs.word_bytes)

    def extra_text(self, prog: Program) -> Mapping[str, Iterable[TextRange]]:
        """Return the vsyscall page, if this kernel counts it as text: see :func:`~.gate_area.gate_area`."""
        return {"vsyscall": gate_area(prog)}


X86_64 = X86(
    "x86_64",
    REGS_64,
    _ROWS_64,
    "R",
    lacks_reliable_stacktrace="this kernel was built without reliable stack traces (CONFIG_STACK_VALIDATION)",
)
X86_32 = X86(
    "i386",
    REGS_32,
    _ROWS_32,
    "E",
    # arch/x86/Kconfig, v6.12: HAVE_RELIABLE_STACKTRACE if UNWINDER_ORC || STACK_VALIDATION, which
    # both depend on X86_64.
    lacks_reliable_stacktrace="x86-32 kernels have no reliable stack traces",
)
