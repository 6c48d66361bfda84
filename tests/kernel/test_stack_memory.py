# SPDX-License-Identifier: LGPL-2.1-or-later
"""Reading a stack whose pages are only partly in the dump."""

from __future__ import annotations

import drgn
import pytest

from drgn_tools.kernel.stack_memory import NotInDump, StackMemory, TaskStackReader

PAGE = 4096
STACK = 0xFFFF_C900_0010_0000


def program(missing: tuple[int, ...] = (), stack_addr: int = STACK) -> drgn.Program:
    """Four pages of stack, each full of its own number; those *missing* fault."""
    prog = drgn.Program(drgn.Platform(drgn.Architecture.X86_64))
    for page in range(4):
        if page in missing:
            continue
        data = bytes([page + 1]) * PAGE

        def read(
            address: int, count: int, offset: int, physical: bool, data: bytes = data
        ) -> bytes:
            return data[offset : offset + count]

        prog.add_memory_segment(stack_addr + page * PAGE, PAGE, read)
    return prog


def read_task_stack(prog: drgn.Program, stack_addr: int, sp_addr: int) -> StackMemory:
    return TaskStackReader(prog, 4 * PAGE, PAGE, 40).read(stack_addr, sp_addr)


def test_only_the_live_part_is_read() -> None:
    stack = read_task_stack(program(), STACK, STACK + 3 * PAGE + 8)
    assert (stack.begin_addr, stack.end_addr) == (STACK, STACK + 4 * PAGE)
    assert (stack.data_addr, stack.data) == (STACK + 3 * PAGE + 8, b"\x04" * (PAGE - 8))
    assert stack.holes == ()


def test_missing_pages_become_holes_and_the_rest_is_kept() -> None:
    sp = STACK + PAGE + 100
    stack = read_task_stack(program(missing=(2,)), STACK, sp)
    assert stack.holes == ((STACK + 2 * PAGE, STACK + 3 * PAGE),)
    assert len(stack.data) == STACK + 4 * PAGE - sp
    assert stack.read(sp, 8) == b"\x02" * 8
    assert stack.read(STACK + 3 * PAGE, 8) == b"\x04" * 8
    with pytest.raises(NotInDump):
        stack.read(STACK + 2 * PAGE + 8, 8)


def test_stack_with_no_page_at_all_is_one_long_hole() -> None:
    stack = read_task_stack(program(missing=(0, 1, 2, 3)), STACK, STACK + 2 * PAGE)
    assert [STACK + 2 * PAGE <= start < end for start, end in stack.holes] == [True, True]


@pytest.mark.parametrize("sp", [0, STACK - PAGE, STACK + 4 * PAGE - 40, 1 << 63, (1 << 64) - 8])
def test_stack_pointer_that_is_off_the_stack_reads_nothing(sp: int) -> None:
    # Would fault, if it did.
    stack = read_task_stack(program(missing=(0, 1, 2, 3)), STACK, sp)
    assert (stack.data, stack.holes) == (b"", ())


def test_stack_pointer_below_the_stack_reads_from_its_start_if_the_first_frame_is_on_it() -> None:
    stack = read_task_stack(program(), STACK, STACK - 40)
    assert (stack.data_addr, len(stack.data)) == (STACK, 4 * PAGE)
    assert stack.read(STACK, 8) == b"\x01" * 8
    beside = read_task_stack(program(), STACK, STACK - 41)
    assert (beside.data, beside.holes) == (b"", ())


def test_stack_at_the_very_end_of_the_address_space_is_read() -> None:
    last = (1 << 64) - 4 * PAGE
    stack = read_task_stack(program(stack_addr=last), last, last + 3 * PAGE)
    assert (stack.end_addr, stack.data) == (1 << 64, b"\x04" * PAGE)


@pytest.mark.parametrize("pages", [1, 2, 3])
def test_stack_that_ends_beyond_the_address_space_reads_nothing(pages: int) -> None:
    # Its end wraps around in C, and nothing is below that.
    last = (1 << 64) - pages * PAGE
    stack = read_task_stack(program(), last, last + 8)
    assert (stack.data, stack.holes) == (b"", ())
    with pytest.raises(NotInDump):
        stack.read(last + 48, 8)
