# SPDX-License-Identifier: LGPL-2.1-or-later
"""Our answers are the kernel's own, for every task of a dump that carries them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import drgn
import pytest

from drgn_tools import KernelAudit, Reason, Verdict, audit_kernel, open_program

from .answers import compare
from .conftest import lab_file
from .lab.sheet import read_sheet


def test_demo_core_equals_the_kernels_answers(demo_program: drgn.Program) -> None:
    result = compare(audit_kernel(demo_program), read_sheet(demo_program))
    print(f"\ndemo core: {result}")
    assert result.differences == ()
    # The sheet is not empty, and has the cases that matter.
    assert result.compared > 100
    assert result.unreliable >= 10
    assert result.regs > 50


def test_a_difference_would_be_seen(demo_program: drgn.Program) -> None:
    audit = audit_kernel(demo_program)
    sheet = read_sheet(demo_program)
    i, task = next((i, s) for i, s in enumerate(audit.tasks) if len(s.frames) > 4 and not s.on_cpu)

    def with_task(**changes: object) -> KernelAudit:
        changed = dataclasses.replace(task, **changes)  # type: ignore[arg-type]
        return dataclasses.replace(audit, tasks=(*audit.tasks[:i], changed, *audit.tasks[i + 1 :]))

    frame = dataclasses.replace(task.frames[2], ip=task.frames[2].ip + 1)
    other = Verdict.UNRELIABLE if task.verdict is Verdict.RELIABLE else Verdict.RELIABLE
    for wrong in (
        with_task(verdict=other),
        with_task(frames=task.frames[:-1]),
        with_task(frames=(*task.frames[:2], frame, *task.frames[3:])),
        with_task(frames=(dataclasses.replace(task.frames[0], symbol="x+0x0"), *task.frames[1:])),
        dataclasses.replace(audit, tasks=audit.tasks[:i] + audit.tasks[i + 1 :]),
    ):
        assert compare(wrong, sheet).differences


@pytest.mark.lab
@pytest.mark.parametrize("types", ["btf", "dwarf"])
@pytest.mark.parametrize("variant", ["fp-lsb", "fp-v3"])
def test_lab_dump_equals_the_kernels_answers(variant: str, types: str) -> None:
    core = lab_file(f"{variant}.core")
    symbols: list[str] = [str(lab_file(f"{variant}.vmlinux"))] if types == "dwarf" else []
    prog = open_program(core=str(core), symbols=symbols)
    audit = audit_kernel(prog)
    assert audit.kernel.types == types
    assert audit.kernel.encoding == {"fp-lsb": "lsb", "fp-v3": "msb"}[variant]
    assert audit.problems == ()
    result = compare(audit, read_sheet(prog))
    print(f"\n{variant} with {types}: {result}")
    assert result.differences == ()
    assert result.compared > 100
    assert result.unreliable >= 10


@pytest.mark.lab
def test_btf_and_dwarf_give_the_same_records() -> None:
    core = str(lab_file("fp-lsb.core"))
    by_btf = audit_kernel(open_program(core=core))
    by_dwarf = audit_kernel(open_program(core=core, symbols=[str(lab_file("fp-lsb.vmlinux"))]))
    assert by_btf.tasks == by_dwarf.tasks


@pytest.mark.lab
def test_stock_debian_kernel_has_no_verdicts_and_the_sheets_entry_registers() -> None:
    prog = open_program(core=str(lab_file("debian.core")))
    audit = audit_kernel(prog)
    assert (audit.kernel.unwinder, audit.kernel.encoding) == ("orc", None)
    assert len(audit.kernel.notes) == 1
    sheet = read_sheet(prog)
    ours = {s.task: s for s in audit}
    with_user_regs = 0
    for task in sheet:
        if task.on_cpu or not task.has_stack:
            continue
        s = ours[task.task]
        assert (s.verdict, s.reason) == (Verdict.UNKNOWN, Reason.NOT_ENCODED)
        wanted = [f.regs for f in task.frames if f.user_mode]
        assert [r.address for r in s.regs if r.user_mode] == wanted
        if wanted:
            with_user_regs += 1
            layout_bytes = task.entry_regs_bytes
            assert wanted == [task.entry_regs]
            words = [
                int.from_bytes(layout_bytes[at : at + 8], "little")
                for at in range(0, len(layout_bytes), 8)
            ]
            assert list(s.regs[-1].registers.values()) == words
    print(f"\ndebian: {len(sheet)} tasks, {with_user_regs} with entry registers as on the sheet")
    assert with_user_regs > 20


def test_lab_dumps_are_where_make_lab_puts_them(tmp_path: Path) -> None:
    # lab_file() fails, not skips, where the lab was meant to run.
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DRGN_TOOLS_LAB_DUMPS", str(tmp_path))
        with pytest.raises(pytest.fail.Exception, match="meant to run"):
            lab_file("fp-lsb.core")
