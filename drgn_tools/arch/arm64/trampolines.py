# SPDX-License-Identifier: LGPL-2.1-or-later
"""The code of the trampolines that tracers write over return addresses on arm64."""

from __future__ import annotations

from struct import iter_unpack
from typing import Callable, Optional

from .calls import INSTRUCTION_BYTES, callee_of_bl

__all__ = ("is_trampoline",)

_CALLEES = {
    "return_to_handler": "ftrace_return_to_handler",
    "__kretprobe_trampoline": "trampoline_probe_handler",
}
"""Trampoline -> the C function that it calls (arch/arm64/kernel/entry-ftrace.S and
probes/kprobes_trampoline.S, v5.10 to v6.1)."""
_KRETPROBES_BRK = 0xD420_0000 | 0x007 << 5
"""``brk #KRETPROBES_BRK_IMM`` (asm/brk-imm.h, v6.12). From then on, the kretprobe trampoline begins with it."""
_SUB_SP = 0xD100_03FF
"""``sub sp, sp, #IMMEDIATE``. The other trampolines begin with it: they make room for the registers that they save."""
_IMMEDIATE = 0x1FFF << 10


def is_trampoline(
    name: str, address: int, code: bytes, symbol_address: Callable[[str], Optional[int]]
) -> bool:
    """Return whether code is that of a trampoline: see :meth:`~..base.Arch.is_trampoline`."""
    words = [word for (word,) in iter_unpack("<I", code[: len(code) & -INSTRUCTION_BYTES])]
    if name == "__kretprobe_trampoline" and words[:1] == [_KRETPROBES_BRK]:
        return True
    callee = symbol_address(_CALLEES[name]) if name in _CALLEES else None
    if callee is None or not words or words[0] & ~_IMMEDIATE != _SUB_SP:
        return False
    return any(
        callee_of_bl(word, address + INSTRUCTION_BYTES * i) == callee
        for i, word in enumerate(words)
    )
