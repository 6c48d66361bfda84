# SPDX-License-Identifier: LGPL-2.1-or-later
"""``diff``: what changed between two snapshots of the tasks of a machine."""

from __future__ import annotations

import argparse
import copy
import sys
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Optional

from ..errors import EXIT_FINDINGS, EXIT_OK, EXIT_PARTIAL, UsageError
from ..terminal.parser import interval
from .base import TaskCommand
from .source_options import given_sources
from .task_options import TaskArguments, add_filters

if TYPE_CHECKING:
    from ..analysis.snapshot import Snapshot
    from ..analysis.task_diff import TaskChange, TaskDiff
    from ..render.views import View
    from ..terminal.console import Console
    from .session import Session

__all__ = ("COMMAND",)

KINDS = ("still", "changed", "unclear", "came", "went")
_NEWS = ("changed", "came", "went")
"""Kinds of change that are listed for tasks in any state."""

_EXPLANATION = """\
Within one boot, a task is identified by its PID, its address and the time of its fork. Tasks of two
boots are matched by name and stack.

A row says what became of a task:
  still    it is in the same stack, with the same state and verdict
  changed  two lines: before and after
  unclear  no change is known, but one snapshot does not have its stack (it was on a CPU)
  came     only the later snapshot has it
  went     only the earlier snapshot has it
RAN is whether it ran in between, by its count of context switches. A task that is still in state D
and did not run hangs. By default, "still" tasks are listed only if they are in state D, and "unclear"
ones are not listed: see --kind and --all.
"""

_EXAMPLES = """\
A snapshot is a vmcore, or the JSON that "tasks --frames --format json" or "stack --all --format json"
printed. A task is listed if all filters match in one of the snapshots.

examples:
  drgn-tools diff vmcore.1 vmcore.2
  drgn-tools diff -k --interval 10                     what hangs now?
  drgn-tools tasks -k --frames --format json > before.json
  drgn-tools diff before.json -k
  drgn-tools diff -k --interval 60 --kind still --state D --check -q || echo a task hangs
"""


class DiffArguments(TaskArguments):
    """The command line of ``diff``."""

    snapshots: list[str]
    """Paths of vmcores and saved snapshots."""
    kind: list[str]
    all: bool
    kinds: frozenset[str]
    """Kinds that the user asked for; empty for the default."""
    # The REPL does not have these.
    check: bool = False
    interval: Optional[float] = None


class Diff(TaskCommand[DiffArguments]):
    """The command ``diff``."""

    arguments = DiffArguments
    operands = "[SNAPSHOT ...]"
    sources = "the later snapshot, if only one SNAPSHOT is given"
    selectors = ""
    explanation = _EXPLANATION
    examples = _EXAMPLES

    def add_options(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "snapshots",
            metavar="SNAPSHOT",
            nargs="*",
            help="vmcore, or saved JSON; the earlier first. If only one is given, the later snapshot is the kernel"
            " that is open, or that -c, -k or --qemu chooses",
        )
        parser.add_argument(
            "--kind",
            metavar="KINDS",
            action="append",
            default=[],
            help=f"list these: {', '.join(KINDS)} (several: still,changed)",
        )
        parser.add_argument("--all", action="store_true", help="list every task")
        add_filters(parser, without=("words",))

    def add_command_line_options(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--check", action="store_true", help="exit code 1 if a task is listed")
        parser.add_argument(
            "--interval",
            metavar="SECONDS",
            type=interval("--interval"),
            help="take two snapshots of a running kernel, SECONDS seconds apart",
        )

    def whole_view(self, args: DiffArguments, arch: Optional[str] = None) -> View:
        from ..render.views import DIFF

        return DIFF

    def check(self, args: DiffArguments) -> None:
        super().check(args)
        args.kinds = frozenset(name for text in args.kind for name in text.split(","))
        unknown = sorted(args.kinds - set(KINDS))
        if unknown:
            raise UsageError(f"{unknown[0]!r} is not a kind: the kinds are {', '.join(KINDS)}")
        if args.all:
            if args.kinds:
                raise UsageError("--all lists all kinds: leave out --kind or --all")
            args.kinds = frozenset(KINDS)

    def check_command_line(self, args: DiffArguments) -> None:
        given = given_sources(args)
        if len(given) > 1:
            raise UsageError(f"{' and '.join(given)} exclude each other: give one kernel")
        if args.interval is not None:
            if not given or args.core is not None or args.snapshots:
                raise UsageError(
                    "--interval takes two snapshots of a running kernel: give only -k or --qemu with it"
                )
        elif len(args.snapshots) + len(given) != 2:
            raise UsageError(
                "diff compares two snapshots: give two vmcores or saved JSON files, one of them and"
                " -k, or -k --interval SECONDS"
            )

    def run(self, args: DiffArguments, session: Session) -> list[TaskChange]:
        """See :meth:`.TaskCommand.run`. In the REPL, the open kernel is the later snapshot."""
        from ..analysis.audit import audit_kernel
        from ..analysis.snapshot import as_snapshot, is_saved_snapshot, saved_snapshot
        from ..program.open import open_program

        if len(args.snapshots) != 1:
            raise UsageError("%diff compares this kernel with an earlier snapshot: give one file")
        (path,) = args.snapshots
        if is_saved_snapshot(path):
            before = saved_snapshot(path)
        else:
            before = as_snapshot(audit_kernel(open_program(core=path), max_tasks=args.max_tasks))
        diff, rows = self._compared(args, (before, _snapshot_now(args, session)))
        session.write(self._lines(args, diff, rows, ()))
        _say(diff, session.console)
        return rows

    def main(self, args: DiffArguments, console: Console) -> int:
        """See :meth:`.Command.main`."""
        from ..render.summary import audit_warnings
        from ..terminal.console import write_lines

        before, after = _snapshots(args, console)
        diff, rows = self._compared(args, (before, after))
        problems = [
            f"{snapshot.kernel.source}: {line}"
            for snapshot in (before, after)
            for line in audit_warnings(snapshot.problems, _unreadable(snapshot))
        ]
        write_lines(self._lines(args, diff, rows, problems))
        _say(diff, console)
        for problem in problems:
            console.problem("warning", problem)
        if args.check and rows:
            return EXIT_FINDINGS
        return EXIT_PARTIAL if problems else EXIT_OK

    def _compared(
        self, args: DiffArguments, snapshots: tuple[Snapshot, Snapshot]
    ) -> tuple[TaskDiff, list[TaskChange]]:
        from ..analysis.task_diff import diff_tasks

        diff = diff_tasks(*snapshots)
        listed = (change for change in diff.changes if _is_listed(change, args))
        return diff, list(self.in_order(listed, args))

    def _lines(
        self,
        args: DiffArguments,
        diff: TaskDiff,
        rows: Sequence[TaskChange],
        problems: Sequence[str],
    ) -> Iterator[str]:
        from ..analysis.record_fields import KERNEL, as_object
        from ..render.views import render
        from ..terminal.colour import wants_colour
        from ..terminal.console import table_width

        return render(
            self.view(args),
            args.format,
            diff.after,
            rows,
            problems,
            table_width(sys.stdout),
            {"before": as_object(KERNEL, diff.before), "same_boot": diff.same_boot},
            wants_colour(args.color, sys.stdout),
        )


# ---- the two snapshots


def _snapshots(args: DiffArguments, console: Console) -> tuple[Snapshot, Snapshot]:
    if args.interval is not None:
        return _two_snapshots(args, args.interval, console)
    snapshots = [_snapshot(args, path, console) for path in args.snapshots]
    if len(snapshots) < 2:
        snapshots.append(_snapshot(args, args.core, console))
    before, after = snapshots
    return before, after


def _two_snapshots(
    args: DiffArguments, apart_s: float, console: Console
) -> tuple[Snapshot, Snapshot]:
    from .command_line_session import CommandLineSession

    session = CommandLineSession(args, console)
    began = time.monotonic()
    before = _snapshot_now(args, session)
    time.sleep(max(0.0, began + apart_s - time.monotonic()))
    return before, _snapshot_now(args, session)


def _snapshot(args: DiffArguments, path: Optional[str], console: Console) -> Snapshot:
    """Return the snapshot of a file (a vmcore or a saved snapshot), or, without *path*, of the kernel of ``-k`` or ``--qemu``."""
    from ..analysis.snapshot import is_saved_snapshot, saved_snapshot
    from ..render.summary import kernel_line
    from .command_line_session import CommandLineSession

    if path is not None and is_saved_snapshot(path):
        snapshot = saved_snapshot(path)
        console.note(kernel_line(snapshot.kernel))
        if not any(seen.has_stack and seen.task.frames for seen in snapshot.tasks):
            console.note(f"note: {path} has no stacks: it was saved without --frames")
        return snapshot
    args_of_one = copy.copy(args)
    if path is not None:
        args_of_one.core, args_of_one.kernel, args_of_one.qemu = path, False, None
    return _snapshot_now(args, CommandLineSession(args_of_one, console))


def _snapshot_now(args: DiffArguments, session: Session) -> Snapshot:
    from ..analysis.snapshot import snapshot_of

    audit = session.audit(args.max_tasks)
    try:
        return snapshot_of(audit.kernel, audit, audit.problems)
    finally:
        session.console.end_progress()


def _unreadable(snapshot: Snapshot) -> int:
    from ..analysis.tally import Tally

    return Tally(seen.task for seen in snapshot.tasks).unreadable


# ---- the result


def _is_listed(change: TaskChange, args: DiffArguments) -> bool:
    kind = change.kind.value
    if args.kinds:
        wanted = kind in args.kinds
    else:
        wanted = kind in _NEWS or (kind == "still" and change.last.state == "D")
    seen = (snapshot.task for snapshot in (change.before, change.after) if snapshot is not None)
    return wanted and any(task in args.selection for task in seen)


def _say(diff: TaskDiff, console: Console) -> None:
    from ..render.summary import diff_line, different_boots_line

    if not diff.same_boot:
        console.problem("warning", different_boots_line(diff))
    console.note(diff_line(diff))


COMMAND = Diff()
