# SPDX-License-Identifier: LGPL-2.1-or-later
"""``struct pt_regs`` of x86-64 and x86-32: where each register is, and ``user_mode()``."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Optional

from drgn import Program, sizeof

from ..base import Registers, RegsLayout

__all__ = (
    "IRET_FRAME_OFFSET",
    "REGS_32",
    "REGS_64",
    "SEGMENTS",
    "SHORT_KERNEL_REGS_32",
    "X86Regs",
    "check_pt_regs",
)

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
    handler_offset: Optional[int] = None
    """Offset of the word in which entry code leaves the address of the C function that it calls; ``None`` if
    it leaves none (x86-64)."""

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


class ShortKernelRegs(X86Regs, frozen=True, dict=True):
    """``struct pt_regs`` of x86-32 before v5.3. In kernel mode the CPU does not push sp and ss::

        higher addresses above:
          (stack of the interrupted code)    <- &regs->sp, which is its stack pointer
          flags
          cs
          ip
          ...                                <- regs

    Since v5.3 FIXUP_FRAME in arch/x86/entry/entry_32.S saves them.
    """

    @property
    def kernel_mode_bytes(self) -> int:
        """KERNEL_REGS_SIZE in arch/x86/kernel/unwind_frame.c, v4.14: two words less."""
        return self.sp_offset

    def saved_bytes(self, raw: bytes) -> int:
        """Follows regs_size() in arch/x86/kernel/unwind_frame.c, v4.14."""
        return self.size_bytes if self.saved_in_user_mode(raw) else self.kernel_mode_bytes

    def interrupted_sp(self, address: int, registers: Mapping[str, int]) -> int:
        """Follows kernel_stack_pointer() in arch/x86/kernel/ptrace.c, v4.14, for a task's own stack."""
        return registers["sp"] if "sp" in registers else address + self.sp_offset

    def read(self, raw: bytes) -> Registers:
        """Return register values by name; without sp and ss if they were saved in kernel mode.

        :param raw: At least the :meth:`saved_bytes` bytes of one ``struct pt_regs``
        """
        whole = Registers(raw, self._places)
        if self.user_mode(whole):
            return whole
        return Registers(raw, self._kernel_mode_places)

    def saved_in_user_mode(self, raw: bytes) -> bool:
        """Return :meth:`user_mode` of the registers in memory."""
        return self.user_mode(Registers(raw, self._places))

    @cached_property
    def _kernel_mode_places(self) -> dict[str, slice]:
        return {name: place for name, place in self._places.items() if name not in ("sp", "ss")}


def _natural(
    names: tuple[str, ...], word_bytes: int, has_vm86: bool, handler: Optional[str] = None
) -> X86Regs:
    # Each register has a word. A selector has the low 16 bits of its word.
    return X86Regs(
        word_bytes=word_bytes,
        size_bytes=len(names) * word_bytes,
        fields=tuple(
            (name, i * word_bytes, 2 if name in SEGMENTS else word_bytes)
            for i, name in enumerate(names)
            if name != handler
        ),
        has_vm86=has_vm86,
        handler_offset=None if handler is None else names.index(handler) * word_bytes,
    )


REGS_64 = _natural(_NAMES_64, 8, has_vm86=False)
"""x86-64: 21 words. Up to v6.8 ``cs`` and ``ss`` are whole words with zeros in the upper bits."""
REGS_32 = _natural(_NAMES_32, 4, has_vm86=True, handler="gs")
"""x86-32: 17 words. Before v5.3, traps in kernel mode did not save sp and ss.

The word named gs is left out: exceptions leave the address of the C function that they enter there
(arch/x86/entry/entry_32.S, v6.12: "gs / function"). Up to v5.17 without CONFIG_X86_32_LAZY_GS, entry code saved gs there.
"""
SHORT_KERNEL_REGS_32 = ShortKernelRegs(
    word_bytes=REGS_32.word_bytes,
    size_bytes=REGS_32.size_bytes,
    fields=REGS_32.fields,
    has_vm86=True,
    handler_offset=REGS_32.handler_offset,
)
"""x86-32 before v5.3."""


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
