# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is said of the tasks on a CPU of a machine that died, and of the machine."""

from __future__ import annotations

import pytest

from drgn_tools import Reason, Verdict, audit_kernel, crashed_stack, open_program
from drgn_tools.cli import main

from .conftest import lab_dump
from .lab.variants import variant_named


@pytest.mark.lab
@pytest.mark.parametrize("name", ["crash-nmi-irq", "crash-lockup", "crash-sysrq-kdump"])
def test_the_task_that_crashed_is_known_and_so_are_the_cpus_that_panic_stopped(name: str) -> None:
    prog = open_program(core=lab_dump(variant_named(name)).core)
    audit = audit_kernel(prog)
    assert audit.kernel.cpus == 2
    assert audit.problems == ()
    crashed = [task for task in audit if "crashed" in task.flags]
    assert [task.comm for task in crashed] == ["lab-crasher"]
    assert crashed == [crashed_stack(prog)]
    # One of the two is on a CPU instead of its idle task, or idle is.
    assert sorted(task.cpu for task in audit if task.on_cpu) == [0, 1]
    assert sorted(task.comm for task in audit if "idle" in task.flags) == ["swapper/0", "swapper/1"]
    for task in audit:
        assert (task.cpu_registers is not None) == task.on_cpu
        if task.on_cpu:
            assert task.cpu_registers is not None
            assert task.frames[0].ip == task.cpu_registers["ip"]


@pytest.mark.lab
def test_where_the_unwinder_cannot_go_on_is_said() -> None:
    prog = open_program(core=lab_dump(variant_named("crash-stack-overflow")).core)
    crashed = crashed_stack(prog)
    assert (crashed.verdict, crashed.reason) == (Verdict.UNKNOWN, Reason.RUNNING)
    # The frame pointer of the function that hit the guard page is not of the stack that
    # the double fault is on, and the stack pointer that leads back lies in no stack.
    assert "ends_early" in crashed.flags
    bp = crashed.regs[-1]["bp"]
    assert crashed.why == (
        f"running on CPU 0; frame pointer {bp:#x} after {crashed.frames[-1].symbol} [lab_crash]"
        " does not lead up the stack"
    )
    assert str(crashed).endswith("... the unwinder could not go on\n     </#DF>")


@pytest.mark.lab
def test_stack_without_a_pid_is_of_the_task_that_crashed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    core = lab_dump(variant_named("crash-nmi-irq")).core
    assert main(["stack", "-c", str(core)]) == 0
    drawn = capsys.readouterr().out
    borders = [line.strip() for line in drawn.splitlines() if line.startswith("     <")]
    assert borders == ["<NMI>", "</NMI>", "<IRQ>", "</IRQ>", "<TASK>", "</TASK>"]
    assert main(["stack", "-c", str(core), "--on-cpu"]) == 0
    both = capsys.readouterr().out
    assert both.startswith(drawn)
    assert both.count("VERDICT: unknown: running on CPU") == 2
