# SPDX-License-Identifier: LGPL-2.1-or-later
"""arm64: its layout as it is probed, what entered the kernel in words, the stacks of a CPU."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Optional, cast

import pytest
from drgn import Architecture, Object

from drgn_tools.arch.arm64.entry import (
    enters_from_user_mode,
    entry_of,
    entry_of_handler,
    is_interrupt_entry,
)
from drgn_tools.arch.arm64.layout import Arm64Layout
from drgn_tools.arch.arm64.pt_regs import REGS
from drgn_tools.arch.arm64.stacks import CpuStacks
from drgn_tools.arch.base import Layout
from drgn_tools.arch.registry import layout_of
from drgn_tools.errors import TypesError
from drgn_tools.kernel.stack_memory import NotInDump, StackMemory
from drgn_tools.kernel.tasks import Task

from ..support.drawn_kernel import PAGE_BYTES as PAGE
from ..support.drawn_kernel import TASK_MEMBERS, DrawnKernel

THREAD_SIZE = 16384

PT_REGS = "unsigned long regs [31]; unsigned long sp; unsigned long pc; unsigned long pstate; unsigned long orig_x0; int syscallno; "
PT_REGS_7_2 = (
    f"{PT_REGS}unsigned int pmr; unsigned long sdei_ttbr1; struct frame_record_meta stackframe"
)
PT_REGS_6_12 = (
    f"{PT_REGS}unsigned int unused2; unsigned long sdei_ttbr1; unsigned long pmr_save;"
    " unsigned long stackframe [2]; unsigned long lockdep_hardirqs; unsigned long exit_rcu"
)


def members(text: str) -> str:
    """``regs [31]`` as DrawnKernel wants it."""
    return text.replace(" [", "[")


def drawn(pt_regs: str = PT_REGS_7_2, vmcoreinfo: bytes = b"") -> DrawnKernel:
    kernel = DrawnKernel(Architecture.AARCH64)
    kernel.struct("frame_record_meta", "unsigned long fp; unsigned long lr; unsigned long type")
    kernel.struct("pt_regs", members(pt_regs))
    kernel.struct("thread_info", "unsigned long flags; unsigned int cpu")
    kernel.struct("refcount_struct", "int refs")
    kernel.struct(
        "cpu_context",
        "unsigned long x19; unsigned long x28; unsigned long fp; unsigned long sp; unsigned long pc",
    )
    kernel.struct("thread_struct", "struct cpu_context cpu_context")
    kernel.struct("signal_struct", "int live; struct list_head thread_head")
    kernel.struct("task_struct", TASK_MEMBERS)
    kernel.symbol("__start_init_stack", kernel.nowhere)
    kernel.symbol("__end_init_stack", kernel.nowhere + THREAD_SIZE)
    kernel.symbol("ret_from_fork", kernel.nowhere + 0x1000)
    text = b"OSRELEASE=7.2.0\n" + vmcoreinfo
    kernel.constant("VMCOREINFO", text, f"char [{len(text) + 1}]")
    return kernel


def probe(kernel: DrawnKernel) -> Arm64Layout:
    layout = layout_of(kernel.prog)
    assert isinstance(layout, Arm64Layout)
    return layout


def test_the_layout_of_a_kernel_with_metadata_records() -> None:
    kernel = drawn(vmcoreinfo=b"NUMBER(KERNELPACMASK)=0xfff0000000000000\n")
    kernel.symbol("arch_stack_walk_reliable", kernel.nowhere)
    layout = probe(kernel)
    assert (layout.arch.name, layout.unwinder, layout.reliable_stacktrace) == (
        "aarch64",
        "arm64",
        True,
    )
    assert layout.regs == REGS
    assert layout.thread_size_bytes == THREAD_SIZE
    assert layout.task_pt_regs(0xFFFF_8000_0000_0000) == 0xFFFF_8000_0000_4000 - 320
    assert layout.pac_mask == 0xFFF0_0000_0000_0000
    assert layout.code_address(0x12BF_8000_1234_5678) == 0xFFFF_8000_1234_5678
    assert layout.code_address(0x1230_0000_0040_0000) == 0x1200_0000_0040_0000
    assert layout.fork_return_addrs == {kernel.nowhere + 0x1000}
    assert layout.task.ones == 0xFF << 56


def test_the_layout_of_a_kernel_without_them() -> None:
    layout = probe(drawn(PT_REGS_6_12))
    assert (layout.regs.size_bytes, layout.regs.stackframe_offset) == (336, 304)
    assert not layout.regs.has_metadata
    assert not layout.reliable_stacktrace
    assert layout.pac_mask == 0


@pytest.mark.parametrize("name", ["kasan_init_hw_tags", "kasan_init_sw_tags", "kasan_init_tags"])
def test_where_addresses_have_tags_they_may_have_any(name: str) -> None:
    kernel = drawn()
    kernel.symbol(name, kernel.nowhere)
    assert probe(kernel).task.ones == 0


@pytest.mark.parametrize(
    "text", [b"0", b"0xfff0000000000001", b"-1", b"0x1fff0000000000000", b"x", b""]
)
def test_a_mask_that_cannot_be_one_is_none(text: bytes) -> None:
    assert probe(drawn(vmcoreinfo=b"NUMBER(KERNELPACMASK)=%s\n" % text)).pac_mask == 0


@pytest.mark.parametrize(
    ("lines", "mask"),
    [
        (b"NUMBER(KERNELPACMASK)=0xffff000000000000\nNUMBER(TCR_EL1_T1SZ)=0x10", 0xFFFF << 48),
        (b"NUMBER(KERNELPACMASK)=0x0\nNUMBER(TCR_EL1_T1SZ)=0x10", 0),  # no CPU signs
        # Damaged: a digit is another one, the line has another name, or its end is missing.
        (b"NUMBER(KERNELPACMASK)=0x0fff000000000000\nNUMBER(TCR_EL1_T1SZ)=0x10", 0xFFFF << 48),
        (b"NUMBER(KERNELPACMASX)=0xffff000000000000\nNUMBER(TCR_EL1_T1SZ)=0xc", 0xFFF << 52),
        (b"NUMBER(KERNELPACMASK)=\nNUMBER(TCR_EL1_T1SZ)=0x19", 0x1FF_FFFF << 39),
        # The other one is: nothing can be read by it, but it is not believed.
        (b"NUMBER(KERNELPACMASK)=0xffff000000000000\nNUMBER(TCR_EL1_T1SZ)=0x3f", 0xFFFF << 48),
        (b"NUMBER(KERNELPACMASK)=0xffff000000000000\nNUMBER(TCR_EL1_T1SZ)=0x0", 0xFFFF << 48),
    ],
)
def test_a_damaged_mask_follows_from_the_width_of_addresses(lines: bytes, mask: int) -> None:
    assert probe(drawn(vmcoreinfo=lines + b"\n")).pac_mask == mask


@pytest.mark.parametrize(
    "damaged",
    [
        PT_REGS_7_2.replace("regs [31]", "regs [30]"),
        PT_REGS_7_2.replace(
            "unsigned long sp; unsigned long pc", "unsigned long pc; unsigned long sp"
        ),
        PT_REGS_7_2.replace("stackframe", "other"),
        PT_REGS_7_2 + "; unsigned long more [200]",
        # Neither a record with a type nor one without: the walk would take it for the latter.
        PT_REGS_7_2.replace("struct frame_record_meta stackframe", "unsigned long stackframe [4]"),
    ],
)
def test_types_that_cannot_be_are_refused(damaged: str) -> None:
    with pytest.raises(TypesError, match="lacks what a stack needs, or is damaged"):
        probe(drawn(damaged))


@pytest.mark.parametrize("size", [0x3000, 0x80_0000, 0x800])
def test_stacks_of_an_impossible_size_are_refused(size: int) -> None:
    kernel = drawn()
    kernel.symbol("__end_init_stack", kernel.nowhere + size)
    with pytest.raises(TypesError, match="THREAD_SIZE cannot be"):
        probe(kernel)


@pytest.mark.parametrize(
    ("pstate", "user"),
    [(0x0, True), (0x8000_1000, True), (0x10, True), (0x5, False), (0x4, False), (0x9, False)],
)
def test_user_mode_is_exception_level_0_of_64_or_32_bits(pstate: int, user: bool) -> None:
    assert REGS.user_mode({"pstate": pstate}) is user
    assert REGS.kernel_mode({"pstate": pstate}) is not user


@pytest.mark.parametrize(("number", "is_syscall"), [(63, True), (0, True), (0xFFFF_FFFF, False)])
def test_a_system_call_has_a_number(number: int, is_syscall: bool) -> None:
    assert REGS.is_syscall({"syscallno": number}) is is_syscall


@pytest.mark.parametrize(
    ("stub", "entry"),
    [
        ("el1h_64_irq", "interrupt"),
        ("el0t_32_fiq", "fast interrupt"),
        ("el0t_64_error", "SError"),
        ("el1h_64_sync", None),  # all exceptions: the handler tells
        ("el2h_64_irq", None),
        ("el1h_64_irq_handler", None),
        ("ret_from_fork", "fork"),
        ("__bad_stack", "stack overflow"),
        ("vfs_read", None),
        (None, None),
    ],
)
def test_the_symbol_of_entry_code_in_words(stub: Optional[str], entry: Optional[str]) -> None:
    assert entry_of(stub) == entry
    if entry in ("interrupt", "fork"):
        assert enters_from_user_mode(entry)


@pytest.mark.parametrize(
    ("function", "entry"),
    [
        ("el0_svc", "syscall"),
        ("el0_svc_compat", "syscall"),
        ("el0_da", "data abort"),
        ("el1_abort", "memory abort"),
        ("el1_brk64", "breakpoint"),
        ("el0_unheard_of", None),
        ("el1h_64_sync_handler", None),
        ("do_mem_abort", None),
    ],
)
def test_the_handler_of_an_exception_in_words(function: str, entry: Optional[str]) -> None:
    assert entry_of_handler(function) == entry


def test_code_that_the_kernel_patches_into_itself_is_not_entered_from_user_mode() -> None:
    assert not enters_from_user_mode(entry_of("ftrace_caller"))
    assert not enters_from_user_mode(entry_of("arch_rethook_trampoline"))
    assert not enters_from_user_mode(None)


def test_functions_that_handle_interrupts() -> None:
    for name in ("el1h_64_irq", "el0t_64_fiq_handler", "el1_interrupt"):
        assert is_interrupt_entry(name)
    for name in ("el1h_64_sync", "do_interrupt_handler", "el1_abort"):
        assert not is_interrupt_entry(name)


# ---- the stacks of a CPU


class Cpu:
    """The only CPU of a drawn kernel, with all stacks that there are; a stack has a page."""

    def __init__(self) -> None:
        self.kernel = k = drawn()
        k.constant("nr_cpu_ids", 1, "unsigned int")
        # The one CPU's copy is the variable itself.
        k.variable("__per_cpu_offset", "unsigned long [1]", [0])
        self.begins = {
            kind: k.base + 0x2_0000 + number * 2 * PAGE
            for number, kind in enumerate(("task", "irq", "sdei", "sdei_critical", "efi"))
        }
        for name, kind in (
            ("irq_stack_ptr", "irq"),
            ("sdei_stack_normal_ptr", "sdei"),
            ("sdei_stack_critical_ptr", "sdei_critical"),
        ):
            k.variable(name, "unsigned long *", self.begins[kind])
        k.variable("efi_rt_stack_top", "unsigned long *", self.begins["efi"] + PAGE)
        self.begins["overflow"] = k.variable("overflow_stack", "unsigned long [512]", [7] * 512)

    def find(self, addr: int) -> Optional[StackMemory]:
        layout = SimpleNamespace(page_bytes=PAGE, thread_size_bytes=PAGE)
        task = SimpleNamespace(cpu=0, stack_addr=self.begins["task"])
        stacks = CpuStacks(self.kernel.prog, cast(Layout, layout), cast(Task, task))
        return stacks(addr)


@pytest.mark.parametrize("kind", ["task", "irq", "overflow", "sdei", "sdei_critical", "efi"])
def test_a_stack_is_found_by_each_address_on_it(kind: str) -> None:
    cpu = Cpu()
    begin = cpu.begins[kind]
    for addr in (begin, begin + PAGE - 1):
        stack = cpu.find(addr)
        assert stack is not None
        assert (stack.kind, stack.begin_addr, stack.size_bytes) == (kind, begin, PAGE)
    for addr in (begin - 1, begin + PAGE):
        other = cpu.find(addr)
        assert other is None or other.kind != kind


def test_of_two_variables_that_of_the_symbol_is_meant() -> None:
    # DWARF with KVM has two by the name of overflow_stack, and drgn gives either.
    cpu = Cpu()
    that_of_kvm = Object(
        cpu.kernel.prog, "unsigned long [512]", address=cpu.begins["overflow"] + 0x1_0000
    )
    cpu.kernel._objects["overflow_stack"] = that_of_kvm
    stack = cpu.find(cpu.begins["overflow"])
    assert stack is not None and stack.kind == "overflow"
    assert cpu.find(that_of_kvm.address_) is None


def test_a_kernel_without_a_stack_has_none_there() -> None:
    cpu = Cpu()
    del cpu.kernel._objects["sdei_stack_normal_ptr"]
    cpu.kernel.forget_symbol("sdei_stack_normal_ptr")
    assert cpu.find(cpu.begins["sdei"]) is None
    assert cpu.find(cpu.begins["efi"]) is not None


@pytest.mark.parametrize("pointer", [0, (1 << 64) - 8])
def test_a_pointer_that_leads_nowhere_is_no_stack(pointer: int) -> None:
    cpu = Cpu()
    cpu.kernel.variable("irq_stack_ptr", "unsigned long *", pointer)
    assert cpu.find(0) is None
    assert cpu.find((1 << 64) - 1) is None


def test_where_a_stack_lies_may_not_be_in_the_dump() -> None:
    cpu = Cpu()
    cpu.kernel._objects["irq_stack_ptr"] = Object(
        cpu.kernel.prog, "unsigned long *", address=cpu.kernel.nowhere
    )
    cpu.kernel.symbol("irq_stack_ptr", cpu.kernel.nowhere)
    with pytest.raises(NotInDump):
        cpu.find(cpu.begins["irq"])
