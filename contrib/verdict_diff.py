# SPDX-License-Identifier: LGPL-2.1-or-later
"""What differs between the stacks of two dumps of a machine?

A task is the same in both dumps if PID and name are equal. The table has the tasks whose verdict or
reason changed; with --all also the tasks that are in only one of the dumps.

    $ drgn -c before.vmcore contrib/verdict_diff.py after.vmcore
    PID  COMM       BEFORE                                                              AFTER
    126  spin-copy  unreliable: preempted by the timer interrupt in do_syscall_64+0x18  reliable

    138 tasks are in both dumps: 1 changed, 0 could not be compared; 2 went, 3 came

    $ python contrib/verdict_diff.py -c before.vmcore after.vmcore
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator
from typing import Optional

from drgn import Program

from drgn_tools import KernelInfo, TaskStack, kernel_info, open_program, task_stacks
from drgn_tools.commands.script import note, run, script_parser, table, warn
from drgn_tools.records import KERNEL_WIDE

TaskName = tuple[int, str]  # the idle tasks share PID 0, but not their names


def verdict_diff(prog: Program, args: Namespace) -> Iterator[str]:
    other = open_program(core=args.other)
    compare_kernels(kernel_info(prog), kernel_info(other))
    before, after = by_name(prog), by_name(other)
    both = before.keys() & after.keys()
    unclear = {task for task in both if no_verdicts(before[task]) or no_verdicts(after[task])}
    changed = {task for task in both - unclear if answer(before[task]) != answer(after[task])}
    shown = changed | (before.keys() ^ after.keys()) if args.all else changed
    yield from table(
        ("PID", "COMM", "BEFORE", "AFTER"),
        ((*task, answer(before.get(task)), answer(after.get(task))) for task in sorted(shown)),
    )
    yield ""
    yield (
        f"{len(both)} tasks are in both dumps: {len(changed)} changed, {len(unclear)} could not "
        f"be compared; {len(before) - len(both)} went, {len(after) - len(both)} came"
    )


def compare_kernels(before: KernelInfo, after: KernelInfo) -> None:
    """Show the notes on the second kernel, and warn if the build IDs differ."""
    for text in after.notes:
        if text not in before.notes:  # run() has already shown these
            note(f"{after.source}: {text}")
    if before.build_id != after.build_id:
        warn(f"not the same kernel: build ID {before.build_id} before, {after.build_id} after")


def by_name(prog: Program) -> dict[TaskName, TaskStack]:
    return {(task.pid, task.comm): task for task in task_stacks(prog)}


def no_verdicts(task: TaskStack) -> bool:
    """Return whether no task of this kernel has a verdict."""
    return task.reason in KERNEL_WIDE


def answer(task: Optional[TaskStack]) -> Optional[str]:
    """Return verdict and reason as text; ``None`` for a task that is not in the dump."""
    if task is None:
        return None
    # A note has already shown the sentence that all tasks of a kernel share.
    why = task.reason if no_verdicts(task) else task.why
    return f"{task.verdict}: {why}" if why else str(task.verdict)


if __name__ == "__main__":
    parser = script_parser(__doc__)
    parser.add_argument("other", metavar="VMCORE", help="the second dump")
    parser.add_argument("--all", action="store_true", help="also tasks that are in only one dump")
    run(verdict_diff, parser)
