# SPDX-License-Identifier: LGPL-2.1-or-later
"""The code of the trampolines that tracers write over return addresses on x86."""

from __future__ import annotations

from struct import Struct
from typing import Callable, Optional

__all__ = ("is_trampoline",)

_CALLEES = {
    "return_to_handler": "ftrace_return_to_handler",
    "arch_rethook_trampoline": "arch_rethook_trampoline_callback",
    "__kretprobe_trampoline": "trampoline_handler",
}
"""Trampoline -> the C function that each version of it calls (arch/x86/kernel/ftrace_64.S, rethook.c and
kprobes/core.c, v5.10 to v7.2)."""
_CALL, _CALL_OPCODE = Struct("<Bi"), 0xE8
"""``call rel32``: the opcode, and the distance of the callee from the next instruction."""


def is_trampoline(
    name: str,
    address: int,
    code: bytes,
    symbol_address: Callable[[str], Optional[int]],
    word_bytes: int,
) -> bool:
    """Return whether code is that of a trampoline: see :meth:`~..base.Arch.is_trampoline`.

    :param word_bytes: 8 for 64-bit code, 4 for 32-bit code
    """
    callee, mask = symbol_address(_CALLEES[name]), (1 << 8 * word_bytes) - 1
    return any(
        address + at + _CALL.size + distance & mask == callee
        for at in range(len(code) - _CALL.size)
        for opcode, distance in [_CALL.unpack_from(code, at)]
        if opcode == _CALL_OPCODE
    )
