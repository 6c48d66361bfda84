# SPDX-License-Identifier: LGPL-2.1-or-later
"""Reading the memory of a stack, with whatever of it is not in the dump noted as a hole."""

from __future__ import annotations

from drgn import FaultError, Program

from .layout import Layout
from .unwind_frame import StackBytes

__all__ = ("read_task_stack",)


def read_task_stack(prog: Program, layout: Layout, stack_addr: int, sp_addr: int) -> StackBytes:
    """The live part of a task stack, in one read where the dump has it all.

    :param stack_addr: ``task->stack``: lowest address of the stack (virtual).
    :param sp_addr: ``task->thread.sp``. Outside of the stack, nothing is read:
        the unwinder then ends at once, as the kernel's does.
    """
    end_addr = stack_addr + layout.thread_size_bytes
    # A stack pointer just below the stack is legal nonsense: the frame behind it
    # may still lie on the stack, and the kernel follows it.
    first_frame_addr = sp_addr + layout.frame_bp_offset
    # A stack that ends beyond the address space holds nothing in C, either: its
    # end wraps around, and nothing is below that.
    if not stack_addr <= first_frame_addr < end_addr <= 1 << 64:
        return StackBytes(stack_addr, layout.thread_size_bytes, end_addr, b"")
    begin_addr = max(sp_addr, stack_addr)
    try:
        data = prog.read(begin_addr, end_addr - begin_addr)
    except FaultError:
        data, holes = _read_by_page(prog, layout.page_bytes, begin_addr, end_addr)
        return StackBytes(stack_addr, layout.thread_size_bytes, begin_addr, data, holes)
    return StackBytes(stack_addr, layout.thread_size_bytes, begin_addr, data)


def _read_by_page(
    prog: Program, page_bytes: int, begin_addr: int, end_addr: int
) -> tuple[bytes, tuple[tuple[int, int], ...]]:
    data = bytearray()
    holes: list[tuple[int, int]] = []
    addr = begin_addr
    while addr < end_addr:
        next_addr = min((addr // page_bytes + 1) * page_bytes, end_addr)
        try:
            data += prog.read(addr, next_addr - addr)
        except FaultError:
            data += bytes(next_addr - addr)
            holes.append((addr, next_addr))
        addr = next_addr
    return bytes(data), tuple(holes)
