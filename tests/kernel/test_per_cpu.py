# SPDX-License-Identifier: LGPL-2.1-or-later
"""CPU masks and per-CPU variables: as drgn's own helpers have them."""

from __future__ import annotations

from typing import Optional

import pytest
from drgn import FaultError, Program
from drgn.helpers.linux import cpumask, percpu

from drgn_tools.kernel.per_cpu import cpus_in, per_cpu

from ..support.drawn_kernel import DrawnKernel


def test_the_same_as_drgn_has(demo_program: Program) -> None:
    for name in ("online", "possible", "present", "active"):
        mask = demo_program[f"__cpu_{name}_mask"]
        assert cpus_in(mask) == list(cpumask.for_each_cpu(mask.address_of_()))
    assert cpus_in(demo_program["__cpu_online_mask"]) == [0, 1]
    for cpu in (0, 1):
        for name in ("runqueues", "pcpu_hot"):
            variable = demo_program[name]
            assert per_cpu(variable, cpu).address_ == percpu.per_cpu(variable, cpu).address_
            assert per_cpu(variable, cpu).type_.type_name() == variable.type_.type_name()


@pytest.mark.parametrize(
    ("nr_cpu_ids", "expected"),
    [(128, [0, 63, 64, 127]), (64, [0, 63]), (0, []), (None, [0])],
)
def test_no_cpu_that_there_cannot_be(nr_cpu_ids: Optional[int], expected: list[int]) -> None:
    k = DrawnKernel()
    if nr_cpu_ids is not None:
        k.constant("nr_cpu_ids", nr_cpu_ids, "unsigned int")
    k.struct("cpumask", "unsigned long bits[2]")
    k.variable("__cpu_online_mask", "struct cpumask", {"bits": [1 | 1 << 63] * 2})
    assert cpus_in(k.prog["__cpu_online_mask"]) == expected


def test_a_kernel_for_one_cpu_has_one_copy() -> None:
    k = DrawnKernel()
    k.variable("runqueue", "unsigned long", 7)
    assert per_cpu(k.prog["runqueue"], 0).value_() == 7


def test_an_offset_of_no_cpu_is_a_fault(demo_program: Program) -> None:
    with pytest.raises(FaultError):
        per_cpu(demo_program["runqueues"], 1 << 40).read_()
