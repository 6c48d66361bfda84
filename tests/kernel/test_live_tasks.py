# SPDX-License-Identifier: LGPL-2.1-or-later
"""Tasks of a drawn kernel that forks, exits and runs between any two reads of its memory."""

from __future__ import annotations

import random
from typing import Any, Callable

import pytest

from drgn_tools.arch.registry import layout_of
from drgn_tools.kernel.live_tasks import LiveTaskList
from drgn_tools.kernel.tasks import Task

from .test_task_list import IDLE, Machine, names

LIST_POISON = 0xDEAD_0000_0000_0122
"""What list_del_rcu() leaves as the way back."""


class MovingMachine(Machine):
    """A machine that does something before each read."""

    def boot(self) -> None:
        super().boot()
        self.listed = list(self.processes)

    def look(self) -> LiveTaskList:
        return LiveTaskList(self.kernel.prog, layout_of(self.kernel.prog).task)

    def word(self, addr: int) -> int:
        offset = addr - self.kernel.base
        return int.from_bytes(self.kernel._memory[offset : offset + 8], "little")

    def put(self, task: int, designator: str, value: int) -> None:
        self.kernel.put_word(self.at(task, designator), value)

    def fork(self, pid: int, **members: Any) -> int:
        """A process at the end of the list, as list_add_tail_rcu() puts it there."""
        (task,) = self.process(pid, **members)
        node, head = self.at(task, "tasks"), self.at(self.init_task, "tasks")
        last = self.word(head + 8)
        self.kernel.put_word(node, head)
        self.kernel.put_word(node + 8, last)
        self.kernel.put_word(last, node)
        self.kernel.put_word(head + 8, node)
        self.listed.append(task)
        return task

    def exit(self, task: int) -> None:
        """list_del_rcu(): the way ahead stays, and leads on for whoever stands there."""
        node = self.at(task, "tasks")
        ahead, behind = self.word(node), self.word(node + 8)
        self.kernel.put_word(behind, ahead)
        self.kernel.put_word(ahead + 8, behind)
        self.kernel.put_word(node + 8, LIST_POISON)
        self.listed.remove(task)

    def free(self, task: int) -> None:
        """Its memory is another's."""
        size = layout_of(self.kernel.prog).task.size_bytes
        self.kernel.put(task, bytes([0x5A]) * size)

    def at_read(self, number: int, do: Callable[[], object]) -> None:
        """Before the read of this number from now on, do something."""
        reads = 0

        def before_read() -> None:
            nonlocal reads
            reads += 1
            if reads == number:
                do()

        self.kernel.before_read = before_read


def machine(*pids: int) -> tuple[MovingMachine, list[int]]:
    m = MovingMachine()
    tasks = [m.process(pid)[0] for pid in pids]
    m.boot()
    m.look()  # what is read once of a kernel has been read
    return m, tasks


def test_a_kernel_at_rest_gives_what_the_other_list_gives() -> None:
    m = MovingMachine()
    m.process(1)
    m.process(20, 22, 21)
    m.process(2)
    m.boot()
    tasks = m.look()
    assert names(tasks) == names(Machine.look(m))
    assert len(names(tasks)) == 5 + len(IDLE)
    assert tasks.problems == []


@pytest.mark.parametrize("read", range(1, 20))
@pytest.mark.parametrize("gone", range(4))
def test_an_exit_at_any_moment_loses_nobody_else(gone: int, read: int) -> None:
    m, leaders = machine(1, 2, 3, 4)
    tasks = m.look()
    m.at_read(read, lambda: (m.exit(leaders[gone]), m.free(leaders[gone])))
    found = names(tasks)
    assert [name for name in found if name != f"task{gone + 1}"] == [
        *(f"task{pid}" for pid in (1, 2, 3, 4) if pid != gone + 1),
        *IDLE,
    ]
    assert tasks.problems == []


@pytest.mark.parametrize("read", range(1, 20))
def test_exits_of_neighbours_at_any_moment_lose_nobody_else(read: int) -> None:
    m, leaders = machine(1, 2, 3, 4, 5)
    tasks = m.look()
    m.at_read(read, lambda: [m.exit(task) for task in leaders[1:4]])
    found = names(tasks)
    assert [name for name in found if name in ("task1", "task5", *IDLE)] == [
        "task1",
        "task5",
        *IDLE,
    ]
    assert tasks.problems == []


def test_an_exit_of_all_ends_the_list() -> None:
    m, leaders = machine(1, 2, 3)
    tasks = m.look()
    m.at_read(3, lambda: [m.exit(task) or m.free(task) for task in leaders])
    assert set(names(tasks)) <= {"task1", "task2", "task3", *IDLE}
    assert tasks.problems == []


@pytest.mark.parametrize("seed", range(30))
def test_in_a_storm_all_that_stay_are_found(seed: int) -> None:
    chance = random.Random(seed)
    m, leaders = machine(*range(1, 25))
    stay = set(chance.sample(leaders, 8))
    pids = iter(range(100, 300))
    gone: list[int] = []

    def before_read() -> None:
        if chance.random() > 0.4:
            return
        what = chance.randrange(3)
        leaving = [task for task in m.listed if task not in stay]
        if what == 0 and len(m.processes) < 90:
            m.fork(next(pids))
        elif what == 1 and leaving:
            gone.append(chance.choice(leaving))
            m.exit(gone[-1])
        elif what == 2 and gone:
            m.free(gone.pop(0))

    tasks = m.look()
    m.kernel.before_read = before_read
    found = {task.addr for task in tasks}
    assert stay <= found
    assert tasks.problems == []


def test_a_list_that_never_holds_still_ends_and_is_said() -> None:
    m, (_first, second, _third) = machine(1, 2, 3)
    tasks = m.look()
    # The second never points back, the first leads there for ever.
    m.bend(second, "tasks.prev", LIST_POISON)
    found = names(tasks)
    assert found == ["task1", *IDLE]
    assert tasks.problems == ["the task list changed faster than it could be read"]


# ---- one task, before and after


def look_twice(m: MovingMachine, task: int, between: Callable[[], object]) -> tuple[Task, Any]:
    tasks = m.look()
    before = next(t for t in tasks if t.addr == task)
    between()
    return before, tasks.now(before)


def test_a_task_that_stays_asleep_was_at_rest() -> None:
    m, (task,) = machine(1)
    before, after = look_twice(m, task, lambda: m.fork(2))  # a neighbour is another's matter
    assert before.was_at_rest_until(after)


@pytest.mark.parametrize(
    ("member", "value"),
    [("nvcsw", 1), ("nivcsw", 1), ("on_cpu", 1), ("thread.sp", 8), ("stack", 8), ("__state", 1)],
)
def test_a_task_that_ran_was_not(member: str, value: int) -> None:
    m, (task,) = machine(1)
    before, after = look_twice(m, task, lambda: m.put(task, member, value))
    assert not before.was_at_rest_until(after)


def test_a_task_that_exited_is_gone() -> None:
    m, (task,) = machine(1)
    signal = m.word(m.at(task, "signal"))

    def exits() -> None:
        m.exit(task)
        m.thread_list(signal)  # release_task() takes it off there, too

    assert look_twice(m, task, exits)[1] is None


def test_an_idle_task_is_on_no_list_and_stays() -> None:
    m, _ = machine(1)
    idle = m.idle[1]
    before, after = look_twice(m, idle, lambda: None)
    assert before.was_at_rest_until(after)


def test_running_is_what_the_task_says_not_what_a_run_queue_said() -> None:
    m, (task,) = machine(1)
    m.current[0] = task
    m.boot()
    tasks = m.look()
    assert not any(tasks.is_running(t) for t in tasks)
    m.put(task, "on_cpu", 1)
    assert [t.addr for t in tasks if tasks.is_running(t)] == [task]
