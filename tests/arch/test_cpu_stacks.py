# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which stacks of a CPU there are, by the variables and types of a drawn kernel."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Optional, cast

import drgn
import pytest

from drgn_tools.arch.base import Layout
from drgn_tools.arch.x86.pt_regs import REGS_32, REGS_64
from drgn_tools.arch.x86.stacks import CpuStacks
from drgn_tools.kernel.stack_memory import NotInDump, StackMemory
from drgn_tools.kernel.tasks import Task

from ..support.drawn_kernel import PAGE_BYTES as PAGE
from ..support.drawn_kernel import DrawnKernel

NEXT_SP = 0xFFFF_8880_0000_5150
FRED_PADDING = 16
CR4_FRED = 1 << 32


class Machine:
    """One CPU of x86-64: guard page, two pages each of #DF and NMI, an irq stack."""

    def __init__(self, arch: drgn.Architecture = drgn.Architecture.X86_64) -> None:
        self.kernel = k = DrawnKernel(arch)
        self.regs = REGS_64 if k.word_bytes == 8 else REGS_32
        k.constant("nr_cpu_ids", 1, "unsigned int")
        # The one CPU's copy is the variable itself.
        k.variable("__per_cpu_offset", "unsigned long [1]", [0])
        self.padding = 0

    def exception_stacks(self, declared: str = "DF NMI") -> int:
        k = self.kernel
        members = "".join(f"char {n}_guard[4096]; char {n}_stack[8192];" for n in declared.split())
        k.struct("cea_exception_stacks", members)
        registers = "; ".join(f"unsigned long {name}" for name, _, _ in REGS_64.fields)
        k.struct("pt_regs", registers)
        k.struct("entry_stack", "char stack[4096]")
        k.struct("entry_stack_page", "struct entry_stack stack")
        k.struct(
            "cpu_entry_area",
            "char gdt[4096]; struct entry_stack_page entry_stack_page; char tss[8192];"
            " struct cea_exception_stacks estacks",
        )
        area = k.new("struct cpu_entry_area")
        self.area = area
        stacks = area + 4 * PAGE
        k.variable("cea_exception_stacks", "struct cea_exception_stacks *", stacks)
        return stacks

    def irq_stack(self, topmost: int) -> int:
        """An irq stack of a page; its pointer is *topmost* bytes below its end."""
        k = self.kernel
        k.struct("irq_stack", "char stack[4096]")
        begin = k.new("struct irq_stack")
        k.put_word(begin + PAGE - k.word_bytes, NEXT_SP)
        k.variable("hardirq_stack_ptr", "void *", begin + PAGE - topmost)
        return begin

    def find(self, addr: int) -> Optional[tuple[str, int, int, Optional[int]]]:
        """Kind, begin, size, next_sp of the stack that holds *addr*."""
        stack = self.stack(addr)
        return stack and (stack.kind, stack.begin_addr, stack.size_bytes, stack.next_sp)

    def stack(self, addr: int) -> Optional[StackMemory]:
        layout = SimpleNamespace(
            word_bytes=self.kernel.word_bytes,
            page_bytes=PAGE,
            thread_size_bytes=PAGE,
            regs=self.regs,
            top_padding_bytes=self.padding,
        )
        task = SimpleNamespace(cpu=0, stack_addr=self.kernel.nowhere + PAGE)
        stacks = CpuStacks(self.kernel.prog, cast(Layout, layout), cast(Task, task))
        return stacks(addr)


def sp_of_regs_that_end_at(m: Machine, end: int) -> None:
    sp = next(offset for name, offset, _ in REGS_64.fields if name == "sp")
    m.kernel.put_word(end - REGS_64.size_bytes + sp, NEXT_SP)


def test_exception_stacks_are_half_open_and_guard_pages_are_none() -> None:
    m = Machine()
    stacks = m.exception_stacks()
    sp_of_regs_that_end_at(m, stacks + 6 * PAGE)
    nmi = ("nmi", stacks + 4 * PAGE, 2 * PAGE, NEXT_SP)
    assert m.find(stacks + 4 * PAGE) == nmi
    assert m.find(stacks + 6 * PAGE - 1) == nmi
    assert m.find(stacks + 6 * PAGE) is None
    assert m.find(stacks + 4 * PAGE - 1) is None
    df = m.find(stacks + PAGE)
    assert df is not None and df[0] == "#df"
    assert m.find(stacks) is None


def test_of_the_debug_stacks_of_5_2_the_second_guard_is_none() -> None:
    m = Machine()
    stacks = m.exception_stacks("DB2 DB1 DB")
    kinds = [m.find(stacks + (3 * i + 1) * PAGE) for i in range(3)]
    assert [found and found[0] for found in kinds] == [None, "#db1", "#db"]


@pytest.mark.parametrize("cr4", [0, CR4_FRED])
def test_with_fred_on_the_interrupted_sp_lies_two_words_deeper(cr4: int) -> None:
    m = Machine()
    m.padding = FRED_PADDING  # CONFIG_X86_FRED=y
    stacks = m.exception_stacks()
    m.kernel.struct("tlb_state", "void *loaded_mm; unsigned long cr4")
    m.kernel.variable("cpu_tlbstate", "struct tlb_state", {"loaded_mm": 0, "cr4": cr4 | 0x20})
    end = stacks + 6 * PAGE
    sp_of_regs_that_end_at(m, end - FRED_PADDING if cr4 else end)
    found = m.find(end - 8)
    assert found is not None and found[3] == NEXT_SP


def test_entry_stack_lies_before_the_exception_stacks() -> None:
    m = Machine()
    m.exception_stacks()
    assert m.find(m.area + PAGE) == ("entry_trampoline", m.area + PAGE, PAGE, None)
    assert m.find(m.area + PAGE - 1) is None
    assert m.find(m.area + 2 * PAGE) is None


@pytest.mark.parametrize("topmost", [0, 8])
def test_irq_stack_is_known_by_its_top(topmost: int) -> None:
    # One past its end, or since v5.12 the topmost word.
    m = Machine()
    begin = m.irq_stack(topmost)
    assert m.find(begin) == m.find(begin + PAGE - 1) == ("irq", begin, PAGE, NEXT_SP)
    assert m.find(begin - 1) is None
    assert m.find(begin + PAGE) is None


def test_a_kernel_without_these_stacks_has_none() -> None:
    m = Machine()
    assert m.find(m.kernel.base) is None


def test_a_stack_whose_top_is_not_in_the_dump_is_missing() -> None:
    m = Machine()
    m.exception_stacks()
    m.kernel.variable("cea_exception_stacks", "struct cea_exception_stacks *", m.kernel.nowhere)
    for addr in (m.kernel.nowhere + 2 * PAGE, m.kernel.nowhere + 5 * PAGE):
        with pytest.raises(NotInDump):
            m.find(addr)


@pytest.mark.parametrize(
    ("name", "kind"), [("hardirq_stack_ptr", "irq"), ("softirq_stack_ptr", "softirq")]
)
def test_software_stacks_of_x86_32_have_the_interrupted_sp_at_their_start(
    name: str, kind: str
) -> None:
    m = Machine(drgn.Architecture.I386)
    m.kernel.struct("irq_stack", "char stack[4096]")
    begin = m.kernel.new("struct irq_stack")
    m.kernel.put_word(begin, 0xC123_4560)
    m.kernel.variable(name, "void *", begin)
    # "end" can be a valid stack pointer: the stack is empty.
    for addr in (begin, begin + PAGE - 4, begin + PAGE):
        assert m.find(addr) == (kind, begin, PAGE, 0xC123_4560)
    assert m.find(begin + PAGE + 4) is None
    assert m.find(begin - 4) is None


TSS = {name: 0x5A00 + i for i, name in enumerate(REGS_32.names)} | {"sp": 0xC123_4560, "gs": 0x33}
"""What a task gate saved."""
TYPES = dict.fromkeys(("cs", "ss", "ds", "es", "fs", "gs"), "short")


def entry_area_32(m: Machine) -> int:
    """The struct cpu_entry_area of the one CPU: two of its pages are stacks."""
    k = m.kernel
    words = ("back_link", "sp0", *TSS)
    k.struct("x86_hw_tss", "; ".join(f"unsigned {TYPES.get(w, 'long')} {w}" for w in words))
    k.struct("tss_struct", "struct x86_hw_tss x86_tss")
    k.struct("entry_stack", "char stack[4096]")
    k.struct("entry_stack_page", "struct entry_stack stack")
    k.struct("doublefault_stack", "unsigned long stack[1000]; struct x86_hw_tss tss")
    k.struct(
        "cpu_entry_area",
        "char gdt[4096]; char guard_entry_stack[4096]; struct entry_stack_page entry_stack_page;"
        " char guard_doublefault_stack[4096]; struct doublefault_stack doublefault_stack",
    )
    area = k.new("struct cpu_entry_area")
    k.variable("cpu_entry_area", "struct cpu_entry_area *", area)
    tss = {"x86_tss": {"back_link": 0, "sp0": 1, **TSS}}
    k.variable("cpu_tss_rw", "struct tss_struct", tss)
    return area


def test_entry_stack_of_x86_32() -> None:
    m = Machine(drgn.Architecture.I386)
    begin = entry_area_32(m) + 2 * PAGE
    for addr in (begin, begin + PAGE - 1):
        assert m.find(addr) == ("entry_trampoline", begin, PAGE, None)
    assert m.find(begin - 1) is None
    assert m.find(begin + PAGE) is None


def test_double_fault_stack_of_x86_32_goes_on_where_the_task_gate_left_off() -> None:
    m = Machine(drgn.Architecture.I386)
    begin = entry_area_32(m) + 4 * PAGE
    for addr in (begin, begin + 3999):
        assert m.find(addr) == ("#df", begin, 4000, 0xC123_4560)
    assert m.find(begin - 1) is None
    assert m.find(begin + 4000) is None  # the TSS itself


def test_pt_regs_made_of_the_tss_are_found_on_the_double_fault_stack() -> None:
    m = Machine(drgn.Architecture.I386)
    begin = entry_area_32(m) + 4 * PAGE
    stack = m.stack(begin)
    assert stack is not None and stack.hidden_regs is None
    regs = begin + 3000
    for name, offset, _ in REGS_32.fields:
        m.kernel.put_word(regs + offset, 0 if name == "orig_ax" else TSS[name])
    assert REGS_32.handler_offset is not None
    m.kernel.put_word(regs + REGS_32.handler_offset, TSS["gs"])
    stack = m.stack(begin)
    assert stack is not None and stack.hidden_regs == regs
    # A register that differs makes them those of something else.
    m.kernel.put_word(regs + REGS_32.handler_offset, 0)
    stack = m.stack(begin)
    assert stack is not None and stack.hidden_regs is None


def test_x86_32_without_a_double_fault_stack_has_the_others() -> None:
    m = Machine(drgn.Architecture.I386)
    area = entry_area_32(m)
    m.kernel.forget_type("doublefault_stack")
    m.kernel.struct(
        "cpu_entry_area", "char gdt[8192]; struct entry_stack_page entry_stack_page; char tss[8192]"
    )
    found = m.find(area + 2 * PAGE)
    assert found is not None and found[0] == "entry_trampoline"
    assert m.find(area + 4 * PAGE) is None
