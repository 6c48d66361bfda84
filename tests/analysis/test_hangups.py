# SPDX-License-Identifier: LGPL-2.1-or-later
"""Chains of tasks that wait for each other: drawn, and by property."""

from __future__ import annotations

from typing import Optional

from hypothesis import given
from hypothesis import strategies as st

from drgn_tools.analysis.hangups import Blocked, Hangup, Holder, RootKind, hangups_of
from drgn_tools.kernel.waiting.records import Wait, WaitKind
from drgn_tools.records import TaskStack, Verdict

LOCK = 0xFFFF_8881_0000_0000
TASK = 0xFFFF_8880_0000_0000


def task(number: int, state: str = "D") -> TaskStack:
    return TaskStack(
        TASK + 0x1000 * number,
        number,
        number,
        f"t{number}",
        state,
        0,
        False,
        False,
        Verdict.RELIABLE,
    )


def waits(
    number: int,
    holder: Optional[int] = None,
    *,
    lock: Optional[int] = None,
    kind: WaitKind = WaitKind.MUTEX,
    state: str = "D",
    holder_state: Optional[str] = "D",
    is_free: bool = False,
) -> Blocked:
    """A task that waits for what another holds; for a lock that nobody is known to hold if *holder* is None."""
    address = LOCK + 0x100 * (lock if lock is not None else holder or 0)
    who = None
    if holder is not None:
        known = None if holder_state is None else task(holder, holder_state)
        who = Holder(TASK + 0x1000 * holder, known)
    wait = Wait(kind, address, 0, holder=who and who.address, is_free=is_free)
    return Blocked(task(number, state), wait, holder=who)


def asleep(number: int, state: str = "S") -> Blocked:
    return Blocked(task(number, state))


def members(hangup: Hangup) -> list[tuple[int, int]]:
    return [(depth, each.stack.pid) for depth, each in hangup.members()]


def circle(hangup: Hangup) -> list[int]:
    return [each.stack.pid for each in hangup.root]


def test_two_mutexes_in_opposite_order() -> None:
    #  1 --> 2 --> 1, and 3 behind 2
    (hangup,) = hangups_of([waits(1, 2), waits(2, 1), waits(3, 2)])
    assert hangup.kind is RootKind.DEADLOCK
    assert circle(hangup) == [1, 2]
    assert members(hangup) == [(0, 1), (0, 2), (0, 3)]
    assert hangup.count == 3


def test_a_task_that_waits_for_what_it_holds_itself() -> None:
    (hangup,) = hangups_of([waits(1, 1)])
    assert (hangup.kind, circle(hangup), hangup.count) == (RootKind.DEADLOCK, [1], 1)


def test_a_chain_ends_at_a_task_that_does_not_hang() -> None:
    #  4 --> 3 --> 2 --> 1 (asleep)    5 --> 3
    (hangup,) = hangups_of(
        [asleep(1), waits(2, 1, holder_state="S"), waits(3, 2), waits(4, 3), waits(5, 3)]
    )
    assert hangup.kind is RootKind.TASK
    assert hangup.holder is not None and hangup.holder.task is not None
    assert hangup.holder.task.pid == 1
    assert members(hangup) == [(0, 2), (1, 3), (2, 4), (2, 5)]


def test_a_holder_that_runs_has_no_row() -> None:
    (hangup,) = hangups_of([waits(2, 1, holder_state="R")])
    assert (hangup.kind, hangup.root, members(hangup)) == (RootKind.TASK, (), [(0, 2)])


def test_a_holder_that_has_exited() -> None:
    gone, zombie = hangups_of([waits(2, 1, holder_state=None), waits(4, 3, holder_state="Z")])
    assert (gone.kind, zombie.kind) == (RootKind.EXITED, RootKind.EXITED)


def test_memory_of_a_holder_that_is_another_tasks_by_now() -> None:
    """Task 2 waits for what 1 held, and 1 has exited; its memory is that of a task that waits for 2."""
    successor = task(1)
    gone = Holder(successor.task, None, successor)
    wait = Wait(WaitKind.MUTEX, LOCK, 0, holder=successor.task)
    (hangup,) = hangups_of([Blocked(task(2), wait, holder=gone), waits(1, 2)])
    assert (hangup.kind, hangup.root) == (RootKind.EXITED, ())
    assert members(hangup) == [(0, 2), (1, 1)]


def test_a_holder_that_hangs_on_a_disk_is_not_the_end() -> None:
    #  2 --> 1 --> bio
    (hangup,) = hangups_of([waits(1, lock=9, kind=WaitKind.BIO), waits(2, 1)])
    assert hangup.kind is RootKind.WAIT
    assert hangup.wait is not None and hangup.wait.kind is WaitKind.BIO
    assert members(hangup) == [(0, 1), (1, 2)]


def test_a_holder_that_hangs_on_nobody_knows_what() -> None:
    (hangup,) = hangups_of([asleep(1, "D"), waits(2, 1)])
    assert (hangup.kind, members(hangup)) == (RootKind.UNKNOWN, [(0, 1), (1, 2)])


def test_nobody_is_blamed_for_a_lock_that_is_free() -> None:
    #  The lock names the task that it was handed to, and which has not run yet.
    (hangup,) = hangups_of([waits(1, 1, is_free=True)])
    assert hangup.kind is RootKind.WAIT


def test_tasks_that_sleep_interruptibly_hang_only_if_they_wait_for_a_lock() -> None:
    pipe = waits(1, lock=1, kind=WaitKind.PIPE, state="S")
    mutex = waits(2, lock=2, state="S")
    (hangup,) = hangups_of([pipe, mutex, asleep(3)])
    assert members(hangup) == [(0, 2)]


def test_what_holds_up_most_comes_first_but_a_deadlock_before_all() -> None:
    few = [waits(1, lock=1)]
    many = [waits(number, lock=2) for number in (2, 3, 4)]
    found = hangups_of([*few, *many, waits(5, 6), waits(6, 5)])
    assert [hangup.kind for hangup in found] == [RootKind.DEADLOCK, RootKind.WAIT, RootKind.WAIT]
    assert [hangup.count for hangup in found] == [2, 3, 1]


def test_a_long_chain_takes_no_recursion() -> None:
    count = 3000
    (hangup,) = hangups_of([asleep(0), *(waits(n, n - 1) for n in range(1, count))])
    assert members(hangup) == [(n - 1, n) for n in range(1, count)]


@given(st.lists(st.one_of(st.none(), st.integers(0, 11)), min_size=1, max_size=12))
def test_each_task_that_hangs_is_in_one_hangup(holders: list[Optional[int]]) -> None:
    blocked = [waits(n, holder, lock=n) for n, holder in enumerate(holders)]
    found = hangups_of(blocked)
    pids = sorted(pid for hangup in found for _, pid in members(hangup))
    assert pids == list(range(len(holders)))
    for hangup in found:
        if hangup.kind is RootKind.DEADLOCK:
            ring = circle(hangup)
            assert [holders[pid] for pid in ring] == [*ring[1:], ring[0]]
    # A task is in a circle if and only if it comes to itself again.
    in_circle = {
        pid for hangup in found for pid in circle(hangup) if hangup.kind is RootKind.DEADLOCK
    }
    for start in range(len(holders)):
        at: Optional[int] = start
        for _ in holders:
            at = None if at is None or at >= len(holders) else holders[at]
            if at == start:
                break
        assert (at == start) == (start in in_circle)
