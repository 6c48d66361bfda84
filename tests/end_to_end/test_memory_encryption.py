# SPDX-License-Identifier: LGPL-2.1-or-later
"""Dumps of hosts with memory encryption (SME): the answers are those of the same memory without."""

from __future__ import annotations

from pathlib import Path

import drgn
import pytest
from drgn import FaultError

from drgn_tools import audit_kernel, open_program
from drgn_tools.arch.x86.kernel_page_tables import kernel_page_tables
from drgn_tools.debuginfo.vmcoreinfo import vmcoreinfo, vmcoreinfo_lines
from drgn_tools.program.builtin_types import use_builtin_types

from ..support.sme_core import SME_MASK, write_sme_core


@pytest.fixture(scope="module")
def sme_core(demo_core: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sme") / "core"
    assert write_sme_core(demo_core, path) > 1000
    return path


def test_answers_are_those_without_encryption(sme_core: Path, demo_program: drgn.Program) -> None:
    prog = open_program(core=sme_core)
    assert vmcoreinfo(prog)["NUMBER(sme_mask)"] == str(SME_MASK)
    assert audit_kernel(prog).tasks == audit_kernel(demo_program).tasks


def test_program_that_drgn_opened(sme_core: Path, demo_program: drgn.Program) -> None:
    prog = drgn.Program()
    prog.set_core_dump(sme_core)
    with pytest.raises(FaultError):
        prog.read(demo_program["init_task"].address_, 8)
    use_builtin_types(prog)  # as our plugin does
    assert audit_kernel(prog).tasks == audit_kernel(demo_program).tasks


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("NUMBER(sme_mask)", "0"),
        ("NUMBER(sme_mask)", "?"),
        ("NUMBER(phys_base)", "-7"),
        ("NUMBER(phys_base)", ""),
        ("NUMBER(pgtable_l5_enabled)", "other"),
        ("SYMBOL(swapper_pg_dir)", "10"),
        ("SYMBOL(swapper_pg_dir)", "ffffffff80000000"),
        ("SYMBOL(swapper_pg_dir)", "ffffffffffffffff0"),
    ],
)
def test_page_tables_that_are_not_there_are_not_used(sme_core: Path, key: str, value: str) -> None:
    prog = drgn.Program()
    prog.set_core_dump(sme_core)
    lines = dict(vmcoreinfo_lines(prog["VMCOREINFO"].string_()))
    if value == "other":
        value = {"1": "0", "0": "1"}[lines.get(key, "0")]
    assert kernel_page_tables(prog, {**lines, key: value}) is None
    assert kernel_page_tables(prog, lines) is not None
