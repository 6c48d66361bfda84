# SPDX-License-Identifier: LGPL-2.1-or-later
"""``hung``: which tasks hang, what each waits for, and which task holds it."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Optional

from ..errors import EXIT_FINDINGS, EXIT_OK, EXIT_PARTIAL
from ..terminal.parser import interval
from .base import TaskCommand
from .task_options import SELECTORS_WITHOUT_VERDICT, RowExamples, TaskArguments, add_filters

if TYPE_CHECKING:
    from ..analysis.hung import HungTask
    from ..render.views import View
    from ..terminal.console import Console
    from .session import Session

__all__ = ("COMMAND", "HungArguments")

_EXPLANATION = """\
A task hangs if it sleeps uninterruptibly (D), or waits for a lock in any state. Tasks are listed below
what holds them up: deadlocks first, then whatever holds up the most tasks. A task is indented below
the task that holds what it waits for.

What a task waits for, and who holds it, is read from the lock and from its list of waiters. If these
contradict each other, it is "not known". "may be" and "last" mark what is only a hint: the last reader
of an rwsem, for example, may have released it long ago.

columns:
  FOR        how long the task has not run: since it left its CPU (task->se.exec_start), or, with "<",
             since it was last put on one (task->sched_info.last_arrival)
  WAITS FOR  the kind of lock, its address (or its name) and who holds it
"""

_EXAMPLES = """\
With --check, the exit code is 1 if a listed task hangs, and 5 if some tasks could not be read.

examples:
  drgn-tools hung -c vmcore                        why does it hang?
  drgn-tools hung -k --longer 30                   what has hung for half a minute
  drgn-tools hung -c vmcore --all --format csv     what every sleeping task waits for
"""


class HungArguments(TaskArguments):
    """The command line of ``hung``."""

    all: bool
    longer: Optional[float]
    # The REPL does not have this.
    check: bool = False


class Hung(TaskCommand[HungArguments]):
    """The command ``hung``."""

    arguments = HungArguments
    selectors = SELECTORS_WITHOUT_VERDICT
    row_examples = RowExamples("pid,comm,waits_for", "-not_run_s", "as said below")
    explanation = _EXPLANATION
    examples = _EXAMPLES

    def add_options(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "--all", action="store_true", help="list all sleeping tasks, not only those that hang"
        )
        parser.add_argument(
            "--longer",
            metavar="SECONDS",
            type=interval("--longer"),
            help="leave out tasks that have run in the last SECONDS seconds",
        )
        add_filters(parser, without=("verdict",))

    def add_command_line_options(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "--check",
            action="store_true",
            help="exit code 1 if a task hangs, 5 if that is not known",
        )

    def whole_view(self, args: HungArguments, arch: Optional[str] = None) -> View:
        from ..render.views import HUNG

        return HUNG

    def main(self, args: HungArguments, console: Console) -> int:
        from .command_line_session import CommandLineSession

        session = CommandLineSession(args, console)
        shown = self.run(args, session)
        is_partial = session.warn_of_problems()
        if args.check and any(task.hangup is not None for task in shown):
            return EXIT_FINDINGS
        return EXIT_PARTIAL if is_partial else EXIT_OK

    def run(self, args: HungArguments, session: Session) -> list[HungTask]:
        from ..analysis.hung import hung_report
        from ..analysis.record_fields import CPU_QUEUE, HANGUP, as_object
        from ..render.hung import hung_line, hung_lines

        audit = session.audit(args.max_tasks)
        stacks = list(audit)
        report = hung_report(session.prog, stacks)
        chosen = {stack.task for stack in session.select(stacks, args.selection)}
        wanted = (task for task in report.tasks() if task.blocked.stack.task in chosen)
        shown = list(self.in_order((task for task in wanted if _is_wanted(args, task)), args))
        # With --sort or --columns, only the table is shown.
        if session.style == "table" and not args.order and not args.columns:
            lines = hung_lines(report, shown, session.width)
        else:
            before = {
                "hangups": [as_object(HANGUP, hangup) for hangup in report.hangups],
                "cpus": [as_object(CPU_QUEUE, cpu) for cpu in report.cpus],
            }
            lines = session.rows(self.view(args), audit, shown, before)
        session.write(lines)
        session.warn_of_absent(args.selection, len(chosen))
        if args.selection.typed and chosen and not shown:
            session.console.problem("warning", f"no task of {args.selection.typed} hangs")
        session.console.note(hung_line(report))
        return shown


def _is_wanted(args: HungArguments, task: HungTask) -> bool:
    if task.hangup is None and not args.all:
        return False
    seconds = task.blocked.seconds
    return args.longer is None or seconds is None or seconds >= args.longer


COMMAND = Hung()
