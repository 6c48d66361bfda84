# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is different between the stacks of two dumps of a machine?

Tasks are the same if PID and name are. Shown are those that came, went, or whose
verdict changed, or the reason for it.

    $ drgn -c before.vmcore contrib/verdict_diff.py after.vmcore
    PID  COMM       BEFORE                                                              AFTER
     49  w-zombie   -                                                                   reliable
    126  spin-copy  unreliable: preempted by the timer interrupt in do_syscall_64+0x18  reliable

    $ python contrib/verdict_diff.py -c before.vmcore after.vmcore
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator

from drgn import Program

from drgn_tools import TaskStack, open_program, task_stacks
from drgn_tools.script import run, script_parser, table


def verdict_diff(prog: Program, args: Namespace) -> Iterator[str]:
    before = by_name(prog)
    after = by_name(open_program(core=args.other))
    return table(
        ("PID", "COMM", "BEFORE", "AFTER"),
        (
            (*task, before.get(task), after.get(task))
            for task in sorted(before.keys() | after.keys())
            if before.get(task) != after.get(task)
        ),
    )


def by_name(prog: Program) -> dict[tuple[int, str], str]:
    # The idle tasks share PID 0, but not their names.
    return {(task.pid, task.comm): verdict(task) for task in task_stacks(prog)}


def verdict(task: TaskStack) -> str:
    return f"{task.verdict.value}: {task.why}" if task.why else task.verdict.value


if __name__ == "__main__":
    parser = script_parser(__doc__)
    parser.add_argument("other", metavar="VMCORE", help="the second dump")
    run(verdict_diff, parser)
