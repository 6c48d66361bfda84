# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which system calls are the tasks in, and with which arguments?

The number is the saved orig_ax (syscallno on arm64), the name comes from its entry in sys_call_table, and the
arguments are the six registers that hold them.

    $ drgn -c vmcore contrib/syscalls.py read futex
    PID  COMM           S   NR  SYSCALL  ARGUMENTS
     71  w-futex        S  202  futex    4e9340 80 0 0 0 0
     72  w-futex-pi     S  202  futex    50a380 86 0 0 0 0
     73  w-pipe-read    S    0  read     23 7fdbaefdf237 1 0 0 0
    ...

    $ python contrib/syscalls.py -c vmcore
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator, Sequence
from typing import Optional

from drgn import FaultError, Program, sizeof

from drgn_tools import SavedRegs, task_stacks
from drgn_tools.commands.script import run, script_parser, table, warn
from drgn_tools.errors import UsageError

USER_CS = 0x33  # __USER_CS of a 64-bit kernel: no 32-bit task
ARGUMENTS_64 = ("di", "si", "dx", "r10", "r8", "r9")
ARGUMENTS_32 = ("bx", "cx", "dx", "si", "di", "bp")
ARGUMENTS_ARM64 = ("orig_x0", "x1", "x2", "x3", "x4", "x5")
NUMBERS_MAX = 1024  # more than any sys_call_table has
PSR_MODE32_BIT = 0x10  # a 32-bit task of arm64


def syscalls(prog: Program, args: Namespace) -> Iterator[str]:
    check_names(prog, args.names)
    rows = []
    for task in task_stacks(prog):
        for regs in task.regs:
            if regs.user_mode and regs.entry == "syscall":
                name = syscall_name(prog, regs)
                if not args.names or name in args.names:
                    passed = " ".join(f"{regs[register]:x}" for register in arguments(regs))
                    rows.append((task.pid, task.comm, task.state, number(regs), name, passed))
    for name in sorted(set(args.names) - {row[4] for row in rows}):
        warn(f"no task is in the system call {name}")
    return table(("PID", "COMM", "S", "NR", "SYSCALL", "ARGUMENTS"), rows)


def number(regs: SavedRegs) -> int:
    """Return the number of the system call."""
    return regs["syscallno" if "syscallno" in regs.registers else "orig_ax"]


def arguments(regs: SavedRegs) -> tuple[str, ...]:
    """Return the registers with the arguments."""
    if "syscallno" in regs.registers:
        return ARGUMENTS_ARM64
    return ARGUMENTS_64 if regs["cs"] == USER_CS else ARGUMENTS_32


def is_of_32_bits(regs: SavedRegs) -> bool:
    """Return whether a 32-bit task made the system call on a 64-bit kernel."""
    if "pstate" in regs.registers:
        return bool(regs["pstate"] & PSR_MODE32_BIT)
    return "r8" in regs.registers and regs["cs"] != USER_CS


def syscall_name(prog: Program, regs: SavedRegs) -> Optional[str]:
    """Return the name of the system call, such as ``read``.

    :return: ``None`` for a 32-bit task, and if the number is not in sys_call_table.
    """
    if is_of_32_bits(regs):
        return None  # the numbers of 32-bit system calls differ
    return name_of_number(prog, number(regs))


def name_of_number(prog: Program, number: int) -> Optional[str]:
    """Return the name of a system call; ``None`` if the number is not in sys_call_table."""
    try:
        entries = prog.symbol("sys_call_table")
        offset = number * sizeof(prog.type("long"))
        if not 0 <= offset < entries.size:
            return None
        function: str = prog.symbol(prog.read_word(entries.address + offset)).name
    except (FaultError, LookupError):
        return None
    return function.partition("sys_")[2]  # of __x64_sys_read


def check_names(prog: Program, names: Sequence[str]) -> None:
    """Raise :class:`UsageError` for a name that is not a system call. Without sys_call_table, accept all."""
    known = {name_of_number(prog, number) for number in range(NUMBERS_MAX)} if names else set()
    for name in names:
        if name not in known and known != {None}:
            raise UsageError(
                f"there is no system call {name!r}: names are those of the kernel's functions, "
                "such as newfstat for fstat"
            )


if __name__ == "__main__":
    parser = script_parser(__doc__)
    parser.add_argument(
        "names", metavar="SYSCALL", nargs="*", help="only these system calls, such as read"
    )
    run(syscalls, parser)
