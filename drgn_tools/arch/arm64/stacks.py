# SPDX-License-Identifier: LGPL-2.1-or-later
"""The stacks of a CPU: find the one that holds an address, and read it."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Callable, Optional

from drgn import FaultError, Object, Program, sizeof

from ...kernel.per_cpu import per_cpu
from ...kernel.probing import symbol_address
from ...kernel.stack_memory import NotInDump, StackMemory, read_stack
from ...kernel.tasks import Task
from ...memory import UNUSABLE
from ..base import Layout

__all__ = ("CpuStacks",)

_MAX_OVERFLOW_STACK_BYTES = 64 * 1024
"""OVERFLOW_STACK_SIZE is 4 KiB (asm/memory.h, v7.2)."""

_Find = Callable[[], tuple[int, int]]
"""-> lowest virtual address and size of a stack."""


class CpuStacks:
    """The stacks that a task and its CPU can be on while it runs; a :data:`~..kernel.stack_memory.FindStack`.

    Follows kunwind_stack_walk() in arch/arm64/kernel/stacktrace.c, v7.2, for ``task == current``. The SDEI
    stacks are included, as in an NMI, and the EFI stack, as in a call of EFI.

    :param task: A task on a CPU
    """

    def __init__(self, prog: Program, layout: Layout, task: Task) -> None:
        self._prog = prog
        self._layout = layout
        self._cpu = task.cpu
        self._task_stack = (task.stack_addr, layout.thread_size_bytes)

    def __call__(self, addr: int) -> Optional[StackMemory]:
        """Return the stack that holds an address.

        :param addr: Virtual address
        :return: ``None`` if it is on none of the stacks
        :raises NotInDump: if memory that is needed to find a stack is missing
        """
        for kind, find in self._stacks():
            try:
                begin, size = find()
            except FaultError as e:
                raise NotInDump(e.address) from None
            except UNUSABLE:
                continue  # this kernel has no such stack
            if begin and begin <= addr < begin + size:
                return self._stack(kind, begin, size)
        return None

    def _stacks(self) -> Iterator[tuple[str, _Find]]:
        yield "task", lambda: self._task_stack
        yield "irq", partial(self._pointed_to, "irq_stack_ptr")
        yield "overflow", self._overflow_stack
        yield "sdei", partial(self._pointed_to, "sdei_stack_normal_ptr")
        yield "sdei_critical", partial(self._pointed_to, "sdei_stack_critical_ptr")
        yield "efi", self._efi_stack

    def _pointed_to(self, name: str) -> tuple[int, int]:
        """IRQ_STACK_SIZE and SDEI_STACK_SIZE are THREAD_SIZE."""
        return int(self._cpu_variable(name).value_()), self._layout.thread_size_bytes

    def _overflow_stack(self) -> tuple[int, int]:
        stack = self._cpu_variable("overflow_stack")
        return int(stack.address_), min(sizeof(stack), _MAX_OVERFLOW_STACK_BYTES)

    def _efi_stack(self) -> tuple[int, int]:
        top = int(self._prog["efi_rt_stack_top"].value_())
        size = self._layout.thread_size_bytes
        return (top - size if top > size else 0), size

    def _cpu_variable(self, name: str) -> Object:
        variable = self._prog[name]
        # DWARF has two variables named overflow_stack. The other belongs to KVM's code at EL2, and its symbol
        # is __kvm_nvhe_overflow_stack (arch/arm64/kvm/hyp/nvhe/stacktrace.c, v6.0).
        address = symbol_address(self._prog, name)
        if address is not None and address != variable.address_:
            variable = Object(self._prog, variable.type_, address=address)
        return per_cpu(variable, self._cpu)

    def _stack(self, kind: str, begin: int, size: int) -> Optional[StackMemory]:
        if begin + size > 1 << 64:
            return None
        data, holes = read_stack(self._prog, self._layout.page_bytes, begin, begin + size)
        return StackMemory(begin, size, begin, data, holes, kind)
