# SPDX-License-Identifier: LGPL-2.1-or-later
"""The part of ``struct unwind_state`` that every unwinder of x86 has: the stack that a walk is on."""

from __future__ import annotations

from typing import Optional

from ..kernel.stack_memory import FindStack, StackMemory

__all__ = ("StackCursor", "only_stack")


class StackCursor:
    """The stack that a walk is on, and the stacks that it has been on.

    :param find: The stacks that it may go to
    """

    def __init__(self, find: FindStack) -> None:
        self.find = find
        self.stack: Optional[StackMemory]
        """``None``: STACK_TYPE_UNKNOWN. The walk is done."""
        self.visited: set[str] = set()
        """:attr:`.StackMemory.kind` of each of these stacks: ``stack_mask`` of the kernel."""

    @property
    def done(self) -> bool:
        """``unwind_done()`` in asm/unwind.h."""
        return self.stack is None

    def get_stack_info(self, addr: Optional[int]) -> bool:
        """Go to the stack that holds an address. Follows get_stack_info() in arch/x86/kernel/dumpstack_64.c, v6.12.

        :param addr: Virtual address; ``None`` and 0 are on no stack
        :return: False if no stack holds it, or the walk visited that stack before; the walk is then done
        """
        stack = self.find(addr) if addr else None
        if stack is None or stack.kind in self.visited:
            self.stack = None
            return False
        self.visited.add(stack.kind)
        self.stack = stack
        return True


def only_stack(stack: StackMemory) -> FindStack:
    """Return the stacks of a task that is not on a CPU: its own.

    The kernel's get_stack_info_noinstr() accepts no other for a task that is not ``current``.
    """
    return lambda addr: stack if stack.on_stack(addr, 1) else None
