# SPDX-License-Identifier: LGPL-2.1-or-later
"""Mutexes, rw-semaphores and semaphores drawn in bytes: what is proven, and what is not claimed."""

from __future__ import annotations

from typing import Optional

import pytest

from drgn_tools.kernel.waiting.records import Wait, WaitKind

from ...support.drawn_waits import NEW_LOCKS, OLD_LOCKS, DrawnWaits

MUTEX = ("schedule", "__mutex_lock.constprop.0", "f")
RWSEM = ("schedule", "rwsem_down_write_slowpath", "down_write")
DOWN = ("schedule_timeout", "__down_common", "__down")


class Drawn:
    """Tasks 1 and 2 wait for a lock in this order; task 3 holds it."""

    def __init__(
        self, locks: dict[str, str], lock: str, waiter: str, words: dict[str, int]
    ) -> None:
        self.waits = DrawnWaits(locks)
        self.first, self.second, self.holder = self.waits.tasks
        self.lock_type = f"struct {lock}"
        self.lock = self.waits.kernel.new(self.lock_type)
        self.waiters = [self.waits.waiter(waiter, task) for task in (self.first, self.second)]
        self.write(**words)
        if "wait_list" in locks[lock]:
            head = self.lock + self.waits.memory().at(self.lock_type, "wait_list")
            self.waits.link(head, *self.waiters)
        else:
            self.waits.link(*self.waiters)
            self.write(first_waiter=self.waiters[0])
            for task in (self.first, self.second):
                self.waits.keep_on_stack(task, self.lock)

    def write(self, **words: int) -> None:
        for member, word in words.items():
            is_int = member == "count" and self.lock_type == "struct semaphore"
            self.waits.member(self.lock_type, self.lock, member, word, 4 if is_int else 8)

    def find(self, *functions: str) -> Optional[Wait]:
        return self.waits.find(self.first, *functions)


@pytest.fixture(params=[OLD_LOCKS, NEW_LOCKS], ids=["list", "first_waiter"])
def locks(request: pytest.FixtureRequest) -> dict[str, str]:
    given: dict[str, str] = request.param
    return given


def mutex(locks: dict[str, str]) -> Drawn:
    drawn = Drawn(locks, "mutex", "mutex_waiter", {})
    drawn.write(owner=drawn.holder.addr | 1)
    return drawn


def rwsem(locks: dict[str, str], count: int, owner_flags: int, mode: int = 0) -> Drawn:
    drawn = Drawn(locks, "rw_semaphore", "rwsem_waiter", {"count": count})
    drawn.write(owner=drawn.holder.addr | owner_flags)
    for waiter in drawn.waiters:
        drawn.waits.member("struct rwsem_waiter", waiter, "type", mode, 4)
    return drawn


def test_a_mutex_with_its_holder_and_all_that_wait(locks: dict[str, str]) -> None:
    drawn = mutex(locks)
    for task, waiter in zip((drawn.first, drawn.second), drawn.waiters):
        assert drawn.waits.find(task, *MUTEX) == Wait(
            WaitKind.MUTEX,
            drawn.lock,
            waiter,
            waiters=(drawn.first.addr, drawn.second.addr),
            holder=drawn.holder.addr,
        )
    assert drawn.waits.find(drawn.holder, *MUTEX) is None


def test_a_mutex_whose_flag_says_that_nobody_waits(locks: dict[str, str]) -> None:
    drawn = mutex(locks)
    drawn.write(owner=drawn.holder.addr)
    assert drawn.find(*MUTEX) is None


def test_a_mutex_that_is_free_or_handed_on(locks: dict[str, str]) -> None:
    drawn = mutex(locks)
    drawn.write(owner=1)
    found = drawn.find(*MUTEX)
    assert found is not None and (found.holder, found.is_free) == (None, True)
    drawn.write(owner=drawn.first.addr | 5)  # MUTEX_FLAG_PICKUP: it is the first waiter's
    found = drawn.find(*MUTEX)
    assert found is not None and (found.holder, found.is_free) == (drawn.first.addr, True)
    drawn.write(owner=drawn.holder.addr | 5)  # handed to somebody who does not wait
    assert drawn.find(*MUTEX) is None


def test_an_owner_that_is_no_task(locks: dict[str, str]) -> None:
    drawn = mutex(locks)
    gone = drawn.waits.kernel.base + 0xC000  # aligned, and in the dump
    drawn.write(owner=gone | 1)
    found = drawn.find(*MUTEX)
    assert found is not None and found.holder == gone
    for impossible in (gone + 8, drawn.waits.kernel.nowhere, 0x7FFF_0000_0000):
        drawn.write(owner=impossible | 1)
        assert drawn.find(*MUTEX) is None


def test_a_node_that_does_not_point_back(locks: dict[str, str]) -> None:
    drawn = mutex(locks)
    drawn.waits.kernel.put_word(drawn.waiters[1] + 8, drawn.waiters[1])
    assert drawn.find(*MUTEX) is None


def test_a_waiter_that_names_a_task_on_whose_stack_it_is_not(locks: dict[str, str]) -> None:
    drawn = mutex(locks)
    drawn.waits.member("struct mutex_waiter", drawn.waiters[1], "task", drawn.holder.addr)
    assert drawn.find(*MUTEX) is None


def test_a_waiter_left_over_on_the_stack(locks: dict[str, str]) -> None:
    """It was taken off the list, as list_del() leaves it."""
    drawn = mutex(locks)
    drawn.waits.kernel.put_word(drawn.waiters[0], 0xDEAD_0000_0000_0100)
    drawn.waits.kernel.put_word(drawn.waiters[0] + 8, 0xDEAD_0000_0000_0122)
    assert drawn.find(*MUTEX) is None


def test_a_function_that_waits_for_another_kind(locks: dict[str, str]) -> None:
    drawn = mutex(locks)
    assert drawn.find(*RWSEM) is None
    assert drawn.find("schedule", "do_wait") is None


def test_a_mutex_without_any_symbol(locks: dict[str, str]) -> None:
    """The words alone: an rw-semaphore would have its flag in another word."""
    drawn = mutex(locks)
    found = drawn.find()
    assert found is not None and found.kind is WaitKind.MUTEX


def test_a_lock_that_no_word_of_the_stack_leads_to() -> None:
    drawn = mutex(NEW_LOCKS)
    drawn.waits.keep_on_stack(drawn.first, 0)
    assert drawn.find(*MUTEX) is None
    # By the address of its wait_lock.
    offset = drawn.waits.memory().at("struct mutex", "wait_lock")
    drawn.waits.keep_on_stack(drawn.first, drawn.lock + offset)
    found = drawn.find(*MUTEX)
    assert found is not None and found.address == drawn.lock


def test_an_rwsem_that_is_held_to_write(locks: dict[str, str]) -> None:
    #  count: RWSEM_WRITER_LOCKED | RWSEM_FLAG_WAITERS
    drawn = rwsem(locks, 0b11, 0, mode=1)
    found = drawn.find(*RWSEM)
    assert found is not None
    assert (found.holder, found.readers, found.hint) == (drawn.holder.addr, None, None)
    assert (found.mode, found.is_free) == ("read", False)


def test_an_rwsem_that_is_held_to_read_has_no_sure_holder(locks: dict[str, str]) -> None:
    #  count: 3 readers | RWSEM_FLAG_WAITERS; owner: RWSEM_READER_OWNED
    drawn = rwsem(locks, 3 << 8 | 0b10, 1)
    found = drawn.find(*RWSEM)
    assert found is not None
    assert (found.holder, found.readers, found.hint) == (None, 3, drawn.holder.addr)
    assert found.mode == "write"


@pytest.mark.parametrize(
    ("count", "owner_flags", "what"),
    [
        (0b01, 0, "nobody waits"),
        (0b11, 1, "held to write, and owned by readers"),
        (1 << 8 | 0b10, 0, "held to read, and owned by a writer"),
    ],
)
def test_an_rwsem_that_contradicts_itself(
    locks: dict[str, str], count: int, owner_flags: int, what: str
) -> None:
    assert rwsem(locks, count, owner_flags).find(*RWSEM) is None


def test_an_rwsem_of_before_its_words_had_these_meanings() -> None:
    # v4.10 to v5.2, with CONFIG_RWSEM_SPIN_ON_OWNER
    members = OLD_LOCKS["rw_semaphore"].replace("unsigned long owner", "struct task_struct *owner")
    #  count: RWSEM_WAITING_BIAS of those who wait, RWSEM_ACTIVE_READ_BIAS of each of two readers
    old = {**OLD_LOCKS, "rw_semaphore": members}
    count = -(1 << 32) + 2 & (1 << 64) - 1
    assert rwsem(old, count, 1).find(*RWSEM) is None
    assert rwsem(OLD_LOCKS, 2 << 8 | 0b10, 1).find(*RWSEM) is not None


def test_a_kind_without_its_type_is_not_taken_for_another(locks: dict[str, str]) -> None:
    """PREEMPT_RT makes rw-semaphores of rt_mutexes. down_write() begins as down() does, and semaphores stay lists."""
    drawn = Drawn(
        {**locks, "rw_semaphore": "int rwbase"}, "semaphore", "semaphore_waiter", {"count": 0}
    )
    assert drawn.find(*RWSEM) is None
    assert drawn.find(*DOWN) is not None


def test_an_rwsem_that_is_free(locks: dict[str, str]) -> None:
    found = rwsem(locks, 0b10, 1).find(*RWSEM)
    assert found is not None and found.is_free
    assert (found.holder, found.readers, found.hint) == (None, 0, None)


def test_a_waiter_of_an_unknown_type(locks: dict[str, str]) -> None:
    assert rwsem(locks, 0b11, 0, mode=7).find(*RWSEM) is None


def test_a_semaphore(locks: dict[str, str]) -> None:
    drawn = Drawn(locks, "semaphore", "semaphore_waiter", {"count": 0})
    found = drawn.find(*DOWN)
    assert found is not None
    assert (found.kind, found.address, found.holder) == (WaitKind.SEMAPHORE, drawn.lock, None)
    assert found.waiters == (drawn.first.addr, drawn.second.addr)
    # Its words say little: without the function that waits for one, it is not claimed.
    assert drawn.find() is None
    drawn.write(count=1)
    assert drawn.find(*DOWN) is None
