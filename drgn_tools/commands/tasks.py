# SPDX-License-Identifier: LGPL-2.1-or-later
"""``tasks``: a row for each task, with the verdict on its stack."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, Optional

from ..analysis.selection import SORT_KEYS, sort_tasks
from ..errors import UsageError
from ..records import TaskStack
from ..terminal.parser import interval
from .base import TaskCommand
from .source_options import check_source
from .task_options import TaskArguments, add_filters, add_pids

if TYPE_CHECKING:
    from .session import Audit, Session

__all__ = ("COMMAND", "Tasks", "TasksArguments", "add_check_option", "show_tasks")

_COLUMNS = """\
columns:
  S         state, as in ps(1)
  VERDICT   what stack_trace_save_tsk_reliable() of the kernel answers: reliable, unreliable, or
            unknown when it cannot be told (the task runs, memory is missing, another unwinder)
  WHY       the reason, or in parentheses what is special about the task
  DEPTH     frames in the kernel
  REGS      a letter for each saved pt_regs, innermost first: k kernel mode, u user mode
  FUNCTION  innermost function that is not the scheduler itself

All filters given must hold. Each may be repeated, and --pid, --state and --verdict take lists
(1,5-9): a task then needs to match one of the values.
"""

_EXAMPLES = """\
--check makes the exit code 1 if a listed task is unreliable. It makes it 5 if a task could not be
judged: a task that the filters other than --verdict choose, and that is unknown although it does
not run. 1 wins over 5.

examples:
  drgn-tools tasks -c vmcore --state D --frames
  drgn-tools tasks -c vmcore --function 'vfs_*' --comm 'postgres*'
  drgn-tools tasks -c vmcore --sort verdict | head -20
  drgn-tools tasks -c vmcore --check -q > /dev/null && echo every stack off its CPU can be trusted
"""


class TasksArguments(TaskArguments):
    """The command line of ``tasks``."""

    frames: bool
    sort: Optional[str]
    # The REPL does not have these.
    check: bool = False
    watch: Optional[float] = None
    until_reliable: bool = False


class Tasks(TaskCommand[TasksArguments]):
    """The command ``tasks``."""

    arguments = TasksArguments
    explanation = _COLUMNS
    examples = _EXAMPLES

    def add_options(self, parser: argparse.ArgumentParser) -> None:
        add_pids(parser)
        add_filters(parser)
        parser.add_argument("--frames", action="store_true", help="add the frames of each stack")
        parser.add_argument(
            "--sort",
            metavar="KEY",
            choices=tuple(SORT_KEYS),
            help=f"order by {', '.join(SORT_KEYS)} (default: the kernel's order)",
        )

    def add_command_line_options(self, parser: argparse.ArgumentParser) -> None:
        add_check_option(parser)
        live = parser.add_argument_group("on a running kernel")
        live.add_argument(
            "--watch",
            metavar="SECONDS",
            type=interval("--watch"),
            help="look again after so many seconds, and show the tasks whose verdict changed",
        )
        live.add_argument(
            "--until-reliable",
            action="store_true",
            help="end the watch when each task of the first look was reliable once, or has exited",
        )

    def check_command_line(self, args: TasksArguments) -> None:
        check_source(args)
        if args.watch is None:
            if args.until_reliable:
                raise UsageError("--until-reliable works only with --watch SECONDS")
            return
        if args.core is not None:
            raise UsageError("--watch needs a running kernel: nothing changes in a vmcore")
        if args.frames or args.sort is not None:
            raise UsageError(
                "--frames and --sort do not work with --watch, which shows changes as they happen"
            )
        if args.format not in ("table", "jsonl"):
            raise UsageError(f"--watch has no format {args.format}: it has table and jsonl")

    def run(self, args: TasksArguments, session: Session) -> list[TaskStack]:
        if args.watch is not None:
            from .watch import watch_tasks

            watch_tasks(args, args.watch, session)
            return []
        return show_tasks(args, session.audit(args.max_tasks), session)


def show_tasks(args: TasksArguments, audit: Audit, session: Session) -> list[TaskStack]:
    """Show the tasks of an audit that were asked for; see :meth:`.TaskCommand.run`."""
    from ..render.views import TASKS, TASKS_WITH_FRAMES

    tasks: Iterable[TaskStack] = session.select(audit, args.selection, args.check)
    if args.sort is not None:
        tasks = sort_tasks(tasks, args.sort)
    view = TASKS_WITH_FRAMES if args.frames else TASKS
    return session.show(tasks, partial(session.rows, view, audit), args.filters)


def add_check_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--check``."""
    parser.add_argument(
        "--check",
        action="store_true",
        help="exit code 1 if a listed task is unreliable, 5 if one cannot be judged",
    )


COMMAND = Tasks()
