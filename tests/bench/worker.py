# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is timed inside a process: started anew each time, so nobody profits from who was before.

    python -m tests.bench.worker NAME ARGUMENT...

Opening is not timed. One line of JSON on stdout: seconds and CPU seconds, and how many of what.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Optional

Result = dict[str, float]


def _timed(work: Callable[[], int]) -> Result:
    seconds, cpu = time.perf_counter(), time.process_time()
    count = work()
    return {
        "seconds": time.perf_counter() - seconds,
        "cpu_seconds": time.process_time() - cpu,
        "count": count,
    }


def ours(core: str) -> Result:
    """Complete records of all tasks, one after the other, from an open program."""
    from drgn_tools import open_program, task_stacks

    prog = open_program(core=core)
    return _timed(lambda: sum(1 for _ in task_stacks(prog)))


def drgns(core: str, vmlinux: str, every: str) -> Result:
    """drgn's stack_trace() of all tasks, or every n-th, with the name of each frame.

    :param vmlinux: with DWARF; "" for what drgn makes of the types and symbols in the dump
    """
    import drgn
    from drgn.helpers.linux.pid import for_each_task

    from drgn_tools import open_program

    if vmlinux:
        prog = drgn.Program()
        prog.set_core_dump(core)
        prog.load_debug_info([vmlinux])
    else:
        prog = open_program(core=core)
    tasks: list[drgn.Object] = []

    def find() -> int:
        tasks.extend(for_each_task(prog, idle=True))
        return len(tasks)

    def trace() -> int:
        sample = tasks[:: int(every)]
        for task in sample:
            with suppress(ValueError):  # it has no stack
                _ = [frame.name for frame in prog.stack_trace(task)]
        return len(sample)

    # For each task it has to be found once, however few are then looked at.
    found, traced = _timed(find), _timed(trace)
    share = traced["count"] / found["count"]
    return {
        "seconds": found["seconds"] * share + traced["seconds"],
        "cpu_seconds": found["cpu_seconds"] * share + traced["cpu_seconds"],
        "count": traced["count"],
    }


def record(core: str, out: str) -> Result:
    """Writes down what ours() reads: address, size and whether it is a physical address.

    A second program reads it, so that nothing of how that is done is on the list.
    """
    from drgn_tools import open_program, task_stacks

    prog, reader = open_program(core=core), open_program(core=core)
    reads: list[tuple[int, int, bool]] = []

    def read(address: int, count: int, offset: int, physical: bool) -> bytes:
        reads.append((address, count, physical))
        return bytes(reader.read(address, count, physical))

    for physical in (False, True):
        prog.add_memory_segment(0, (1 << 64) - 1, read, physical)
    tasks = sum(1 for _ in task_stacks(prog))
    with open(out, "w") as file:
        json.dump(reads, file)
    return {"count": tasks, "reads": len(reads), "bytes": sum(count for _, count, _ in reads)}


def replay(core: str, recorded: str) -> Result:
    """The same reads, and nothing else."""
    from drgn import FaultError

    from drgn_tools import open_program

    prog = open_program(core=core)
    with open(recorded) as file:
        reads = [tuple(read) for read in json.load(file)]

    def work() -> int:
        read = prog.read
        for address, count, physical in reads:
            with suppress(FaultError):
                read(address, count, physical)
        return len(reads)

    return _timed(work)


def peak(limit_bytes: str, *words: str) -> Result:
    """The command line in this process, its output thrown away: the most memory it ever had.

    Resident, and with that of the largest of its children, should it have any.
    """
    import resource

    from drgn_tools.__main__ import main

    resource.setrlimit(resource.RLIMIT_AS, (int(limit_bytes), int(limit_bytes)))
    stdout = os.dup(1)
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    sys.argv = ["drgn-tools", *words]
    try:
        status: Optional[object] = main()
    except SystemExit as e:
        status = e.code
    sys.stdout.flush()
    os.dup2(stdout, 1)
    if status not in (0, None):
        raise SystemExit(f"drgn-tools ended with {status}")
    with open("/proc/self/status") as file:
        fields = dict(line.split(":", 1) for line in file)
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return {"peak_bytes": (int(fields["VmHWM"].split()[0]) + children) * 1024}


_WORK: Iterable[Callable[..., Result]] = (ours, drgns, record, replay, peak)


def main() -> None:
    of_name = {work.__name__: work for work in _WORK}
    print(json.dumps(of_name[sys.argv[1]](*sys.argv[2:])))


if __name__ == "__main__":
    main()
