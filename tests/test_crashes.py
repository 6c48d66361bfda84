# SPDX-License-Identifier: LGPL-2.1-or-later
"""The stack of the CPU that died is the one that the kernel printed as it died."""

from __future__ import annotations

import pytest

from drgn_tools import Reason, TaskStack, Verdict, audit_kernel, open_program, task_stacks

from .answers import compare
from .conftest import lab_dump
from .console import Oops, our_entries, read_console, what_both_saw
from .lab.sheet import read_sheet
from .lab.variants import Variant, variants_of

NO_TEXT_BELOW_PANIC = ("crash-null-call", "crash-wild-call")
"""The kernel's own trace out of panic() ends at registers whose ip is no kernel text; ours goes on."""


@pytest.mark.lab
@pytest.mark.parametrize("variant", variants_of("crashes"), ids=lambda v: v.name)
def test_stack_of_the_cpu_that_died_is_the_consoles(variant: Variant) -> None:
    dump = lab_dump(variant)
    oopses = read_console(dump.log.read_text(errors="replace"))
    running = [s for s in task_stacks(open_program(core=dump.core)) if s.on_cpu]
    dead = next(s for s in running if s.comm == "lab-crasher")
    assert (dead.verdict, dead.reason) == (Verdict.UNKNOWN, Reason.RUNNING)
    mine = [o for o in oopses if (o.pid, o.cpu) == (dead.pid, dead.cpu)]
    compared = panic_trace(variant, dead, [o for o in mine if not o.from_regs])
    if variant.name not in (
        "crash-hardirq-warn",
    ):  # its registers are those of a warning, since gone
        compared += oops_trace(dead, [o for o in mine if o.from_regs])
    assert compared
    print(f"\n{variant.name}: {compared} entries as on the console, {len(dead.regs)} pt_regs")


def panic_trace(variant: Variant, dead: TaskStack, oopses: list[Oops]) -> int:
    if not oopses:
        return 0  # a crash kernel was started right after the oops
    theirs, ours = what_both_saw(oopses[-1], our_entries(dead))
    assert theirs
    if variant.name in NO_TEXT_BELOW_PANIC:
        ours = ours[: len(theirs)]
    assert same(theirs, ours)
    return len(theirs)


def oops_trace(dead: TaskStack, oopses: list[Oops]) -> int:
    if not oopses:
        return 0  # a panic without an oops before it
    theirs, ours = what_both_saw(oopses[-1], our_entries(dead))
    assert theirs
    assert same(theirs, ours)
    return len(theirs)


def same(theirs: list, ours: list) -> bool:  # type: ignore[type-arg]
    """Equal entries; of registers, all that the console prints."""
    assert [(e.stack, e.what) for e in ours] == [(e.stack, e.what) for e in theirs]
    for i, (a, b) in enumerate(zip(theirs, ours)):
        if i == 0 and b.registers is None:
            continue  # the registers that the CPU has in the dump lie on no stack
        assert (a.registers is None) == (b.registers is None)
        for name, value in (a.registers or {}).items():
            assert (name, b.registers[name]) == (name, value)
    return True


@pytest.mark.lab
@pytest.mark.parametrize("variant", variants_of("kernels"), ids=lambda v: v.name)
def test_other_kernels_equal_their_own_answers(variant: Variant) -> None:
    prog = open_program(core=lab_dump(variant).core)
    audit = audit_kernel(prog)
    assert audit.problems == ()
    result = compare(audit, read_sheet(prog))
    print(f"\n{variant.name} ({audit.kernel.release}): {result}")
    assert result.differences == ()
    assert result.compared > 100
