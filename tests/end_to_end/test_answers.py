# SPDX-License-Identifier: LGPL-2.1-or-later
"""Our answers are the kernel's own, for every task of a dump that carries them."""

from __future__ import annotations

import struct
from pathlib import Path

import drgn
import msgspec
import pytest

from drgn_tools import KernelAudit, Reason, Symbol, Verdict, audit_kernel, open_program
from drgn_tools.unwind.drgn_fallback import use_orc_of_the_dump

from ..conftest import lab_dump, lab_file, lab_vmlinux
from ..lab.sheet import SheetTask, read_sheet
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


def lab_core_and_vmlinux(variant: Variant) -> tuple[str, str]:
    """Where `make lab` puts them, or for the other groups where the lab keeps them."""
    if variant.group == "core":
        return str(lab_file(f"{variant.name}.core")), lab_vmlinux(variant.name)
    dump = lab_dump(variant)
    return str(dump.core), str(dump.read_about()["vmlinux"])


@pytest.mark.lab
@pytest.mark.parametrize("types", ["btf", "dwarf"])
@pytest.mark.parametrize(
    "variant",
    [v for v in (*variants_of("core"), *variants_of("kernels")) if v.unwinder == "frame_pointer"],
    ids=lambda v: v.name,
)
def test_lab_dump_equals_the_kernels_answers(variant: Variant, types: str) -> None:
    core, vmlinux = lab_core_and_vmlinux(variant)
    prog = open_program(core=core, symbols=[vmlinux] if types == "dwarf" else [])
    audit = audit_kernel(prog)
    assert audit.kernel.types == types
    assert audit.kernel.encoding == ("msb" if variant.name == "fp-v3" else "lsb")
    assert audit.problems == ()
    result = compare(audit, read_sheet(prog))
    print(f"\n{variant.name} ({audit.kernel.release}) with {types}: {result}")
    assert result.differences == ()
    assert result.compared > 100
    # Five in page faults, three too deep, and those that were preempted.
    assert result.unreliable >= (8 if "preempted-kernel" in variant.cannot else 10)


@pytest.mark.lab
def test_btf_and_dwarf_give_the_same_records() -> None:
    core = str(lab_file("fp-lsb.core"))
    by_btf = audit_kernel(open_program(core=core))
    by_dwarf = audit_kernel(open_program(core=core, symbols=[lab_vmlinux("fp-lsb")]))
    assert by_btf.tasks == by_dwarf.tasks


@pytest.fixture(scope="module")
def debian() -> tuple[KernelAudit, list[SheetTask]]:
    prog = open_program(core=str(lab_file("debian.core")))
    return audit_kernel(prog), [t for t in read_sheet(prog) if not t.on_cpu]


@pytest.mark.lab
def test_stock_debian_kernel_has_no_verdicts_and_says_why_once(
    debian: tuple[KernelAudit, list[SheetTask]],
) -> None:
    audit, sheet = debian
    assert (audit.kernel.unwinder, audit.kernel.encoding) == ("orc", None)
    assert len(audit.kernel.notes) == 1
    ours = {s.task: s for s in audit}
    for task in sheet:
        s = ours[task.task]
        assert (s.verdict, s.reason) == (Verdict.UNKNOWN, Reason.NOT_ENCODED)
    assert {s.reason for s in audit} == {Reason.NOT_ENCODED, Reason.RUNNING}


@pytest.mark.lab
def test_stock_debian_kernel_has_the_sheets_entry_registers(
    debian: tuple[KernelAudit, list[SheetTask]],
) -> None:
    audit, sheet = debian
    ours = {s.task: s for s in audit}
    compared = 0
    for task in sheet:
        words = struct.unpack("<21Q", task.entry_regs_bytes) if task.has_stack else ()
        user_mode = bool(words) and bool(words[17] & 3)
        regs = ours[task.task].regs
        assert [r.address for r in regs] == ([task.entry_regs] if user_mode else [])
        if user_mode:
            assert tuple(regs[0].registers.values()) == words
            compared += 1
    print(f"\ndebian: {len(sheet)} tasks, {compared} with entry registers as on the sheet")
    assert compared > 60


@pytest.mark.lab
def test_stock_debian_kernel_shows_the_stacks_that_the_kernel_sees(
    debian: tuple[KernelAudit, list[SheetTask]],
) -> None:
    # drgn's ORC unwinder does not know swapped-out return addresses and ends at
    # ftrace trampolines; everything else must be as the kernel has it.
    audit, sheet = debian
    prog = open_program(core=str(lab_file("debian.core")))
    ours = {s.task: s for s in audit}
    other = {
        task.task
        for task in sheet
        if [f.ip for f in task.frames if not f.user_mode]
        != [f.ip for f in ours[task.task].frames if not f.user_mode]
    }
    swapped = {
        task.task
        for task in sheet
        for f in task.frames
        if not f.user_mode and f.at and prog.read_word(f.at) != f.ip
    }
    in_trampoline = {t.task for t in sheet for f in t.frames if f.call_name.startswith("0x")}
    names = " ".join(sorted(ours[task].comm for task in other))
    print(f"\ndebian: {len(sheet)} stacks, drgn's differ in {len(other)}: {names}")
    assert other == swapped | in_trampoline
    # Where frames are missing at the outer end, the record says so.
    by_comm = {s.comm: s for s in audit}
    for comm in ("w-eventfd", "w-ftrace"):
        assert "ends_early" in by_comm[comm].flags
        assert by_comm[comm].regs[-1].entry == "syscall"


@pytest.mark.lab
def test_tasks_on_a_cpu_of_a_stock_debian_kernel_have_the_stack_that_drgn_walks(
    debian: tuple[KernelAudit, list[SheetTask]],
) -> None:
    audit, _ = debian
    prog = open_program(core=str(lab_file("debian.core")))
    use_orc_of_the_dump(prog)
    on_cpu = [s for s in audit if s.on_cpu]
    assert len(on_cpu) == audit.kernel.cpus
    for s in on_cpu:
        assert (s.verdict, s.reason) == (Verdict.UNKNOWN, Reason.RUNNING)
        trace = prog.stack_trace(drgn.Object(prog, "struct task_struct *", s.task))
        theirs = [frame.pc for frame in trace if not frame.is_inline]
        ours = [frame.ip for frame in s.frames if not frame.user_mode]
        # What is no kernel text is not shown: past user-mode registers drgn goes on.
        assert len(ours) > 3 and ours == theirs[: len(ours)]
        assert s.cpu_registers is not None and s.cpu_registers["ip"] == ours[0]
        names = [frame.symbol.name for frame in s.frames if frame.symbol]
        assert {"multi_cpu_stop", "cpu_stopper_thread"} <= set(names)  # the oracle's stop_machine()


def test_lab_dumps_are_where_make_lab_puts_them(tmp_path: Path) -> None:
    # lab_file() fails, not skips, where the lab was meant to run.
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DRGN_TOOLS_LAB_DUMPS", str(tmp_path))
        with pytest.raises(pytest.fail.Exception, match="meant to run"):
            lab_file("fp-lsb.core")
