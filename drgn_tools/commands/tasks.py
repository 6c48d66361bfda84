# SPDX-License-Identifier: LGPL-2.1-or-later
"""``tasks``: a row for each task, with the verdict on its stack."""

from __future__ import annotations

import argparse
from functools import partial
from typing import TYPE_CHECKING, Optional

from ..errors import UsageError
from ..records import TaskStack
from ..terminal.parser import interval
from .base import TaskCommand
from .source_options import check_source
from .task_options import TaskArguments, add_filters

if TYPE_CHECKING:
    from ..render.views import View
    from .session import Audit, Session

__all__ = ("COMMAND", "Tasks", "TasksArguments", "add_check_option")

_COLUMNS = """\
columns:
  S         state, as in ps(1)
  VERDICT   what the kernel's stack_trace_save_tsk_reliable() answers: reliable, unreliable, or unknown
            if there is no answer (the task runs, memory is missing, an unwinder without verdicts)
  WHY       the reason, or in parentheses what is special about the task
  DEPTH     frames in the kernel
  REGS      a letter for each saved pt_regs, innermost first: k kernel mode, u user mode
  FUNCTION  innermost function that is not the scheduler itself
"""

_EXAMPLES = """\
With --check, the exit code is 1 if a listed task is unreliable. It is 5 if a task could not be judged:
it is unknown, although it is not on a CPU. (--verdict does not exclude such a task, the other filters
do.) 1 takes precedence over 5.

examples:
  drgn-tools tasks -c vmcore --state D --frames
  drgn-tools tasks -c vmcore --function 'vfs_*' --comm 'postgres*'
  drgn-tools tasks -c vmcore --sort verdict,-depth --columns pid,comm,why,depth
  drgn-tools tasks -c vmcore --check -q > /dev/null && echo every stack off its CPU can be trusted
"""


class TasksArguments(TaskArguments):
    """The command line of ``tasks``."""

    frames: bool
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
        add_filters(parser)
        parser.add_argument("--frames", action="store_true", help="add the frames of each stack")

    def add_command_line_options(self, parser: argparse.ArgumentParser) -> None:
        add_check_option(parser)
        live = parser.add_argument_group("on a running kernel")
        live.add_argument(
            "--watch",
            metavar="SECONDS",
            type=interval("--watch"),
            help="repeat every SECONDS seconds, and show the tasks whose verdict changed",
        )
        live.add_argument(
            "--until-reliable",
            action="store_true",
            help="stop when each task of the first audit was reliable once, or has exited",
        )

    def check_command_line(self, args: TasksArguments) -> None:
        check_source(args)
        if args.watch is None:
            if args.until_reliable:
                raise UsageError("--until-reliable works only with --watch SECONDS")
            return
        if args.core is not None:
            raise UsageError("--watch needs a running kernel: nothing changes in a vmcore")
        if args.frames or args.sort or args.columns:
            raise UsageError(
                "--frames, --sort and --columns do not work with --watch, which shows changes as they happen"
            )
        if args.format not in ("table", "jsonl"):
            raise UsageError(f"--watch has no format {args.format}: it has table and jsonl")

    def whole_view(self, args: TasksArguments, arch: Optional[str] = None) -> View:
        from ..render.views import TASKS, TASKS_WITH_FRAMES

        return TASKS_WITH_FRAMES if args.frames else TASKS

    def is_paged(self, args: TasksArguments) -> bool:
        return args.watch is None

    def run(self, args: TasksArguments, session: Session) -> list[TaskStack]:
        if args.watch is not None:
            from .watch import watch_tasks

            watch_tasks(args, args.watch, session)
            return []
        return self.show(args, session.audit(args.max_tasks), session)

    def show(self, args: TasksArguments, audit: Audit, session: Session) -> list[TaskStack]:
        """Show the tasks of an audit that were asked for; see :meth:`.TaskCommand.run`."""
        tasks = self.in_order(session.select(audit, args.selection, args.check), args)
        return session.show(tasks, partial(session.rows, self.view(args), audit), args.selection)


def add_check_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--check``."""
    parser.add_argument(
        "--check",
        action="store_true",
        help="exit code 1 if a listed task is unreliable, 5 if one cannot be judged",
    )


COMMAND = Tasks()
