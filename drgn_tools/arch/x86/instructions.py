# SPDX-License-Identifier: LGPL-2.1-or-later
"""A decoder of x86 instructions that is enough to follow the code of a kernel function: the length
of each instruction, the target of a jump, what happens to the stack pointer.

VEX and EVEX instructions, far calls and invalid ones are not decoded. The opcode maps are those of
the Intel SDM, volume 2, appendix A. Pure: bytes in.
"""

from __future__ import annotations

from typing import Optional

import msgspec

__all__ = ("MAX_INSTRUCTION_BYTES", "Instruction", "decode")

MAX_INSTRUCTION_BYTES = 15
"""The CPU does not execute a longer instruction."""
_PREFIXES = frozenset((0x26, 0x2E, 0x36, 0x3E, 0x64, 0x65, 0x66, 0xF0, 0xF2, 0xF3))


def _codes(*ranges: tuple[int, int]) -> frozenset[int]:
    return frozenset(code for first, last in ranges for code in range(first, last + 1))


_ARITHMETIC = frozenset(range(0, 0x40, 8))
"""add, or, adc, sbb, and, sub, xor, cmp: six forms each."""

_MODRM = frozenset(code + form for code in _ARITHMETIC for form in range(4)) | _codes(
    (0x63, 0x63), (0x69, 0x69), (0x6B, 0x6B), (0x80, 0x81), (0x83, 0x8F), (0xC0, 0xC1),
    (0xC6, 0xC7), (0xD0, 0xD3), (0xD8, 0xDF), (0xF6, 0xF7), (0xFE, 0xFF),
)  # fmt: skip
"""Opcodes with a ModRM byte."""
_BARE = _codes(
    (0x50, 0x5F), (0x6C, 0x6F), (0x90, 0x99), (0x9B, 0x9F), (0xA4, 0xA7), (0xAA, 0xAF),
    (0xC3, 0xC3), (0xC9, 0xC9), (0xCB, 0xCC), (0xCF, 0xCF), (0xD7, 0xD7), (0xEC, 0xEF),
    (0xF1, 0xF1), (0xF4, 0xF5), (0xF8, 0xFD),
)  # fmt: skip
"""Opcodes with neither ModRM nor immediate."""
_IMM8 = frozenset(code + 4 for code in _ARITHMETIC) | _codes(
    (0x6A, 0x6B), (0x70, 0x80), (0x83, 0x83), (0xA8, 0xA8), (0xB0, 0xB7), (0xC0, 0xC1),
    (0xC6, 0xC6), (0xCD, 0xCD), (0xE0, 0xE7), (0xEB, 0xEB),
)  # fmt: skip
"""Opcodes with an immediate of 8 bits."""
_IMM32 = frozenset(code + 5 for code in _ARITHMETIC) | _codes(
    (0x68, 0x69), (0x81, 0x81), (0xA9, 0xA9), (0xB8, 0xBF), (0xC7, 0xC7), (0xE8, 0xE9)
)
"""Opcodes with an immediate of 32 bits; after the prefix 66 it has 16."""

_BARE_0F = _codes(
    (0x05, 0x09), (0x0B, 0x0B), (0x30, 0x37), (0x77, 0x77), (0xA0, 0xA2), (0xA8, 0xAA), (0xC8, 0xCF)
)  # fmt: skip
_UNKNOWN_0F = _codes((0x04, 0x04), (0x0A, 0x0A), (0x0C, 0x0C), (0x0E, 0x0F))
_IMM8_0F = _codes(
    (0x70, 0x73), (0xA4, 0xA4), (0xAC, 0xAC), (0xBA, 0xBA), (0xC2, 0xC2), (0xC4, 0xC6)
)  # fmt: skip


class Instruction(msgspec.Struct, frozen=True):
    """A decoded instruction."""

    length: int
    """In bytes, prefixes included."""
    opcode: int
    """The opcode byte; in the two-byte map ``0x0f00`` and the second byte."""
    mod: Optional[int] = None
    """Field of ModRM; with 3, :attr:`rm` is a register. ``None`` if the instruction has no ModRM."""
    reg: int = 0
    """Field of ModRM, with REX.R: a register, or the number of the opcode in a group of opcodes."""
    rm: int = 0
    """Field of ModRM, with REX.B; for push and pop the register."""
    sib: int = 0
    """The SIB byte; 0 if there is none."""
    displacement: int = 0
    """Signed, in bytes; 0 if there is none."""
    immediate: int = 0
    """Signed; for a direct jump or call the distance in bytes from the end of the instruction. 0 if there is none."""


def decode(code: bytes, at: int, word_bytes: int) -> Optional[Instruction]:
    """Decode an instruction.

    :param at: Offset of its first byte in *code*; not negative
    :param word_bytes: 8 for 64-bit code, 4 for 32-bit code
    :return: ``None`` if *code* ends before the instruction does, or this kind of instruction is not decoded
    """
    try:
        found = _decode(code, at, word_bytes)
    except IndexError:
        return None
    if found is None or found.length > MAX_INSTRUCTION_BYTES or at + found.length > len(code):
        return None
    return found


def _decode(code: bytes, start: int, word_bytes: int) -> Optional[Instruction]:
    at = start
    has_66 = False
    while code[at] in _PREFIXES and at - start < MAX_INSTRUCTION_BYTES:
        has_66 = has_66 or code[at] == 0x66
        at += 1
    rex = 0
    if word_bytes == 8 and 0x40 <= code[at] <= 0x4F:
        rex = code[at]
        at += 1
    opcode = code[at]
    at += 1
    if opcode == 0x0F:
        opcode = 0x0F00 | code[at]
        at += 1
        if opcode in (0x0F38, 0x0F3A):
            at += 1
    operands = _operands(opcode, code[at] if at < len(code) else 0, rex, has_66, word_bytes)
    if operands is None:
        return None
    has_modrm, immediate_bytes = operands
    mod, reg, rm, sib, displacement = None, 0, opcode & 7 | (rex & 1) << 3, 0, 0
    if has_modrm:
        modrm = code[at]
        at += 1
        mod, reg, rm = modrm >> 6, modrm >> 3 & 7, modrm & 7
        displacement_bytes = (4 if rm == 5 else 0, 1, 4, 0)[mod]
        if mod != 3 and rm == 4:
            sib = code[at]
            at += 1
            if mod == 0 and sib & 7 == 5:
                displacement_bytes = 4
        displacement = _signed(code, at, displacement_bytes)
        at += displacement_bytes
        reg, rm = reg | (rex & 4) << 1, rm | (rex & 1) << 3
    immediate = _signed(code, at, immediate_bytes)
    at += immediate_bytes
    return Instruction(at - start, opcode, mod, reg, rm, sib, displacement, immediate)


def _operands(
    opcode: int, modrm: int, rex: int, has_66: bool, word_bytes: int
) -> Optional[tuple[bool, int]]:
    """Return whether there is a ModRM, and the size of the immediate in bytes; ``None`` if the opcode is not decoded."""
    if opcode >= 0x0F00:
        second = opcode & 0xFF
        if second in _UNKNOWN_0F:
            return None
        if 0x80 <= second <= 0x8F:
            return None if has_66 else (False, 4)
        return second not in _BARE_0F, int(second in _IMM8_0F or second == 0x3A)
    if word_bytes == 4 and 0x40 <= opcode <= 0x4F:
        return False, 0  # inc, dec
    if 0xA0 <= opcode <= 0xA3:
        return False, word_bytes
    if opcode == 0xC2:
        return False, 2
    if opcode in (0xE8, 0xE9) and has_66:
        return None
    if opcode in (0xF6, 0xF7):  # only test has an immediate
        is_test = modrm >> 3 & 7 < 2
        return True, 0 if not is_test else 1 if opcode == 0xF6 else 2 if has_66 else 4
    if opcode in _IMM8:
        return opcode in _MODRM, 1
    if opcode in _IMM32:
        if 0xB8 <= opcode <= 0xBF and rex & 8:
            return False, 8
        return opcode in _MODRM, 2 if has_66 else 4
    if opcode in _MODRM:
        return True, 0
    return (False, 0) if opcode in _BARE else None


def _signed(code: bytes, at: int, size: int) -> int:
    return int.from_bytes(code[at : at + size], "little", signed=True)
