# SPDX-License-Identifier: LGPL-2.1-or-later
"""Makes a vmcore of many tasks out of a real one.

    python -m tests.bench.multiply CORE OUT --tasks 100000

The tasks that sleep are copied again and again, whole processes at a time, into memory
that is put behind the machine's own and that its page tables map where the direct map
goes on. Of a task that is the task struct as far as the floating point registers, the
live part of its stack, and what the kernel keeps of swapped-out return addresses; of a
process its signal_struct. Pointers from one of these into another, and frame pointers on
the stacks, lead to the copies; the task list and the lists of threads are relinked, and
PIDs are new ones.

So the answers are known: the verdict on a copy, its return addresses and their names are
those of its original. OUT.json says which that is (see answers.py).

What is not multiplied: the tree of PIDs. Who looks a task up by its number (drgn's
for_each_task(), crash) does not find copies; who walks the list of tasks does.

The file is written as it is made up, and has holes where stacks are not in use: it takes
some 7 KB of disk a task. Only ELF vmcores of x86-64 whose memory has physical addresses.
"""

from __future__ import annotations

import argparse
import os
import struct
import subprocess
import sys
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Optional

import drgn

from drgn_tools import open_program
from drgn_tools.arch.base import Layout
from drgn_tools.arch.registry import layout_of
from drgn_tools.debuginfo.vmcoreinfo import vmcoreinfo, vmcoreinfo_symbol
from drgn_tools.errors import DrgnToolsError
from drgn_tools.kernel.probing import symbol_address
from drgn_tools.kernel.task_list import TaskList
from drgn_tools.kernel.tasks import Task
from drgn_tools.unwind.recovery import RecoverLayout, probe_recovery
from tests.lab.run import Progress

from .answers import Answers, Rounds, answers_path, copy_differences, write_answers
from .page_tables import GIB, PAGE, CoreMemory, PageTables

__all__ = ("MultiplyError", "multiply")

_LINE = 64
_WORD = (1 << 64) - 1
_TOP_BIT = 1 << 63
_PID_LIMIT = 4 << 20
_FIRST_PID = 300
"""RESERVED_PIDS (kernel/pid.c): where the kernel goes on when it has given out all."""
_TABLES_BYTES = 64 * PAGE
"""Room for page tables in front of the copies: a table reaches for 512 GiB."""
_LOWEST_PHYS = 4 * GIB
_MAX_PHYS = 1 << 40
"""The direct map has room for 1 TiB at least, wherever it begins (mm/kaslr.c)."""
_START_KERNEL_MAP = 0xFFFF_FFFF_8000_0000
_MAX_NODES = 64


class MultiplyError(Exception):
    """This core cannot be multiplied, or not to that many tasks."""


# ---- what is copied


@dataclass(frozen=True)
class _Piece:
    """Memory that is copied as one."""

    addr: int
    window_bytes: int
    """How much address space it takes: pointers into it lead to the copy."""
    live: int
    """Where in it what is copied begins."""
    data: bytes
    is_stack: bool = False


@dataclass(frozen=True)
class _Process:
    tasks: list[Task]
    pieces: list[_Piece]


class _Original:
    """The kernel that is multiplied."""

    def __init__(self, core: Path) -> None:
        self.prog = open_program(core=core)
        self.layout: Layout = layout_of(self.prog)
        if self.layout.arch.name != "x86_64":
            raise MultiplyError(f"{core}: is a kernel of {self.layout.arch.name}, not x86_64")
        self.recover: RecoverLayout = probe_recovery(self.prog)
        self.tasks = TaskList(self.prog, self.layout.task)
        self.all = list(self.tasks)
        if self.tasks.problems:
            raise MultiplyError(f"{core}: {self.tasks.problems[0]}")
        self._task_bytes = _up(self._task_struct_bytes(), _LINE)
        self._signal_bytes = drgn.sizeof(self.prog.type("struct signal_struct"))

    def _task_struct_bytes(self) -> int:
        type_ = self.prog.type("struct task_struct")
        try:
            return int(drgn.offsetof(type_, "thread.fpu"))
        except LookupError:
            return int(drgn.sizeof(type_))

    def processes(self) -> list[_Process]:
        """Those of which no thread is on a CPU."""
        of_signal: dict[int, list[Task]] = {}
        for task in self.all:
            if not self.tasks.is_idle(task):
                of_signal.setdefault(task.signal_addr, []).append(task)
        return [
            _Process(threads, list(self._pieces(threads)))
            for threads in of_signal.values()
            if not any(self.tasks.is_running(task) for task in threads)
        ]

    def _pieces(self, threads: Sequence[Task]) -> Iterator[_Piece]:
        yield self._piece(threads[0].signal_addr, self._signal_bytes)
        for task in threads:
            yield self._piece(task.addr, self._task_bytes)
            if task.has_stack:
                size = self.layout.thread_size_bytes
                live = max(task.thread_sp - task.stack_addr, 0)
                if live >= size:
                    raise MultiplyError(f"pid {task.pid}: its stack pointer is not on its stack")
                data = self.prog.read(task.stack_addr + live, size - live)
                yield _Piece(task.stack_addr, size, live, data, is_stack=True)
            yield from self._swapped(task)

    def _swapped(self, task: Task) -> Iterator[_Piece]:
        """Where the kernel keeps the return addresses of a task that it swapped out."""
        fgraph, rethook = self.recover.fgraph, self.recover.rethook
        if fgraph is not None:
            offset, size = fgraph.curr_ret_stack
            raw = self.prog.read(task.addr + offset, size)
            index = int.from_bytes(raw, "little", signed=True)
            used = index * 8 if fgraph.of_words else (index + 1) * fgraph.frame_bytes
            if 0 < used <= (fgraph.max_index + 1) * fgraph.frame_bytes:
                ret_stack = self.prog.read_word(task.addr + fgraph.ret_stack_offset)
                yield self._piece(ret_stack, _up(used, 8))
        if rethook is not None:
            # Each node is linked by its llist member, and what is asked of it is behind that.
            size = 8 + max(rethook.ret_addr_offset, rethook.frame_offset)
            node = self.prog.read_word(task.addr + rethook.first_offset)
            for _ in range(_MAX_NODES):
                if not node:
                    break
                yield self._piece(node, size)
                node = self.prog.read_word(node)

    def _piece(self, addr: int, size_bytes: int) -> _Piece:
        return _Piece(addr, size_bytes, 0, self.prog.read(addr, size_bytes))


def _up(value: int, to: int) -> int:
    return -(-value // to) * to


# ---- one round of copies


class _Round:
    """A copy of some processes as if it lay at address 0, and which of its words move with it."""

    def __init__(self, processes: Sequence[_Process], layout: Layout) -> None:
        # Stacks first, each at a multiple of its size, then all that is small.
        places: dict[int, int] = {}
        at = 0
        for stacks in (True, False):
            for piece in (p for process in processes for p in process.pieces):
                if piece.is_stack == stacks:
                    places[piece.addr] = at
                    at += piece.window_bytes if stacks else _up(piece.window_bytes, _LINE)
        self.size_bytes = _up(at, layout.thread_size_bytes)
        self._image = bytearray(self.size_bytes)
        moving: dict[int, int] = {}
        used_pages: set[int] = set()
        for process in processes:
            for piece in process.pieces:
                at = places[piece.addr] + piece.live
                end = at + len(piece.data)
                self._image[at:end] = piece.data
                used_pages.update(range(at // PAGE, _up(end, PAGE) // PAGE))
            moving.update(_moving_words(process, places))
        self.originals = [task.addr for process in processes for task in process.tasks]
        self.offsets = [places[addr] for addr in self.originals]
        self._tgid_from = [
            len(process.tasks[:i]) for process in processes for i in range(len(process.tasks))
        ]
        node = layout.task.tasks_next[0]
        nodes = [places[process.tasks[0].addr] + node for process in processes]
        self.first_node, self.last_node = nodes[0], nodes[-1]
        for behind, ahead in zip(nodes, nodes[1:]):
            moving[behind] = ahead
            moving[ahead + 8] = behind
        self._moving = [(at >> 3, to) for at, to in moving.items()]
        self._pid, self._tgid = layout.task.pid[0], layout.task.tgid[0]
        self._runs = list(_runs(sorted(used_pages)))

    def write(
        self, fd: int, offset: int, addr: int, before: int, behind: int, first_pid: int
    ) -> None:
        """Writes it as it is at a virtual address.

        :param offset: where in the file
        :param before: the node of the task list that leads to it
        :param behind: the one that it leads to
        """
        view = memoryview(self._image)
        words = view.cast("Q")
        for i, to in self._moving:
            words[i] = (to + addr) & _WORD
        words[self.last_node >> 3] = behind
        words[(self.first_node >> 3) + 1] = before
        halves = view.cast("I")
        for i, (at, since_leader) in enumerate(zip(self.offsets, self._tgid_from)):
            halves[(at + self._pid) >> 2] = _pid(first_pid + i)
            halves[(at + self._tgid) >> 2] = _pid(first_pid + i - since_leader)
        for begin, end in self._runs:
            os.pwrite(fd, view[begin:end], offset + begin)


def _moving_words(process: _Process, places: Mapping[int, int]) -> Iterator[tuple[int, int]]:
    """Words that lead from one piece of a process to another, or within it.

    As (where in the round, what to if the round lies at address 0).
    """
    pieces = sorted(process.pieces, key=lambda piece: piece.addr)
    begins = [piece.addr for piece in pieces]

    def moved(value: int) -> Optional[int]:
        i = bisect_right(begins, value) - 1
        into = value - begins[i]
        # A frame pointer may lead to the end of a stack.
        if i < 0 or into >= pieces[i].window_bytes + pieces[i].is_stack:
            return None
        return places[begins[i]] + into

    for piece in pieces:
        at = places[piece.addr] + piece.live
        for i, (word,) in enumerate(_words(piece.data)):
            to = moved(word)
            if to is None and piece.is_stack and not word & _TOP_BIT:
                # A frame pointer may be encoded by clearing the highest bit.
                to = moved(word | _TOP_BIT)
                to = None if to is None else to - _TOP_BIT
            if to is not None:
                yield at + 8 * i, to


def _words(data: bytes) -> Iterator[tuple[int]]:
    return struct.iter_unpack("<Q", data[: len(data) & ~7])


def _runs(pages: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Pages in a row, as (begin, end) in bytes."""
    begin = 0
    for i, page in enumerate(pages, 1):
        if i == len(pages) or pages[i] != page + 1:
            yield pages[begin] * PAGE, (page + 1) * PAGE
            begin = i


def _pid(number: int) -> int:
    """PIDs wrap as the kernel's do."""
    if number < _PID_LIMIT:
        return number
    return _FIRST_PID + (number - _PID_LIMIT) % (_PID_LIMIT - _FIRST_PID)


def _part(processes: Sequence[_Process], tasks: int) -> list[_Process]:
    """Some processes that have so many tasks together."""
    chosen = []
    for process in sorted(processes, key=lambda process: -len(process.tasks)):
        if len(process.tasks) <= tasks:
            chosen.append(process)
            tasks -= len(process.tasks)
    if tasks:
        raise MultiplyError(f"no choice of its processes has {tasks} tasks more")
    return chosen


# ---- the whole


def multiply(core: Path, out: Path, tasks: int, progress: Optional[Progress] = None) -> Answers:
    """Writes a core of so many tasks, and what the answers are beside it.

    :param core: an ELF vmcore of x86-64
    :param tasks: how many there are to be, with those that there are
    :raises MultiplyError: this core cannot be multiplied, or not to that many
    :raises DrgnToolsError: it cannot be opened
    """
    with open(core, "rb") as file:
        if file.read(4) != b"\x7fELF":
            raise MultiplyError(f"{core}: is not an ELF core, and only these can be extended")
    original = _Original(core)
    processes = original.processes()
    wanted = tasks - len(original.all)
    per_round = sum(len(process.tasks) for process in processes)
    if wanted < 1 or not per_round:
        raise MultiplyError(f"{core}: has {len(original.all)} tasks, {per_round} to copy")
    count, rest = divmod(wanted, per_round)
    plan = [(_Round(processes, original.layout), count)] if count else []
    if rest:
        plan.append((_Round(_part(processes, rest), original.layout), 1))
    subprocess.run(["cp", "--sparse=always", core, out], check=True)
    out.chmod(0o600)
    try:
        with open(out, "r+b") as file:
            answers = _write(file, original, plan, progress)
    except LookupError as e:
        raise MultiplyError(f"{core}: {e}") from e
    write_answers(out, answers)
    return answers


def _write(
    file: BinaryIO,
    original: _Original,
    plan: Sequence[tuple[_Round, int]],
    progress: Optional[Progress],
) -> Answers:
    memory, tables = _memory_of(file, original.prog)
    phys = max(_LOWEST_PHYS, _up(memory.end, GIB))
    size_bytes = _up(_TABLES_BYTES + sum(count * r.size_bytes for r, count in plan), PAGE)
    if phys + size_bytes > _MAX_PHYS:
        raise MultiplyError(f"{size_bytes >> 30} GiB of copies: the direct map may end before")
    memory.add_segment(phys, size_bytes)
    direct_map = _direct_map(original.prog)
    free_tables = iter(range(phys, phys + _TABLES_BYTES, PAGE))
    for at in range(phys, phys + size_bytes, GIB):
        tables.map_gib(direct_map + at, at, lambda: next(free_tables))

    begin = direct_map + phys + _TABLES_BYTES
    rounds = []
    places: list[tuple[_Round, int]] = []
    for template, count in plan:
        rounds.append(
            Rounds(begin, count, template.size_bytes, template.originals, template.offsets)
        )
        places += [(template, begin + i * template.size_bytes) for i in range(count)]
        begin += count * template.size_bytes

    head, last = _ends_of_task_list(original)
    pid = max(task.pid for task in original.all) + 1
    done = len(original.all)
    before = last
    for i, (template, addr) in enumerate(places):
        behind = places[i + 1][0].first_node + places[i + 1][1] if i + 1 < len(places) else head
        offset = memory.offset(addr - direct_map)
        template.write(file.fileno(), offset, addr, before, behind, pid)
        before = addr + template.last_node
        pid += len(template.originals)
        done += len(template.originals)
        if progress is not None:
            progress.update(f"{done} tasks")
    memory.write_word(tables.phys(last), places[0][0].first_node + places[0][1])
    memory.write_word(tables.phys(head + 8), before)
    return Answers(done, rounds)


def _memory_of(file: BinaryIO, prog: drgn.Program) -> tuple[CoreMemory, PageTables]:
    root = vmcoreinfo_symbol(prog, "swapper_pg_dir")
    info = vmcoreinfo(prog)
    if root is None or "NUMBER(phys_base)" not in info:
        raise MultiplyError("VMCOREINFO does not say where the page tables are")
    root_phys = root - _START_KERNEL_MAP + int(info["NUMBER(phys_base)"])
    memory = CoreMemory(file)
    levels = 5 if info.get("NUMBER(pgtable_l5_enabled)", "0") == "1" else 4
    return memory, PageTables(memory, root_phys, levels)


def _direct_map(prog: drgn.Program) -> int:
    """page_offset_base, where the direct map begins."""
    addr = symbol_address(prog, "page_offset_base")
    if addr is None:
        raise MultiplyError("this kernel has no page_offset_base: where does its direct map begin?")
    return int(prog.read_word(addr))


def _ends_of_task_list(original: _Original) -> tuple[int, int]:
    """The node of init_task, and the last one."""
    init_task = symbol_address(original.prog, "init_task")
    assert init_task is not None, "the task list was walked from it"
    head = init_task + original.layout.task.tasks_next[0]
    return head, int(original.prog.read_word(head + 8))


def main(argv: Optional[Sequence[str]] = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.multiply",
        description="Make a vmcore of many tasks out of a real one, with the answers beside it.",
    )
    parser.add_argument("core", type=Path, metavar="CORE", help="an ELF vmcore of x86-64")
    parser.add_argument("out", type=Path, metavar="OUT", help="the file to write")
    parser.add_argument(
        "--tasks", type=int, required=True, metavar="N", help="how many there are to be"
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="look at all of them, and hold each against its original",
    )
    args = parser.parse_args(argv)
    part = args.out.with_name(f"{args.out.name}.part")
    try:
        with Progress(f"multiplying to {args.tasks} tasks") as progress:
            answers = multiply(args.core, part, args.tasks, progress)
        answers_path(part).replace(answers_path(args.out))
        part.replace(args.out)
    except (MultiplyError, DrgnToolsError, OSError) as e:
        print(f"multiply: {e}", file=sys.stderr)
        return 1
    finally:
        part.unlink(missing_ok=True)
        answers_path(part).unlink(missing_ok=True)
    print(f"{args.out}: {answers.tasks} tasks, {answers.copies} of them copies")
    differences = 0
    if args.check:
        for difference in copy_differences(open_program(core=args.out), answers):
            print(difference)
            differences += 1
        print(f"{differences} differences")
    return 1 if differences else 0


if __name__ == "__main__":
    sys.exit(main())
