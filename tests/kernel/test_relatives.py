# SPDX-License-Identifier: LGPL-2.1-or-later
"""Parents, processes and full names of tasks drawn in bytes."""

from __future__ import annotations

from typing import Any, Optional

import pytest

from drgn_tools.arch.registry import layout_of
from drgn_tools.kernel.relatives import Relatives
from drgn_tools.kernel.tasks import PF_KTHREAD, Task, read_task

from ..support.drawn_kernel import TASK_MEMBERS, DrawnKernel, declare_stack_types

MEMBERS = (
    TASK_MEMBERS
    + """
    struct task_struct *real_parent;
    struct task_struct *group_leader;
    unsigned long start_time;
    void *worker_private;
"""
)
CUT_OFF = b"kworker/R-slub_"


@pytest.fixture
def kernel() -> DrawnKernel:
    k = DrawnKernel()
    declare_stack_types(k, MEMBERS)
    k.struct("kthread", "unsigned long flags; char *full_name")
    return k


def new(kernel: DrawnKernel, **members: Any) -> Task:
    addr = kernel.new("struct task_struct", members)
    return read_task(kernel.prog, layout_of(kernel.prog).task, addr)


def relatives(kernel: DrawnKernel) -> Relatives:
    return Relatives(kernel.prog, layout_of(kernel.prog).task)


def kthread(kernel: DrawnKernel, name: Optional[bytes], **members: Any) -> Task:
    text = 0 if name is None else kernel.new("char [300]", name)
    own = kernel.new("struct kthread", {"full_name": text})
    return new(kernel, flags=PF_KTHREAD, worker_private=own, **members)


def test_the_parent_is_a_process_also_if_a_thread_of_it_forked(kernel: DrawnKernel) -> None:
    forked_it = new(kernel, pid=43, tgid=42)
    child = new(kernel, pid=51, tgid=51, real_parent=forked_it.addr)
    assert relatives(kernel).ppid(child) == 42


def test_the_process_has_the_name_of_its_first_thread(kernel: DrawnKernel) -> None:
    leader = new(kernel, pid=42, tgid=42, comm=b"postgres")
    thread = new(kernel, pid=43, tgid=42, comm=b"walwriter", group_leader=leader.addr)
    assert relatives(kernel).process(thread) == "postgres"
    assert relatives(kernel).process(leader) == "postgres"


def test_a_leader_of_another_process_names_no_process(kernel: DrawnKernel) -> None:
    other = new(kernel, pid=7, tgid=7, comm=b"other")
    thread = new(kernel, pid=43, tgid=42, group_leader=other.addr)
    assert relatives(kernel).process(thread) is None


def test_relatives_that_are_not_in_the_dump_are_not_known(kernel: DrawnKernel) -> None:
    task = new(
        kernel, pid=43, tgid=42, real_parent=kernel.nowhere, group_leader=kernel.nowhere + 4096
    )
    assert relatives(kernel).ppid(task) is None
    assert relatives(kernel).process(task) is None


def test_a_name_that_comm_cuts_off_is_told_in_full(kernel: DrawnKernel) -> None:
    task = kthread(kernel, b"kworker/R-slub_flushwq", comm=CUT_OFF)
    assert relatives(kernel).full_name(task) == "kworker/R-slub_flushwq"


@pytest.mark.parametrize(
    ("comm", "name"),
    [
        (CUT_OFF, None),  # kvasprintf() had no memory
        (CUT_OFF, CUT_OFF),
        (CUT_OFF, b"something else, longer"),  # it has changed its comm, or the pointer is damaged
        (CUT_OFF, b""),
        (b"kthreadd", b"kthreadd and more"),
    ],
)
def test_otherwise_there_is_no_full_name(
    kernel: DrawnKernel, comm: bytes, name: Optional[bytes]
) -> None:
    assert relatives(kernel).full_name(kthread(kernel, name, comm=comm)) is None


def test_a_name_without_an_end_is_read_only_so_far(kernel: DrawnKernel) -> None:
    task = kthread(kernel, CUT_OFF + 285 * b"x", comm=CUT_OFF)
    name = relatives(kernel).full_name(task)
    assert name is not None
    assert len(name) == 256


def test_bytes_that_are_no_text_are_escaped(kernel: DrawnKernel) -> None:
    comm = b"\xff" + CUT_OFF[1:]
    assert relatives(kernel).full_name(kthread(kernel, comm + b"\xfe", comm=comm)) == (
        "\\xffworker/R-slub_\\xfe"
    )


def test_a_user_task_has_no_full_name(kernel: DrawnKernel) -> None:
    # For an io_uring worker, worker_private is another struct.
    own = kernel.new("struct kthread", {"full_name": kernel.new("char [64]", CUT_OFF + b"longer")})
    task = new(kernel, comm=CUT_OFF, worker_private=own)
    assert relatives(kernel).full_name(task) is None


def test_a_kernel_without_full_names_has_none(kernel: DrawnKernel) -> None:
    kernel.struct("kthread", "unsigned long flags")
    addr = kernel.new("struct kthread")
    task = new(kernel, comm=CUT_OFF, flags=PF_KTHREAD, worker_private=addr)
    assert layout_of(kernel.prog).task.kthread is None
    assert relatives(kernel).full_name(task) is None


def test_a_task_knows_when_it_was_forked(kernel: DrawnKernel) -> None:
    assert new(kernel, start_time=954917586).start_time_ns == 954917586
