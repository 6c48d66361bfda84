# SPDX-License-Identifier: LGPL-2.1-or-later
"""The lab's dump of thousands of tasks: large indeed, and every answer is the kernel's."""

from __future__ import annotations

import pytest

from drgn_tools import Reason, audit_kernel, open_program
from tests.conftest import lab_dump
from tests.lab.sheet import read_sheet
from tests.lab.variants import Variant, variants_of
from tests.support.answers import compare


@pytest.mark.lab
@pytest.mark.parametrize("variant", variants_of("large"), ids=lambda v: v.name)
def test_large_dump_equals_the_kernels_answers(variant: Variant) -> None:
    prog = open_program(core=lab_dump(variant).core)
    audit = audit_kernel(prog)
    assert audit.problems == ()
    result = compare(audit, read_sheet(prog))
    print(f"\n{variant.name}: {result}")
    assert result.differences == ()
    assert result.compared >= 20_000
    crowd = [s for s in audit if s.comm.startswith("c-")]
    assert len(crowd) == 20_000
    # They sleep where they were sent, and two of each fifty are in a page fault of the kernel.
    faulting = [s for s in crowd if s.comm == "c-fault"]
    assert len(faulting) == 800
    of_regs = Reason.KERNEL_MODE_REGS if variant.unwinder == "frame_pointer" else None
    assert {s.reason for s in faulting} == {of_regs}
    assert {s.reason for s in crowd if s.comm != "c-fault"} == {None}
