# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which tasks use the most kernel stack, in bytes, and where?

WHERE is the innermost function that is not the scheduler itself; for a task on a CPU, the function
where it was stopped. More than 100% means that the stack overflowed.

    $ drgn -c vmcore contrib/deepest_stacks.py -n 2
    BYTES  OF STACK  FRAMES  PID  COMM        WHERE
     2624  16%          121   68  w-deep-120  lab_sleep+0x33
     2320  14%          102   67  w-deep-101  lab_sleep+0x33

    $ python contrib/deepest_stacks.py -c vmcore
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator
from typing import Optional

from drgn import Program

from drgn_tools import TaskStack, task_stacks
from drgn_tools.analysis.waiting import waiting_function
from drgn_tools.arch.registry import layout_of
from drgn_tools.commands.script import run, script_parser, table
from drgn_tools.kernel.tasks import read_task
from drgn_tools.terminal.parser import positive

GUARD_BYTES = 4096


def used_bytes(prog: Program, stack: TaskStack) -> Optional[int]:
    """Return how many bytes of the task's own stack are in use.

    :return: ``None`` for a task on a CPU if none of its known stack pointers is on this stack.
    """
    layout = layout_of(prog)
    task = read_task(prog, layout.task, stack.task)
    begin, size = task.stack_addr, layout.thread_size_bytes
    if not stack.on_cpu:
        return begin + size - task.thread_sp
    # The CPU may be on another stack. Then the sp of this one is in the pt_regs that it saved.
    # After a stack overflow, sp is in the guard page below.
    saved = [regs.registers.get("sp", 0) for regs in stack.regs if not regs.user_mode]
    pointers = [(stack.cpu_registers or {}).get("sp", 0), *saved]
    used = [begin + size - sp for sp in pointers if begin - GUARD_BYTES <= sp < begin + size]
    return max(used, default=None)


def deepest_stacks(prog: Program, args: Namespace) -> Iterator[str]:
    size = layout_of(prog).thread_size_bytes
    rows = []
    for stack in task_stacks(prog):
        used = used_bytes(prog, stack) if stack.frames else None
        if used is not None:
            frame = waiting_function(stack)
            where = frame and frame.symbol
            depth = len(stack.frames)
            rows.append((used, f"{used / size:.0%}", depth, stack.pid, stack.comm, where))
    rows.sort(key=lambda row: -row[0])
    return table(("BYTES", "OF STACK", "FRAMES", "PID", "COMM", "WHERE"), rows[: args.n])


if __name__ == "__main__":
    parser = script_parser(__doc__)
    parser.add_argument("-n", type=positive("-n"), default=10, help="how many (default: 10)")
    run(deepest_stacks, parser)
