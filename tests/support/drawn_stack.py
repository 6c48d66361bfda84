# SPDX-License-Identifier: LGPL-2.1-or-later
"""A task stack drawn word by word, for the walker and its fast path.

A stack is drawn from its top: lines run from high addresses to low, as the
kernel's comments draw them. Words are given by name and resolved to bytes.
"""

from __future__ import annotations

from typing import Optional

from drgn_tools.arch.x86.encoding import Encoding
from drgn_tools.arch.x86.frame_pointer_rules import UnwindRules
from drgn_tools.arch.x86.pt_regs import REGS_64, X86Regs
from drgn_tools.kernel.stack_memory import StackMemory
from drgn_tools.unwind.base import Walk
from drgn_tools.unwind.frame_pointer import walk_task_stack

BASE_64 = 0xFFFF_C900_0010_0000
BASE_32 = 0xF5F0_0000
USER_CS = 0x33
KERNEL_CS = 0x10


class Drawing:
    """A task stack, written word by word; names make addresses readable."""

    def __init__(
        self,
        layout: X86Regs = REGS_64,
        encoding: Encoding = Encoding.LSB,
        padding: int = 0,
        thread_size: int = 16384,
        bp_offset: int = 40,
        base: Optional[int] = None,
    ) -> None:
        self.layout = layout
        self.word_bytes = layout.word_bytes
        self.base = {8: BASE_64, 4: BASE_32}[self.word_bytes] if base is None else base
        self.size = thread_size
        self.end = self.base + thread_size
        self.memory = bytearray(thread_size)
        self.rules = UnwindRules(encoding, layout, padding, bp_offset)
        self.pt_regs = self.end - padding - layout.size_bytes
        self.last_frame = self.pt_regs - 2 * self.word_bytes
        self.sp = self.end  # moved by inactive()

    def put(self, addr: int, *words: int) -> int:
        """Write words upward from *addr*; return *addr*."""
        for i, word in enumerate(words):
            at = addr - self.base + i * self.word_bytes
            self.memory[at : at + self.word_bytes] = word.to_bytes(self.word_bytes, "little")
        return addr

    def word(self, addr: int) -> int:
        """Return the word at *addr*."""
        return int.from_bytes(self.memory[addr - self.base :][: self.word_bytes], "little")

    def frame(self, addr: int, saved_bp: int, ret: int) -> int:
        """Put an ordinary frame: {saved bp, return address}."""
        return self.put(addr, saved_bp, ret)

    def reg_offset(self, register: str) -> int:
        """Return the offset of a register in struct pt_regs."""
        return next(offset for name, offset, _ in self.layout.fields if name == register)

    def regs(self, addr: int, **values: int) -> int:
        """Put a struct pt_regs with these registers, as much of it as entry code saves."""
        user_mode = self.layout.user_mode({"flags": 0, "cs": 0, **values})
        end = self.layout.size_bytes if user_mode else self.layout.kernel_mode_bytes
        for name, offset, size in self.layout.fields:
            at = addr - self.base + offset
            if offset >= end:
                break
            self.memory[at : at + size] = values.get(name, 0).to_bytes(size, "little")
        return addr

    def user_regs(self, **values: int) -> int:
        """Put user-mode pt_regs at the top, where a syscall leaves them."""
        cs = USER_CS if self.word_bytes == 8 else 0x73
        return self.regs(self.pt_regs, **{"cs": cs, "ip": 0x401000, **values})

    def encode(self, regs: int) -> int:
        """Encode the address of pt_regs as ENCODE_FRAME_POINTER does."""
        if self.rules.encoding is Encoding.LSB:
            return regs | 1
        return regs & ~(1 << (self.word_bytes * 8 - 1))

    def inactive(self, below: int, saved_bp: int, ret: int) -> None:
        """Put struct inactive_task_frame right below *below*: {..., bp, ret_addr}."""
        bp = below - 2 * self.word_bytes
        self.frame(bp, saved_bp, ret)
        self.sp = bp - self.rules.frame_bp_offset

    def stack(self, holes: tuple[tuple[int, int], ...] = ()) -> StackMemory:
        """Return the whole drawn stack."""
        return StackMemory(self.base, self.size, self.base, bytes(self.memory), holes)

    def task_stack(self) -> StackMemory:
        """Return the part that a reader of task stacks reads: from thread.sp on."""
        return StackMemory(self.base, self.size, self.sp, bytes(self.memory[self.sp - self.base :]))

    def walk(self, sp: int = 0, holes: tuple[tuple[int, int], ...] = ()) -> Walk:
        """Walk it from *sp* (thread.sp as drawn, if not given)."""
        return walk_task_stack(self.stack(holes), sp or self.sp, self.rules)

    def walk_and_note(self) -> tuple[Walk, list[tuple[int, int]]]:
        """Walk it; return also the arguments of each call that recovers a return address. The recovery adds 1."""
        asked = []

        def recover(addr: int, addr_p: int) -> int:
            asked.append((addr, addr_p))
            return addr + 1

        return walk_task_stack(self.stack(), self.sp, self.rules, recover), asked
