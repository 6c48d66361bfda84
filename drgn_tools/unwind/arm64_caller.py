# SPDX-License-Identifier: LGPL-2.1-or-later
"""Find the caller of an interrupted function of arm64, if the walk skips it.

The walk goes from ``pt_regs`` to the frame record that x29 points to. If the function was interrupted
before ``mov x29, sp``, or after ``ldp x29, x30``, or makes no frame record at all, x29 points to the record
of its caller, which leads to the caller's caller. The return address is then still in x30 (lr). Otherwise
x30 may hold anything.

This module follows the code of the function from its first byte on every path to the interrupted
instruction, to find out which of the two it is.

Pure: it reads memory through the functions it is given. Bad data never raises.
"""

from __future__ import annotations

import enum
import struct
from typing import Callable, Optional

from ..arch.arm64.calls import INSTRUCTION_BYTES, callee_of_bl, signed_field
from ..bounded_cache import BoundedCache
from ..kernel.stack_memory import NotInDump
from .base import Caller, Interrupted, ReadMemory

__all__ = ("Arm64Callers", "Lr", "callee_of", "lr_at")

MAX_FUNCTION_BYTES = 32 * 1024
"""From the start of a function to where it was interrupted; beyond that it is not followed."""
BYTES_BEYOND = 2048
"""Code behind the interrupted instruction that is followed as well: it may jump back."""
MAX_INSTRUCTIONS = 10_000
"""Instructions that are followed in one function. One that is reached in two states counts twice."""
_MAX_CACHED = 10_000
"""Addresses in the code for which the answer is cached."""
INDIRECT = -1
"""Stands for the callee of an indirect call, which its code does not name."""


class Lr(enum.Enum):
    """What x30 is at an instruction."""

    RETURN_ADDRESS = "return_address"
    """The return address of the function, which has no frame record that x29 points to."""
    SAVED = "saved"
    """The return address is in the frame record that x29 points to."""
    UNCLEAR = "unclear"
    """The code does not show it."""


class Arm64Callers:
    """Finds the callers of one kernel. What was found out about its code is cached.

    :param read: Reads the memory of the kernel
    :param strip: Removes the authentication code of a return address
    """

    def __init__(self, read: ReadMemory, strip: Callable[[int], int]) -> None:
        self._read = read
        self._strip = strip
        self._states: BoundedCache[tuple[int, int], Lr] = BoundedCache(_MAX_CACHED)

    def __call__(self, interrupted: Interrupted) -> Optional[Caller]:
        """Return the caller of an interrupted function; ``None`` if the walk does not skip it, or it is not found.

        There is a call right before the return address that is found. It is not checked whether that
        address is kernel text.
        """
        registers, start = interrupted.registers, interrupted.start
        state = Lr.UNCLEAR if start is None else self._state(start, interrupted.ip)
        if state is Lr.SAVED:
            return None
        try:
            addr = interrupted.recover(self._strip(registers["x30"]), registers["x29"])
        except NotInDump:
            return None
        callee = callee_of(addr, self._read)
        sure = state is Lr.RETURN_ADDRESS
        if callee is None or not (sure or start is None or callee == start):
            return None
        return Caller(addr, sure)

    def _state(self, start: int, ip: int) -> Lr:
        try:
            return self._states[start, ip]
        except KeyError:
            state = self._states[start, ip] = self._state_by_code(start, ip)
            return state

    def _state_by_code(self, start: int, ip: int) -> Lr:
        if not 0 <= ip - start < MAX_FUNCTION_BYTES:
            return Lr.UNCLEAR
        # The code behind the instruction may not be in the dump. It is not always needed.
        for beyond in (BYTES_BEYOND, INSTRUCTION_BYTES):
            code = self._read(start, ip - start + beyond)
            if code is not None:
                return lr_at(code, ip - start)
        return Lr.UNCLEAR


def callee_of(return_addr: int, read: ReadMemory) -> Optional[int]:
    """Return what the call right before a return address calls.

    :param return_addr: Virtual address
    :param read: Reads the memory of the kernel
    :return: Virtual address, or :data:`INDIRECT`; ``None`` if there is no call before the address
    """
    if return_addr % INSTRUCTION_BYTES or return_addr < INSTRUCTION_BYTES:
        return None
    raw = read(return_addr - INSTRUCTION_BYTES, INSTRUCTION_BYTES)
    if raw is None:
        return None
    word = int.from_bytes(raw, "little")
    if _is_blr(word):
        return INDIRECT
    return callee_of_bl(word, return_addr - INSTRUCTION_BYTES)


def lr_at(code: bytes, ip_offset: int) -> Lr:
    """Return what x30 is at an instruction of a function.

    :param code: The function from its first byte on, and some code behind *ip_offset*
    :param ip_offset: Offset in bytes of the instruction, which was not executed
    :return: :attr:`Lr.UNCLEAR` also if the paths that lead there differ
    """
    words = [word for (word,) in struct.iter_unpack("<I", code[: len(code) & -INSTRUCTION_BYTES])]
    if ip_offset % INSTRUCTION_BYTES or not 0 <= ip_offset < len(words) * INSTRUCTION_BYTES:
        return Lr.UNCLEAR
    wanted = ip_offset // INSTRUCTION_BYTES
    if _is_ret(words[wanted]):
        return Lr.RETURN_ADDRESS
    found: set[Lr] = set()
    seen: set[tuple[int, Lr]] = set()
    paths = [(0, Lr.RETURN_ADDRESS)]  # number of an instruction, state before it
    while paths and len(found) < 2:
        at, state = paths.pop()
        while 0 <= at < len(words) and (at, state) not in seen:
            seen.add((at, state))
            if len(seen) > MAX_INSTRUCTIONS:
                return Lr.UNCLEAR
            if at == wanted:
                found.add(state)
            word = words[at]
            target = _jumps_by(word)
            state = _after(word, state)
            if target is not None:
                paths.append((at + target // INSTRUCTION_BYTES, state))
            if not _falls_through(word):
                break
            at += 1
    return found.pop() if len(found) == 1 else Lr.UNCLEAR


# ---- A64 instructions (Arm Architecture Reference Manual, C4.1)

_B = 0b000101
_X29, _X30, _SP = 29, 30, 31


def _is_blr(word: int) -> bool:
    # blr; blraa, blrab and their forms without a modifier
    return word & 0xFEFF_F000 == 0xD63F_0000


def _is_ret(word: int) -> bool:
    # ret x30; retaa, retab
    return word == 0xD65F_03C0 or word & 0xFFFF_FBFF == 0xD65F_0BFF


def _jumps_by(word: int) -> Optional[int]:
    """Return the distance of a jump whose target is in the instruction."""
    if word >> 26 == _B:
        return signed_field(word, 0, 26)
    if word & 0xFF00_0000 == 0x5400_0000:  # b.cond
        return signed_field(word, 5, 19)
    if word & 0x7E00_0000 == 0x3400_0000:  # cbz, cbnz
        return signed_field(word, 5, 19)
    if word & 0x7E00_0000 == 0x3600_0000:  # tbz, tbnz
        return signed_field(word, 5, 14)
    return None


def _falls_through(word: int) -> bool:
    """May the CPU execute the next instruction after it?"""
    # A WARN() goes on after its brk, a BUG() does not: brk may fall through. ret, br and eret do not.
    if word >> 26 == _B:
        return False
    is_branch_register = word & 0xFE00_0000 == 0xD600_0000
    return not is_branch_register or _is_blr(word)


def _after(word: int, state: Lr) -> Lr:
    """Return the state after an instruction."""
    if callee_of_bl(word, 0) is not None or _is_blr(word):
        # A call writes x30; the callee leaves x29 as it was.
        return Lr.SAVED if state is Lr.SAVED else Lr.UNCLEAR
    if _sets_frame_pointer(word):
        return Lr.SAVED
    loads = _loaded_pair(word)
    if loads is not None and _X30 in loads:
        return Lr.RETURN_ADDRESS
    return state


def _sets_frame_pointer(word: int) -> bool:
    """mov x29, sp; add x29, sp, #n"""
    return word & 0xFF80_03FF == 0x9100_0000 | _SP << 5 | _X29


def _loaded_pair(word: int) -> Optional[tuple[int, int]]:
    """Return the registers that ldp, or ldr of one register, loads from the stack."""
    rt, rn, rt2 = word & 0x1F, word >> 5 & 0x1F, word >> 10 & 0x1F
    if rn != _SP:
        return None
    if word & 0xFE40_0000 == 0xA840_0000:  # ldp of 64 bits: all forms of addresses
        return rt, rt2
    if word & 0xFFC0_0000 == 0xF940_0000 or word & 0xFFE0_0C00 == 0xF840_0400:  # ldr
        return rt, rt
    return None
