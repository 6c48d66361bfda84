# SPDX-License-Identifier: LGPL-2.1-or-later
"""``struct pt_regs`` of x86-64 and x86-32: where each register lies, and ``user_mode()``."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

from drgn import Program, sizeof

from ..base import RegsLayout

__all__ = ("IRET_FRAME_OFFSET", "REGS_32", "REGS_64", "SEGMENTS", "X86Regs", "check_pt_regs")

_NAMES_64 = (
    "r15", "r14", "r13", "r12", "bp", "bx", "r11", "r10", "r9", "r8", "ax",
    "cx", "dx", "si", "di", "orig_ax", "ip", "cs", "flags", "sp", "ss",
)  # fmt: skip
_NAMES_32 = (
    "bx", "cx", "dx", "si", "di", "bp", "ax", "ds", "es", "fs", "gs",
    "orig_ax", "ip", "cs", "flags", "sp", "ss",
)  # fmt: skip

SEGMENTS = frozenset(("cs", "ss", "ds", "es", "fs", "gs"))
"""Segment selectors: 16 bits each. The rest of the word that holds one differs between kernels."""

_SEGMENT_RPL_MASK = 0x3
_USER_RPL = 0x3
_X86_VM_MASK = 0x0002_0000
"""EFLAGS.VM: virtual-8086 mode."""


class X86Regs(RegsLayout, frozen=True, dict=True):
    """``struct pt_regs`` (arch/x86/include/asm/ptrace.h)."""

    has_vm86: bool
    """The CPU has virtual-8086 mode (x86-32), which is user mode with any selector."""

    @cached_property
    def _cs_offset(self) -> int:
        return self._offset("cs")

    @cached_property
    def orig_ax_offset(self) -> int:
        """``offsetof(struct pt_regs, orig_ax)``."""
        return self._offset("orig_ax")

    def user_mode(self, registers: Mapping[str, int]) -> bool:
        """Return whether registers were saved in user mode.

        Follows user_mode() in arch/x86/include/asm/ptrace.h, v6.12.
        """
        rpl = registers["cs"] & _SEGMENT_RPL_MASK
        if not self.has_vm86:
            return rpl != 0
        return (rpl | (registers["flags"] & _X86_VM_MASK)) >= _USER_RPL

    def saved_in_user_mode(self, raw: bytes) -> bool:
        """Return :meth:`user_mode` of the registers in memory.

        :param raw: As for :meth:`read`
        """
        if not self.has_vm86:
            return raw[self._cs_offset] & _SEGMENT_RPL_MASK != 0
        return self.user_mode(self.read(raw))

    def is_syscall(self, registers: Mapping[str, int]) -> bool:
        """Return whether a system call saved these user-mode registers.

        orig_ax is then the number of the system call. Interrupts and exceptions save a negative
        number there (arch/x86/entry/entry_64.S, arch/x86/entry/calling.h, v6.12).
        """
        return not registers["orig_ax"] >> (8 * self.word_bytes - 1)


def _natural(names: tuple[str, ...], word_bytes: int, has_vm86: bool) -> X86Regs:
    # Each register has a word. A selector has the low 16 bits of it.
    return X86Regs(
        word_bytes=word_bytes,
        size_bytes=len(names) * word_bytes,
        fields=tuple(
            (name, i * word_bytes, 2 if name in SEGMENTS else word_bytes)
            for i, name in enumerate(names)
        ),
        has_vm86=has_vm86,
    )


REGS_64 = _natural(_NAMES_64, 8, has_vm86=False)
"""x86-64: 21 words. Up to v6.8 ``cs`` and ``ss`` are whole words with zeros in the upper bits."""
REGS_32 = _natural(_NAMES_32, 4, has_vm86=True)
"""x86-32: 17 words. Before v5.3, traps in kernel mode did not save sp and ss."""


IRET_FRAME_OFFSET = 16 * 8
"""``offsetof(struct pt_regs, ip)`` on x86-64: what the CPU itself pushes, ip to ss, begins there (asm/unwind.h)."""


def check_pt_regs(prog: Program, layout: RegsLayout) -> None:
    """Check that the ``struct pt_regs`` of a kernel is what its entry code pushes.

    PUSH_REGS in arch/x86/entry/calling.h and SAVE_ALL in arch/x86/entry/entry_32.S push the same
    words from v4.10 to v7.2. A type with other members is damaged.

    :param layout: What the entry code pushes
    :raises LookupError: if the type or one of its members is missing
    :raises ValueError: if a member has another offset or size
    """
    type_ = prog.type("struct pt_regs")
    for name, offset, size in layout.fields:
        member = type_.member(name)
        # Since Linux kernel commit ee63291aa8287cb7ded767d340155fe8681fc075
        # ("x86/ptrace: Cleanup the definition of the pt_regs structure") (in
        # v6.9), cs and ss are unions with bits of FRED behind the selector. Before that,
        # they are unsigned long.
        size_there = sizeof(member.type)
        fits = size_there >= size if name in SEGMENTS else size_there == size
        if member.offset != offset or not fits:
            raise ValueError(
                f"struct pt_regs cannot have {size_there} bytes at {member.offset} for {name}"
            )
    if sizeof(type_) != layout.size_bytes:
        raise ValueError(f"struct pt_regs cannot have {sizeof(type_)} bytes")
