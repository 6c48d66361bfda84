# SPDX-License-Identifier: LGPL-2.1-or-later
"""The vsyscall page, which the kernel counts as kernel text."""

from __future__ import annotations

from collections.abc import Iterator

from drgn import Program

from ...kernel.probing import symbol_address
from ...kernel.text import TextKind, TextRange

__all__ = ("gate_area",)

_VSYSCALL_ADDR = 0xFFFF_FFFF_FF60_0000
_VSYSCALL_BYTES = 4096
_VSYSCALL_NONE = 2
"""``enum { EMULATE, XONLY, NONE } vsyscall_mode`` in arch/x86/entry/vsyscall/vsyscall_64.c."""


def gate_area(prog: Program) -> Iterator[TextRange]:
    """Yield the vsyscall page, if the kernel has it and counts it as text.

    Follows in_gate_area_no_mm() in arch/x86/entry/vsyscall/vsyscall_64.c, which is_kernel_text()
    in linux/kallsyms.h calls (v6.1, v6.12). x86-32 has no such page.

    :raises FaultError: if vsyscall_mode is not in the dump
    """
    # Since "extable: use is_kernel_text() helper" (v5.16), core_kernel_text() calls
    # is_kernel_text(). Before that, it compared with _stext and _etext only. The same series
    # renamed core_kernel_data().
    if symbol_address(prog, "core_kernel_data") is not None:
        return
    mode = symbol_address(prog, "vsyscall_mode")
    if mode is not None and prog.read_u32(mode) != _VSYSCALL_NONE:
        yield TextRange(_VSYSCALL_ADDR, _VSYSCALL_ADDR + _VSYSCALL_BYTES, TextKind.CORE)
