# SPDX-License-Identifier: LGPL-2.1-or-later
"""The stack of the CPU that died is the one that the kernel printed as it died."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import drgn
import pytest

from drgn_tools import Reason, Verdict, open_program, task_stacks
from drgn_tools.kernel.probing import symbol_address
from drgn_tools.kernel.symbolizer import Symbolizer
from drgn_tools.kernel.text import KernelText

from ..conftest import lab_dump
from ..lab.variants import Variant, variant_named, variants_of
from ..support.console import Entry, Oops, our_entries, read_console, what_both_saw

ENDS_AT_THE_OOPS = ("null-call", "wild-call", "stack-overflow", "hardirq-overflow")
"""The kernel's trace out of panic() ends at the registers of the oops, where ours goes on.

__show_trace_log_lvl() asks the unwinder for the next frame only at words of the stack that are
kernel text: not at registers whose ip is none. And where the stack pointer has run off its stack,
into the guard page, get_stack_info() has no stack to go on with.
"""
HOOKED = {"kretprobe-below": "crash_kretprobe_below"}
"""Who called the function with a kretprobe. The unwinder knows, the console does not show it.

__show_trace_log_lvl() prints what lies on the stack, and asks the function graph tracer alone what
was there before: the trampoline of rethook it prints as if somebody had called from before it.
"""
OFF_ITS_STACK = ("stack-overflow", "hardirq-overflow")
"""With ORC the kernel's trace goes on to the end: a rule tells where the caller is, not a word."""
LOST_ITS_STACK = "double-fault"
"""The kernel's traces have the callers of the code that faulted neither as entries nor with a ``?``.

On x86-32 a double fault comes by a task gate. No frame pointer leads to the registers of the oops,
and the sp in them is on no stack.
"""
SAME_CALLERS = "crash-fault-i386"
"""A crash whose console has those that it would have had."""


_HELD_AGAINST_THE_CONSOLE = [
    (variant, types)
    for group in ("crashes", "crashes-years", "crashes-stock", "crashes-i386")
    for variant in variants_of(group)
    for types in (("btf", "dwarf") if variant.unwinder == "frame_pointer" else ("btf",))
]


@pytest.mark.lab
@pytest.mark.parametrize(
    ("variant", "types"),
    _HELD_AGAINST_THE_CONSOLE,
    ids=[f"{variant.name}-{types}" for variant, types in _HELD_AGAINST_THE_CONSOLE],
)
def test_stack_of_the_cpu_that_died_is_the_consoles(variant: Variant, types: str) -> None:
    dump = lab_dump(variant)
    symbols = [dump.read_about()["vmlinux"]] if types == "dwarf" else []
    prog = open_program(core=dump.core, symbols=symbols)
    dead = next(s for s in task_stacks(prog) if s.on_cpu and s.comm == "lab-crasher")
    assert (dead.verdict, dead.reason) == (Verdict.UNKNOWN, Reason.RUNNING)
    crash = variant.crash
    assert crash is not None
    ours = our_entries(dead)
    printed = read_console(dump.said.read_text(errors="replace"))
    mine = [oops for oops in printed if (oops.pid, oops.cpu) == (dead.pid, dead.cpu)]
    if crash.name in HOOKED:
        mine = [with_caller(oops, trampoline(prog), HOOKED[crash.name], ours) for oops in mine]
    oopses = [oops for oops in mine if oops.from_regs]
    panics = [oops for oops in mine if not oops.from_regs]
    # variants.py says which of the two the kernel prints: without it there is nothing to compare.
    assert (bool(oopses), bool(panics)) == (crash.oops is not None, crash.panic is not None)
    overflow = crash.name in OFF_ITS_STACK
    ends_early = crash.name in ENDS_AT_THE_OOPS
    if overflow and variant.unwinder == "orc":
        overflow = ends_early = False
    compared = 0
    if crash.name == LOST_ITS_STACK:
        compared = lost_stack_trace(panics.pop(), oopses.pop(), ours)
    for panic in panics:
        if ends_early:
            compared += ending_trace(panic, oopses[0], ours)
        else:
            compared += trace(panic, ours)
    for oops in oopses:
        if crash.name == "hardirq-warn":
            compared += warning_trace(oops, ours)
        elif overflow:
            compared += overflow_trace(oops, ours)
        else:
            compared += trace(oops, ours)
    print(f"\n{variant.name}, {types}: {compared} entries as printed, {len(dead.regs)} pt_regs")


def trace(oops: Oops, ours: Sequence[Entry]) -> int:
    theirs, both = what_both_saw(oops, ours)
    assert theirs
    return same(theirs, both)


def trampoline(prog: drgn.Program) -> str:
    """How %pB names the trampoline of rethook: by what lies before it."""
    address = symbol_address(prog, "arch_rethook_trampoline")
    assert address is not None
    return str(Symbolizer(prog, KernelText(prog)).name_return_address(address))


def with_caller(oops: Oops, trampoline: str, caller: str, ours: Sequence[Entry]) -> Oops:
    """The trace with our entry for that of the trampoline, which must be of the caller."""
    (at,) = (i for i, entry in enumerate(oops.entries) if entry.what == trampoline)
    entry = ours[at - len(oops.entries)]
    assert entry.what.partition("+")[0] == caller
    entries = [*oops.entries[:at], entry, *oops.entries[at + 1 :]]
    return replace(oops, entries=entries)


def ending_trace(panic: Oops, oops: Oops, ours: Sequence[Entry]) -> int:
    """What ours has beyond the end is for the trace that began there."""
    theirs, both = what_both_saw(panic, ours)
    beyond = both[len(theirs) :]
    assert beyond
    assert beyond == what_both_saw(oops, ours)[1][1:]
    return same(theirs, both[: len(theirs)])


def overflow_trace(oops: Oops, ours: Sequence[Entry]) -> int:
    """The unwinder gave nothing, but what ours has is on the stack, in this order."""
    theirs, both = what_both_saw(oops, ours)
    assert len(theirs) == 1
    *calls, entry_from_user = both[1:]
    assert entry_from_user.registers is not None
    clues = iter(places(oops.clues))
    assert [place for place in places(calls) if place not in clues] == []
    # Of the function that called itself all are there.
    (again,) = {entry for entry in places(calls) if "lab_overflow+" in entry[1]}
    assert places(calls).count(again) == places(oops.clues).count(again) > 50
    return same(theirs, both[:1]) + len(calls)


def lost_stack_trace(panic: Oops, oops: Oops, ours: Sequence[Entry]) -> int:
    """The console ends at the registers of the oops, where ours goes on to the callers."""
    theirs, both = what_both_saw(panic, ours)
    registers, from_registers = what_both_saw(oops, ours)
    assert len(registers) == 1
    caller, *callers, from_user = from_registers[1:]
    assert both[len(theirs) + 1 :] == from_registers[1:]
    assert caller.what.partition("+")[0] == "crash_double_fault"
    assert from_user.registers is not None
    assert places(callers) == places(callers_of_a_crash())
    return same(theirs, both[: len(theirs)]) + same(registers, from_registers[:1])


def callers_of_a_crash() -> list[Entry]:
    """Those in the kernel, as the console of another crash has them."""
    said = lab_dump(variant_named(SAME_CALLERS)).said.read_text(errors="replace")
    entries = read_console(said)[0].entries
    names = [entry.what.partition("+")[0] for entry in entries]
    return entries[names.index("crash_write") : -1]


def warning_trace(oops: Oops, ours: Sequence[Entry]) -> int:
    """The function that warned has gone on: its registers are gone, its callers are there."""
    warned, *callers = oops.entries
    assert callers
    here = ours[-len(oops.entries)]
    assert here.what.partition("+")[0] == warned.what.partition("+")[0]
    return same(callers, ours[-len(callers) :])


def same(theirs: Sequence[Entry], ours: Sequence[Entry]) -> int:
    """Equal entries; of registers, all that the console prints. Returns how many entries."""
    assert places(ours) == places(theirs)
    for a, b in zip(theirs, ours):
        assert (a.registers is None) == (b.registers is None)
        assert b.registers is None or (a.registers or {}).items() <= b.registers.items()
    return len(theirs)


def places(entries: Sequence[Entry]) -> list[tuple[str, str]]:
    return [(entry.stack, entry.what) for entry in entries]


AS_5_10_PRINTS = """\
[    2.97] CPU: 0 PID: 31 Comm: lab-crasher Tainted: G           O      5.10.262 #1
[    2.97] RIP: 0010:lab_fault+0x6/0x16 [lab_crash]
[    2.97] RSP: 0018:ff788e76c0003ce0 EFLAGS: 00000046
[    2.97] Call Trace:
[    2.97]  <IRQ>
[    2.97]  ? timer_fired+0xf/0x13 [lab_crash]
[    2.97]  hrtimer_interrupt+0x97/0x15b
[    2.97]  </IRQ>
[    2.97]  irq_exit_rcu+0xe/0x10
[    2.97] RIP: 0010:kretprobe_trampoline+0x0/0x4f
[    2.97] RSP: 8010be68:ff5b9e708010be28 EFLAGS: 00000246
[    2.97]  ksys_write+0x6b/0x9c
[    2.97] Modules linked in: lab_crash(O) lab_helper(O)
[    2.97] RIP: 0010:lab_fault+0x6/0x16 [lab_crash]
[    2.97] RSP: 0018:ff788e76c0003ce0 EFLAGS: 00000046
"""


def test_a_console_without_a_border_of_the_task() -> None:
    (oops,) = read_console(AS_5_10_PRINTS)
    assert (oops.cpu, oops.pid, oops.from_regs) == (0, 31, True)
    assert places(oops.entries) == [
        ("IRQ", "lab_fault+0x6 [lab_crash]"),
        ("IRQ", "hrtimer_interrupt+0x97"),
        ("TASK", "irq_exit_rcu+0xe"),
        ("TASK", "kretprobe_trampoline+0x0"),
        ("TASK", "ksys_write+0x6b"),
    ]
    assert places(oops.clues) == [("IRQ", "timer_fired+0xf [lab_crash]")]
    assert oops.entries[3].registers == {"CS": 0x10, "RSP": 0xFF5B9E708010BE28, "EFLAGS": 0x246}


def test_an_overflow_is_held_against_all_that_called() -> None:
    regs = {"CS": 0x10}
    again = Entry("TASK", "lab_overflow+0x4c [lab_crash]")
    oops = Oops(0, 1, [Entry("TASK", "lab_overflow+0x35 [lab_crash]", regs)], from_regs=True)
    oops.clues = [*[again] * 60, Entry("TASK", "x+0x1"), Entry("TASK", "entry+0x1")]
    user = Entry("TASK", "0x4442cf", {"CS": 0x33})
    ours = [oops.entries[0], *[again] * 60, Entry("TASK", "entry+0x1"), user]
    assert overflow_trace(oops, ours) == 62
    for wrong in (
        [*ours[:20], *ours[21:]],
        [*ours[:-2], Entry("TASK", "other+0x1"), user],
        [*ours[:-2], Entry("IRQ", "entry+0x1"), user],
        ours[:-1],
    ):
        with pytest.raises(AssertionError):
            overflow_trace(oops, wrong)
