# SPDX-License-Identifier: LGPL-2.1-or-later
"""``stack``: stacks in full, with all saved registers."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING

from ..analysis.selection import BY_NAME, tasks_on_cpu
from ..errors import TaskNotFoundError, UsageError
from ..records import KernelAudit, TaskStack, Verdict
from ..terminal.parser import ROW_FORMATS
from .base import TaskCommand
from .source_options import check_source, refuse_file
from .task_options import TaskArguments, add_filters, check_filters

if TYPE_CHECKING:
    from drgn import Program

    from ..terminal.console import Console
    from .session import Audit, Session

__all__ = ("COMMAND",)

_EXPLANATION = """\
A pt_regs is drawn where it lies: above it, what the CPU did after it was interrupted; below it,
what was interrupted. "=>" marks the frame on which the verdict fell.
"""

_EXAMPLES = """\
Without a PID, the stack of the task that crashed the machine is shown: the one that ran into
panic().

examples:
  drgn-tools stack -c vmcore                      what crashed it
  drgn-tools stack -c vmcore 51
  drgn-tools stack -c vmcore 0xff1100000261d000 --format json
  drgn-tools stack -c vmcore --all --format csv > frames.csv
  drgn-tools stack -c vmcore 51 --raw             every word, and what it may be
"""


class StackArguments(TaskArguments):
    """The command line of ``stack``."""

    tasks: list[int]
    """PIDs and addresses of ``task_struct``."""
    all: bool
    on_cpu: bool
    raw: bool

    @property
    def ways_to_choose(self) -> int:
        """The number of different ways in which tasks were chosen."""
        return sum((bool(self.tasks), self.all, self.on_cpu, bool(self.filters)))


class Stack(TaskCommand[StackArguments]):
    """The command ``stack``."""

    arguments = StackArguments
    explanation = _EXPLANATION
    examples = _EXAMPLES
    formats = ("text", *ROW_FORMATS)

    def add_options(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "tasks",
            metavar="PID",
            nargs="*",
            type=_task,
            help="thread ID, or address of a task_struct (0xff1100000261d000, 0x may be left out)",
        )
        add_filters(parser)
        parser.add_argument("--all", action="store_true", help="every task")
        parser.add_argument(
            "--on-cpu",
            action="store_true",
            help="the tasks that are on a CPU, the one that crashed the machine first",
        )

        parser.add_argument(
            "--raw",
            action="store_true",
            help="every word of the stack, with the symbol or the object that it may point to",
        )

    def check(self, args: StackArguments) -> None:
        check_filters(args)
        if args.ways_to_choose > 1:
            raise UsageError(
                "PIDs, --on-cpu, --all and filters such as --comm exclude each other: give one"
            )

    def check_command_line(self, args: StackArguments) -> None:
        check_source(args)
        if args.core is None and not args.ways_to_choose:
            raise UsageError(
                "stack of which task? give PIDs, addresses of tasks, --on-cpu or --all"
            )

    def run(self, args: StackArguments, session: Session) -> list[TaskStack]:
        from ..analysis.source_lines import with_source_lines
        from ..render.stack import draw_stacks
        from ..render.views import FRAMES

        audit, tasks = _find(args, session)
        if args.raw:
            return session.show(
                tasks, partial(_raw_lines, args.format, session, audit), args.filters
            )
        tasks = with_source_lines(session.prog, tasks)
        if args.format == "text":
            return session.show(tasks, partial(draw_stacks, kernel=audit.kernel), args.filters)
        return session.show(tasks, partial(session.rows, FRAMES, audit), args.filters)


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
    if args.tasks:
        audit = session.audit_only(lambda prog: [task_stack(prog, task) for task in args.tasks])
        return audit, audit
    if args.ways_to_choose:
        audit = session.audit(args.max_tasks)
        if args.on_cpu:
            return audit, tasks_on_cpu(audit)
        return audit, session.select(audit, args.selection)
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
        "no task crashed this kernel; these are unreliable"
        if unreliable
        else "no stack is known to be unreliable; give a PID, --on-cpu or --all"
    )
    return unreliable


_TASK = re.compile(
    r"(?P<pid>[0-9]{1,7})|0x(?P<hex>[0-9a-f]{1,16})|(?P<bare>[0-9a-f]{8}|[0-9a-f]{16})",
    re.IGNORECASE,
)
"""A PID, or an address with or without 0x. Tables and crash print it without; no PID is as long."""


def _task(text: str) -> int:
    match = _TASK.fullmatch(text)
    if match is None:
        refuse_file(text, "a task")
        raise UsageError(f"{text!r} is neither a PID nor the address of a task (0x...); {BY_NAME}")
    return int(match["pid"]) if match["pid"] else int(match["hex"] or match["bare"], 16)


COMMAND = Stack()
