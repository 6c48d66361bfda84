# SPDX-License-Identifier: LGPL-2.1-or-later
"""The ``%`` commands of drgn's REPL: the command line's, on the program that is open there.

Each shows what ``drgn-tools`` would and returns the records that were shown
(the REPL keeps them as ``_``), or ``None`` if it was asked for ``--help``.
"""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Callable, Optional, TypeVar

from drgn import Program
from drgn.commands import CommandError

from ..analysis.audit import audit_kernel, kernel_info, task_stack
from ..analysis.queries import (
    StackGroup,
    TaskRegs,
    group_stacks,
    saved_regs,
    sort_tasks,
    tasks_on_cpu,
)
from ..errors import DrgnToolsError
from ..program.builtin_types import use_builtin_types
from ..program.dwarf import has_dwarf
from ..records import KernelAudit, Reason, TaskStack, Verdict
from ..render import views
from ..render.folded import folded_lines
from ..render.stack import draw_stack
from ..terminal.console import Console, ReaderGoneError, be_lenient, table_width, write_lines
from ..terminal.escape import escape
from ..terminal.parser import Arguments
from .arguments import parse_repl_arguments

__all__ = ("COMMANDS",)

Record = TypeVar("Record")

_NOTES_SAID = "drgn_tools.commands.repl.notes_said"


def _command(
    run: Callable[[Program, Arguments], list[Record]],
) -> Callable[[Program, Sequence[str]], Optional[list[Record]]]:
    """A function of understood arguments as one of the words that were typed.

    :raises CommandError: what is wrong, in a line.
    """

    @functools.wraps(run)
    def command(prog: Program, words: Sequence[str]) -> Optional[list[Record]]:
        try:
            args = parse_repl_arguments(run.__name__, words)
            # drgn may have been told not to look for types (--no-default-symbols).
            if not has_dwarf(prog):
                use_builtin_types(prog)
            return run(prog, args)
        except (SystemExit, ReaderGoneError):  # --help
            return None
        except DrgnToolsError as error:
            raise CommandError(escape(str(error))) from None

    return command


@_command
def tasks(prog: Program, args: Arguments) -> list[TaskStack]:
    """List tasks with the verdicts on their stacks."""
    audit = _audit(prog, args)
    found = _selected(args, audit)
    if args.sort is not None:
        found = sort_tasks(found, args.sort)
    _show(views.TASKS_WITH_FRAMES if args.frames else views.TASKS, args, audit, found)
    return found


@_command
def stack(prog: Program, args: Arguments) -> list[TaskStack]:
    """Draw stacks: those asked for; else of the task that crashed, or of all that are unreliable."""
    if args.which:
        found = [task_stack(prog, which) for which in args.which]
        audit = KernelAudit(kernel_info(prog), tuple(found))
        _introduce(prog, audit)
    else:
        audit = _audit(prog, args)
        found = _found_without_pid(args, audit)
        chosen = args.all or args.on_cpu or args.filters
        if found and not chosen and "crashed" not in found[0].flags:
            Console().note("no task crashed this kernel; these are unreliable")
        if not found and not chosen:
            Console().note("no stack is known to be unreliable; give a PID, --on-cpu or --all")
    if args.format == "text":
        _write(_drawn(found, audit))
    else:
        _show(views.FRAMES, args, audit, found)
    return found


def _found_without_pid(args: Arguments, audit: KernelAudit) -> list[TaskStack]:
    if args.filters:
        return list(args.selection.of(audit.tasks))
    if args.all:
        return list(audit)
    if args.on_cpu:
        return tasks_on_cpu(audit)
    crashed = [task for task in audit if "crashed" in task.flags]
    return crashed or [task for task in audit if task.verdict is Verdict.UNRELIABLE]


def _drawn(found: Iterable[TaskStack], audit: KernelAudit) -> Iterator[str]:
    for number, task in enumerate(found):
        if number > 0:
            yield ""
        yield draw_stack(task, audit.kernel)


@_command
def regs(prog: Program, args: Arguments) -> list[TaskRegs]:
    """List every saved ``pt_regs``."""
    audit = _audit(prog, args)
    user_mode = None if args.mode is None else args.mode == "user"
    found = list(saved_regs(_selected(args, audit), user_mode))
    _show(views.regs_view(audit.kernel.arch), args, audit, found)
    return found


@_command
def groups(prog: Program, args: Arguments) -> list[StackGroup]:
    """Fold identical stacks together."""
    audit = _audit(prog, args)
    members = _selected(args, audit)
    found = group_stacks(members)
    if args.format == "folded":
        _write(folded_lines(members, args.by_comm))
    else:
        _show(views.GROUPS, args, audit, found)
    return found


COMMANDS: Mapping[str, Callable[[Program, Sequence[str]], Optional[list[Any]]]] = {
    "tasks": tasks,
    "stack": stack,
    "regs": regs,
    "groups": groups,
}
"""By name: program, words typed after it -> records."""


# ---- what they share


def _audit(prog: Program, args: Arguments) -> KernelAudit:
    audit = audit_kernel(prog, max_tasks=args.max_tasks)
    _introduce(prog, audit)
    console = Console()
    for problem in audit.problems:
        console.problem("warning", problem)
    unreadable = sum(task.reason is Reason.UNREADABLE for task in audit)
    if unreadable:
        console.problem("warning", f"{unreadable} of the stacks could not be read to the end")
    return audit


def _selected(args: Arguments, audit: KernelAudit) -> list[TaskStack]:
    found = list(args.selection.of(audit.tasks))
    if args.filters and not found:
        Console().problem("warning", f"no task matches {args.filters}")
    return found


def _introduce(prog: Program, audit: KernelAudit) -> None:
    # What must be known of this kernel is said once, not with every command.
    if prog.cache.setdefault(_NOTES_SAID, False):
        return
    prog.cache[_NOTES_SAID] = True
    for note in audit.kernel.notes:
        Console().note(f"note: {note}")


def _show(view: views.View, args: Arguments, audit: KernelAudit, found: Iterable[object]) -> None:
    width = table_width(sys.stdout)
    _write(views.render(view, args.format, audit.kernel, found, audit.problems, width))


def _write(lines: Iterable[str]) -> None:
    be_lenient(sys.stdout)
    # %tasks | head -1: the records are returned all the same.
    with contextlib.suppress(ReaderGoneError):
        write_lines(lines)
