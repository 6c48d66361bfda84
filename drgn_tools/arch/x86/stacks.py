# SPDX-License-Identifier: LGPL-2.1-or-later
"""The stacks of a CPU: find the one that holds an address, and read it."""

from __future__ import annotations

from typing import Optional

import msgspec
from drgn import FaultError, Object, Program, sizeof

from ...kernel.per_cpu import per_cpu
from ...kernel.stack_memory import NotInDump, StackMemory, read_stack
from ...kernel.tasks import Task
from ...memory import UNUSABLE
from .layout import X86Layout

__all__ = ("CpuStacks",)

_EXCEPTION_STACKS = {
    "DF": "#df",
    "NMI": "nmi",
    "DB1": "#db1",
    "DB": "#db",
    "MCE": "#mc",
    "VC": "#vc",
    "VC2": "#vc2",
}
"""Members of struct cea_exception_stacks -> exception_stack_names[] in dumpstack_64.c, v6.12.

v5.2 to v5.7 have DB1 and DB2 instead of DB. The kernel's walk goes through DB1 only.
"""

_X86_CR4_FRED_BIT = 32
"""asm/processor-flags.h"""

_MAX_STACK_BYTES = 64 * 1024
"""A larger stack is damaged: 16 KiB, and KASAN_STACK_ORDER of up to 2 (asm/page_64_types.h)."""


class CpuStacks:
    """The stacks that a task and its CPU can be on while it runs; a :data:`~..kernel.stack_memory.FindStack`.

    Follows get_stack_info_noinstr() in arch/x86/kernel/dumpstack_64.c and
    get_stack_info() in dumpstack_32.c, v6.12, for ``task == current``.

    The exception and irq stacks of kernels before v5.2 are not found, nor is the double fault stack
    of x86-32 where the struct cpu_entry_area has none.

    :param task: A task on a CPU
    """

    def __init__(self, prog: Program, layout: X86Layout, task: Task) -> None:
        self._prog = prog
        self._layout = layout
        self._cpu = task.cpu
        self._task_stack = (task.stack_addr, layout.thread_size_bytes)
        self._others = (
            (CpuStacks._exception_stack, CpuStacks._irq_stack, CpuStacks._entry_stack)
            if layout.word_bytes == 8
            else (
                CpuStacks._entry_stack_32,
                CpuStacks._hardirq_stack_32,
                CpuStacks._softirq_stack_32,
                CpuStacks._double_fault_stack_32,
            )
        )

    def __call__(self, addr: int) -> Optional[StackMemory]:
        """Return the stack that holds an address.

        :param addr: Virtual address
        :return: ``None`` if it is on none of the stacks
        :raises NotInDump: if memory that is needed to find a stack is missing
        """
        begin, size = self._task_stack
        if begin <= addr < begin + size:
            return self._stack("task", begin, size)
        for find in self._others:
            try:
                stack = find(self, addr)
            except FaultError as e:
                raise NotInDump(e.address) from None
            except UNUSABLE:
                continue  # this kernel has no such stack
            if stack is not None:
                return stack
        return None

    def _exception_stack(self, addr: int) -> Optional[StackMemory]:
        """Follows in_exception_stack(): the interrupted sp is in the pt_regs at the top."""
        stacks = self._cpu_variable("cea_exception_stacks")
        begin, type_ = stacks.value_(), stacks.type_.type
        if not begin or not begin <= addr < begin + sizeof(type_):
            return None
        for name, kind in _EXCEPTION_STACKS.items():
            if not type_.has_member(f"{name}_stack"):
                continue
            member = type_.member(f"{name}_stack")
            start, size = begin + member.offset, sizeof(member.type)
            if start <= addr < start + size:
                regs_addr = start + size - self._layout.regs.size_bytes
                # FRED pushes two words above the pt_regs. The kernel does not take them into
                # account, and finds a wrong sp.
                if self._fred_is_on():
                    regs_addr -= self._layout.top_padding_bytes
                regs = Object(self._prog, "struct pt_regs", address=regs_addr)
                return self._stack(kind, start, size, regs.sp.value_())
        return None  # a guard page

    def _fred_is_on(self) -> bool:
        """Return CR4.FRED of this CPU: with it, events push two more words (arch/x86/kernel/fred.c, v6.9)."""
        try:
            cr4 = self._cpu_variable("cpu_tlbstate").cr4.value_()
        except UNUSABLE:
            return False
        return bool(cr4 >> _X86_CR4_FRED_BIT & 1)

    def _irq_stack(self, addr: int) -> Optional[StackMemory]:
        """Follows in_irq_stack(): the interrupted sp is in the topmost word."""
        word = self._layout.word_bytes
        size = sizeof(self._prog.type("struct irq_stack"))
        end = self._stack_pointer("hardirq_stack_ptr")
        # Since v5.12 ("x86/irq/64: Adjust the per CPU irq stack pointer by 8")
        # the pointer is to the topmost word; before that, to the word above it.
        if end % (2 * word):
            end += word
        if not 0 < end - size <= addr < end:
            return None
        return self._stack("irq", end - size, size, self._prog.read_word(end - word))

    def _entry_stack(self, addr: int) -> Optional[StackMemory]:
        """Follows in_entry_stack(): the trampoline stack is in the struct cpu_entry_area, as the exception stacks are."""
        stacks = self._cpu_variable("cea_exception_stacks").value_()
        area = self._prog.type("struct cpu_entry_area")
        page = area.member("entry_stack_page")
        start = stacks - area.member("estacks").offset + page.offset
        size = sizeof(self._prog.type("struct entry_stack"))
        if not stacks or not start <= addr < start + size:
            return None
        return self._stack("entry_trampoline", start, size)

    def _entry_stack_32(self, addr: int) -> Optional[StackMemory]:
        """Follows in_entry_stack(): x86-32 has a pointer to the struct cpu_entry_area."""
        stack = self._cpu_variable("cpu_entry_area").entry_stack_page.stack
        start, size = stack.address_, sizeof(stack)
        return self._stack("entry_trampoline", start, size) if 0 <= addr - start < size else None

    def _double_fault_stack_32(self, addr: int) -> Optional[StackMemory]:
        """Follows in_doublefault_stack(): the task gate left the interrupted sp in the TSS of the CPU."""
        stack = self._cpu_variable("cpu_entry_area").doublefault_stack.stack
        start, size = stack.address_, sizeof(stack)
        if not 0 <= addr - start < size:
            return None
        tss = self._cpu_variable("cpu_tss_rw").x86_tss
        stack = self._stack("#df", start, size, tss.sp.value_())
        if stack is None:
            return None
        return msgspec.structs.replace(stack, hidden_regs=self._copy_of_tss(tss, stack))

    def _copy_of_tss(self, tss: Object, stack: StackMemory) -> Optional[int]:
        """Return the virtual address of the pt_regs that doublefault_shim() made from a TSS.

        They are a variable of that function (arch/x86/kernel/doublefault_32.c, v5.10 to v7.2).
        """
        layout = self._layout.regs
        raw = bytearray(layout.size_bytes)
        offsets = {name: offset for name, offset, _ in layout.fields if name != "orig_ax"}
        if layout.handler_offset is not None:
            offsets["gs"] = layout.handler_offset
        for name, offset in offsets.items():
            value = tss.member_(name).value_()
            raw[offset : offset + layout.word_bytes] = value.to_bytes(layout.word_bytes, "little")
        at = stack.data.find(raw)
        return None if at < 0 else stack.data_addr + at

    def _hardirq_stack_32(self, addr: int) -> Optional[StackMemory]:
        return self._software_stack_32("irq", "hardirq_stack_ptr", addr)

    def _softirq_stack_32(self, addr: int) -> Optional[StackMemory]:
        return self._software_stack_32("softirq", "softirq_stack_ptr", addr)

    def _software_stack_32(self, kind: str, pointer: str, addr: int) -> Optional[StackMemory]:
        """Follows in_hardirq_stack() and in_softirq_stack(): the interrupted sp is in the lowest word.

        While such a stack is empty, sp is its end.
        """
        begin, size = self._stack_pointer(pointer), self._layout.thread_size_bytes
        if not begin or not begin <= addr <= begin + size:
            return None
        return self._stack(kind, begin, size, self._prog.read_word(begin))

    def _stack_pointer(self, name: str) -> int:
        # Since Linux kernel commit d7b6d709a76a ("x86/percpu: Move irq_stack
        # variables next to current_task") (in v6.2), the pointer is in struct pcpu_hot. Before
        # that, and again since v6.15, it is a variable.
        try:
            pointer = self._cpu_variable(name)
        except LookupError:
            pointer = self._cpu_variable("pcpu_hot").member_(name)
        return int(pointer.value_())

    def _cpu_variable(self, name: str) -> Object:
        return per_cpu(self._prog[name], self._cpu)

    def _stack(
        self, kind: str, begin: int, size: int, next_sp: Optional[int] = None
    ) -> Optional[StackMemory]:
        if not 0 < size <= _MAX_STACK_BYTES or begin + size > 1 << 64:
            return None
        data, holes = read_stack(self._prog, self._layout.page_bytes, begin, begin + size)
        return StackMemory(begin, size, begin, data, holes, kind, next_sp)
