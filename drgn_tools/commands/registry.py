# SPDX-License-Identifier: LGPL-2.1-or-later
"""The names of all commands.

Every start of drgn imports this through the plugin, and ``drgn-tools --help`` needs no more. Everything
else about a command is in the module with its name, which is imported when the command is used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .base import Command

__all__ = ("REPL_OPERANDS", "SUMMARIES", "load_command")

SUMMARIES = {
    "tasks": "list every task: state, verdict on its stack, why",
    "stack": "show stacks in full, with all saved registers",
    "regs": "list every saved pt_regs",
    "groups": "fold identical stacks together, with counts",
    "livepatch": "show who holds a live patch back, or would, and why",
    "diff": "compare two snapshots: who is still where, and what changed",
    "hung": "show which tasks hang, what each waits for, and who holds it",
    "demo": "run tasks on the small real vmcore that comes with drgn-tools",
    "shell": "start drgn's REPL on the kernel, with drgn-tools imported",
    "fleet": "audit many kernels into one dataset, and report on it",
    "completion": "print the completion script of a shell: bash, zsh or fish",
}
"""Every command of ``drgn-tools`` -> what it does."""

REPL_OPERANDS = {
    "tasks": " [*task*]...",
    "stack": " [*task*]...",
    "regs": " [*task*]...",
    "groups": " [*task*]...",
    "livepatch": " [*task*]...",
    "diff": " *file*",
    "hung": " [*task*]...",
}
"""The commands that are also ``%`` commands of drgn's REPL -> the operands after their options."""


def load_command(name: str) -> Command[Any]:
    """Import a command.

    :param name: One of :data:`SUMMARIES`.
    """
    command: Command[Any] = import_module(f".{name}", __package__).COMMAND
    return command
