# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which walker a kernel gets."""

from __future__ import annotations

import drgn
import pytest
from msgspec.structs import replace

from drgn_tools.arch.registry import layout_of
from drgn_tools.arch.x86.layout import X86Layout
from drgn_tools.arch.x86.orc_entry import OrcForm
from drgn_tools.arch.x86.orc_tables import OrcImage, OrcProblem
from drgn_tools.kernel.stack_memory import StackMemory
from drgn_tools.kernel.task_list import TaskList
from drgn_tools.kernel.text import KernelText
from drgn_tools.unwind import probe
from drgn_tools.unwind.base import nothing_rewritten
from drgn_tools.unwind.drgn_fallback import DrgnWalker
from drgn_tools.unwind.frame_pointer import FramePointerWalker
from drgn_tools.unwind.orc import OrcRules, OrcWalker
from drgn_tools.unwind.probe import probe_walker
from drgn_tools.unwind.recovery import RecoverLayout, Rethook

NO_RECOVERY = RecoverLayout(8, None, None)
RETHOOK = RecoverLayout(8, None, Rethook(0xE000, 0, 0, 0))


def test_encoded_frame_pointers_are_followed(demo_program: drgn.Program) -> None:
    layout = layout_of(demo_program)
    walker = probe_walker(demo_program, layout, KernelText(demo_program), RETHOOK)
    assert isinstance(walker, FramePointerWalker)
    assert walker.encoding == "lsb"
    assert walker._fast_path._trampolines == {0xE000}


@pytest.mark.parametrize("unwinder", ["orc", "guess"])
def test_kernel_whose_unwinder_cannot_be_restated_gets_drgns(
    demo_program: drgn.Program, unwinder: str
) -> None:
    orc = OrcProblem("...") if unwinder == "orc" else None
    layout = replace(layout_of(demo_program), unwinder=unwinder, orc=orc)
    walker = probe_walker(demo_program, layout, KernelText(demo_program), NO_RECOVERY)
    assert isinstance(walker, DrgnWalker)
    task = next(t for t in TaskList(demo_program, layout.task) if t.comm == "w-nanosleep")
    steps = walker.walk_sleeping(task, StackMemory(0, 0, 0, b""), nothing_rewritten).steps
    assert [step.user_mode for step in steps] == [False] * (len(steps) - 1) + [True]
    assert len(steps) > 5


@pytest.mark.parametrize("recover", [NO_RECOVERY, RETHOOK])
def test_rules_of_orc_are_followed(
    demo_program: drgn.Program, monkeypatch: pytest.MonkeyPatch, recover: RecoverLayout
) -> None:
    made = []

    class Tables:
        def __init__(self, *of: object) -> None:
            made.append((of, self.find))

        def find(self, addr: int) -> None:
            return None

    monkeypatch.setattr(probe, "OrcTables", Tables)
    image = OrcImage(OrcForm(3, 11, None, False), 1, 2, 3, (), None, None, False, frozenset({1}))
    layout = replace(layout_of(demo_program), unwinder="orc", orc=image)
    assert isinstance(layout, X86Layout)
    text = KernelText(demo_program)
    walker = probe_walker(demo_program, layout, text, recover)
    assert isinstance(walker, OrcWalker)
    assert (walker.name, walker.encoding, walker.kernel_regs_are_unreliable) == ("orc", None, False)
    [(of, find)] = made
    assert of == (demo_program, image, text)
    rethook = recover.rethook.trampoline if recover.rethook else None
    first, exact, trampolines = layout.first_frame_offset, frozenset({1}), recover.trampolines
    assert walker._rules == OrcRules(find, layout.regs, first, exact, False, rethook, trampolines)
