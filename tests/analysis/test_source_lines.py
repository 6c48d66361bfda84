# SPDX-License-Identifier: LGPL-2.1-or-later
"""Source lines of frames: which address is looked up, and what is drawn."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Callable, NamedTuple, Optional

import drgn
import pytest

from drgn_tools import open_program, task_stacks, with_source_lines
from drgn_tools.records import Frame, SourceLine
from drgn_tools.render.stack import draw_stack

from ..conftest import lab_file, lab_vmlinux
from ..support.fabricated import SLEEPER, task


class Location(NamedTuple):
    filename: str
    line: int
    column: int
    name: Callable[[], Optional[str]]


def location(function: Optional[str], filename: str, line: int) -> Location:
    return Location(filename, line, 3, lambda: function)


class Lines:
    """A program with DWARF for these addresses."""

    def __init__(self, known: dict[int, list[Location]]) -> None:
        self.known = known
        self.asked: list[int] = []

    def source_location(self, address: int) -> list[Location]:
        self.asked.append(address)
        if address not in self.known:
            raise LookupError("source code location not found")
        return self.known[address]


CALL = Frame(0x1005)
INTERRUPTED = Frame(0x2005, exact=True, regs=0x9000)
USER = Frame(0x3005, user_mode=True, exact=True, regs=0x9100)


def frames_of(lines: Lines, *frames: Frame) -> list[tuple[str, ...]]:
    (found,) = with_source_lines(lines, [task(1, frames=frames)])  # type: ignore[arg-type]
    return [tuple(map(str, frame.source)) for frame in found.frames]


def test_a_call_is_before_its_return_address_and_an_interrupted_instruction_is_not() -> None:
    lines = Lines(
        {
            0x1004: [
                location("context_switch", "core.c", 5363),
                location("__schedule", "core.c", 6752),
            ],
            0x2005: [location("vfs_read", "read_write.c", 567)],
        }
    )
    assert frames_of(lines, CALL, INTERRUPTED, USER) == [
        ("context_switch at core.c:5363", "__schedule at core.c:6752"),
        ("vfs_read at read_write.c:567",),
        (),  # an address of user space may be one of the kernel's on no machine
    ]
    assert lines.asked == [0x1004, 0x2005]


def test_a_task_without_source_stays_as_it_is() -> None:
    (found,) = with_source_lines(Lines({}), [SLEEPER])  # type: ignore[arg-type]
    assert found is SLEEPER


def test_a_frame_of_many_stacks_is_looked_up_once() -> None:
    lines = Lines({0x1004: [location("f", "f.c", 1)]})
    list(with_source_lines(lines, [task(pid, frames=(CALL,)) for pid in range(5)]))  # type: ignore[arg-type]
    assert lines.asked == [0x1004]


def test_what_dwarf_does_not_tell_is_left_out() -> None:
    lines = Lines({0x1004: [location(None, "f.c", 0)]})
    assert frames_of(lines, CALL) == [("f.c",)]


def test_of_any_number_of_inlined_functions_only_some_are_shown() -> None:
    inlined = [location(f"f{i}", "f.c", i + 1) for i in range(100_000)]
    (found,) = frames_of(Lines({0x1004: inlined}), CALL)
    assert (len(found), found[0], found[-1]) == (100, "f0 at f.c:1", "f99999 at f.c:100000")


def test_inlined_functions_are_drawn_above_the_one_that_they_are_in() -> None:
    source = (SourceLine("inner\x1b[31m", "a.h", 5), SourceLine("f", "dir/a.c", 7))
    drawn = draw_stack(task(1, frames=(Frame(0xFFFF_FFFF_8100_1005, source=source),)))
    assert drawn.split("\n")[2:] == [
        "         inlined           inner\\x1b[31m at a.h:5",
        "     #0  ffffffff81001005  (no symbol) at dir/a.c:7",
    ]


def test_a_dump_without_dwarf_has_no_source(
    demo_program: drgn.Program,
) -> None:
    before = list(task_stacks(demo_program))
    assert list(with_source_lines(demo_program, before)) == before


@pytest.mark.lab
@pytest.mark.parametrize("variant", ["fp-lsb", "fp-v3"])
def test_drgn_says_the_same_of_its_own_stacks(variant: str) -> None:
    core, vmlinux = lab_file(f"{variant}.core"), lab_vmlinux(variant)
    prog = open_program(core=core, symbols=[vmlinux], modules=True)
    compared = 0
    for stack in with_source_lines(prog, task_stacks(prog)):
        if stack.on_cpu or "never_run" in stack.flags:  # a return address to no call
            continue
        trace = prog.stack_trace(drgn.Object(prog, "struct task_struct *", stack.task))
        pcs = [frame.pc for frame in trace if not frame.is_inline]
        ips = [frame.ip for frame in stack.frames if not frame.user_mode]
        # drgn does not know addresses that a tracer has rewritten, and may go on beyond the last frame.
        if pcs[: len(ips)] != ips:
            continue
        lines = [line for frame in stack.frames for line in frame.source]
        theirs = list(lines_of(trace))
        assert [(line.file, line.line) for line in lines] == [line[1:] for line in theirs]
        # It has no name for a function in assembly.
        for line, (function, *_) in zip(lines, theirs):
            assert function in (None, line.function)
        compared += len(lines)
    assert compared > 500


def lines_of(trace: drgn.StackTrace) -> Iterator[tuple[Optional[str], str, int]]:
    for frame in trace:
        try:
            source = frame.source()
        except LookupError:
            continue
        yield frame.function_name, source.filename, source.line
