# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is probed of a kernel, on drawn kernels: each fact, each old form of it, and damage."""

from __future__ import annotations

import re

import pytest
from drgn import Architecture, Platform, Program, SymbolBinding, TypeKind, offsetof

from drgn_tools.arch.base import Layout
from drgn_tools.arch.registry import layout_of
from drgn_tools.arch.x86.encoding import Encoding
from drgn_tools.arch.x86.pt_regs import REGS_64
from drgn_tools.cache_key import cache_key
from drgn_tools.errors import InputError, TypesError
from drgn_tools.kernel.probing import probing, symbol_address

from ..debuginfo.test_kallsyms import table
from ..support.drawn_kernel import (
    PAGE_BYTES,
    TASK_MEMBERS,
    THREAD_SIZE_BYTES,
    DrawnKernel,
    declare_stack_types,
)


@pytest.fixture
def kernel() -> DrawnKernel:
    k = DrawnKernel()
    declare_stack_types(k)
    return k


@pytest.fixture
def kernel_32() -> DrawnKernel:
    k = DrawnKernel(Architecture.I386)
    declare_stack_types(k)
    return k


def probe(kernel: DrawnKernel) -> Layout:
    return layout_of(kernel.prog)


# ---- the whole


def test_a_kernel_of_today(kernel: DrawnKernel) -> None:
    layout = probe(kernel)
    assert (layout.arch.name, layout.word_bytes, layout.page_bytes) == ("x86_64", 8, PAGE_BYTES)
    assert layout.thread_size_bytes == THREAD_SIZE_BYTES
    assert layout.top_padding_bytes == 0
    assert layout.first_frame_offset == 8
    assert layout.unwinder == "frame_pointer"
    assert layout.encoding is Encoding.LSB
    assert layout.detection.evidence == (("asm_exc_page_fault", 1, Encoding.LSB),)
    assert layout.reliable_stacktrace
    assert not layout.may_need_user_regs
    assert layout.fork_return_addrs == frozenset()


def test_a_kernel_of_32_bits(kernel_32: DrawnKernel) -> None:
    layout = probe(kernel_32)
    assert (layout.arch.name, layout.word_bytes, layout.first_frame_offset) == ("i386", 4, 4)
    assert layout.regs.size_bytes == 17 * 4


@pytest.mark.parametrize(
    ("code", "regs_bytes"),
    [
        ("90 81 4c 24 10 00 00 00 20", 68),  # orl $CS_FROM_KERNEL, 4*4(%esp)
        ("90 81 4c 24 0c 00 00 00 20", 68),  # 3*4(%esp), of 5.3
        ("90 8d 6c 24 01", 60),
    ],
)
def test_before_5_3_entry_code_of_32_bits_saves_less_in_kernel_mode(
    kernel_32: DrawnKernel, code: str, regs_bytes: int
) -> None:
    stub = kernel_32.new("char [64]", bytes.fromhex(code))
    kernel_32.symbol("asm_common_interrupt", stub, size=64)
    assert probe(kernel_32).regs.kernel_mode_bytes == regs_bytes


def test_entry_code_of_64_bits_saves_the_same_in_every_mode(kernel: DrawnKernel) -> None:
    assert probe(kernel).regs.kernel_mode_bytes == 21 * 8


def test_it_is_probed_once(kernel: DrawnKernel) -> None:
    layout = probe(kernel)
    kernel.forget_type("task_struct")
    assert probe(kernel) is layout


@pytest.mark.parametrize(
    ("prog", "said"),
    [(Program(Platform(Architecture.RISCV64)), "is riscv64"), (Program(), "is unknown")],
)
def test_other_architectures_are_refused(prog: Program, said: str) -> None:
    with pytest.raises(InputError, match=said):
        layout_of(prog)


@pytest.mark.parametrize(
    "missing", ["pt_regs", "inactive_task_frame", "task_struct", "signal_struct"]
)
def test_kernel_without_a_type_that_stacks_need_is_refused(
    kernel: DrawnKernel, missing: str
) -> None:
    kernel.forget_type(missing)
    with pytest.raises(TypesError, match=f"{missing}.*give the vmlinux"):
        probe(kernel)


def test_error_that_says_what_is_wrong_is_left_as_it_is(kernel: DrawnKernel) -> None:
    with pytest.raises(TypesError, match=r"^one line$"), probing(kernel.prog):
        raise TypesError("one line")


# ---- THREAD_SIZE


def claim(kernel: DrawnKernel, source: str, size_bytes: int) -> None:
    """Let one source say that THREAD_SIZE has this size."""
    if source == "thread_union":
        kernel.struct(source, f"char stack[{size_bytes}]", TypeKind.UNION)
    elif source == "irq_stack":
        kernel.struct(source, f"char stack[{size_bytes}]")
    else:
        kernel.symbol(f"__start_{source}", kernel.nowhere)
        kernel.symbol(f"__end_{source}", kernel.nowhere + size_bytes)


SOURCES = ("thread_union", "irq_stack", "init_stack", "init_task")


def without_thread_size(kernel: DrawnKernel) -> None:
    kernel.forget_symbol("__start_init_stack")
    kernel.forget_symbol("__end_init_stack")


@pytest.mark.parametrize("source", SOURCES)
def test_thread_size_is_told_by_any_one_source(kernel: DrawnKernel, source: str) -> None:
    without_thread_size(kernel)
    claim(kernel, source, 8192)
    assert probe(kernel).thread_size_bytes == 8192


def test_thread_size_of_sources_that_agree(kernel: DrawnKernel) -> None:
    for source in SOURCES:
        claim(kernel, source, 32768)
    assert probe(kernel).thread_size_bytes == 32768


@pytest.mark.parametrize("source", ["thread_union", "irq_stack", "init_task"])
def test_thread_size_of_sources_that_differ_is_damage(kernel: DrawnKernel, source: str) -> None:
    claim(kernel, source, 8192)
    with pytest.raises(TypesError, match="THREAD_SIZE cannot be 8192 and 16384"):
        probe(kernel)


def test_irq_stack_of_32_bits_says_nothing_of_thread_size(kernel_32: DrawnKernel) -> None:
    claim(kernel_32, "irq_stack", 4096)
    assert probe(kernel_32).thread_size_bytes == THREAD_SIZE_BYTES


@pytest.mark.parametrize("size", [PAGE_BYTES, 65536])
def test_thread_size_may_be_one_page_to_64_kib(kernel: DrawnKernel, size: int) -> None:
    claim(kernel, "init_stack", size)
    assert probe(kernel).thread_size_bytes == size


@pytest.mark.parametrize("size", [2048, 131072, 12288, 16383, 1 << 40])
def test_thread_size_that_cannot_be_is_damage(kernel: DrawnKernel, size: int) -> None:
    claim(kernel, "init_stack", size)
    with pytest.raises(TypesError, match=f"THREAD_SIZE cannot be {size}"):
        probe(kernel)


def test_thread_size_that_nothing_tells_is_damage(kernel: DrawnKernel) -> None:
    without_thread_size(kernel)
    with pytest.raises(TypesError, match="no type or symbol gives THREAD_SIZE"):
        probe(kernel)


@pytest.mark.parametrize("end", [0, -1, -THREAD_SIZE_BYTES])
def test_init_stack_that_ends_before_it_begins_tells_nothing(kernel: DrawnKernel, end: int) -> None:
    kernel.symbol("__end_init_stack", kernel.nowhere + end)
    claim(kernel, "irq_stack", 8192)
    assert probe(kernel).thread_size_bytes == 8192


# ---- padding at the top


@pytest.mark.parametrize(
    # A damaged table of symbols may have lost one of them.
    "name",
    [
        "asm_fred_entrypoint_user",
        "asm_fred_entrypoint_kernel",
        "fred_entry_from_user",
        "fred_entry_from_kernel",
    ],
)
def test_fred_entry_code_means_16_bytes_of_padding(kernel: DrawnKernel, name: str) -> None:
    kernel.symbol(name, kernel.nowhere)
    assert probe(kernel).top_padding_bytes == 16


@pytest.mark.parametrize(("member", "padding"), [("void *vm86;", 16), ("", 8)])
def test_padding_of_32_bits_depends_on_vm86(
    kernel_32: DrawnKernel, member: str, padding: int
) -> None:
    kernel_32.struct("thread_struct", f"unsigned long sp; {member}")
    kernel_32.symbol("asm_fred_entrypoint_user", kernel_32.nowhere)  # not a thing there
    assert probe(kernel_32).top_padding_bytes == padding


def test_vm86_of_64_bits_is_no_padding(kernel: DrawnKernel) -> None:
    kernel.struct("thread_struct", "unsigned long sp0; unsigned long sp; void *vm86")
    assert probe(kernel).top_padding_bytes == 0


# ---- unwinder


@pytest.mark.parametrize(
    ("members", "unwinder"),
    [
        ("unsigned long *bp; unsigned long *orig_sp; unsigned long ip", "frame_pointer"),
        ("unsigned long sp; unsigned long bp; unsigned long ip; char signal", "orc"),
        ("unsigned long *sp", "guess"),
    ],
)
def test_unwinder_is_told_by_the_members_of_its_state(
    kernel: DrawnKernel, members: str, unwinder: str
) -> None:
    kernel.struct("unwind_state", members)
    assert probe(kernel).unwinder == unwinder


def test_unwinder_without_a_state_cannot_be_told(kernel: DrawnKernel) -> None:
    kernel.forget_type("unwind_state")
    assert probe(kernel).unwinder is None


# ---- reliable stack traces, and what they want


@pytest.mark.parametrize(
    ("binding", "has"),
    [(None, False), (SymbolBinding.WEAK, False), (SymbolBinding.GLOBAL, True)],
)
def test_reliable_stack_traces_before_5_2_are_not_the_weak_function(
    kernel: DrawnKernel, binding: SymbolBinding, has: bool
) -> None:
    kernel.forget_symbol("stack_trace_save_tsk_reliable")
    if binding is not None:
        kernel.symbol("save_stack_trace_tsk_reliable", kernel.nowhere, binding=binding)
    assert probe(kernel).reliable_stacktrace is has


def test_user_regs_may_be_needed_before_5_8(kernel: DrawnKernel) -> None:
    stub = symbol_address(kernel.prog, "asm_exc_page_fault")
    assert stub is not None
    kernel.forget_symbol("asm_exc_page_fault")
    kernel.symbol("page_fault", stub, size=64)
    layout = probe(kernel)
    assert layout.may_need_user_regs
    assert layout.encoding is Encoding.LSB


@pytest.mark.parametrize("name", ["asm_exc_invalid_op", "asm_exc_general_protection"])
def test_kernel_that_lost_the_name_of_a_stub_is_not_an_old_one(
    kernel: DrawnKernel, name: str
) -> None:
    kernel.forget_symbol("asm_exc_page_fault")
    kernel.symbol(name, kernel.nowhere)
    assert not probe(kernel).may_need_user_regs


@pytest.mark.parametrize(
    ("symbols", "found"),
    [
        ({"ret_from_fork": 0x1000}, {0x1000}),
        # Where there are both (v6.5), ret_from_fork is in C: a return address there is that of a call.
        ({"ret_from_fork": 0x1000, "ret_from_fork_asm": 0x2000}, {0x2000}),
    ],
)
def test_where_a_new_task_begins(
    kernel: DrawnKernel, symbols: dict[str, int], found: set[int]
) -> None:
    for name, addr in symbols.items():
        kernel.symbol(name, addr)
    assert probe(kernel).fork_return_addrs == found


# ---- entry code


def test_entry_code_that_is_not_in_the_dump_leaves_the_encoding_open(
    kernel: DrawnKernel,
) -> None:
    kernel.symbol("asm_exc_page_fault", kernel.nowhere, size=64)
    detection = probe(kernel).detection
    assert detection.encoding is Encoding.NONE
    assert detection.problem is not None
    assert "not in the dump" in detection.problem


@pytest.mark.parametrize("missing", ["asm_exc_page_fault", "asm_exc_nmi"])
def test_one_stub_that_can_be_read_is_enough(kernel: DrawnKernel, missing: str) -> None:
    stub = symbol_address(kernel.prog, "asm_exc_page_fault")
    assert stub is not None
    kernel.symbol("asm_exc_nmi", stub, size=64)
    kernel.symbol(missing, kernel.nowhere, size=64)
    layout = probe(kernel)
    assert (layout.encoding, layout.detection.problem) == (Encoding.LSB, None)


def test_stub_is_read_no_further_than_it_reaches(kernel: DrawnKernel) -> None:
    stub = symbol_address(kernel.prog, "asm_exc_page_fault")
    assert stub is not None
    kernel.symbol("asm_exc_page_fault", stub, size=5)  # cuts the lea
    assert probe(kernel).detection.evidence == ()


def test_stub_of_absurd_size_is_read_for_a_page(kernel: DrawnKernel) -> None:
    stub = symbol_address(kernel.prog, "asm_exc_page_fault")
    assert stub is not None
    kernel.symbol("asm_exc_page_fault", stub, size=1 << 40)
    kernel.put(stub + PAGE_BYTES, bytes.fromhex("480fbaf53f"))  # another encoding, beyond
    layout = probe(kernel)
    assert (layout.encoding, layout.detection.problem) == (Encoding.LSB, None)


def test_own_symbol_table_of_the_dump_goes_before_debuginfo(kernel: DrawnKernel) -> None:
    stub = symbol_address(kernel.prog, "asm_exc_page_fault")
    assert stub is not None
    symbols = [
        ("Tasm_exc_page_fault", stub),
        ("Tasm_exc_page_fault_end", stub + 64),
        ("D__start_init_stack", kernel.base + 0x10000),
        ("D__end_init_stack", kernel.base + 0x12000),
        ("B_end", kernel.nowhere),
    ]
    kernel.prog.cache[cache_key("drgn_tools.debuginfo.kallsyms")] = table(symbols)
    assert symbol_address(kernel.prog, "stack_trace_save_tsk_reliable") is None
    layout = probe(kernel)
    assert layout.thread_size_bytes == 8192
    assert not layout.reliable_stacktrace
    assert layout.encoding is Encoding.LSB


@pytest.mark.parametrize(
    ("symbol", "cause"),
    [
        # Debian's 6.1 of arm64: init_task has no symbol, nor has any other variable.
        ("T_stext", "built without CONFIG_KALLSYMS_ALL: it has symbols of functions only"),
        ("Djiffies", "type information lacks what a stack needs, or is damaged"),
    ],
)
def test_symbols_of_functions_only_are_named_as_the_cause(
    kernel: DrawnKernel, symbol: str, cause: str
) -> None:
    found = table([(symbol, kernel.base), ("T_end", kernel.nowhere)])
    kernel.prog.cache[cache_key("drgn_tools.debuginfo.kallsyms")] = found
    with pytest.raises(TypesError, match=f"{cause}.*THREAD_SIZE.*give the vmlinux.* with -s"):
        probe(kernel)


# ---- struct task_struct


def with_members(member: str, by: str) -> str:
    changed = re.sub(rf"[^;]*\b{member}(\[\d+\])?;", by, TASK_MEMBERS)
    assert changed != TASK_MEMBERS
    return changed


def test_members_lie_where_the_type_says(kernel: DrawnKernel) -> None:
    task, type_ = probe(kernel).task, kernel.prog.type("struct task_struct")
    assert task.pid == (offsetof(type_, "pid"), 4)
    assert task.comm == (offsetof(type_, "comm"), 16)
    assert task.stack == (offsetof(type_, "stack"), 8)
    assert task.thread_sp == (offsetof(type_, "thread.sp"), 8)
    assert task.tasks_prev == (offsetof(type_, "tasks.prev"), 8)
    assert task.thread_node_next == (offsetof(type_, "thread_node.next"), 8)
    assert task.stack_refcount == (offsetof(type_, "stack_refcount"), 4)
    assert task.signal_thread_head == 8


def test_task_is_read_up_to_the_last_member_that_is_needed(kernel: DrawnKernel) -> None:
    task = probe(kernel).task
    assert task.size_bytes == sum(task.thread_sp)
    assert task.size_bytes < kernel.prog.type("struct task_struct").size


@pytest.mark.parametrize(
    "member",
    "pid tgid comm __state exit_state flags stack thread tasks thread_node signal".split(),
)
def test_task_without_a_member_that_stacks_need_is_damage(member: str) -> None:
    kernel = DrawnKernel()
    declare_stack_types(kernel, with_members(member, ""))
    with pytest.raises(TypesError, match=member):
        probe(kernel)


def test_state_before_5_14_has_another_name() -> None:
    kernel = DrawnKernel()
    declare_stack_types(kernel, with_members("__state", "long state;"))
    task = probe(kernel).task
    assert task.state == (offsetof(kernel.prog.type("struct task_struct"), "state"), 8)


def test_state_of_today_goes_before_a_member_of_the_old_name() -> None:
    kernel = DrawnKernel()
    declare_stack_types(kernel, f"long state; {TASK_MEMBERS}")
    task = probe(kernel).task
    assert task.state == (offsetof(kernel.prog.type("struct task_struct"), "__state"), 4)


def test_cpu_is_in_thread_info_since_5_16(kernel: DrawnKernel) -> None:
    assert probe(kernel).task.cpu == (8, 4)


def test_cpu_before_5_16_is_in_the_task() -> None:
    kernel = DrawnKernel()
    declare_stack_types(kernel, f"{TASK_MEMBERS} unsigned int cpu")
    task, type_ = probe(kernel).task, kernel.prog.type("struct task_struct")
    assert task.cpu == (offsetof(type_, "cpu"), 4)
    assert task.size_bytes == type_.size - 4


def test_kernel_for_one_cpu_has_neither_cpu_nor_on_cpu() -> None:
    kernel = DrawnKernel()
    declare_stack_types(kernel, with_members("on_cpu", ""))
    kernel.struct("thread_info", "unsigned long flags; unsigned int status")
    task = probe(kernel).task
    assert (task.cpu, task.on_cpu) == (None, None)


def test_kernel_whose_stacks_live_as_long_as_their_tasks_has_no_count() -> None:
    kernel = DrawnKernel()
    declare_stack_types(kernel, with_members("stack_refcount", ""))
    assert probe(kernel).task.stack_refcount is None


# ---- sizes that cannot be


@pytest.mark.parametrize("beyond", [0, 4])
def test_task_that_ends_beyond_a_mebibyte_is_damage(kernel: DrawnKernel, beyond: int) -> None:
    pad = (1 << 20) - kernel.prog.type("struct task_struct").size - 4 + beyond
    kernel.struct("task_struct", f"{TASK_MEMBERS} char pad[{pad}]; unsigned int cpu")
    if beyond:
        with pytest.raises(TypesError, match="struct task_struct cannot have 1048580 bytes"):
            probe(kernel)
    else:
        assert probe(kernel).task.size_bytes == 1 << 20


@pytest.mark.parametrize(("registers", "is_damage"), [(8, False), (9, True)])
def test_inactive_frame_of_more_than_eight_words_is_damage(
    kernel: DrawnKernel, registers: int, is_damage: bool
) -> None:
    kernel.struct("inactive_task_frame", f"unsigned long r[{registers}]; unsigned long bp")
    if is_damage:
        with pytest.raises(TypesError, match="struct inactive_task_frame cannot have 72 bytes"):
            probe(kernel)
    else:
        assert probe(kernel).first_frame_offset == 64


def test_registers_of_another_size_than_ever_are_damage(kernel: DrawnKernel) -> None:
    kernel.struct("pt_regs", "unsigned long ip; unsigned long sp")
    with pytest.raises(TypesError):
        probe(kernel)


def registers(**types: str) -> str:
    regs = [name for name, _, _ in REGS_64.fields]
    return "".join(f"{types.get(name, f'unsigned long {name}')};" for name in regs)


@pytest.mark.parametrize(
    ("members", "is_damage"),
    [
        ({"cs": "unsigned short cs; unsigned short x[3]"}, False),  # as FRED's union has it
        ({"ip": "unsigned long sp", "sp": "unsigned long ip"}, True),
        ({"bp": "unsigned long ip", "ip": "unsigned long bp"}, True),
        ({"ip": "unsigned int ip; unsigned int x"}, True),
        ({"ip": "unsigned int x; unsigned int ip"}, True),
        ({"cs": "char cs; char x[7]"}, True),
        ({"ss": "unsigned long ss; unsigned long more"}, True),
    ],
)
def test_registers_in_another_order_than_entry_code_pushes_them_are_damage(
    kernel: DrawnKernel, members: dict[str, str], is_damage: bool
) -> None:
    kernel.struct("pt_regs", registers(**members))
    if is_damage:
        with pytest.raises(TypesError, match="struct pt_regs cannot have"):
            probe(kernel)
    else:
        assert probe(kernel).regs == REGS_64
