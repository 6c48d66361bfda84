# SPDX-License-Identifier: LGPL-2.1-or-later
"""The forms of ENCODE_FRAME_POINTER: how each is decoded, and which one a kernel uses.

On entry from an interrupt or exception the kernel sets rbp to the address of the saved ``pt_regs`` and
changes one bit of it, so that the unwinder can distinguish it from a frame pointer. No type and
no symbol shows which bit. The machine code of the entry stubs does.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Optional

import msgspec

__all__ = ("PROBE_SYMBOLS", "Detection", "Encoding", "decode_frame_pointer", "detect_encoding")


class Encoding(str, enum.Enum):
    """Which bit of rbp shows that it points to a ``pt_regs``."""

    LSB = "lsb"
    """Lowest bit set: x86-64 since v4.10, x86-32 from v4.10 to v4.13."""
    MSB = "msb"
    """Highest bit cleared: x86-32 since v4.14; both in v3 of the patch, before it was merged."""
    NONE = "none"
    """No bit: rbp is always a frame pointer."""


def decode_frame_pointer(bp: int, encoding: Encoding, word_bytes: int) -> Optional[int]:
    """Return the ``pt_regs`` that a frame pointer encodes.

    Follows decode_frame_pointer() in arch/x86/kernel/unwind_frame.c, v6.12, which tests only this
    bit. So with LSB every odd number is an encoded pointer, and with MSB NULL is one. The
    caller checks that the address is on the stack.

    :param bp: Value of rbp or ebp, unsigned
    :param encoding: The form that this kernel uses
    :param word_bytes: 8 on x86-64, 4 on x86-32
    :return: Virtual address of the ``struct pt_regs``; ``None`` if *bp* is an ordinary frame pointer
    """
    if encoding is Encoding.LSB:
        return bp & ~1 if bp & 1 else None
    if encoding is Encoding.MSB:
        msb = 1 << (word_bytes * 8 - 1)
        return None if bp & msb else bp | msb
    return None


_SIGNATURES_64: tuple[tuple[bytes, Encoding], ...] = (
    # lea 1(%rsp),%rbp -- pt_regs at the stack pointer; since about v4.16
    (bytes.fromhex("488d6c2401"), Encoding.LSB),
    # lea 9(%rsp),%rbp -- a return address below pt_regs: error_entry, paranoid_entry
    (bytes.fromhex("488d6c2409"), Encoding.LSB),
    # mov %rsp,%rbp; or $1,%rbp -- v4.10 to v4.15
    (bytes.fromhex("4889e54883cd01"), Encoding.LSB),
    # lea 8(%rsp),%rbp; or $1,%rbp
    (bytes.fromhex("488d6c24084883cd01"), Encoding.LSB),
    # btr $63,%rbp -- v3 of the patch
    (bytes.fromhex("480fbaf53f"), Encoding.MSB),
)
_SIGNATURES_32: tuple[tuple[bytes, Encoding], ...] = (
    # mov %esp,%ebp; and $0x7fffffff,%ebp -- since v4.14
    (bytes.fromhex("89e581e5ffffff7f"), Encoding.MSB),
    # mov %esp,%ebp; or $1,%ebp -- v4.10 to v4.13
    (bytes.fromhex("89e583cd01"), Encoding.LSB),
    # btr $31,%ebp -- v3 of the patch
    (bytes.fromhex("0fbaf51f"), Encoding.MSB),
)

PROBE_SYMBOLS: tuple[str, ...] = (
    # Since Linux kernel commit 91eeafea1e4b7c95cc4f38af186d7d48fceef89a
    # ("x86/entry: Switch page fault exception to IDTENTRY_RAW") (in v5.8), the
    # stubs are called asm_*. Before that, page_fault and common_interrupt.
    "asm_exc_page_fault",
    "asm_common_interrupt",
    "asm_exc_nmi",
    "page_fault",
    "async_page_fault",
    "common_interrupt",
    "interrupt_entry",
    "nmi",
    "error_entry",
    "paranoid_entry",
    # x86-32
    "handle_exception",
    "common_exception",
)
"""Entry code that saves ``pt_regs`` and then encodes their address, if the kernel encodes at all."""


class Detection(msgspec.Struct, frozen=True):
    """Which form the entry code of a kernel uses."""

    encoding: Encoding
    """The form; ``NONE`` also if it is unclear (see :attr:`problem`)."""
    evidence: tuple[tuple[str, int, Encoding], ...]
    """Where it was found: (symbol, offset of the instruction in bytes, form of this instruction)."""
    problem: Optional[str] = None
    """Why the form is unclear; ``None`` if it is not."""


def detect_encoding(code: Mapping[str, bytes], word_bytes: int) -> Detection:
    """Return which form of ENCODE_FRAME_POINTER the entry code uses.

    :param code: Symbol -> machine code, of those :data:`PROBE_SYMBOLS` that exist; empty or
        zeros if it is not in the dump
    :param word_bytes: 8 on x86-64, 4 on x86-32
    """
    signatures = _SIGNATURES_64 if word_bytes == 8 else _SIGNATURES_32
    evidence = tuple(
        (symbol, offset, encoding)
        for symbol, text in code.items()
        for signature, encoding in signatures
        if (offset := text.find(signature)) >= 0
    )
    forms = {encoding for _, _, encoding in evidence}
    if len(forms) > 1:
        where = ", ".join(f"{enc.value} in {sym}+{off:#x}" for sym, off, enc in evidence)
        return Detection(Encoding.NONE, evidence, f"the entry code holds two encodings: {where}")
    missing = [symbol for symbol, text in code.items() if not text.strip(b"\0")]
    if not forms and (missing or not code):
        # The code that is in the dump does not encode, but the missing code may.
        what = f"of {', '.join(missing)} is not in the dump" if missing else "has no symbol"
        return Detection(Encoding.NONE, (), f"the entry code {what}")
    return Detection(forms.pop() if forms else Encoding.NONE, evidence)
