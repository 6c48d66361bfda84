# SPDX-License-Identifier: LGPL-2.1-or-later
"""In which kernel functions were tasks interrupted that have not continued since?

Counts every pt_regs saved in kernel mode on the stacks of tasks that are not on a CPU. A task with several of
them counts several times. With frame pointers such a stack cannot be trusted; with ORC it can.

    $ drgn -c vmcore contrib/interrupted_functions.py
    TASKS  FUNCTION              INTERRUPTED BY        SUCH AS
        3  spinner               timer interrupt       lab-spinner/0 (pid 111)
        3  rep_stos_alternative  timer interrupt       spin-zero (pid 121)
        2  do_user_addr_fault    timer interrupt       spin-fault (pid 129)
        1  rep_movs_alternative  page fault            w-kfault-write (pid 97)
    ...

    $ python contrib/interrupted_functions.py -c vmcore
"""

from __future__ import annotations

from argparse import Namespace
from collections import defaultdict
from collections.abc import Iterator

from drgn import Program

from drgn_tools import TaskStack, task_stacks
from drgn_tools.commands.script import run, script_parser, table


def interrupted_functions(prog: Program, args: Namespace) -> Iterator[str]:
    places: dict[tuple[str, str], list[TaskStack]] = defaultdict(list)
    for task in task_stacks(prog):
        if not task.on_cpu:
            entries = {regs.address: regs.entry for regs in task.regs}
            for frame in task.frames:
                if frame.regs is not None and not frame.user_mode:
                    function = frame.symbol.name if frame.symbol else hex(frame.ip)
                    places[function, entries[frame.regs] or "unknown"].append(task)
    return table(
        ("TASKS", "FUNCTION", "INTERRUPTED BY", "SUCH AS"),
        (
            (len(tasks), function, entry, f"{tasks[0].comm} (pid {tasks[0].pid})")
            for (function, entry), tasks in sorted(places.items(), key=lambda item: -len(item[1]))
        ),
    )


if __name__ == "__main__":
    run(interrupted_functions, script_parser(__doc__))
