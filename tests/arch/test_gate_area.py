# SPDX-License-Identifier: LGPL-2.1-or-later
"""The vsyscall page, on drawn kernels."""

from __future__ import annotations

from typing import Optional

import pytest

from drgn_tools.arch.x86.gate_area import gate_area
from drgn_tools.kernel.text import KernelText, TextKind

from ..support.drawn_kernel import DrawnKernel
from ..support.drawn_text import CORE, drawn_image

VSYSCALL = 0xFFFF_FFFF_FF60_0000


@pytest.fixture
def kernel() -> DrawnKernel:
    return drawn_image()


def text_of(kernel: DrawnKernel) -> KernelText:
    return KernelText(kernel.prog, extra={"vsyscall": gate_area(kernel.prog)})


def kind_of(text: KernelText, addr: int) -> Optional[TextKind]:
    found = text.find(addr)
    return found and found.kind


@pytest.mark.parametrize(("mode", "is_there"), [(0, True), (1, True), (2, False)])
def test_vsyscall_page_is_text_unless_switched_off(
    kernel: DrawnKernel, mode: int, is_there: bool
) -> None:
    kernel.variable("vsyscall_mode", "unsigned int", mode)
    text = text_of(kernel)
    kind = TextKind.CORE if is_there else None
    assert [kind_of(text, addr) for addr in (VSYSCALL, VSYSCALL + 4095)] == [kind, kind]
    assert [kind_of(text, addr) for addr in (VSYSCALL - 1, VSYSCALL + 4096)] == [None, None]


def test_vsyscall_page_is_no_text_before_5_16(kernel: DrawnKernel) -> None:
    kernel.variable("vsyscall_mode", "unsigned int", 0)
    kernel.symbol("core_kernel_data", CORE + 0x100)
    assert text_of(kernel).is_kernel_text(VSYSCALL) is False


def test_page_whose_mode_is_not_in_the_dump_leaves_it_open_what_is_text(
    kernel: DrawnKernel,
) -> None:
    kernel.symbol("vsyscall_mode", kernel.nowhere)
    text = text_of(kernel)
    assert len(text.problems) == 1
    assert text.problems[0].startswith("the list of vsyscall cannot be read past entry 0: ")
    assert text.is_kernel_text(VSYSCALL) is None
