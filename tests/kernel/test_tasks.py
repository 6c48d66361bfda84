# SPDX-License-Identifier: LGPL-2.1-or-later
"""Tasks read from bytes."""

from __future__ import annotations

from typing import Any

import pytest
from drgn import Architecture, FaultError

from drgn_tools.arch.registry import layout_of
from drgn_tools.kernel.tasks import PF_KTHREAD, Task, read_task, task_state_to_char

from ..support.drawn_kernel import TASK_MEMBERS, DrawnKernel, declare_stack_types

# ---- the letter of a state


@pytest.mark.parametrize(
    ("state", "exit_state", "letter"),
    [
        (0x0, 0x0, "R"),
        (0x1, 0x0, "S"),
        (0x2, 0x0, "D"),
        (0x4, 0x0, "T"),
        (0x8, 0x0, "t"),
        (0x0, 0x10, "X"),  # EXIT_DEAD
        (0x0, 0x20, "Z"),  # EXIT_ZOMBIE
        (0x40, 0x0, "P"),  # TASK_PARKED
        (0x402, 0x0, "I"),  # TASK_IDLE
        # TASK_IDLE is two bits; one of them is another state.
        (0x400, 0x0, "R"),  # TASK_NOLOAD
        (0x401, 0x0, "S"),
        # Bits that are no state of their own.
        (0x100, 0x0, "R"),  # TASK_WAKEKILL
        (0x102, 0x0, "D"),  # TASK_KILLABLE
        (0x104, 0x0, "T"),  # TASK_STOPPED
        (0x200, 0x0, "R"),  # TASK_WAKING
        (0x800, 0x0, "R"),  # TASK_NEW
        (0x2001, 0x0, "S"),  # TASK_FREEZABLE
        (0x2402, 0x0, "I"),
        # What is shown as D, whatever else is set.
        (0x1000, 0x0, "D"),  # TASK_RTLOCK_WAIT
        (0x8000, 0x0, "D"),  # TASK_FROZEN
        (0x8402, 0x0, "D"),
        (0x1001, 0x20, "D"),
        # Of several bits the highest counts; the exit state has its own.
        (0x3, 0x0, "D"),
        (0x80, 0x10, "X"),  # TASK_DEAD
        (0x80, 0x20, "Z"),
        (0x80, 0x0, "R"),
        (0x0, 0x402, "D"),  # not the exit state's to be idle
        (0xFFFF_FFFF, 0xFFFF_FFFF, "D"),
        (0xFFFF_0000, 0x0, "R"),
    ],
)
def test_state_has_the_letter_that_ps_shows(state: int, exit_state: int, letter: str) -> None:
    assert task_state_to_char(state, exit_state) == letter


# ---- one task


@pytest.fixture
def kernel() -> DrawnKernel:
    k = DrawnKernel()
    declare_stack_types(k)
    return k


def read(kernel: DrawnKernel, **members: Any) -> Task:
    addr = kernel.new("struct task_struct", members)
    return read_task(kernel.prog, layout_of(kernel.prog).task, addr)


def test_every_member_is_read(kernel: DrawnKernel) -> None:
    task = read(
        kernel,
        pid=51,
        tgid=42,
        comm=b"reader",
        __state=1,
        thread_info={"cpu": 3},
        on_cpu=1,
        flags=PF_KTHREAD | 1,
        stack=0xFFFF_C900_0000_0000,
        thread={"sp": 0xFFFF_C900_0000_3D00},
        nvcsw=5,
        nivcsw=2,
        stack_refcount={"refs": 2},
        tasks={"next": 0x11, "prev": 0x12},
        thread_node={"next": 0x13, "prev": 0x14},
        signal=0x15,
    )
    assert task == Task(
        addr=task.addr,
        pid=51,
        tgid=42,
        comm="reader",
        state="S",
        is_runnable=False,
        cpu=3,
        on_cpu=True,
        kthread=True,
        stack_addr=0xFFFF_C900_0000_0000,
        thread_sp=0xFFFF_C900_0000_3D00,
        has_stack=True,
        switches=7,
        tasks_next=0x11,
        tasks_prev=0x12,
        thread_node_next=0x13,
        thread_node_prev=0x14,
        signal_addr=0x15,
    )


@pytest.mark.parametrize(
    ("raw", "comm"),
    [
        (b"", ""),
        (b"exactly16letters", "exactly16letters"),
        (b"short\0behind it", "short"),
        (b"caf\xc3\xa9", "café"),
        (b"bad\xff\xfe", "bad\\xff\\xfe"),
        (b"\x1b[31m\n", "\x1b[31m\n"),
        (b"cut in a lett\xe2\x82\xac", "cut in a lett€"),
        (b"cut in a letter\xe2", "cut in a letter\\xe2"),
    ],
)
def test_comm_is_what_the_dump_says(kernel: DrawnKernel, raw: bytes, comm: str) -> None:
    assert read(kernel, comm=raw).comm == comm


@pytest.mark.parametrize(
    ("stack", "refs", "has"), [(0x1000, 1, True), (0x1000, 0, False), (0, 1, False), (0, 0, False)]
)
def test_stack_is_there_while_it_has_an_address_and_users(
    kernel: DrawnKernel, stack: int, refs: int, has: bool
) -> None:
    assert read(kernel, stack=stack, stack_refcount={"refs": refs}).has_stack is has


def test_stack_without_a_count_lives_as_long_as_its_task() -> None:
    kernel = DrawnKernel()
    declare_stack_types(kernel, TASK_MEMBERS.replace("stack_refcount", "of_something_else"))
    assert read(kernel, stack=0x1000).has_stack
    assert not read(kernel, stack=0).has_stack


@pytest.mark.parametrize(("state", "runnable"), [(0, True), (1, False), (0x400, False)])
def test_runnable_is_a_state_of_zero(kernel: DrawnKernel, state: int, runnable: bool) -> None:
    assert read(kernel, __state=state, on_cpu=1).is_runnable is runnable


def test_kthread_is_one_bit_of_flags(kernel: DrawnKernel) -> None:
    assert not read(kernel, flags=0xFFFF_FFFF & ~PF_KTHREAD).kthread
    assert not read(kernel).kthread


def test_kernel_for_one_cpu_runs_everything_on_cpu_0() -> None:
    kernel = DrawnKernel()
    declare_stack_types(kernel, TASK_MEMBERS.replace("on_cpu", "else_cpu"))
    kernel.struct("thread_info", "unsigned long flags; unsigned int status")
    task = read(kernel, else_cpu=1, thread_info={"status": 7})
    assert (task.cpu, task.on_cpu) == (0, False)


def test_task_of_32_bits() -> None:
    kernel = DrawnKernel(Architecture.I386)
    declare_stack_types(kernel)
    task = read(kernel, pid=7, stack=0xF5F0_0000, thread={"sp": 0xF5F0_1F00}, signal=0xC100_0000)
    assert (task.pid, task.stack_addr, task.thread_sp) == (7, 0xF5F0_0000, 0xF5F0_1F00)
    assert task.signal_addr == 0xC100_0000


def test_task_that_is_not_in_the_dump_is_said(kernel: DrawnKernel) -> None:
    with pytest.raises(FaultError):
        read_task(kernel.prog, layout_of(kernel.prog).task, kernel.nowhere)
