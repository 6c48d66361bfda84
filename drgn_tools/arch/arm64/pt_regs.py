# SPDX-License-Identifier: LGPL-2.1-or-later
"""``struct pt_regs`` of arm64: where each register is, ``user_mode()``, and the frame record in it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Optional

from drgn import Program, offsetof, sizeof

from ..base import RegsLayout

__all__ = ("FRAME_META_FINAL", "FRAME_META_PT_REGS", "REGS", "Arm64Regs", "probe_pt_regs")

FRAME_META_FINAL, FRAME_META_PT_REGS = 1, 2
"""FRAME_META_TYPE_... of asm/stacktrace/frame.h, v7.2."""

_RECORD_BYTES, _META_BYTES = 16, 24
"""struct frame_record, and struct frame_record_meta, which has a type after it."""
_GENERAL = 31
_PSR_MODE_MASK = 0xF
_PSR_MODE_EL0T = 0x0
_PSR_MODE32_BIT = 0x10
_PSR_MODES_OF_KERNEL = frozenset((0x4, 0x5, 0x8, 0x9))
"""EL1t, EL1h, EL2t, EL2h (asm/ptrace.h). With VHE the kernel runs at EL2."""
_MAX_BYTES = 1024
"""It has 320 to 352."""


class Arm64Regs(RegsLayout, frozen=True, dict=True):
    """``struct pt_regs`` (arch/arm64/include/asm/ptrace.h)."""

    ip_name: ClassVar[str] = "pc"
    syscall_name: ClassVar[str] = "syscallno"
    stackframe_offset: int
    """``offsetof(struct pt_regs, stackframe)``: entry code sets the frame pointer to the address of this member."""
    has_metadata: bool
    """``stackframe`` is a ``struct frame_record_meta``, which says what it is."""

    def user_mode(self, registers: Mapping[str, int]) -> bool:
        """Return whether registers were saved in user mode. Follows user_mode() in asm/ptrace.h, v7.2."""
        return registers["pstate"] & _PSR_MODE_MASK == _PSR_MODE_EL0T

    def stack_pointer(self, registers: Mapping[str, int]) -> Optional[int]:
        """Return the stack pointer of the code whose registers were saved.

        The stack pointer of a 32-bit program is x13 (compat_sp in asm/ptrace.h, v7.2); entry code then saves a
        stale SP_EL0 as sp.
        """
        is_compat = self.user_mode(registers) and registers["pstate"] & _PSR_MODE32_BIT
        return registers["x13" if is_compat else "sp"]

    def kernel_mode(self, registers: Mapping[str, int]) -> bool:
        """Return whether these can be registers that were saved in kernel mode."""
        return registers["pstate"] & _PSR_MODE_MASK in _PSR_MODES_OF_KERNEL

    def is_syscall(self, registers: Mapping[str, int]) -> bool:
        """Return whether a system call saved these user-mode registers.

        Other exceptions leave NO_SYSCALL, -1, in syscallno (kernel_entry in arch/arm64/kernel/entry.S, v7.2).
        """
        return not registers["syscallno"] >> 31


def _fields(
    sp: int, pc: int, pstate: int, orig_x0: int, syscallno: int
) -> tuple[tuple[str, int, int], ...]:
    return (
        *((f"x{n}", 8 * n, 8) for n in range(_GENERAL)),
        ("sp", sp, 8),
        ("pc", pc, 8),
        ("pstate", pstate, 8),
        ("orig_x0", orig_x0, 8),
        ("syscallno", syscallno, 4),
    )


REGS = Arm64Regs(
    word_bytes=8,
    size_bytes=320,
    fields=_fields(248, 256, 264, 272, 280),
    stackframe_offset=296,
    has_metadata=True,
)
"""As of v7.2. The registers are the same in every kernel; the members after them differ."""


def probe_pt_regs(prog: Program) -> Arm64Regs:
    """Return the layout of one kernel.

    :raises LookupError: if the type or one of its members is missing
    :raises ValueError: if it cannot be what entry code saves
    """
    type_ = prog.type("struct pt_regs")
    fields = _fields(
        *(offsetof(type_, name) for name in ("sp", "pc", "pstate", "orig_x0", "syscallno"))
    )
    # kernel_entry stores these in pairs, by offsets that all kernels have (arch/arm64/kernel/entry.S).
    if fields != REGS.fields or offsetof(type_, "regs") != 0:
        raise ValueError("struct pt_regs does not have its registers where entry code saves them")
    size_bytes, stackframe = sizeof(type_), type_.member("stackframe")
    # Since Linux kernel commit c2c6b27b5aa1 ("arm64: stacktrace: unwind exception boundaries") (in v6.13),
    # and its series, stackframe is a struct frame_record_meta. Before that, it is an array of two words.
    stackframe_bytes = sizeof(stackframe.type)
    if stackframe_bytes not in (_RECORD_BYTES, _META_BYTES):
        raise ValueError(f"struct pt_regs cannot have a stackframe of {stackframe_bytes} bytes")
    has_metadata = stackframe_bytes == _META_BYTES
    end = stackframe.offset + stackframe_bytes
    if not REGS.fields[-1][1] < stackframe.offset < end <= size_bytes <= _MAX_BYTES:
        raise ValueError(f"struct pt_regs cannot have {size_bytes} bytes")
    return Arm64Regs(
        word_bytes=8,
        size_bytes=size_bytes,
        fields=fields,
        stackframe_offset=stackframe.offset,
        has_metadata=has_metadata,
    )
