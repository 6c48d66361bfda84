# SPDX-License-Identifier: LGPL-2.1-or-later
"""Kernel text on drawn kernels: every clause of __kernel_text_address()."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Callable, Optional

import drgn
import pytest

from drgn_tools.debuginfo.kallsyms import Kallsyms
from drgn_tools.kernel import text as text_module
from drgn_tools.kernel.symbolizer import Symbolizer
from drgn_tools.kernel.text import KernelText, TextKind, TextRange

from ..support.drawn_kernel import PAGE_BYTES, DrawnKernel
from ..support.drawn_text import (
    COMING,
    CORE,
    CORE_END,
    GOING,
    INIT,
    INIT_END,
    LIVE,
    LOADED,
    UNFORMED,
    bpf_programs,
    declare_module,
    drawn_image,
    kprobe_pages,
    mem,
    modules,
    trampolines,
    with_mem,
)


@pytest.fixture
def kernel() -> DrawnKernel:
    return drawn_image()


def kind_of(text: KernelText, addr: int) -> Optional[TextKind]:
    found = text.find(addr)
    return found and found.kind


def is_half_open(text: KernelText, start: int, end: int, kind: TextKind) -> bool:
    """Are exactly [start, end) of this kind, as far as its edges tell?"""
    kinds = [kind_of(text, addr) for addr in (start - 1, start, end - 1, end)]
    return kinds == [None, kind, kind, None]


# ---- the image


def test_core_and_init_text_are_half_open(kernel: DrawnKernel) -> None:
    text = KernelText(kernel.prog)
    assert is_half_open(text, CORE, CORE_END, TextKind.CORE)
    assert is_half_open(text, INIT, INIT_END, TextKind.INIT)
    assert text.problems == []


def test_everything_else_is_no_text(kernel: DrawnKernel) -> None:
    text = KernelText(kernel.prog)
    for addr in (0, 1, 0x40_1000, LOADED, 0xFFFF_FFFF_FF60_0000, (1 << 64) - 1):
        assert text.is_kernel_text(addr) is False
    assert text.is_kernel_text(CORE) is True


def test_damaged_symbols_leave_it_open_what_is_text(
    demo_program: drgn.Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A list whose symbol has another name is not looked for. A fuzzer made stacks unreliable so.
    text = KernelText(demo_program)
    assert text.is_kernel_text(LOADED) is False
    assert text.problems == []
    monkeypatch.setattr(Kallsyms, "is_sound", lambda _: False)
    text = KernelText(demo_program)
    assert text.is_kernel_text(demo_program.symbol("schedule").address) is True
    assert text.problems == []
    assert text.is_kernel_text(LOADED) is None
    assert text.is_kernel_text(LOADED + 1) is None
    assert text.problems == ["the table of symbols (kallsyms) is damaged"]


@pytest.mark.parametrize("missing", ["_stext", "_etext", "_sinittext", "_einittext"])
def test_image_without_a_boundary_leaves_it_open_what_is_text(
    kernel: DrawnKernel, missing: str
) -> None:
    kernel.forget_symbol(missing)
    text = KernelText(kernel.prog)
    assert len(text.problems) == 1
    assert missing in text.problems[0]
    assert text.is_kernel_text(LOADED) is None
    assert text.is_kernel_text(CORE) is (None if missing in ("_stext", "_etext") else True)


@pytest.mark.parametrize(
    ("symbol", "addr"),
    [("_etext", CORE - 1), ("_einittext", 0), ("_etext", CORE + 64)],
)
def test_image_whose_boundaries_make_no_sense_leaves_it_open_what_is_text(
    kernel: DrawnKernel, symbol: str, addr: int
) -> None:
    kernel.symbol("schedule", CORE + 0x1000)
    kernel.forget_symbol(symbol)
    kernel.symbol(symbol, addr)
    text = KernelText(kernel.prog)
    assert len(text.problems) == 1
    assert "text cannot be from" in text.problems[0]
    assert text.is_kernel_text(LOADED) is None


# ---- modules


def test_module_text_and_init_text_are_text_and_its_data_is_not(kernel: DrawnKernel) -> None:
    with_mem(kernel)
    modules(kernel, {"name": b"ext4", **mem((LOADED, 0x2000), (LOADED + 0x8000, 0x1000))})
    text = KernelText(kernel.prog)
    assert text.find(LOADED) == TextRange(LOADED, LOADED + 0x2000, TextKind.MODULE, "ext4")
    assert is_half_open(text, LOADED, LOADED + 0x2000, TextKind.MODULE)
    assert is_half_open(text, LOADED + 0x8000, LOADED + 0x9000, TextKind.MODULE)
    assert text.is_kernel_text(LOADED - 0x10_0000) is False
    assert text.problems == []


@pytest.mark.parametrize(
    ("state", "counts"), [(LIVE, True), (COMING, True), (GOING, True), (UNFORMED, False)]
)
def test_module_counts_in_every_state_but_unformed(
    kernel: DrawnKernel, state: int, counts: bool
) -> None:
    with_mem(kernel)
    modules(
        kernel,
        {"name": b"first", "state": state, **mem((LOADED, 0x1000))},
        {"name": b"second", **mem((LOADED + 0x1000, 0x1000))},
    )
    text = KernelText(kernel.prog)
    assert text.is_kernel_text(LOADED) is counts
    assert text.is_kernel_text(LOADED + 0x1000) is True


def test_module_since_4_5_has_two_layouts(kernel: DrawnKernel) -> None:
    kernel.struct("module_layout", "void *base; unsigned int size; unsigned int text_size")
    declare_module(kernel, "struct module_layout core_layout; struct module_layout init_layout")
    modules(
        kernel,
        {
            "core_layout": {"base": LOADED, "size": 0x9000, "text_size": 0x2000},
            "init_layout": {"base": LOADED + 0xA000, "size": 0x9000, "text_size": 0x1000},
        },
    )
    text = KernelText(kernel.prog)
    assert is_half_open(text, LOADED, LOADED + 0x2000, TextKind.MODULE)
    assert is_half_open(text, LOADED + 0xA000, LOADED + 0xB000, TextKind.MODULE)


def test_module_whose_text_cannot_be_is_none(kernel: DrawnKernel) -> None:
    """Or its unwind data would be taken for those of BPF trampolines (seed 100195 of formats-stock)."""
    with_mem(kernel)
    modules(
        kernel,
        {"name": b"sound", **mem((LOADED, 0x1000), (0, 0))},
        {"name": b"damaged", **mem((LOADED + 0x4000, 0xFFFF_FFFF), (0, 0))},
    )
    text = KernelText(kernel.prog)
    assert list(text.modules) == ["sound"]
    assert len(text.problems) == 1
    assert text.is_kernel_text(LOADED + 0x5000) is None


def test_module_before_4_5_has_plain_members(kernel: DrawnKernel) -> None:
    declare_module(
        kernel,
        "void *module_core; unsigned int core_size; unsigned int core_text_size;"
        "void *module_init; unsigned int init_size; unsigned int init_text_size",
    )
    modules(
        kernel,
        {
            "module_core": LOADED,
            "core_size": 0x9000,
            "core_text_size": 0x2000,
            "module_init": LOADED + 0xA000,
            "init_size": 0x9000,
            "init_text_size": 0x1000,
        },
    )
    text = KernelText(kernel.prog)
    assert is_half_open(text, LOADED, LOADED + 0x2000, TextKind.MODULE)
    assert is_half_open(text, LOADED + 0xA000, LOADED + 0xB000, TextKind.MODULE)


# ---- ftrace trampolines


def test_ftrace_trampolines_are_text_up_to_the_end_of_their_list(kernel: DrawnKernel) -> None:
    trampolines(kernel, (LOADED + 0x1000, 0x100), (LOADED + 0x3000, 0x80))
    text = KernelText(kernel.prog)
    assert is_half_open(text, LOADED + 0x1000, LOADED + 0x1100, TextKind.FTRACE)
    assert is_half_open(text, LOADED + 0x3000, LOADED + 0x3080, TextKind.FTRACE)
    assert text.is_kernel_text(LOADED) is False
    assert text.problems == []


def test_freed_ftrace_trampoline_that_keeps_its_size_is_none(kernel: DrawnKernel) -> None:
    trampolines(kernel, (0, 0x100), (LOADED + 0x1000, 0x100))
    text = KernelText(kernel.prog)
    assert text.problems == []
    assert text.is_kernel_text(0x80) is False
    assert kind_of(text, LOADED + 0x1000) is TextKind.FTRACE


def test_without_any_tracer_the_list_is_its_end(kernel: DrawnKernel) -> None:
    trampolines(kernel)
    assert KernelText(kernel.prog).is_kernel_text(LOADED) is False


def test_kernel_without_dynamic_ftrace_has_no_trampolines(kernel: DrawnKernel) -> None:
    kernel.struct("ftrace_ops", "struct ftrace_ops *next")
    ops = kernel.new("struct ftrace_ops")
    kernel.variable("ftrace_ops_list", "struct ftrace_ops *", ops)
    assert KernelText(kernel.prog).problems == []


# ---- kprobe slots


@pytest.mark.parametrize("cache", ["kprobe_insn_slots", "kprobe_optinsn_slots"])
def test_kprobe_slots_are_whole_pages(kernel: DrawnKernel, cache: str) -> None:
    kprobe_pages(kernel, cache, LOADED, LOADED + 4 * PAGE_BYTES)
    text = KernelText(kernel.prog)
    for page in (LOADED, LOADED + 4 * PAGE_BYTES):
        assert is_half_open(text, page, page + PAGE_BYTES, TextKind.KPROBE)
    assert text.problems == []


# ---- BPF


def test_bpf_program_is_text_to_its_end_inclusive(kernel: DrawnKernel) -> None:
    bpf_programs(kernel, (LOADED, LOADED + 0x40, b"bpf_prog_6deef7357e7b4530"))
    text = KernelText(kernel.prog)
    assert is_half_open(text, LOADED, LOADED + 0x41, TextKind.BPF)
    assert text.problems == []


def test_bpf_program_before_5_7_is_whole_pages_without_a_name(kernel: DrawnKernel) -> None:
    kernel.struct("bpf_binary_header", "unsigned int pages")
    kernel.struct("bpf_prog", "void *bpf_func")
    kernel.struct("bpf_prog_aux", "struct bpf_prog *prog; struct list_head ksym_lnode")
    # Its header lies at the start of its pages (here far above what new() hands out).
    start = kernel.put(kernel.base + 32 * PAGE_BYTES, b"\x02")
    prog = kernel.new("struct bpf_prog", {"bpf_func": start + 0x84})
    aux = kernel.new("struct bpf_prog_aux", {"prog": prog})
    kernel.ring(kernel.variable("bpf_kallsyms", "struct list_head"), aux + 8)
    text = KernelText(kernel.prog)
    assert is_half_open(text, start, start + 2 * PAGE_BYTES, TextKind.BPF)
    assert Symbolizer(kernel.prog, text).name_exact(start + 0x84) is None


# ---- text that only one architecture has


def test_extra_text_is_core_text(kernel: DrawnKernel) -> None:
    page = TextRange(LOADED, LOADED + PAGE_BYTES, TextKind.CORE)
    trampolines(kernel, (LOADED, 0x100))
    text = KernelText(kernel.prog, extra={"vsyscall": [page]})
    assert text.find(LOADED) == page
    assert is_half_open(text, LOADED, LOADED + PAGE_BYTES, TextKind.CORE)
    assert text.problems == []


def test_extra_text_that_cannot_be_read_is_a_problem(kernel: DrawnKernel) -> None:
    def unreadable() -> Iterator[TextRange]:
        yield TextRange(LOADED, LOADED + 1, TextKind.CORE)
        kernel.prog.read_u32(kernel.nowhere)

    text = KernelText(kernel.prog, extra={"vsyscall": unreadable()})
    assert text.is_kernel_text(LOADED) is True
    assert text.is_kernel_text(LOADED + 1) is None
    assert len(text.problems) == 1
    assert text.problems[0].startswith("the list of vsyscall cannot be read past entry 1: ")


# ---- ranges that meet


def test_core_comes_first_and_init_last_of_ranges_that_overlap(kernel: DrawnKernel) -> None:
    trampolines(kernel, (CORE, 0x100), (INIT, 0x100))
    text = KernelText(kernel.prog)
    assert kind_of(text, CORE) is TextKind.CORE
    assert kind_of(text, INIT) is TextKind.FTRACE
    assert kind_of(text, INIT + 0x100) is TextKind.INIT


def test_small_range_inside_another_hides_nothing_of_it(kernel: DrawnKernel) -> None:
    trampolines(
        kernel,
        (LOADED + 0x100, 0x10),  # inside the second
        (LOADED, 0x1000),
        (LOADED + 0x200, 0x10),
        (LOADED + 0x2000, 0x10),
    )
    text = KernelText(kernel.prog)
    inner, outer = text.find(LOADED + 0x10F), text.find(LOADED + 0x110)
    assert inner and outer
    assert inner == TextRange(LOADED + 0x100, LOADED + 0x110, TextKind.FTRACE, owner=inner.owner)
    assert outer == TextRange(LOADED, LOADED + 0x1000, TextKind.FTRACE, owner=outer.owner)
    # Each knows its struct ftrace_ops.
    assert inner.owner and outer.owner
    assert (inner.owner.trampoline, outer.owner.trampoline) == (LOADED + 0x100, LOADED)
    for addr in (0x0, 0x100, 0x110, 0x180, 0x210, 0xFFF, 0x2000):
        assert text.is_kernel_text(LOADED + addr) is True
    for addr in (-1, 0x1000, 0x1FFF, 0x2010):
        assert text.is_kernel_text(LOADED + addr) is False


# ---- damage: what is not found may be text all the same


@pytest.mark.parametrize(
    ("start", "size"),
    [(0x40_0000, 0x1000), (1 << 63, (1 << 31) + 1), (0x7FFF_FFFF_FFFF_F000, 0x1000)],
)
def test_range_that_cannot_be_is_a_problem(kernel: DrawnKernel, start: int, size: int) -> None:
    trampolines(kernel, (LOADED, 0x100), (start, size))
    text = KernelText(kernel.prog)
    assert len(text.problems) == 1
    assert f"past entry 1: ftrace trampoline text cannot be from {start:#x}" in text.problems[0]
    assert text.is_kernel_text(LOADED) is True
    assert text.is_kernel_text(start) is None


def test_largest_range_that_can_be_is_none(kernel: DrawnKernel) -> None:
    trampolines(kernel, (1 << 63, 1 << 31))
    text = KernelText(kernel.prog)
    assert text.problems == []
    assert text.is_kernel_text(1 << 63) is True


def draw_modules(kernel: DrawnKernel) -> list[int]:
    with_mem(kernel)
    values = [mem((LOADED, 0x100)), mem((LOADED + 0x1000, 0x100))]
    return [addr + 8 for addr in modules(kernel, *values)]


def draw_trampolines(kernel: DrawnKernel) -> list[int]:
    return trampolines(kernel, (LOADED, 0x100), (LOADED + 0x1000, 0x100))


def draw_bpf(kernel: DrawnKernel) -> list[int]:
    programs = [(start, start + 0x100, b"prog") for start in (LOADED, LOADED + 0x1000)]
    return [addr + 80 for addr in bpf_programs(kernel, *programs)]


def draw_kprobes(kernel: DrawnKernel) -> list[int]:
    kprobe_pages(kernel, "kprobe_insn_slots", LOADED, LOADED + 0x1000)
    head = kernel.prog["kprobe_insn_slots"].pages
    return [head.next.value_(), head.next.next.value_()]


LISTS = pytest.mark.parametrize("draw", [draw_modules, draw_trampolines, draw_bpf, draw_kprobes])
DrawList = Callable[[DrawnKernel], list[int]]
"""Draws a list with text at LOADED and LOADED + 0x1000; gives the addresses of its links."""


@LISTS
def test_list_that_leads_out_of_the_dump_keeps_what_came_before(
    kernel: DrawnKernel, draw: DrawList
) -> None:
    links = draw(kernel)
    kernel.put_word(links[0], kernel.nowhere)
    text = KernelText(kernel.prog)
    assert len(text.problems) == 1
    assert "cannot be read past entry" in text.problems[0]
    assert text.is_kernel_text(LOADED) is True
    assert text.is_kernel_text(LOADED + 0x1000) is None


@LISTS
def test_list_bent_into_a_loop_ends_and_says_so(kernel: DrawnKernel, draw: DrawList) -> None:
    links = draw(kernel)
    kernel.put_word(links[0], links[0])
    text = KernelText(kernel.prog)
    assert len(text.problems) == 1
    assert f"loops back to {links[0]:#x}" in text.problems[0]
    assert text.is_kernel_text(LOADED) is True
    assert text.is_kernel_text(LOADED + 0x1000) is None


def test_list_longer_than_any_is_cut(kernel: DrawnKernel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_module, "_MAX_LIST_ENTRIES", 1)
    draw_trampolines(kernel)
    text = KernelText(kernel.prog)
    assert text.problems == ["the list of ftrace trampolines does not end"]
    assert text.is_kernel_text(LOADED + 0x1000) is None


def test_damaged_list_leaves_the_other_lists_alone(kernel: DrawnKernel) -> None:
    kernel.put_word(draw_modules(kernel)[1], kernel.nowhere)
    trampolines(kernel, (LOADED + 0x8000, 0x10))
    assert KernelText(kernel.prog).is_kernel_text(LOADED + 0x8000) is True


def test_a_list_whose_symbol_is_there_but_not_its_type_is_no_empty_list(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # v7.2 has data symbols with the letter of text: "built without" must not be
    # concluded from a type that was not found.
    no_types: Any = {}
    monkeypatch.setattr(text_module, "symbol_address", lambda prog, name: None)
    assert text_module._variable(no_types, "modules") is None
    monkeypatch.setattr(text_module, "symbol_address", lambda prog, name: 0xFFFF_FFFF_8100_0000)
    with pytest.raises(LookupError):
        text_module._variable(no_types, "modules")
