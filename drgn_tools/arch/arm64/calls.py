# SPDX-License-Identifier: LGPL-2.1-or-later
"""Calls in A64 code (Arm Architecture Reference Manual, C4.1)."""

from __future__ import annotations

from typing import Optional

__all__ = ("INSTRUCTION_BYTES", "callee_of_bl", "signed_field")

INSTRUCTION_BYTES = 4
_BL = 0b100101


def signed_field(word: int, low: int, bits: int) -> int:
    """Return a signed number of instructions in a field, in bytes.

    :param word: An instruction
    :param low: Lowest bit of the field
    :param bits: Its width
    """
    field = word >> low & (1 << bits) - 1
    return (field - (field >> (bits - 1) << bits)) * INSTRUCTION_BYTES


def callee_of_bl(word: int, address: int) -> Optional[int]:
    """Return the virtual address that an instruction calls; ``None`` if it is not a ``bl``.

    :param address: Virtual address of the instruction
    """
    return address + signed_field(word, 0, 26) & (1 << 64) - 1 if word >> 26 == _BL else None
