# SPDX-License-Identifier: LGPL-2.1-or-later
"""In which functions was the kernel interrupted, of the tasks whose stacks cannot be trusted?

$ drgn -c vmcore contrib/interrupted_functions.py
TASKS  FUNCTION              INTERRUPTED BY   SUCH AS
    2  rep_stos_alternative  timer interrupt  spin-kernel (pid 52)
    1  rep_movs_alternative  page fault       w-kfault-read (pid 48)
    1  do_user_addr_fault    timer interrupt  spin-fault (pid 57)

$ python contrib/interrupted_functions.py -c vmcore    # the same, without drgn's command line
"""

from __future__ import annotations

from argparse import Namespace
from collections import defaultdict
from collections.abc import Iterator

from drgn import Program

from drgn_tools import TaskStack, Verdict, task_stacks
from drgn_tools.queries import function_name
from drgn_tools.script import run, script_parser, table


def interrupted_functions(prog: Program, args: Namespace) -> Iterator[str]:
    places: dict[tuple[str, str], list[TaskStack]] = defaultdict(list)
    for task in task_stacks(prog):
        if task.verdict is Verdict.UNRELIABLE:
            for regs in task.regs:
                if not regs.user_mode:
                    function = function_name(regs.symbol or hex(regs["ip"]))
                    places[function, regs.entry or "unknown"].append(task)
    return table(
        ("TASKS", "FUNCTION", "INTERRUPTED BY", "SUCH AS"),
        (
            (len(tasks), function, entry, f"{tasks[0].comm} (pid {tasks[0].pid})")
            for (function, entry), tasks in sorted(places.items(), key=lambda item: -len(item[1]))
        ),
    )


if __name__ == "__main__":
    run(interrupted_functions, script_parser(__doc__))
