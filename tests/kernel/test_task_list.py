# SPDX-License-Identifier: LGPL-2.1-or-later
"""The task list of a drawn kernel, whole and damaged."""

from __future__ import annotations

from typing import Any, NamedTuple, NoReturn

import pytest
from drgn import FaultError, offsetof
from msgspec.structs import replace

from drgn_tools.arch.registry import layout_of
from drgn_tools.kernel import task_list
from drgn_tools.kernel import tasks as tasks_module
from drgn_tools.kernel.task_list import Cpu, TaskList

from ..support.drawn_kernel import DrawnKernel, declare_stack_types


class Machine:
    """A kernel with CPUs, idle tasks, processes and threads; drawn, then looked at."""

    def __init__(self, cpus: int = 2) -> None:
        self.kernel = kernel = DrawnKernel()
        declare_stack_types(kernel)
        kernel.struct("cpumask", "unsigned long bits[1]")
        kernel.struct("rq", "struct task_struct *curr; struct task_struct *idle; int cpu")
        self.type = kernel.prog.type("struct task_struct")
        self.idle = [self.task(0, f"swapper/{cpu}") for cpu in range(cpus)]
        self.init_task = kernel.symbol("init_task", self.idle[0])
        self.current = list(self.idle)
        self.processes: list[int] = []
        kernel.constant("nr_cpu_ids", cpus, "unsigned int")
        for mask in ("online", "active"):
            kernel.variable(f"__cpu_{mask}_mask", "struct cpumask", {"bits": [(1 << cpus) - 1]})
        kernel.variable("runqueues", "struct rq")
        self.runqueues = [kernel.new("struct rq") for _ in range(cpus)]
        start = kernel.prog["runqueues"].address_
        assert start is not None
        self.offsets = kernel.variable(
            "__per_cpu_offset", "unsigned long [8]", [rq - start for rq in self.runqueues]
        )

    def at(self, task: int, designator: str) -> int:
        """Address of a member."""
        offset: int = offsetof(self.type, designator)
        return task + offset

    def task(self, pid: int, comm: str, **members: Any) -> int:
        members = {"pid": pid, "comm": comm.encode(), **members}
        return self.kernel.new("struct task_struct", members)

    def process(self, pid: int, *tids: int, **members: Any) -> list[int]:
        """A process with these threads beside its leader; gives the address of each task."""
        signal = self.kernel.new("struct signal_struct")
        tasks = [
            self.task(tid, f"task{tid}", tgid=pid, signal=signal, **members) for tid in (pid, *tids)
        ]
        self.thread_list(signal, *tasks)
        self.processes.append(tasks[0])
        return tasks

    def thread_list(self, signal: int, *tasks: int) -> None:
        head = signal + offsetof(self.kernel.prog.type("struct signal_struct"), "thread_head")
        self.kernel.ring(head, *(self.at(task, "thread_node") for task in tasks))

    def boot(self) -> None:
        """Link the processes, and let the run queues know what runs."""
        leaders = (self.init_task, *self.processes)
        self.kernel.ring(*(self.at(task, "tasks") for task in leaders))
        for cpu, (rq, curr, idle) in enumerate(zip(self.runqueues, self.current, self.idle)):
            self.kernel.put_word(rq, curr)
            self.kernel.put_word(rq + 8, idle)
            self.kernel.put_word(rq + 16, cpu)

    def bend(self, task: int, designator: str, to: int) -> None:
        """Damage one link."""
        self.kernel.put_word(self.at(task, designator), to)

    def look(self) -> TaskList:
        return TaskList(self.kernel.prog, layout_of(self.kernel.prog).task)


def names(tasks: TaskList) -> list[str]:
    return [task.comm for task in tasks]


IDLE = ["swapper/0", "swapper/1"]


def four_processes() -> tuple[Machine, list[int]]:
    m = Machine()
    leaders = [m.process(pid)[0] for pid in (1, 2, 3, 4)]
    m.boot()
    return m, leaders


def test_processes_come_with_their_threads_in_order_and_idle_tasks_last() -> None:
    m = Machine()
    m.process(1)
    m.process(20, 22, 21)
    m.process(2)
    m.boot()
    tasks = m.look()
    assert names(tasks) == ["task1", "task20", "task22", "task21", "task2", *IDLE]
    assert tasks.problems == []
    assert names(tasks) == names(tasks)


def test_kernel_with_no_process_yet_has_its_idle_tasks() -> None:
    m = Machine()
    m.boot()
    tasks = m.look()
    assert (names(tasks), tasks.problems) == (IDLE, [])


def test_leader_need_not_be_the_first_thread() -> None:
    # After an exec() by another thread the list begins elsewhere.
    m = Machine()
    leader, second, third = m.process(10, 11, 12)
    signal = m.kernel.prog.read_u64(m.at(leader, "signal"))
    m.thread_list(signal, second, leader, third)
    m.boot()
    tasks = m.look()
    assert names(tasks) == ["task11", "task10", "task12", *IDLE]
    assert tasks.problems == []


# ---- tasks that lie side by side are read at once


class Crowd(NamedTuple):
    """Two processes that fill some blocks with their threads."""

    machine: Machine
    tasks: list[int]
    names: list[str]
    between: int
    """Memory of nobody between tasks."""


@pytest.fixture
def crowd() -> Crowd:
    m = Machine()
    tids = range(10, 610)
    tasks = m.process(*tids[:300])
    between = m.kernel.new("struct rq")
    tasks += m.process(*tids[300:])
    m.boot()
    assert tasks[-1] - tasks[0] > 3 * tasks_module._BLOCK_BYTES
    return Crowd(m, tasks, [f"task{tid}" for tid in tids] + IDLE, between)


def missing(address: int, count: int, offset: int, physical: bool) -> NoReturn:
    raise FaultError("not in the dump", address)


def test_neighbours_are_read_at_once(crowd: Crowd) -> None:
    tasks = crowd.machine.look()
    reads = 0

    def count() -> None:
        nonlocal reads
        reads += 1

    crowd.machine.kernel.before_read = count
    assert (names(tasks), tasks.problems) == (crowd.names, [])
    assert reads < len(crowd.tasks) // 20


def test_what_is_missing_beside_tasks_makes_no_difference(crowd: Crowd) -> None:
    crowd.machine.kernel.prog.add_memory_segment(crowd.between, 8, missing)
    tasks = crowd.machine.look()
    assert (names(tasks), tasks.problems) == (crowd.names, [])


def test_task_that_is_missing_among_neighbours_is_the_only_one(crowd: Crowd) -> None:
    crowd.machine.kernel.prog.add_memory_segment(crowd.tasks[200], 8, missing)
    tasks = crowd.machine.look()
    assert names(tasks) == [*crowd.names[:200], *crowd.names[300:]]
    (problem,) = tasks.problems
    assert f"it leads to {crowd.tasks[200]:#x}, which is not in the dump" in problem


def test_memory_that_somebody_laid_over_a_task_counts(crowd: Crowd) -> None:
    comm = crowd.machine.at(crowd.tasks[200], "comm")
    crowd.machine.kernel.prog.add_memory_segment(
        comm, 4, lambda address, count, offset, physical: b"laid"[offset : offset + count]
    )
    assert names(crowd.machine.look())[199:202] == ["task209", "laid210", "task211"]


# ---- CPUs


def test_each_cpu_says_what_runs_there() -> None:
    m = Machine()
    (leader,) = m.process(1)
    m.current[1] = leader
    m.boot()
    assert m.look().cpus == (Cpu(0, m.idle[0], m.idle[0]), Cpu(1, leader, m.idle[1]))


def test_running_is_on_cpu_or_current_either_alone() -> None:
    m = Machine()
    (current,) = m.process(1)
    (switching,) = m.process(2, on_cpu=1)
    m.process(3)
    m.current[1] = current
    m.boot()
    tasks = m.look()
    running = [task.addr for task in tasks if tasks.is_running(task)]
    assert running == [current, switching, m.idle[0]]


def test_current_of_a_run_queue_but_not_on_its_cpu_is_half_switched() -> None:
    m = Machine()
    m.process(1)
    (current,) = m.process(2)
    m.process(3, on_cpu=1)
    m.current[0], m.current[1] = m.process(4, on_cpu=1)[0], current
    m.boot()
    tasks = m.look()
    assert [task.addr for task in tasks if tasks.is_half_switched(task)] == [current]


def test_idle_tasks_are_those_of_the_run_queues() -> None:
    m = Machine()
    m.process(1)
    m.boot()
    tasks = m.look()
    assert [task.comm for task in tasks if tasks.is_idle(task)] == IDLE


def test_per_cpu_data_of_another_cpu_tell_nothing() -> None:
    # Fuzz: kdump, seed 700599. The offset of CPU 0 had become that of CPU 1, and so its crash note.
    m = Machine()
    m.current = [m.process(cpu + 1, on_cpu=1, thread_info={"cpu": cpu})[0] for cpu in range(2)]
    m.boot()
    assert not any(map(m.look().is_on_unclear_cpu, m.look()))
    m.kernel.put(m.offsets, m.kernel.prog.read(m.offsets + 8, 8))
    tasks = m.look()
    assert [cpu.number for cpu in tasks.cpus] == [1]
    assert tasks.problems == [
        "what runs on CPU 0 is not known: its run queue says that it belongs to CPU 1"
    ]
    assert [task.pid for task in tasks if tasks.is_on_unclear_cpu(task)] == [1]


def test_run_queue_that_cannot_be_read_keeps_the_other_cpus() -> None:
    m = Machine(cpus=3)
    m.process(1)
    m.boot()
    m.kernel.put_word(m.offsets + 8, 0x1234_5678)
    tasks = m.look()
    assert [cpu.number for cpu in tasks.cpus] == [0, 2]
    assert len(tasks.problems) == 1
    assert "what runs on CPU 1 cannot be read" in tasks.problems[0]
    assert names(tasks) == ["task1", "swapper/0", "swapper/2"]


def test_a_cpu_that_panic_stopped_is_offline_but_active() -> None:
    m = Machine()
    m.process(1)
    m.boot()
    m.kernel.put_word(m.kernel.prog["__cpu_online_mask"].address_, 0b01)
    tasks = m.look()
    assert [cpu.number for cpu in tasks.cpus] == [0, 1]
    assert names(tasks) == ["task1", "swapper/0", "swapper/1"]


def test_a_cpu_that_was_unplugged_is_neither() -> None:
    m = Machine()
    m.process(1)
    m.boot()
    for mask in ("__cpu_online_mask", "__cpu_active_mask"):
        m.kernel.put_word(m.kernel.prog[mask].address_, 0b01)
    tasks = m.look()
    assert [cpu.number for cpu in tasks.cpus] == [0]
    assert names(tasks) == ["task1", "swapper/0"]


@pytest.mark.parametrize(
    ("masks", "nr_cpu_ids", "found"),
    [
        ((0b11, 0b11), 1, [0]),
        ((0b11, 0b111), 2, [0, 1]),
        ((0b10_0000, 0b1_0000), 2, []),
        ((0, 0), 2, []),
        ((0b11, 0b11), 0, []),
    ],
)
def test_masks_of_cpus_that_cannot_be_are_said(
    masks: tuple[int, int], nr_cpu_ids: int, found: list[int]
) -> None:
    # A fuzzer took CPUs away: their idle tasks were missing without a word.
    m = Machine()
    m.process(1)
    m.boot()
    for name, mask in zip(("online", "active"), masks):
        m.kernel.put_word(m.kernel.prog[f"__cpu_{name}_mask"].address_, mask)
    m.kernel.constant("nr_cpu_ids", nr_cpu_ids, "unsigned int")
    tasks = m.look()
    assert [cpu.number for cpu in tasks.cpus] == found
    assert tasks.problems == [
        "which CPUs were online is not known: the masks of CPUs are damaged, or nr_cpu_ids"
    ]


def test_without_the_mask_of_cpus_what_runs_cannot_be_told() -> None:
    m = Machine()
    m.process(1)
    m.boot()
    m.kernel.forget_type("cpumask")
    m.kernel.constant("__cpu_online_mask", 0)
    tasks = m.look()
    assert tasks.cpus == ()
    assert "which tasks are running cannot be read" in tasks.problems[0]
    assert names(tasks) == ["task1"]


def test_idle_task_that_is_not_in_the_dump_is_said() -> None:
    m = Machine()
    m.process(1)
    m.idle[1] = m.kernel.nowhere
    m.boot()
    tasks = m.look()
    assert names(tasks) == ["task1", "swapper/0"]
    assert tasks.problems == ["the idle task of CPU 1 is not in the dump"]


def test_idle_task_of_two_cpus_is_given_once() -> None:
    m = Machine()
    shared = m.idle[1] = m.idle[0]
    m.boot()
    tasks = m.look()
    assert names(tasks) == ["swapper/0"]
    assert tasks.problems == [
        f"the run queue of CPU 1 leads to {shared:#x}, which is not its idle task"
    ]


@pytest.mark.parametrize(
    ("comm", "pid"),
    [("", 0), ("xwapper/1", 0), ("swapper/1", 1)],
)
def test_what_is_no_idle_task_is_not_taken_for_one(comm: str, pid: int) -> None:
    # A fuzzer let run queues lead to zeros, and to the middle of other tasks.
    m = Machine()
    m.process(1)
    m.idle[1] = other = m.task(pid, comm)
    m.boot()
    tasks = m.look()
    assert names(tasks) == ["task1", "swapper/0"]
    assert tasks.cpus[1] == Cpu(1, m.current[1], None)
    assert tasks.problems == [
        f"the run queue of CPU 1 leads to {other:#x}, which is not its idle task"
    ]


# ---- a damaged list of processes


def check_other_end(m: Machine, found: list[str], said: str) -> None:
    tasks = m.look()
    assert names(tasks) == [*found, *IDLE]
    assert len(tasks.problems) == 1
    assert "the task list is damaged" in tasks.problems[0]
    assert said in tasks.problems[0]


@pytest.mark.parametrize(
    ("task", "said"),
    [
        (0x4141_4140, "not in the dump"),
        (0xFFFF_FFFF_FFFF_FFF0, "not in the dump"),
        (0x4141_4141, "where no task can be"),
    ],
)
def test_list_that_leads_out_of_the_dump_is_walked_from_its_other_end(task: int, said: str) -> None:
    m, leaders = four_processes()
    to = (task + offsetof(m.type, "tasks")) % (1 << 64)
    m.bend(leaders[1], "tasks.next", to)
    check_other_end(m, ["task1", "task2", "task4", "task3"], f"{said}; 2 more processes")


def test_list_that_loops_is_walked_from_its_other_end() -> None:
    m, leaders = four_processes()
    m.bend(leaders[1], "tasks.next", m.at(leaders[1], "tasks"))
    check_other_end(
        m,
        ["task1", "task2", "task4", "task3"],
        f"it loops back to {m.at(leaders[1], 'tasks'):#x}; 2 more processes",
    )


def test_list_that_skips_to_what_does_not_point_back_is_walked_from_its_other_end() -> None:
    m, leaders = four_processes()
    m.bend(leaders[0], "tasks.next", m.at(leaders[2], "tasks"))
    check_other_end(m, ["task1", "task4", "task3", "task2"], f"{leaders[2]:#x} does not point back")


def test_list_broken_at_both_ends_of_a_task_lacks_only_that() -> None:
    m, leaders = four_processes()
    m.bend(leaders[0], "tasks.next", m.kernel.nowhere)
    m.bend(leaders[2], "tasks.prev", m.kernel.nowhere)
    check_other_end(m, ["task1", "task4", "task3"], "2 more processes")


def test_first_link_that_is_damaged_leaves_all_from_the_other_end() -> None:
    m, _ = four_processes()
    m.bend(m.init_task, "tasks.next", 0)
    check_other_end(m, ["task4", "task3", "task2", "task1"], "4 more processes")


def test_last_link_that_is_damaged_loses_nothing() -> None:
    m, leaders = four_processes()
    m.bend(leaders[3], "tasks.next", 0)
    check_other_end(m, ["task1", "task2", "task3", "task4"], "0 more processes")


def test_link_to_the_head_does_not_end_the_list_early() -> None:
    m, leaders = four_processes()
    head = m.at(m.init_task, "tasks")
    m.bend(leaders[1], "tasks.next", head)
    check_other_end(
        m,
        ["task1", "task2", "task4", "task3"],
        f"its head at {head:#x} does not point back to {m.at(leaders[1], 'tasks'):#x}; 2 more processes",
    )


def test_link_to_8_bytes_before_a_task_finds_no_task_there() -> None:
    # What would be its ``prev`` is the ``next`` of task2, which leads to task3.
    m, leaders = four_processes()
    m.bend(leaders[2], "tasks.next", m.at(leaders[1], "tasks") - 8)
    check_other_end(
        m,
        ["task1", "task2", "task3", "task4"],
        f"it leads to {leaders[1] - 8:#x}, where no task can be; 1 more processes",
    )


def test_head_that_points_back_elsewhere_loses_nothing() -> None:
    m, leaders = four_processes()
    m.bend(m.init_task, "tasks.prev", m.at(leaders[1], "tasks"))
    check_other_end(m, ["task1", "task2", "task3", "task4"], "does not point back")


def test_task_that_does_not_point_back_is_found_from_the_other_end() -> None:
    m, leaders = four_processes()
    m.bend(leaders[2], "tasks.prev", 0)
    check_other_end(m, ["task1", "task2", "task4", "task3"], "does not point back")


def test_list_longer_than_any_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task_list, "_MAX_TASKS", 2)
    m, _ = four_processes()
    tasks = m.look()
    assert names(tasks) == ["task1", "task2", *IDLE]
    assert "it does not end" in tasks.problems[0]


@pytest.mark.parametrize("damage", ["no symbol", "not in the dump", "has a pid"])
def test_without_init_task_there_is_no_list(damage: str) -> None:
    m, leaders = four_processes()
    if damage == "no symbol":
        m.kernel.forget_symbol("init_task")
    elif damage == "not in the dump":
        m.kernel.symbol("init_task", m.kernel.nowhere)
    else:
        m.kernel.symbol("init_task", leaders[0])
    tasks = m.look()
    assert names(tasks) == IDLE
    assert tasks.problems == ["init_task is not in the dump, or damaged: no task list"]


# ---- damaged lists of threads


def threads_of_10() -> tuple[Machine, list[int]]:
    m = Machine()
    threads = m.process(10, 11, 12)
    m.process(20)
    m.boot()
    return m, threads


def check_threads(m: Machine, found: list[str], said: str) -> None:
    tasks = m.look()
    assert names(tasks) == [*found, "task20", *IDLE]
    assert len(tasks.problems) == 1
    assert tasks.problems[0].startswith("the thread list of process 10 is damaged: ")
    assert said in tasks.problems[0]


def test_thread_of_another_process_is_damage() -> None:
    m, threads = threads_of_10()
    m.bend(threads[1], "signal", m.kernel.base)
    check_threads(m, ["task10"], f"{threads[1]:#x} does not point back")


def test_thread_list_that_leads_out_of_the_dump_keeps_what_came_before() -> None:
    m, threads = threads_of_10()
    m.bend(threads[1], "thread_node.next", m.kernel.nowhere)
    check_threads(m, ["task10", "task11"], "which is not in the dump")


def test_thread_list_that_loops_keeps_what_came_before() -> None:
    m, threads = threads_of_10()
    m.bend(threads[1], "thread_node.next", m.at(threads[1], "thread_node"))
    check_threads(m, ["task10", "task11"], "it loops back to")


def test_thread_list_that_goes_back_to_the_leader_keeps_what_came_before() -> None:
    m, threads = threads_of_10()
    m.bend(threads[1], "thread_node.next", m.at(threads[0], "thread_node"))
    check_threads(m, ["task10", "task11"], "does not point back")


@pytest.mark.parametrize(("bent", "found"), [(0, ["task10"]), (1, ["task10", "task11"])])
def test_link_to_the_head_of_threads_does_not_end_the_list_early(
    bent: int, found: list[str]
) -> None:
    m, threads = threads_of_10()
    head = m.kernel.prog.read_u64(m.at(threads[0], "thread_node.prev"))
    m.bend(threads[bent], "thread_node.next", head)
    check_threads(m, found, f"its head at {head:#x} does not point back to")


def test_leader_is_kept_when_its_thread_list_lacks_it() -> None:
    m, threads = threads_of_10()
    m.bend(threads[0], "thread_node.prev", 0)
    check_threads(m, ["task10"], f"{threads[0]:#x} does not point back")


@pytest.mark.parametrize("signal", [DrawnKernel().nowhere, 0, (1 << 64) - 8])
def test_leader_is_kept_when_the_head_of_its_threads_is_not_in_the_dump(signal: int) -> None:
    m, threads = threads_of_10()
    m.bend(threads[0], "signal", signal)
    check_threads(m, ["task10"], "its head at")


def test_thread_that_is_also_on_the_list_of_processes_is_given_once() -> None:
    m = Machine()
    _, thread = m.process(10, 11)
    m.processes.append(thread)
    m.boot()
    assert names(m.look()) == ["task10", "task11", *IDLE]


@pytest.mark.parametrize(("ones", "is_there"), [(1 << 47, True), (1 << 47 | 1 << 40, False)])
def test_an_address_without_the_bits_that_a_read_ignores_is_no_task(
    ones: int, is_there: bool
) -> None:
    machine = Machine()
    machine.process(7)
    machine.boot()
    layout = replace(layout_of(machine.kernel.prog).task, ones=ones)
    tasks = TaskList(machine.kernel.prog, layout)
    assert [task.pid for task in tasks if task.pid] == ([7] if is_there else [])
    assert (tasks.problems == []) is is_there
