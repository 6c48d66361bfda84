# SPDX-License-Identifier: LGPL-2.1-or-later
"""The stack of the arm64 CPU that died is the one that the kernel printed as it died."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pytest

from drgn_tools import Frame, Reason, TaskStack, Verdict, crashed_stack, open_program
from drgn_tools.kernel.symbolizer import Symbolizer
from drgn_tools.kernel.text import KernelText

from ..conftest import lab_dump
from ..lab.arm64_crash_check import traces_on
from ..lab.variants import Variant, variants_of

pytestmark = pytest.mark.lab

CALLERS = {"null-call": "lab_call", "wild-call": "lab_call", "fault": "crash_fault"}
"""Name of a crash -> who called the function that faulted: lr, as the console prints it."""
_LINE = re.compile(r"(\S+?)(?:/0x[0-9a-f]+)?((?: \[\w+\])?)(?: \([A-Z]+\))?")


@pytest.fixture(params=variants_of("crashes-arm64"), ids=lambda variant: variant.name)
def variant(request: pytest.FixtureRequest) -> Variant:
    given: Variant = request.param
    return given


class Crashed:
    """A machine that died: its console, and our stack of the task that crashed it."""

    def __init__(self, variant: Variant) -> None:
        dump = lab_dump(variant)
        assert variant.crash is not None
        self.crash = variant.crash
        self.console = dump.log.read_text(errors="replace")
        # There if the kernel's own types and symbols are not enough.
        vmlinux = dump.read_about()["vmlinux"]
        prog = open_program(core=dump.core, symbols=[vmlinux] if vmlinux else [])
        self._symbolizer = Symbolizer(prog, KernelText(prog))
        self.stack: TaskStack = crashed_stack(prog)
        self.frames = [frame for frame in self.stack.frames if not frame.user_mode]

    def printed(self, frame: Frame) -> str:
        """A frame as %pS names it: by the address itself, also of a return address."""
        symbol = self._symbolizer.name_exact(frame.ip)
        if symbol is None:
            return f"{frame.ip:#x}"
        return f"{symbol} [{symbol.module}]" if symbol.module else str(symbol)

    def trace(self, kind: str) -> list[str]:
        """The first call trace of a kind on the console, without what is not ours."""
        lines = next(lines for found, lines in traces_on(self.console) if found == kind)
        matches = [_LINE.fullmatch(line) for line in lines]
        assert None not in matches
        return [match[1] + match[2] for match in matches if match is not None]


def behind_panic(lines: Sequence[str]) -> list[str]:
    """From behind panic() on, which has gone on since.

    In 7.2 that is vpanic(). panic() called it as its last instruction, so that %pS names what lies
    behind panic().
    """
    names = [line.partition("+")[0] for line in lines]
    return list(lines[names.index("vpanic" if "vpanic" in names else "panic") + 1 :])


def test_stack_of_the_cpu_that_died_is_the_consoles(variant: Variant) -> None:
    crashed = Crashed(variant)
    stack = crashed.stack
    assert stack.comm == "lab-crasher"
    assert (stack.verdict, stack.reason) == (Verdict.UNKNOWN, Reason.RUNNING)
    assert stack.frames[-1].user_mode
    ours = [crashed.printed(frame) for frame in crashed.frames]
    if crashed.crash.oops is None:
        theirs, ours = behind_panic(crashed.trace("panic")), behind_panic(ours)
    else:
        theirs = crashed.trace("oops")
        regs = [i for i, frame in enumerate(crashed.frames) if frame.regs and ours[i] == theirs[0]]
        ours = ours[regs[0] :]
    print(f"\n{variant.name}: {len(theirs)} entries as printed, {len(stack.regs)} pt_regs")
    assert len(theirs) > 5
    assert ours == theirs


def test_registers_of_the_oops_are_the_consoles(variant: Variant) -> None:
    crashed = Crashed(variant)
    if crashed.crash.oops is None and crashed.crash.name != "stack-overflow":
        pytest.skip("it printed none")
    text = crashed.console[crashed.console.index("Comm: lab-crasher") :]
    text = re.split("Call trace:|Kernel panic", text)[0]
    printed = {
        name: int(value, 16) for name, value in re.findall(r"\b(x\d+|sp) ?: ([0-9a-f]{16})", text)
    }
    assert len(printed) == 31
    assert any(printed.items() <= regs.registers.items() for regs in crashed.stack.regs)


def test_stacks_that_the_cpu_was_on(variant: Variant) -> None:
    crashed = Crashed(variant)
    kinds = list(dict.fromkeys(frame.stack for frame in crashed.frames))
    name = crashed.crash.name
    if name == "stack-overflow":
        assert kinds == ["overflow", "task"]
        assert crashed.stack.flags == ("crashed", "stack_overflow")
        assert crashed.stack.why is not None
        assert crashed.stack.why.endswith("the task stack overflowed")
    elif name.startswith("hardirq") or name == "softirq-task":
        assert kinds == ["irq", "task"]
    else:
        assert kinds == ["task"]


def test_the_caller_that_the_walk_skipped_is_in_lr(variant: Variant) -> None:
    crashed = Crashed(variant)
    if crashed.crash.name not in CALLERS:
        pytest.skip("its function had made its frame record, or has none to compare with")
    lr = re.search(r"Comm: lab-crasher.*?lr : (\S+)/0x", crashed.console, re.S)
    assert lr is not None
    assert lr[1].partition("+")[0] == CALLERS[crashed.crash.name]
    callers = [regs.caller for regs in crashed.stack.regs if regs.caller is not None]
    assert lr[1] in [str(caller.symbol) for caller in callers]
