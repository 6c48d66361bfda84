# SPDX-License-Identifier: LGPL-2.1-or-later
"""Our answers are the kernel's own, for every task of a dump that carries them."""

from __future__ import annotations

import struct
from collections import Counter
from pathlib import Path
from typing import Optional

import drgn
import msgspec
import pytest

from drgn_tools import KernelAudit, Reason, Symbol, Verdict, audit_kernel, open_program

from ..conftest import lab_dump, lab_file, lab_vmlinux
from ..lab.sheet import read_sheet
from ..lab.variants import Variant, variants_of
from ..support.answers import compare


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
        changed = msgspec.structs.replace(task, **changes)  # type: ignore[arg-type]
        return msgspec.structs.replace(
            audit, tasks=(*audit.tasks[:i], changed, *audit.tasks[i + 1 :])
        )

    frame = msgspec.structs.replace(task.frames[2], ip=task.frames[2].ip + 1)
    other = Verdict.UNRELIABLE if task.verdict is Verdict.RELIABLE else Verdict.RELIABLE
    for wrong in (
        with_task(verdict=other),
        with_task(frames=task.frames[:-1]),
        with_task(frames=(*task.frames[:2], frame, *task.frames[3:])),
        with_task(
            frames=(
                msgspec.structs.replace(task.frames[0], symbol=Symbol("x", 0)),
                *task.frames[1:],
            )
        ),
        msgspec.structs.replace(audit, tasks=audit.tasks[:i] + audit.tasks[i + 1 :]),
    ):
        assert compare(wrong, sheet).differences


def lab_core_and_vmlinux(variant: Variant, types: str) -> tuple[str, Optional[str]]:
    """Where `make lab` puts them, or for the other groups where the lab keeps them; a vmlinux for DWARF only."""
    if variant.group == "core":
        core = str(lab_file(f"{variant.name}.core"))
        return core, lab_vmlinux(variant.name) if types == "dwarf" else None
    dump = lab_dump(variant)
    return str(dump.core), str(dump.read_about()["vmlinux"]) if types == "dwarf" else None


_COMPARED = [
    (variant, types)
    for variant in (*variants_of("core"), *variants_of("kernels"), *variants_of("stock"))
    for types in (("btf", "dwarf") if variant.unwinder == "frame_pointer" else ("btf",))
]


@pytest.mark.lab
@pytest.mark.parametrize(
    ("variant", "types"), _COMPARED, ids=[f"{variant.name}-{types}" for variant, types in _COMPARED]
)
def test_lab_dump_equals_the_kernels_answers(variant: Variant, types: str) -> None:
    core, vmlinux = lab_core_and_vmlinux(variant, types)
    prog = open_program(core=core, symbols=[vmlinux] if vmlinux else [])
    audit = audit_kernel(prog)
    kernel = audit.kernel
    assert (kernel.types, kernel.unwinder, kernel.notes) == (types, variant.unwinder, ())
    if variant.unwinder == "frame_pointer":
        assert kernel.encoding == ("msb" if variant.name == "fp-v3" else "lsb")
    else:
        assert kernel.encoding is None
    assert audit.problems == ()
    result = compare(audit, read_sheet(prog))
    reasons = Counter(str(s.reason or s.verdict) for s in audit)
    print(f"\n{variant.name} ({kernel.release}) with {types}: {result}; {dict(reasons)}")
    assert result.differences == ()
    assert result.compared > 100
    if variant.unwinder == "frame_pointer":
        # Five in page faults, three too deep, and those that were preempted.
        assert result.unreliable >= (8 if "preempted-kernel" in variant.cannot else 10)
    else:
        # Three too deep. Kernel-mode registers are no obstacle.
        assert result.unreliable >= 3
        assert result.regs > 50
        assert any(
            s.verdict is Verdict.RELIABLE and not s.regs[0].user_mode for s in audit if s.regs
        )


@pytest.mark.lab
def test_btf_and_dwarf_give_the_same_records() -> None:
    core = str(lab_file("fp-lsb.core"))
    by_btf = audit_kernel(open_program(core=core))
    by_dwarf = audit_kernel(open_program(core=core, symbols=[lab_vmlinux("fp-lsb")]))
    assert by_btf.tasks == by_dwarf.tasks


@pytest.mark.lab
def test_what_a_stock_debian_kernel_holds() -> None:
    prog = open_program(core=str(lab_file("debian.core")))
    audit = audit_kernel(prog)
    by_comm = {s.comm: s for s in audit}
    # Guesses beyond a BPF trampoline are shown, and are not believed.
    flock = by_comm["w-flock"]
    assert flock.reason is Reason.NO_UNWIND_DATA
    assert flock.reason_frame is not None and flock.why is not None
    assert [f.guessed for f in flock.frames] == [
        i > flock.reason_frame for i in range(len(flock.frames))
    ]
    # The registers of user mode are those at the top of the stack.
    of_task = {s.task: s for s in audit}
    compared = 0
    for task in read_sheet(prog):
        if not task.comparable or of_task[task.task] == flock:
            continue
        for regs in of_task[task.task].regs:
            if regs.user_mode:
                words = struct.unpack("<21Q", task.entry_regs_bytes)
                assert (regs.address, tuple(regs.registers.values())) == (task.entry_regs, words)
                compared += 1
    assert compared > 60
    # The tasks on a CPU were in stop_machine(), held by the oracle.
    on_cpu = [s for s in audit if s.on_cpu]
    assert len(on_cpu) == audit.kernel.cpus
    for s in on_cpu:
        assert (s.verdict, s.reason, s.flags) == (Verdict.UNKNOWN, Reason.RUNNING, ())
        assert s.cpu_registers is not None and s.cpu_registers["ip"] == s.frames[0].ip
        names = [frame.symbol.name for frame in s.frames if frame.symbol]
        assert {"multi_cpu_stop", "cpu_stopper_thread"} <= set(names)
        assert names[-1] == "ret_from_fork"


def test_lab_dumps_are_where_make_lab_puts_them(tmp_path: Path) -> None:
    # lab_file() fails, not skips, where the lab was meant to run.
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DRGN_TOOLS_LAB_DUMPS", str(tmp_path))
        with pytest.raises(pytest.fail.Exception, match="meant to run"):
            lab_file("fp-lsb.core")
