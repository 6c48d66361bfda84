# SPDX-License-Identifier: LGPL-2.1-or-later
"""Find the caller of an interrupted function, if the walk of frame pointers skips it.

The walk goes from ``pt_regs`` to the frame that bp points to. If the function was interrupted
before ``push %rbp; mov %rsp,%rbp`` or after ``pop %rbp``, or makes no frame at all, bp points to
the frame of its caller. The walk then goes on with the caller's caller.

The code of the function shows where its return address is on the stack. This module follows
the code from its first byte, on every path to the interrupted instruction, and counts the words
that it pushes.

Pure: it reads memory through the functions it is given. Bad data never raises.
"""

from __future__ import annotations

import enum
from typing import Optional, Union

from ..arch.x86.instructions import MAX_INSTRUCTION_BYTES, Instruction, decode
from ..bounded_cache import BoundedCache
from ..kernel.stack_memory import NotInDump
from .base import Caller, ReadMemory, Recover

__all__ = (
    "Code",
    "Depth",
    "NoDepth",
    "callee_of",
    "depth_at",
    "find_interrupted_caller",
    "is_entered_by_call",
)

MAX_FUNCTION_BYTES = 32 * 1024
"""From the start of a function to where it was interrupted; beyond that it is not followed."""
BYTES_BEYOND = 2048
"""Code behind the interrupted instruction that is followed as well: it may jump back."""
MAX_INSTRUCTIONS = 5000
"""Instructions that are followed in one function. One that is reached with two depths counts twice."""

_MAX_CACHED = 10_000
"""Addresses in the code for which the answer is cached."""
_MAX_WORDS = 4096
"""Words of one function on the stack: half of a stack of 64 KiB."""

_BP, _SP = 5, 4
"""Numbers of rbp and rsp in ModRM."""


class NoDepth(enum.Enum):
    """Why the depth of the stack at an instruction is not a number."""

    FRAME = "frame"
    """The function has made its frame, and bp points to it."""
    UNCLEAR = "unclear"
    """The code does not show it."""


Depth = Union[int, NoDepth]
"""Number of words between sp and the return address of the function."""


class Code:
    """The machine code of one kernel. What was found out about it is cached.

    :param read: Reads the memory of the kernel
    :param word_bytes: 8 for 64-bit code, 4 for 32-bit code
    """

    def __init__(self, read: ReadMemory, word_bytes: int) -> None:
        self.read = read
        self.word_bytes = word_bytes
        self._depths: BoundedCache[tuple[int, int], Depth] = BoundedCache(_MAX_CACHED)
        self._callees: BoundedCache[int, Optional[int]] = BoundedCache(_MAX_CACHED)

    def depth(self, start: int, ip: int) -> Depth:
        """Return the depth of the stack at an instruction, as :func:`depth_at` does.

        :param start: Virtual address of the function
        :param ip: Exact virtual address in it
        """
        try:
            return self._depths[start, ip]
        except KeyError:
            depth = self._depths[start, ip] = self._depth(start, ip)
            return depth

    def callee_of(self, return_addr: int) -> Optional[int]:
        """Return what the call right before a return address calls, as :func:`callee_of` does."""
        try:
            return self._callees[return_addr]
        except KeyError:
            callee = callee_of(return_addr, self.read, self.word_bytes)
            self._callees[return_addr] = callee
            return callee

    def _depth(self, start: int, ip: int) -> Depth:
        if not 0 <= ip - start < MAX_FUNCTION_BYTES:
            return NoDepth.UNCLEAR
        # The code behind the instruction may not be in the dump. It is not always needed.
        for beyond in (BYTES_BEYOND, MAX_INSTRUCTION_BYTES, 1):
            code = self.read(start, ip - start + beyond)
            if code is not None:
                return depth_at(code, ip - start, self.word_bytes)
        return NoDepth.UNCLEAR


def is_entered_by_call(symbol: str) -> bool:
    """Return whether the code of a symbol is entered with the return address on top of the stack.

    gcc moves unlikely code out of a function into ``name.cold``. The function jumps there, so
    anything may be on the stack.

    :param symbol: Name in the symbol table
    """
    return ".cold" not in symbol


def find_interrupted_caller(
    sp: int,
    ip: int,
    start: Optional[int],
    code: Code,
    read_stack: ReadMemory,
    recover: Recover,
) -> Optional[Caller]:
    """Return the caller of an interrupted function, if the walk skips it.

    There is a call right before the return address that is found. It is not checked whether that
    address is kernel text.

    :param sp: Saved stack pointer of the kernel-mode ``pt_regs`` (virtual address)
    :param ip: Saved instruction pointer: exact virtual address of the interrupted instruction
    :param start: Virtual address of the function that holds *ip*. ``None`` if *ip* is not code:
        the CPU has called that address and executed nothing there.
    :param code: The machine code of this kernel
    :param read_stack: Reads the stack that *sp* points into
    :param recover: Returns the original of a return address that the kernel has rewritten
    :return: ``None`` if the walk does not skip the caller, or the caller cannot be found
    """
    depth = NoDepth.UNCLEAR if start is None else code.depth(start, ip)
    if depth is NoDepth.FRAME:
        return None
    sure = isinstance(depth, int)
    addr_p = sp + code.word_bytes * (depth if isinstance(depth, int) else 0)
    raw = read_stack(addr_p, code.word_bytes)
    if raw is None:
        return None
    try:
        addr = recover(int.from_bytes(raw, "little"), addr_p)
    except NotInDump:
        return None
    callee = code.callee_of(addr)
    if callee is None or not (sure or start is None or callee == start):
        return None
    return Caller(addr, sure)


# ---- the call before a return address

INDIRECT = -1
"""Stands for the callee of an indirect call, which its code does not name."""


def callee_of(return_addr: int, read: ReadMemory, word_bytes: int) -> Optional[int]:
    """Return what the call right before a return address calls.

    :param return_addr: Virtual address
    :param read: Reads the memory of the kernel
    :param word_bytes: 8 for 64-bit code, 4 for 32-bit code
    :return: Virtual address, or :data:`INDIRECT`; ``None`` if there is no call before the address
    """
    for length in (5, 2, 3, 6, 7, 4, 8):
        code = read(return_addr - length, length) if return_addr >= length else None
        call = decode(code, 0, word_bytes) if code is not None else None
        if call is None or call.length != length:
            continue
        if call.opcode == 0xE8:
            return return_addr + call.immediate & (1 << 8 * word_bytes) - 1
        if call.opcode == 0xFF and call.reg & 7 == 2:
            return INDIRECT
    return None


# ---- the depth of the stack


def depth_at(code: bytes, ip_offset: int, word_bytes: int) -> Depth:
    """Return the depth of the stack at an instruction of a function.

    :param code: The function from its first byte on, and some code behind *ip_offset*
    :param ip_offset: Offset in bytes of the instruction, or of a byte inside of it: kprobes and
        ftrace leave an ip after the first byte. The instruction was not executed.
    :param word_bytes: 8 for 64-bit code, 4 for 32-bit code
    :return: :attr:`NoDepth.UNCLEAR` also if the paths that lead there have different depths
    """
    # At a ret, sp points to the return address on every path.
    interrupted = decode(code, ip_offset, word_bytes)
    if interrupted is not None and interrupted.opcode in (0xC2, 0xC3):
        return 0
    found: set[Depth] = set()
    seen: set[tuple[int, Depth]] = set()
    paths: list[tuple[int, Depth]] = [(0, 0)]  # offset of an instruction, depth before it
    while paths and len(found) < 2:
        at, depth = paths.pop()
        while 0 <= at < len(code) and (at, depth) not in seen:
            seen.add((at, depth))
            if len(seen) > MAX_INSTRUCTIONS:
                return NoDepth.UNCLEAR
            instruction = decode(code, at, word_bytes)
            if instruction is None:
                break
            end = at + instruction.length
            if at <= ip_offset < end:
                found.add(depth)
            depth = _depth_after(instruction, depth, word_bytes)
            if _may_jump(instruction):
                paths.append((end + instruction.immediate, depth))
            if not _may_fall_through(instruction):
                break
            at = end
    return found.pop() if len(found) == 1 else NoDepth.UNCLEAR


def _may_jump(i: Instruction) -> bool:
    """Is it a jump whose target is in the instruction?"""
    return 0x70 <= i.opcode <= 0x7F or i.opcode in _LOOPS_AND_JUMPS or i.opcode >> 4 == 0xF8


_LOOPS_AND_JUMPS = frozenset((0xE0, 0xE1, 0xE2, 0xE3, 0xE9, 0xEB))


def _may_fall_through(i: Instruction) -> bool:
    """May the CPU execute the next instruction after it?"""
    # A WARN() goes on after its ud2, a BUG() does not: ud2 may fall through.
    if i.opcode == 0xFF:
        return i.reg & 7 not in (4, 5)
    return i.opcode not in (0xC2, 0xC3, 0xCB, 0xCC, 0xCF, 0xE9, 0xEB, 0x0F07)


def _depth_after(i: Instruction, depth: Depth, word_bytes: int) -> Depth:
    if depth is NoDepth.FRAME:
        # Only pop %rbp and leave end the frame.
        return 0 if (i.opcode == 0x5D and i.rm == _BP) or i.opcode == 0xC9 else depth
    if _makes_frame(i):
        return NoDepth.FRAME
    words = _words_pushed(i, word_bytes)
    if words is None or depth is NoDepth.UNCLEAR:
        return NoDepth.UNCLEAR
    depth += words
    return depth if 0 <= depth < _MAX_WORDS else NoDepth.UNCLEAR


def _makes_frame(i: Instruction) -> bool:
    """mov %rsp,%rbp"""
    return i.mod == 3 and (i.opcode, i.reg, i.rm) in ((0x89, _SP, _BP), (0x8B, _BP, _SP))


def _words_pushed(i: Instruction, word_bytes: int) -> Optional[int]:
    """Return by how many words the stack grows; ``None`` if the instruction does not show it."""
    group = i.reg & 7
    if i.opcode in (0x68, 0x6A, 0x9C, 0x0FA0, 0x0FA8) or 0x50 <= i.opcode <= 0x57:
        return 1
    if 0x58 <= i.opcode <= 0x5F:
        return None if i.rm == _SP else -1
    if i.opcode in (0x9D, 0x0FA1, 0x0FA9):
        return -1
    if i.opcode == 0xFF and group == 6:
        return 1
    if i.opcode == 0x8F:
        return -1
    if i.opcode == 0xC9:  # leave, where this function has no frame
        return None
    if i.opcode in (0x81, 0x83) and i.mod == 3 and i.rm == _SP:
        if group == 7:  # cmp
            return 0
        sign = {0: -1, 5: 1}.get(group)  # add, sub
        return (
            None if sign is None or i.immediate % word_bytes else sign * i.immediate // word_bytes
        )
    if i.opcode == 0x8D and i.reg == _SP:  # lea
        if i.mod in (1, 2) and i.rm == _SP and i.sib == 0x24 and not i.displacement % word_bytes:
            return -i.displacement // word_bytes
        return None
    return None if _writes_sp(i) else 0


def _writes_sp(i: Instruction) -> bool:
    to_rm = i.mod == 3 and i.rm == _SP
    if i.opcode in (0x87, 0x89) or (i.opcode < 0x38 and i.opcode & 7 == 1):
        return to_rm or (i.opcode == 0x87 and i.reg == _SP)
    if i.opcode == 0x8B or (i.opcode < 0x38 and i.opcode & 7 == 3):
        return i.reg == _SP
    return False
