# SPDX-License-Identifier: LGPL-2.1-or-later
"""Where in user space is every task, and which tasks are in one mapping?

USER IP is the user-mode ip that was saved when the task entered the kernel. MAPPING is the
mapping of the task that contains it, OFFSET the offset in the mapped file.

    $ drgn -c vmcore contrib/tasks_at_user_ip.py 403000-404000
    PID  COMM           S  ENTRY       USER IP  MAPPING  OFFSET
    104  w-regs-fault   S  page fault  403051   /init    3051
     53  w-coredump     S  page fault  4039c8   /init    39c8
     57  w-traced-int3  t  breakpoint  403a47   /init    3a47
    129  spin-fault     R  page fault  403e60   /init    3e60
    130  spin-fault     R  page fault  403e60   /init    3e60

    $ drgn -c vmcore contrib/tasks_at_user_ip.py /init
    $ python contrib/tasks_at_user_ip.py -c vmcore
"""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Iterator
from typing import Optional, Union

from drgn import FaultError, Object, Program
from drgn.helpers.linux.mm import vma_find, vma_name

from drgn_tools import TaskStack, task_stacks
from drgn_tools.commands.script import run, script_parser, table, warn
from drgn_tools.errors import UsageError

Row = tuple[int, str, str, str, str, Optional[bytes], Optional[str]]


def tasks_at_user_ip(prog: Program, args: Namespace) -> Iterator[str]:
    rows = [row for task in task_stacks(prog) for row in user_ip(prog, task)]
    if args.where is not None:
        rows = [row for row in rows if matches(row, args.where)]
        if not rows and isinstance(args.where, str):
            warn(f"no mapping matches {args.where!r}, of those where a task is")
        elif not rows:
            warn("no task is in this range of addresses")
    return table(("PID", "COMM", "S", "ENTRY", "USER IP", "MAPPING", "OFFSET"), rows)


def user_ip(prog: Program, task: TaskStack) -> Iterator[Row]:
    """Yield a row for each ``pt_regs`` of a task that was saved in user mode."""
    mm = Object(prog, "struct task_struct *", task.task).mm
    entries = {regs.address: regs.entry for regs in task.regs}
    for frame in task.frames:
        if frame.user_mode and frame.regs is not None:
            name, offset = mapping(mm, frame.ip)
            entry = entries[frame.regs] or "unknown"
            yield task.pid, task.comm, task.state, entry, f"{frame.ip:x}", name, offset


def mapping(mm: Object, addr: int) -> tuple[Optional[bytes], Optional[str]]:
    """Return the name of the mapping that contains an address, and the offset in its file in hex.

    :param mm: ``struct mm_struct *``; may be null.
    :param addr: User address.
    :return: ``None`` for each that does not exist or cannot be read.
    """
    try:
        vma = vma_find(mm, addr) if mm else mm  # null if the task is exiting
        if not vma:
            return None, None
        if not vma.vm_file:
            return vma_name(vma), None
        offset = (vma.vm_pgoff << mm.prog_["PAGE_SHIFT"]) + addr - vma.vm_start
        return vma_name(vma), f"{offset.value_():x}"
    except FaultError:
        return None, None


def name_or_range(text: str) -> Union[str, range]:
    """Return a range of addresses, which does not include its end, or part of the name of a mapping.

    :raises UsageError: If the range is empty.
    """
    begin, _, end = text.partition("-")
    try:
        addresses = range(int(begin, 16), int(end, 16))
    except ValueError:
        return text
    if addresses.stop < addresses.start:
        raise UsageError(f"{text!r} is an empty range: give {end}-{begin}")
    if not addresses:
        raise UsageError(f"{text!r} is an empty range: its end does not belong to it")
    return addresses


def matches(row: Row, where: Union[str, range]) -> bool:
    """Return whether a row is in a mapping or in a range of addresses."""
    if isinstance(where, range):
        return int(row[4], 16) in where
    return row[5] is not None and os.fsencode(where) in row[5]


if __name__ == "__main__":
    parser = script_parser(__doc__)
    parser.add_argument(
        "where",
        nargs="?",
        type=name_or_range,
        help="part of the name of a mapping, or a range of addresses in hex",
    )
    run(tasks_at_user_ip, parser)
