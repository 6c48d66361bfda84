# SPDX-License-Identifier: LGPL-2.1-or-later
"""``stack``: stacks in full, with all saved registers."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Optional

from ..analysis.selection import tasks_on_cpu
from ..errors import TaskNotFoundError, UsageError
from ..records import KernelAudit, TaskStack, Verdict
from ..terminal.parser import ROW_FORMATS
from .base import TaskCommand
from .source_options import check_source
from .task_options import TaskArguments, add_filters

if TYPE_CHECKING:
    from drgn import Program

    from ..render.views import View
    from ..terminal.console import Console
    from .session import Audit, Session

__all__ = ("COMMAND",)

_EXPLANATION = """\
A pt_regs is drawn where it lies: above it, what the CPU did after it was interrupted; below it,
what was interrupted. "=>" marks the frame that decided the verdict.
"""

_EXAMPLES = """\
Without a TASK, the stack of the task that crashed the machine is shown: the one that called panic().

examples:
  drgn-tools stack -c vmcore                      what crashed it
  drgn-tools stack -c vmcore 51
  drgn-tools stack -c vmcore 0xff1100000261d000 --format json
  drgn-tools stack -c vmcore 'nginx*' --state D
  drgn-tools stack -c vmcore --all --format csv > frames.csv
  drgn-tools stack -c vmcore 51 --raw             every word, and what it may be
"""


class StackArguments(TaskArguments):
    """The command line of ``stack``."""

    all: bool
    raw: bool


class Stack(TaskCommand[StackArguments]):
    """The command ``stack``."""

    arguments = StackArguments
    explanation = _EXPLANATION
    examples = _EXAMPLES
    formats = ("text", *ROW_FORMATS)

    def add_options(self, parser: argparse.ArgumentParser) -> None:
        add_filters(parser)
        parser.add_argument("--all", action="store_true", help="every task")
        parser.add_argument(
            "--raw",
            action="store_true",
            help="every word of the stack, with the symbol or the object that it may point to",
        )

    def whole_view(self, args: StackArguments, arch: Optional[str] = None) -> View:
        from ..render.views import FRAMES

        return FRAMES

    def check(self, args: StackArguments) -> None:
        super().check(args)
        if args.all and args.selection.typed:
            raise UsageError(f"--all is every task: leave it out, or {args.selection.typed}")

    def check_command_line(self, args: StackArguments) -> None:
        check_source(args)
        if args.core is None and not args.all and not args.selection.typed:
            raise UsageError(
                "stack of which task? give a PID, the address or name of a task, --on-cpu or --all"
            )

    def run(self, args: StackArguments, session: Session) -> list[TaskStack]:
        from ..analysis.source_lines import with_source_lines
        from ..render.stack import draw_stacks

        audit, found = _find(args, session)
        if args.raw:
            return session.show(
                found, partial(_raw_lines, args.format, session, audit), args.selection
            )
        tasks = with_source_lines(session.prog, self.in_order(found, args))
        if args.format == "text":
            draw = partial(draw_stacks, kernel=audit.kernel, colour=session.colour)
            return session.show(tasks, draw, args.selection)
        return session.show(tasks, partial(session.rows, self.view(args), audit), args.selection)


def _raw_lines(
    style: str, session: Session, audit: Audit, tasks: Iterable[TaskStack]
) -> Iterator[str]:
    from ..analysis.raw_stack import RawWords
    from ..render.raw_stack import draw_raw_stacks
    from ..render.views import RAW

    words = RawWords(session.prog)
    if style == "text":
        return draw_raw_stacks((task, words.of(task.task)) for task in tasks)
    return session.rows(RAW, audit, (word for task in tasks for word in words.of(task.task)))


def _find(args: StackArguments, session: Session) -> tuple[Audit, Iterable[TaskStack]]:
    from ..analysis.audit import task_stack

    audit: Audit
    selection = args.selection
    if selection.is_single_tasks:
        audit = session.audit_only(
            lambda prog: [task_stack(prog, task) for task in selection.single_tasks]
        )
        return audit, audit
    if args.all or selection.typed:
        audit = session.audit(args.max_tasks)
        found = session.select(audit, selection)
        return audit, tasks_on_cpu(found) if selection.on_cpu else found
    if session.in_repl:
        audit = session.audit_all(args.max_tasks)
        return audit, _crashed_or_unreliable(audit, session.console)
    audit = session.audit_only(lambda prog: [_crashed(prog)])
    return audit, audit


def _crashed(prog: Program) -> TaskStack:
    from ..analysis.audit import crashed_stack

    try:
        return crashed_stack(prog)
    except TaskNotFoundError as error:
        raise TaskNotFoundError(
            f"{error} by PID or address, or give --on-cpu, --all or a filter"
        ) from None


def _crashed_or_unreliable(audit: KernelAudit, console: Console) -> list[TaskStack]:
    crashed = [task for task in audit if "crashed" in task.flags]
    if crashed:
        return crashed
    unreliable = [task for task in audit if task.verdict is Verdict.UNRELIABLE]
    console.note(
        "no task crashed this kernel; these stacks are unreliable"
        if unreliable
        else "no stack is known to be unreliable; give a PID, --on-cpu or --all"
    )
    return unreliable


COMMAND = Stack()
