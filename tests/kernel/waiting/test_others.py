# SPDX-License-Identifier: LGPL-2.1-or-later
"""rt_mutexes, completions and wait queues drawn in bytes."""

from __future__ import annotations

from typing import Optional

import pytest

from drgn_tools.kernel.waiting.records import Wait, WaitKind

from ...support.drawn_waits import OLD_LOCKS, DrawnWaits

RT = ("schedule", "rt_mutex_schedule", "rt_mutex_slowlock")
WAKE = 0xFFFF_FFFF_8100_0000


@pytest.fixture
def waits() -> DrawnWaits:
    drawn = DrawnWaits(OLD_LOCKS)
    drawn.functions[WAKE] = "autoremove_wake_function"
    return drawn


def rt_mutex(waits: DrawnWaits) -> tuple[int, int, int]:
    """Tasks 1 and 2 wait, 1 at the root of the tree and 2 to the right of it; 3 holds it."""
    first, second, holder = waits.tasks
    lock = waits.kernel.new("struct rt_mutex_base")
    one, two = (waits.waiter("rt_mutex_waiter", task) for task in (first, second))
    for task, waiter in ((first, one), (second, two)):
        waits.member("struct task_struct", task.addr, "pi_blocked_on", waiter)
        waits.member("struct rt_mutex_waiter", waiter, "lock", lock)
    waits.member("struct rb_node", one, "__rb_parent_color", 1)  # black, and the root
    waits.member("struct rb_node", one, "rb_right", two)
    waits.member("struct rb_node", two, "__rb_parent_color", one)
    waits.member("struct rt_mutex_base", lock, "waiters.rb_root.rb_node", one)
    waits.member("struct rt_mutex_base", lock, "owner", holder.addr | 1)
    return lock, one, two


def test_an_rt_mutex(waits: DrawnWaits) -> None:
    lock, _, two = rt_mutex(waits)
    first, second, holder = waits.tasks
    found = waits.find(second, *RT)
    assert found == Wait(
        WaitKind.RT_MUTEX, lock, two, waiters=(first.addr, second.addr), holder=holder.addr
    )
    assert waits.find(holder, *RT) is None


def test_a_waiter_that_is_not_in_the_tree_of_its_lock(waits: DrawnWaits) -> None:
    _, one, two = rt_mutex(waits)
    waits.member("struct rb_node", one, "rb_right", 0)
    assert waits.find(waits.tasks[1], *RT) is None
    assert waits.find(waits.tasks[0], *RT) is not None
    waits.member("struct rb_node", two, "__rb_parent_color", two)  # a loop
    assert waits.find(waits.tasks[1], *RT) is None


@pytest.mark.parametrize("side", ["rb_left", "rb_right"])
def test_a_tree_that_loops(waits: DrawnWaits, side: str) -> None:
    _, one, _ = rt_mutex(waits)
    waits.member("struct rb_node", one, side, one)
    assert waits.find(waits.tasks[0], *RT) is None


def test_a_tree_with_a_waiter_on_another_stack(waits: DrawnWaits) -> None:
    _, _, two = rt_mutex(waits)
    waits.member("struct rt_mutex_waiter", two, "task", waits.tasks[2].addr)
    assert waits.find(waits.tasks[0], *RT) is None


def test_a_waiter_of_another_task(waits: DrawnWaits) -> None:
    _, one, _ = rt_mutex(waits)
    first, second, _ = waits.tasks
    waits.member("struct task_struct", second.addr, "pi_blocked_on", one)
    assert waits.find(second, *RT) is None
    waits.member("struct task_struct", first.addr, "pi_blocked_on", waits.kernel.base)
    assert waits.find(first, *RT) is None


RW = ("schedule", "rt_mutex_schedule", "rwbase_write_lock", "down_write")


def rwbase(waits: DrawnWaits, readers: int, offset: int) -> int:
    """An rw-semaphore of PREEMPT_RT whose rt_mutex the first task has. Its address is on the stack."""
    first = waits.tasks[0]
    lock = waits.kernel.new("struct rwbase_rt")
    waits.member("struct rwbase_rt", lock, "readers", readers, 4)
    waits.member("struct rwbase_rt", lock, "rtmutex.owner", first.addr)
    waits.keep_on_stack(first, lock, offset)
    return lock


def test_a_writer_that_waits_for_readers(waits: DrawnWaits) -> None:
    lock = rwbase(waits, 2, 0x100)
    first = waits.tasks[0]
    expected = Wait(WaitKind.RWSEM, lock, 0, mode="write", readers=2)
    assert waits.find(first, *RW) == expected
    assert waits.find(first, "schedule", "f") is None
    # It has another one to write (WRITER_BIAS), and one that nobody writes (READER_BIAS): it waits for neither.
    rwbase(waits, 1 << 30, 0x108)
    rwbase(waits, 1 << 31 | 5, 0x110)
    assert waits.find(first, *RW) == expected


def test_a_writer_whose_readers_are_not_found(waits: DrawnWaits) -> None:
    rwbase(waits, 1 << 30, 0x100)  # WRITER_BIAS: what it has, not what it waits for
    assert waits.find(waits.tasks[0], *RW) is None


def completion(waits: DrawnWaits, done: int) -> int:
    first = waits.tasks[0]
    addr = waits.kernel.new("struct completion", {"done": done})
    waiter = waits.waiter("swait_queue", first)
    memory = waits.memory()
    node = waiter + memory.at("struct swait_queue", "task_list")
    head = addr + memory.at("struct completion", "wait")
    waits.link(head + memory.at("struct swait_queue_head", "task_list"), node)
    return addr


def test_a_completion(waits: DrawnWaits) -> None:
    addr = completion(waits, 0)
    found = waits.find(waits.tasks[0], "schedule_timeout", "__wait_for_common", "f")
    assert found is not None
    assert (found.kind, found.address, found.is_free) == (WaitKind.COMPLETION, addr, False)
    assert found.waiters == (waits.tasks[0].addr,)
    # With another function it is a simple wait queue, of whatever it may be.
    found = waits.find(waits.tasks[0], "schedule", "rcu_gp_kthread")
    assert found is not None and found.kind is WaitKind.QUEUE


def queue_entry(waits: DrawnWaits, function: int) -> int:
    first = waits.tasks[0]
    entry = waits.on_stack(first, 0x40)
    waits.member("struct wait_queue_entry", entry, "private", first.addr)
    waits.member("struct wait_queue_entry", entry, "func", function)
    head = waits.kernel.new("struct wait_queue_head")
    memory = waits.memory()
    waits.link(
        head + memory.at("struct wait_queue_head", "head"),
        entry + memory.at("struct wait_queue_entry", "entry"),
    )
    return head


def test_a_wait_queue(waits: DrawnWaits) -> None:
    head = queue_entry(waits, WAKE)
    found = waits.find(waits.tasks[0], "schedule", "do_wait")
    assert found is not None and (found.kind, found.address) == (WaitKind.QUEUE, head)


def test_an_entry_whose_function_begins_nowhere(waits: DrawnWaits) -> None:
    queue_entry(waits, WAKE + 4)
    assert waits.find(waits.tasks[0], "schedule", "do_wait") is None


def test_a_queue_with_two_heads(waits: DrawnWaits) -> None:
    """A node that is neither an entry nor can be told from the head."""
    head = queue_entry(waits, WAKE)
    other = waits.kernel.new("struct list_head")
    memory = waits.memory()
    waits.link(
        head + memory.at("struct wait_queue_head", "head"),
        waits.on_stack(waits.tasks[0], 0x40) + memory.at("struct wait_queue_entry", "entry"),
        other,
    )
    assert waits.find(waits.tasks[0], "schedule", "do_wait") is None


@pytest.mark.parametrize(
    ("function", "readers", "writers", "mode"),
    [
        ("anon_pipe_read", 1, 1, "read"),
        ("fifo_open", 1, 0, "read"),
        ("fifo_open", 0, 1, "write"),
        ("wait_for_partner", 0, 2, "write"),
        ("fifo_open", 1, 1, None),  # the other has come: who it is does not tell any more
    ],
)
def test_what_a_task_wants_of_a_pipe(
    waits: DrawnWaits, function: str, readers: int, writers: int, mode: Optional[str]
) -> None:
    """All of them wait in the queue of readers: wait_for_partner() in fs/pipe.c, v6.12."""
    first, memory, pipe = waits.tasks[0], waits.memory(), "struct pipe_inode_info"
    addr = waits.kernel.new(pipe)
    counts = {"ring_size": 16, "readers": readers, "writers": writers, "files": 2}
    for member, count in counts.items():
        waits.member(pipe, addr, member, count, 4)
    entry = waits.on_stack(first, 0x40)
    waits.member("struct wait_queue_entry", entry, "private", first.addr)
    waits.member("struct wait_queue_entry", entry, "func", WAKE)
    waits.link(
        addr + memory.at(pipe, "rd_wait") + memory.at("struct wait_queue_head", "head"),
        entry + memory.at("struct wait_queue_entry", "entry"),
    )
    found = waits.find(first, "schedule", function)
    assert found is not None
    assert (found.kind, found.address, found.mode) == (WaitKind.PIPE, addr, mode)
