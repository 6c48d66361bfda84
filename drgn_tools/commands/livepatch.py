# SPDX-License-Identifier: LGPL-2.1-or-later
"""``livepatch``: which tasks hold a live patch back, or would, and why."""

from __future__ import annotations

import argparse
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Optional

from ..analysis.planned_patch import PlannedFunction, PlannedPatch, parse_function
from ..errors import EXIT_FINDINGS, EXIT_OK, EXIT_PARTIAL, InputError, UsageError
from ..terminal.parser import interval
from .base import TaskCommand
from .source_options import GivenOnce, check_source
from .task_options import TaskArguments, add_filters

if TYPE_CHECKING:
    from ..analysis.inquiry import Inquiry
    from ..analysis.patch_question import Answer, TaskAnswer
    from ..records import TaskStack
    from ..render.views import View
    from ..terminal.console import Console
    from .session import Audit, Session

__all__ = ("COMMAND", "AnswerCounts", "LivepatchArguments", "look_at_livepatch")

_EXPLANATION = """\
columns:
  CODE         the version of the patched functions that the task is in: old or new
  ANSWER       what the kernel finds when it tries to switch the task: done, free (the next attempt
               switches it), running, unreliable (its stack), in function, unknown
  WHY          the reason; for "in function" the function that the kernel's own messages name, and
               the number of the frame that returns into it
  LEAVES WHEN  what would let the task switch

Without --all, only tasks that hold the patch back are listed. --function and --ko ask about a patch
that is not loaded: which tasks would hold it back, and would the kernel accept it at all?
"""

_EXAMPLES = """\
With --check, the exit code is 1 while a task holds the patch back, or if the kernel would refuse it.
It is 5 if a task or the patch could not be read. 1 takes precedence over 5.

examples:
  drgn-tools livepatch -k                          why is my patch stuck?
  drgn-tools livepatch -k --watch                  who left, who is left, until it is done
  drgn-tools livepatch -c vmcore --function tcp_sendmsg --function nf_tables:nft_do_chain
  drgn-tools livepatch -c vmcore --ko livepatch-fix.ko
"""

_MAX_TRIES = 5
"""Most times that a running kernel is read, if its patches change meanwhile."""


class LivepatchArguments(TaskArguments):
    """The command line of ``livepatch``."""

    all: bool
    planned: list[str]
    ko: Optional[str]
    replace: bool
    # The REPL does not have these.
    check: bool = False
    watch: Optional[float] = None

    functions: tuple[PlannedFunction, ...] = ()
    """The functions of :attr:`planned`."""


class AnswerCounts:
    """Makes the answers for tasks, and counts them.

    :param inquiry: The question.
    """

    def __init__(self, inquiry: Inquiry) -> None:
        self.inquiry = inquiry
        self._answers: Counter[Answer] = Counter()
        self._functions: Counter[str] = Counter()

    def of(self, stacks: Iterable[TaskStack]) -> Iterator[TaskAnswer]:
        """Yield the answer for each task."""
        for stack in stacks:
            found = self.inquiry.question.answer(stack)
            self._answers[found.answer] += 1
            if found.function is not None:
                self._functions[found.function] += 1
            yield found

    @property
    def total(self) -> int:
        """Number of tasks that were counted."""
        return sum(self._answers.values())

    def summary(self) -> str:
        """Return how many tasks hold the patch back, in a line."""
        from ..render.livepatch import holders_line

        return holders_line(self.inquiry.name, self._answers, self._functions, self.inquiry.plan)

    def exit_code(self, check: bool) -> int:
        """Return the exit code for the case that all tasks could be read."""
        from ..analysis.patch_question import HOLDING, Answer

        plan, answers = self.inquiry.plan, self._answers
        # A task that happens to be running does not count against a patch that is not loaded.
        not_certain = {Answer.UNKNOWN} if plan is None else {Answer.UNKNOWN, Answer.RUNNING}
        holding = sum(answers[answer] for answer in HOLDING - not_certain)
        if check and (holding or (plan is not None and plan.refusals)):
            return EXIT_FINDINGS
        if self.inquiry.question.problems or (check and answers[Answer.UNKNOWN]):
            return EXIT_PARTIAL
        return EXIT_OK


class Livepatch(TaskCommand[LivepatchArguments]):
    """The command ``livepatch``."""

    arguments = LivepatchArguments
    explanation = _EXPLANATION
    examples = _EXAMPLES

    def add_options(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "--all", action="store_true", help="list all tasks, not only those that hold it back"
        )
        plan = parser.add_argument_group("if a patch were loaded now")
        plan.add_argument(
            "--function",
            dest="planned",
            metavar="[MODULE:]NAME[,POS]",
            action="append",
            default=[],
            help="a patch that replaces this function; POS (from 1) chooses among symbols of one name",
        )
        plan.add_argument(
            "--ko", metavar="FILE", action=GivenOnce, help="the patch in this module file"
        )
        plan.add_argument(
            "--replace",
            action="store_true",
            help="with --function: the patch replaces all loaded patches",
        )
        add_filters(parser, without=("function", "verdict"))

    def add_command_line_options(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "--check",
            action="store_true",
            help="exit code 1 while a task holds the patch back, 5 if that is not known",
        )
        parser.add_argument(
            "--watch",
            metavar="SECONDS",
            nargs="?",
            type=interval("--watch"),
            const=1.0,
            help="on a running kernel: repeat every SECONDS seconds (default: 1), until the"
            " transition has ended",
        )

    def whole_view(self, args: LivepatchArguments, arch: Optional[str] = None) -> View:
        from ..render.views import LIVEPATCH, PLANNED_LIVEPATCH

        return PLANNED_LIVEPATCH if args.planned or args.ko is not None else LIVEPATCH

    def is_paged(self, args: LivepatchArguments) -> bool:
        return args.watch is None

    def check(self, args: LivepatchArguments) -> None:
        super().check(args)
        args.functions = tuple(dict.fromkeys(map(parse_function, args.planned)))
        if args.ko is not None and not os.path.exists(args.ko):
            raise InputError(f"--ko {args.ko!r}: no such file")
        if args.ko is not None and args.planned:
            raise UsageError("--ko and --function name two patches: give one of them")
        if args.replace and not args.planned:
            raise UsageError(
                "--replace works only with --function: a module file itself says whether it replaces"
            )

    def check_command_line(self, args: LivepatchArguments) -> None:
        check_source(args)
        if args.watch is None:
            return
        if args.core is not None:
            raise UsageError("--watch needs a running kernel: nothing changes in a vmcore")
        if args.planned or args.ko is not None:
            raise UsageError("--watch follows a patch in transition: leave --function and --ko out")
        if args.all or args.check or args.sort or args.columns:
            raise UsageError("--all, --check, --sort and --columns do not work with --watch")
        if args.format not in ("table", "jsonl"):
            raise UsageError(f"--watch has no format {args.format}: it has table and jsonl")

    def main(self, args: LivepatchArguments, console: Console) -> int:
        from .command_line_session import CommandLineSession

        session = CommandLineSession(args, console)
        if args.watch is not None:
            from .watch_livepatch import watch_livepatch

            return watch_livepatch(args, args.watch, session)
        counts, _ = self._show(args, session)
        self._say(args, counts, session)
        code = counts.exit_code(args.check)
        return EXIT_PARTIAL if session.warn_of_problems() and code == EXIT_OK else code

    def run(self, args: LivepatchArguments, session: Session) -> list[TaskAnswer]:
        counts, kept = self._show(args, session)
        self._say(args, counts, session)
        return kept

    def _say(self, args: LivepatchArguments, counts: AnswerCounts, session: Session) -> None:
        plan = counts.inquiry.plan
        for refusal in () if plan is None else plan.refusals:
            session.console.problem("warning", f"the kernel would refuse the patch: {refusal}")
        session.warn_of_absent(args.selection, counts.total)
        session.console.note(counts.summary())
        for problem in counts.inquiry.question.problems:
            session.console.problem("warning", problem)

    def _show(
        self, args: LivepatchArguments, session: Session
    ) -> tuple[AnswerCounts, list[TaskAnswer]]:
        from ..analysis.livepatch import listed_patches
        from ..analysis.record_fields import PATCH, PLAN, as_object
        from ..render.livepatch import patch_lines, plan_lines

        audit, inquiry = look_at_livepatch(args, session)
        counts = AnswerCounts(inquiry)
        answers = counts.of(session.select(audit, args.selection))
        shown = self.in_order((found for found in answers if args.all or found.holds), args)
        is_table = session.style == "table"
        kept = list(shown) if session.in_repl or is_table else []
        patches = listed_patches(inquiry.patches)
        lines = session.rows(
            self.view(args),
            audit,
            kept if session.in_repl or is_table else shown,
            {
                "patches": [as_object(PATCH, listed) for listed in patches],
                "planned": inquiry.plan and as_object(PLAN, inquiry.plan),
            },
        )
        if is_table:
            width = session.width
            above = [*patch_lines(patches, width), *plan_lines(inquiry.plan, width)]
            table = [*([""] if above else []), *lines] if kept else []
            lines = iter([*above, *table])
        session.write(lines)
        return counts, kept


def look_at_livepatch(args: LivepatchArguments, session: Session) -> tuple[Audit, Inquiry]:
    """Read all tasks of a kernel, and the patch that the command line is about.

    On a running kernel the lists of patches are read before and after the tasks. If they have
    changed, all is read again.

    :raises InputError: if the kernel has no live patching, or the file of ``--ko`` is not a patch.
    """
    from ..analysis.inquiry import inquire
    from ..analysis.livepatch import livepatches
    from ..kernel.live_tasks import is_live
    from ..kernel.livepatch import has_livepatching
    from ..program.open import input_error_if_vanished

    prog = session.prog
    with input_error_if_vanished(prog):
        planned = _planned_patch(args, session)
    changes = is_live(prog) and has_livepatching(prog)
    for _ in range(_MAX_TRIES):
        before = livepatches(prog) if changes else None
        audit = session.audit(args.max_tasks)
        with input_error_if_vanished(prog):
            inquiry = inquire(prog, audit.kernel.reliable_stacktrace, planned)
        if before is None or before.is_as(inquiry.patches):
            break
    return audit, inquiry


def _planned_patch(args: LivepatchArguments, session: Session) -> Optional[PlannedPatch]:
    if args.ko is not None:
        from ..analysis.livepatch import require_livepatching
        from ..analysis.patch_file import read_patch_file

        require_livepatching(session.prog)
        return read_patch_file(session.prog, args.ko)
    return PlannedPatch("the patch", args.functions, args.replace) if args.functions else None


COMMAND = Livepatch()
