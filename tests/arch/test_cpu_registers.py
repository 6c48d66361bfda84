# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is said of the tasks on a CPU of a machine that died, and of the machine."""

from __future__ import annotations

import re
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import drgn
import pytest

from drgn_tools import Reason, Verdict, audit_kernel, crashed_stack, open_program
from drgn_tools.arch import cpu_registers as cpu_registers_module
from drgn_tools.arch.x86.cpu_registers import cpu_registers
from drgn_tools.commands.main import main

from ..conftest import lab_dump
from ..lab.variants import variant_named
from ..support.console import our_entries


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
@pytest.mark.parametrize(
    ("name", "stack"), [("crash-stack-overflow", "task"), ("crash-hardirq-overflow", "irq")]
)
def test_a_stack_that_overflowed_is_shown_down_to_user_mode(name: str, stack: str) -> None:
    # The kernel's own trace ends at the registers of the double fault, and guesses ("?")
    # what is below: the same calls, among what else looks like one.
    dump = lab_dump(variant_named(name))
    prog = open_program(core=dump.core)
    crashed = crashed_stack(prog)
    assert (crashed.verdict, crashed.reason) == (Verdict.UNKNOWN, Reason.RUNNING)
    assert crashed.flags == ("crashed", "stack_overflow")
    assert crashed.why == f"running on CPU 0; the {stack} stack overflowed"
    entries = our_entries(crashed)
    double_fault = next(i for i, entry in enumerate(entries[1:], 1) if entry.registers)
    below = entries[double_fault + 1 : -1]
    assert len(below) > 40
    assert {entry.stack for entry in below} == {stack.upper(), "TASK"}
    oops = re.split("BUG: |Kernel panic", dump.log.read_text(errors="replace"))[1]
    guesses = [name + module for name, module in _GUESS.findall(oops)]
    assert is_subsequence([entry.what for entry in below], guesses)
    assert crashed.frames[-1].user_mode


_GUESS = re.compile(r"\] +\? ([\w.]+\+0x[0-9a-f]+)/0x[0-9a-f]+((?: \[\w+\])?)$", re.MULTILINE)


def is_subsequence(some: Sequence[str], of: Sequence[str]) -> bool:
    rest = iter(of)
    return all(one in rest for one in some)


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


@pytest.mark.parametrize(
    "error", [drgn.BadDataError("unknown ORC SP base register 0"), MemoryError(), KeyError()]
)
def test_registers_that_drgn_cannot_find_are_none(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    # drgn unwinds the stack as well, though only its innermost frame is wanted. A fuzzer damaged ORC.
    def stack_trace(_: object) -> None:
        raise error

    monkeypatch.setattr(cpu_registers_module, "Object", lambda *_: None)
    prog: Any = SimpleNamespace(cache={}, stack_trace=stack_trace)
    task: Any = SimpleNamespace(addr=1)
    regs: Any = None
    assert cpu_registers(prog, regs, task) is None
