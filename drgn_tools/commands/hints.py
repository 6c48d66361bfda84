# SPDX-License-Identifier: LGPL-2.1-or-later
"""Guess what the user meant by a command that does not exist."""

from __future__ import annotations

import difflib
import os
import shlex
from collections.abc import Mapping, Sequence

from .registry import SUMMARIES

__all__ = ("unknown_command",)

_OURS: Mapping[str, str] = {
    "ps": "tasks",
    "list": "tasks",
    "ls": "tasks",
    "bt": "stack",
    "backtrace": "stack",
    "trace": "stack",
    "panic": "stack",
    "oops": "stack",
    "pt_regs": "regs",
    "registers": "regs",
    "flamegraph": "groups --format folded",
    "folded": "groups --format folded",
    "klp": "livepatch",
    "kpatch": "livepatch",
    "patch": "livepatch",
    "transition": "livepatch",
    "crash": "shell",
    "drgn": "shell",
    "gdb": "shell",
    "python": "shell",
    "repl": "shell",
    "run": "fleet run",
    "report": "fleet report",
    "version": "--version",
}
"""A command of crash, drgn, gdb or ps(1) -> our command that does the same, with its options."""

_LOG = frozenset(("dmesg", "log"))

_CRASH_COMMANDS = frozenset(
    "ascii bpf dev files ipcs irq kmem mod mount net ptob ptov rd runq search sig struct swap sym"
    " sys task timer tree union vm vtop waitq whatis".split()
)
"""Commands of crash that drgn has, as ``%crash NAME``."""


def unknown_command(name: str, rest: Sequence[str]) -> str:
    """Return a line about a command that does not exist: what is wrong, and a way that works.

    :param name: The word that was typed as the command.
    :param rest: The words before and after it.
    """
    typed = shlex.join(rest)
    what = f"there is no command {name!r}"
    if name == "foreach":
        # foreach bt, foreach bash bt, foreach 51 52 bt ...
        return (
            f"{what}: drgn-tools stack --all shows every stack, drgn-tools groups identical ones"
            " once; both take PIDs, names and --state"
        )
    if name in _LOG:
        shell = _command_line("shell", typed)
        return f"{what}: echo 'print_dmesg()' | {shell} prints the kernel's log"
    if name in _OURS:
        return f"{what}: {_command_line(_OURS[name], typed)} does that"
    if name in _CRASH_COMMANDS:
        return f"{what}: %crash {name} in drgn-tools shell does that"
    if os.path.exists(name):
        path = shlex.quote(name)
        return (
            f"{name!r} is a file, not a command: drgn-tools tasks {path} lists its tasks,"
            f" drgn-tools stack {path} shows what crashed it, drgn-tools hung {path} what hangs"
        )
    if os.sep in name:
        return (
            f"{name!r} is neither a file nor a command: drgn-tools tasks VMCORE lists the tasks of one"
            " (see drgn-tools --help)"
        )
    near = difflib.get_close_matches(name.lower(), (*SUMMARIES, *_OURS, "help"), n=1)
    if near:
        return f"{what}: did you mean {_command_line(_OURS.get(near[0], near[0]), typed)}?"
    return f"{what}: the commands are {', '.join(SUMMARIES)} (see drgn-tools --help)"


def _command_line(ours: str, typed: str) -> str:
    return f"drgn-tools {ours} {typed}".rstrip()
