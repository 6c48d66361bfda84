# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which tasks would hold back a live patch of these functions, and why?

A task can switch to the new code if its stack is reliable and none of the old functions is on it
(klp_check_stack() in kernel/livepatch/transition.c). The kernel checks a running task again when
it is in user mode or idle.

    $ drgn -c vmcore contrib/livepatch_blockers.py pipe_read do_wait
    PID  COMM            S  WHY
      1  init            S  in do_wait+0xe1
     20  migration/0     R  unknown: running on CPU 0
     23  migration/1     R  unknown: running on CPU 1
     73  w-pipe-read     S  in pipe_read+0x232
     97  w-kfault-write  S  unreliable: page fault in rep_movs_alternative+0x4a
    ...

    $ python contrib/livepatch_blockers.py -c vmcore pipe_read do_wait
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator
from typing import Optional

from drgn import Program

from drgn_tools import TaskStack, UsageError, Verdict, task_stacks
from drgn_tools.commands.script import run, script_parser, table


def livepatch_blockers(prog: Program, args: Namespace) -> Iterator[str]:
    for function in args.functions:
        if not prog.symbols(function):
            raise UsageError(f"this kernel has no function {function}")
    blocked = ((task, why_blocked(task, args.functions)) for task in task_stacks(prog))
    return table(
        ("PID", "COMM", "S", "WHY"),
        ((task.pid, task.comm, task.state, why) for task, why in blocked if why),
    )


def why_blocked(task: TaskStack, functions: list[str]) -> Optional[str]:
    """Return why a task cannot switch to new code of these functions; ``None`` if it can."""
    if task.verdict is not Verdict.RELIABLE:
        return f"{task.verdict.value}: {task.why}"
    for frame in task.frames:
        if frame.symbol and frame.symbol.name in functions:
            return f"in {frame.symbol}"
    return None


if __name__ == "__main__":
    parser = script_parser(__doc__)
    parser.add_argument("functions", metavar="FUNCTION", nargs="+", help="a function to be patched")
    run(livepatch_blockers, parser)
