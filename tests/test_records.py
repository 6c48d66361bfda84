# SPDX-License-Identifier: LGPL-2.1-or-later
"""Records: frozen, comparable, picklable, and drawn by whoever set the drawing."""

from __future__ import annotations

import copy
import inspect
import pickle
import pydoc
import subprocess
import sys
import weakref

import pytest
from msgspec.structs import asdict, replace

from drgn_tools import drawn
from drgn_tools.arch.x86.pt_regs import REGS_64
from drgn_tools.records import Frame, SavedRegs, Symbol, TaskStack

from .support.fabricated import FAULTING, TASKS


@pytest.mark.parametrize("record", [Symbol, Frame, SavedRegs, TaskStack])
def test_a_record_takes_its_fields_in_their_order(record: type[Frame]) -> None:
    assert tuple(inspect.signature(record).parameters) == record.__struct_fields__
    with pytest.raises(TypeError):
        record()  # type: ignore[call-arg]


def test_help_shows_the_docstring_under_each_field() -> None:
    doc = inspect.getdoc(TaskStack) or ""
    assert "pid: Thread ID in the initial PID namespace" in doc
    assert [name for name in TaskStack.__struct_fields__ if f"\n{name}: " not in doc] == []
    assert "pid: Thread ID in the initial PID namespace" in pydoc.render_doc(TaskStack)  # help()


def test_records_cannot_be_changed_but_replaced_compared_copied_and_pickled() -> None:
    for change in (lambda: setattr(FAULTING, "pid", 7), lambda: delattr(FAULTING, "pid")):
        with pytest.raises((AttributeError, TypeError)):
            change()
    other = replace(FAULTING, pid=7)
    assert (other.pid, other.frames) == (7, FAULTING.frames)
    assert other != FAULTING
    assert replace(other, pid=FAULTING.pid) == FAULTING == copy.deepcopy(FAULTING)
    assert len({*TASKS, *pickle.loads(pickle.dumps(TASKS))}) == len(set(TASKS))
    assert weakref.ref(FAULTING)() is FAULTING


def test_a_record_may_be_subclassed() -> None:
    class Marked(Frame, frozen=True):
        mark: str = "!"

    marked = Marked(0x10, Symbol("f", 3))
    assert (marked.mark, marked.ip, repr(marked)) == ("!", 0x10, "<Frame 0x10 f+0x3>")


def test_registers_as_they_lie_in_memory_are_equal_to_a_dict_of_them() -> None:
    lazy = REGS_64.read(bytes(range(168)))
    one, other = (SavedRegs(0x1000, "syscall", True, r) for r in (lazy, dict(lazy)))
    assert one == other
    assert hash(one) == hash(other)
    assert pickle.loads(pickle.dumps(one)) == one
    assert asdict(one) == asdict(other)
    assert type(pickle.loads(pickle.dumps(one)).registers) is dict


def test_a_symbol_is_data_and_its_text_is_that_of_the_kernel() -> None:
    symbol = Symbol("vfs_read", 0x8F, "ext4")
    assert (str(symbol), symbol.name, symbol.offset) == ("vfs_read+0x8f", "vfs_read", 0x8F)
    assert Frame(0x10, symbol).module == "ext4"
    assert Frame(0x10).module is None


def test_str_of_a_stack_is_its_drawing_also_where_only_records_were_imported() -> None:
    code = (
        "import sys; from drgn_tools.records import TaskStack, Verdict\n"
        "assert 'drgn_tools.render' not in sys.modules\n"
        "print(TaskStack(1, 2, 2, 'c', 'S', 0, False, False, Verdict.RELIABLE))"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (output.stdout.splitlines()[0], output.stderr) == (
        'PID: 2  TASK: 0000000000000001  CPU: 0  STATE: S  COMMAND: "c"',
        "",
    )


def test_another_drawing_can_be_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drawn, "_draw", repr)
    drawn.draw_with(lambda stack: f"<<{stack.pid}>>")
    assert str(FAULTING) == f"<<{FAULTING.pid}>>"
