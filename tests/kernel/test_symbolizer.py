# SPDX-License-Identifier: LGPL-2.1-or-later
"""Names of addresses on drawn kernels, as the kernel's own %pS and %pB print them."""

from __future__ import annotations

import pytest

from drgn_tools.cache_key import cache_key
from drgn_tools.kernel.symbolizer import Symbolizer
from drgn_tools.kernel.text import KernelText
from drgn_tools.records import Symbol

from ..debuginfo.test_kallsyms import table
from ..support.drawn_kernel import DrawnKernel
from ..support.drawn_text import (
    CORE,
    INIT,
    INIT_END,
    LOADED,
    bpf_programs,
    drawn_image,
    kprobe_pages,
    mem,
    module_kallsyms,
    modules,
    trampolines,
    with_mem,
)


@pytest.fixture
def kernel() -> DrawnKernel:
    return drawn_image()


def symbolizer(kernel: DrawnKernel) -> Symbolizer:
    return Symbolizer(kernel.prog, KernelText(kernel.prog))


@pytest.fixture
def named(kernel: DrawnKernel) -> DrawnKernel:
    """Two functions in core text, one behind the other."""
    kernel.symbol("schedule", CORE + 0x100, size=0x20)
    kernel.symbol("schedule_tail", CORE + 0x120, size=0x20)
    return kernel


def test_exact_name_is_that_of_the_address_itself(named: DrawnKernel) -> None:
    names = symbolizer(named)
    assert names.name_exact(CORE + 0x100) == Symbol("schedule", 0, None)
    assert names.name_exact(CORE + 0x11F) == Symbol("schedule", 0x1F, None)
    assert names.name_exact(CORE + 0x120) == Symbol("schedule_tail", 0, None)
    assert str(names.name_exact(CORE + 0x11F)) == "schedule+0x1f"


def test_return_address_has_the_name_of_the_byte_before_and_an_offset_of_its_own(
    named: DrawnKernel,
) -> None:
    # A call that never returns may be the last instruction of its function.
    names = symbolizer(named)
    assert names.name_return_address(CORE + 0x120) == Symbol("schedule", 0x20, None)
    assert names.name_return_address(CORE + 0x121) == Symbol("schedule_tail", 1, None)
    assert names.name_return_address(CORE + 0x100) is None


def test_name_asked_for_twice_is_the_same(named: DrawnKernel) -> None:
    names = symbolizer(named)
    for _ in range(2):
        assert names.name_exact(CORE + 0x101) == Symbol("schedule", 1, None)
        assert names.name_exact(CORE) is None


def test_own_symbol_table_of_the_dump_goes_before_debuginfo(named: DrawnKernel) -> None:
    symbols = [("T_stext", CORE), ("tschedule_of_the_dump", CORE + 0x100), ("B_end", INIT_END)]
    named.prog.cache[cache_key("drgn_tools.debuginfo.kallsyms")] = table(symbols, CORE)
    names = symbolizer(named)
    assert names.name_exact(CORE + 0x104) == Symbol("schedule_of_the_dump", 4, None)
    assert names.name_exact(CORE - 1) is None


@pytest.mark.parametrize("addr", [0, 0x40_1000, LOADED, (1 << 64) - 1, 1 << 64, -1])
def test_unknown_address_has_no_name(named: DrawnKernel, addr: int) -> None:
    names = symbolizer(named)
    assert names.name_exact(addr) is None
    assert names.name_return_address(addr) is None


def test_bpf_program_is_named_by_its_own_name_and_start(kernel: DrawnKernel) -> None:
    bpf_programs(kernel, (LOADED, LOADED + 0x40, b"bpf_prog_1_\xff"))
    names = symbolizer(kernel)
    assert names.name_exact(LOADED + 4) == Symbol("bpf_prog_1_\\xff", 4, None)
    assert names.name_return_address(LOADED + 0x41) == Symbol("bpf_prog_1_\\xff", 0x41, None)


def test_what_claims_to_lie_in_the_image_takes_no_name_away(kernel: DrawnKernel) -> None:
    """Seed 200049 of formats-stock: a BPF program with a damaged end."""
    kernel.symbol("start_kernel", INIT + 0x100, size=0x20)
    bpf_programs(kernel, (INIT - 0x1000, INIT_END, b"bpf_prog_1"))
    names = symbolizer(kernel)
    assert names.name_exact(INIT + 0x104) == Symbol("start_kernel", 4, None)
    assert names.name_exact(INIT - 0x100) == Symbol("bpf_prog_1", 0xF00, None)


def test_trampolines_and_slots_have_no_name_whatever_symbol_lies_there(
    kernel: DrawnKernel,
) -> None:
    trampolines(kernel, (LOADED, 0x100))
    kprobe_pages(kernel, "kprobe_insn_slots", LOADED + 0x1000)
    kernel.symbol("not_the_kernels", LOADED, size=0x2000)
    names = symbolizer(kernel)
    assert names.name_exact(LOADED) is None
    assert names.name_exact(LOADED + 0x1000) is None


def test_module_text_is_named_by_the_table_of_the_module(kernel: DrawnKernel) -> None:
    with_mem(kernel)
    kallsyms = module_kallsyms(kernel, ("dig", LOADED + 0x10))
    modules(kernel, {"name": b"lab", "kallsyms": kallsyms, **mem((LOADED, 0x100))})
    kernel.symbol("not_the_modules", LOADED, size=0x100)
    names = symbolizer(kernel)
    assert names.name_exact(LOADED + 0x14) == Symbol("dig", 4, "lab")
    assert names.name_return_address(LOADED + 0x10) is None
    assert names.name_return_address(LOADED + 0x11) == Symbol("dig", 1, "lab")


def test_module_whose_init_text_cannot_be_has_no_names(kernel: DrawnKernel) -> None:
    """From seed 500055 of the dump formats-stock: a traceback."""
    with_mem(kernel)
    kallsyms = module_kallsyms(kernel, ("dig", LOADED + 0x10))
    damaged = mem((LOADED, 0x100), (LOADED + 0x1000, 0xFFFF_FFFF))
    modules(kernel, {"name": b"lab", "kallsyms": kallsyms, **damaged})
    text = KernelText(kernel.prog)
    assert text.is_kernel_text(LOADED + 0x14) is True
    assert Symbolizer(kernel.prog, text).name_exact(LOADED + 0x14) is None


def test_module_whose_table_is_not_in_the_dump_has_no_names(kernel: DrawnKernel) -> None:
    with_mem(kernel)
    modules(kernel, {"name": b"lab", "kallsyms": kernel.nowhere, **mem((LOADED, 0x100))})
    text = KernelText(kernel.prog)
    assert Symbolizer(kernel.prog, text).name_exact(LOADED + 0x14) is None
    assert text.is_kernel_text(LOADED + 0x14) is True
