# SPDX-License-Identifier: LGPL-2.1-or-later
"""The table of per-CPU variables, against kernels whose BTF has them: it must say the same."""

from __future__ import annotations

import drgn
import pytest
from drgn import sizeof
from drgn.helpers.linux import cpu_curr, idle_task, per_cpu

from drgn_tools import audit_kernel, open_program
from drgn_tools.debuginfo.per_cpu_types import PER_CPU

from ..conftest import lab_file
from ..support.without_variables import without_variables


@pytest.fixture(scope="module")
def nameless(demo_core: str) -> drgn.Program:
    return without_variables(demo_core)


def test_what_is_not_in_the_table_is_hidden(nameless: drgn.Program) -> None:
    assert "tmigr_cpu" not in PER_CPU
    with pytest.raises(LookupError):
        nameless["tmigr_cpu"]


def same_variables(by_table: drgn.Program, by_btf: drgn.Program) -> int:
    compared = 0
    for name in PER_CPU:
        try:
            expected = by_btf.variable(name)
        except LookupError:
            continue  # not in this kernel
        found = by_table.variable(name)
        assert found.address_ == expected.address_, name
        assert found.type_.type_name() == expected.type_.type_name(), name
        assert sizeof(found) == sizeof(expected), name
        compared += 1
    return compared


def test_variables_equal_those_of_btf(nameless: drgn.Program, demo_program: drgn.Program) -> None:
    assert same_variables(nameless, demo_program) > 40


def test_audit_is_the_same(nameless: drgn.Program, demo_program: drgn.Program) -> None:
    audit = audit_kernel(nameless)
    assert audit == audit_kernel(demo_program)
    assert any(task.on_cpu for task in audit)


def test_helpers_of_drgn_find_the_copy_of_each_cpu(
    nameless: drgn.Program, demo_program: drgn.Program
) -> None:
    for cpu in (0, 1):
        for find in (cpu_curr, idle_task):
            assert find(nameless, cpu).value_() == find(demo_program, cpu).value_()
        bases = per_cpu(nameless["timer_bases"], cpu)
        assert len(bases) == 3
        assert [base.cpu.value_() for base in bases] == [cpu] * 3


@pytest.mark.lab
def test_stock_kernel_is_the_same() -> None:
    core = str(lab_file("debian.core").resolve())
    by_table, by_btf = without_variables(core), open_program(core=core)
    assert same_variables(by_table, by_btf) > 50
    assert audit_kernel(by_table) == audit_kernel(by_btf)
