# SPDX-License-Identifier: LGPL-2.1-or-later
"""Who called a function that was interrupted without a frame of its own?

A walk of frame pointers goes from ``pt_regs`` to the frame that bp points to. Before
``push %rbp; mov %rsp,%rbp``, after ``pop %rbp``, and in functions that make no frame that
is the caller's: the caller itself is skipped. Where its return address lies, the code of the
function says: this goes through it from its first byte, on every way that leads to the place
of the interrupt, and counts what is on the stack.

Pure: memory comes from a function that is given. Bad data never raises.
"""

from __future__ import annotations

import enum
from typing import Callable, Optional, Union

import msgspec

from ..arch.x86.instructions import MAX_INSTRUCTION_BYTES, Instruction, decode
from ..bounded_cache import BoundedCache
from ..kernel.stack_memory import NotInDump
from .base import Recover

__all__ = (
    "Caller",
    "Code",
    "Depth",
    "Place",
    "called_from",
    "depth_at",
    "is_entered_by_call",
    "missing_caller",
)

MAX_FUNCTION_BYTES = 32 * 1024
"""Of a function up to where it was interrupted; larger ones are not looked at."""
BYTES_BEYOND = 2048
"""What may lead back to the place: loops, and exits that lie behind it."""
MAX_INSTRUCTIONS = 5000
"""Gone through in one function, those twice that two ways lead to with another depth."""

_MAX_KEPT = 10_000
"""Places in the code of which the answer is kept."""
_MAX_WORDS = 4096
"""On the stack of one function: half of a stack of 64 KiB."""

_BP, _SP = 5, 4

ReadMemory = Callable[[int, int], Optional[bytes]]
"""(virtual address, bytes wanted) -> what is there, ``None`` if it is not in the dump."""


class Place(enum.Enum):
    """What is known of the stack at an instruction where its depth is not."""

    FRAME = "frame"
    """The function has made its frame: bp points to it."""
    UNCLEAR = "unclear"
    """It cannot be told."""


Depth = Union[int, Place]
"""How many words lie between sp and the return address, if there is no frame."""


class Caller(msgspec.Struct, frozen=True):
    """A caller that the walk has skipped."""

    addr: int
    """The return address."""
    sure: bool
    """The code of the function says where it lies. Else it is taken from where sp points, and it returns
    from a call of this very function (or of what is no code)."""


class Code:
    """The machine code of one kernel; what was found out of it is kept.

    :param read: the memory of the kernel.
    """

    def __init__(self, read: ReadMemory, word_bytes: int) -> None:
        self.read = read
        self.word_bytes = word_bytes
        self._depths: BoundedCache[tuple[int, int], Depth] = BoundedCache(_MAX_KEPT)
        self._callees: BoundedCache[int, Optional[int]] = BoundedCache(_MAX_KEPT)

    def depth(self, start: int, ip: int) -> Depth:
        """What is on the stack at *ip*, in the function that begins at *start*."""
        try:
            return self._depths[start, ip]
        except KeyError:
            depth = self._depths[start, ip] = self._depth(start, ip)
            return depth

    def called_from(self, addr: int) -> Optional[int]:
        """What :func:`called_from` says."""
        try:
            return self._callees[addr]
        except KeyError:
            callee = self._callees[addr] = called_from(addr, self.read, self.word_bytes)
            return callee

    def _depth(self, start: int, ip: int) -> Depth:
        if not 0 <= ip - start < MAX_FUNCTION_BYTES:
            return Place.UNCLEAR
        # Beyond it code may end, and so may the dump.
        for beyond in (BYTES_BEYOND, MAX_INSTRUCTION_BYTES, 1):
            code = self.read(start, ip - start + beyond)
            if code is not None:
                return depth_at(code, ip - start, self.word_bytes)
        return Place.UNCLEAR


def is_entered_by_call(symbol: str) -> bool:
    """Is what bears this name entered with the return address on top of the stack?

    gcc moves what is unlikely out of functions (``name.cold``); that is jumped to, with anything on the stack.
    """
    return ".cold" not in symbol


def missing_caller(
    sp: int,
    ip: int,
    start: Optional[int],
    code: Code,
    read_stack: ReadMemory,
    recover: Recover,
) -> Optional[Caller]:
    """Who called the function that was interrupted, if the walk skips him.

    The address is one behind a call; whether it is kernel text is for others to look.

    :param sp: of the ``pt_regs``, which are of kernel mode.
    :param ip: where it was interrupted, exact.
    :param start: where the function begins that holds *ip*; ``None`` if *ip* is no code: whoever called
        it, nothing was pushed since.
    :param read_stack: the memory that *sp* points into.
    :param recover: gives back return addresses that the kernel swapped out.
    """
    depth = Place.UNCLEAR if start is None else code.depth(start, ip)
    if depth is Place.FRAME:
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
    callee = code.called_from(addr)
    if callee is None or not (sure or start is None or callee == start):
        return None
    return Caller(addr, sure)


# ---- the call before a return address

INDIRECT = -1
"""What an indirect call calls: it does not say."""


def called_from(addr: int, read: ReadMemory, word_bytes: int) -> Optional[int]:
    """What the call calls that returns to *addr*; :data:`INDIRECT`; ``None`` if none does."""
    for length in (5, 2, 3, 6, 7, 4, 8):
        code = read(addr - length, length) if addr >= length else None
        call = decode(code, 0, word_bytes) if code is not None else None
        if call is None or call.length != length:
            continue
        if call.opcode == 0xE8:
            return addr + call.immediate & (1 << 8 * word_bytes) - 1
        if call.opcode == 0xFF and call.reg & 7 == 2:
            return INDIRECT
    return None


# ---- through the code


def depth_at(code: bytes, place: int, word_bytes: int) -> Depth:
    """What is on the stack at a place in a function.

    :param code: of the function from its first byte, and some more.
    :param place: offset of the instruction that was not executed, or into it: kprobes and
        ftrace leave an ip behind its first byte.
    """
    # At a return, the return address is where sp points, however one came there.
    here = decode(code, place, word_bytes)
    if here is not None and here.opcode in (0xC2, 0xC3):
        return 0
    found: set[Depth] = set()
    seen: set[tuple[int, Depth]] = set()
    ways: list[tuple[int, Depth]] = [(0, 0)]
    while ways and len(found) < 2:
        at, depth = ways.pop()
        while 0 <= at < len(code) and (at, depth) not in seen:
            seen.add((at, depth))
            if len(seen) > MAX_INSTRUCTIONS:
                return Place.UNCLEAR
            instruction = decode(code, at, word_bytes)
            if instruction is None:
                break
            end = at + instruction.length
            if at <= place < end:
                found.add(depth)
            depth = _after(instruction, depth, word_bytes)
            if _jumps(instruction):
                ways.append((end + instruction.immediate, depth))
            if not _goes_on(instruction):
                break
            at = end
    return found.pop() if len(found) == 1 else Place.UNCLEAR


def _jumps(i: Instruction) -> bool:
    """Does it jump, perhaps, to a place that it names?"""
    return 0x70 <= i.opcode <= 0x7F or i.opcode in _LOOPS_AND_JUMPS or i.opcode >> 4 == 0xF8


_LOOPS_AND_JUMPS = frozenset((0xE0, 0xE1, 0xE2, 0xE3, 0xE9, 0xEB))


def _goes_on(i: Instruction) -> bool:
    """Can the next instruction be executed after it? (A WARN() goes on after ud2, a BUG() does not.)"""
    if i.opcode == 0xFF:
        return i.reg & 7 not in (4, 5)
    return i.opcode not in (0xC2, 0xC3, 0xCB, 0xCC, 0xCF, 0xE9, 0xEB, 0x0F07)


def _after(i: Instruction, depth: Depth, word_bytes: int) -> Depth:
    """The depth after an instruction."""
    if depth is Place.FRAME:
        # Only what gives the frame up matters: pop %rbp, leave.
        return 0 if (i.opcode == 0x5D and i.rm == _BP) or i.opcode == 0xC9 else depth
    if _makes_frame(i):
        return Place.FRAME
    words = _words_pushed(i, word_bytes)
    if words is None or depth is Place.UNCLEAR:
        return Place.UNCLEAR
    depth += words
    return depth if 0 <= depth < _MAX_WORDS else Place.UNCLEAR


def _makes_frame(i: Instruction) -> bool:
    """mov %rsp,%rbp"""
    return i.mod == 3 and (i.opcode, i.reg, i.rm) in ((0x89, _SP, _BP), (0x8B, _BP, _SP))


def _words_pushed(i: Instruction, word_bytes: int) -> Optional[int]:
    """By how many words the stack grows; ``None`` if it cannot be told."""
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
    if i.opcode == 0xC9:  # leave, and there is no frame
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
