# SPDX-License-Identifier: LGPL-2.1-or-later
"""A session of the command line: it opens the kernel, streams records, and returns an exit code."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Callable, Optional, TypeVar

from ..analysis import audit as api
from ..analysis.selection import EVERY_TASK, Selection
from ..errors import EXIT_FINDINGS, EXIT_OK, EXIT_PARTIAL
from ..program.open import input_error_if_vanished
from ..records import KERNEL_WIDE, KernelAudit, KernelInfo, Reason, TaskStack, Verdict
from ..render.summary import kernel_line, unjudged_line, unreadable_line, verdict_line
from ..terminal.console import Console, is_terminal, write_lines
from .session import Audit, Session
from .source_options import KernelArguments, open_source

__all__ = ("CommandLineSession",)

T = TypeVar("T")

_STREAMED_FORMATS = frozenset(("json", "jsonl", "csv", "text"))
"""Formats whose rows are written while tasks are still being read."""


class CommandLineSession(Session):
    """One run of ``drgn-tools COMMAND``. Memory does not grow with the number of tasks.

    :param modules: Whether the user may ask for drgn's modules, or call drgn's unwinder.
    :raises InputError: if the kernel cannot be opened.
    :raises TypesError: if there are no usable types for it.
    """

    in_repl = False

    def __init__(self, args: KernelArguments, console: Console, modules: bool = False) -> None:
        super().__init__(open_source(args, console, modules), args.format, console, args.color)
        self._is_live = args.core is None
        self._is_introduced = False
        self._problems: Sequence[str] = ()
        self._shown = _TaskCounts()
        self._unjudged: Optional[_UnjudgedCounts] = None

    def introduce(self, kernel: KernelInfo) -> None:
        """See :meth:`Session.introduce`. Only the first call has an effect."""
        if self._is_introduced:
            return
        self._is_introduced = True
        self.console.note(kernel_line(kernel))
        if self.style != "text":  # that format has them above the stack
            for line in kernel.last_words:
                self.console.note(f"log: {line}")
        for note in kernel.notes:
            self.console.note(f"note: {note}")

    def count_progress(self, done: int) -> None:
        """See :meth:`Session.count_progress`."""
        self.console.progress(f"{done} tasks")

    def audit(self, max_tasks: Optional[int]) -> Audit:
        """See :meth:`Session.audit`. The tasks of a dump are read while they are iterated over."""
        began = time.monotonic()
        # The progress line would be mixed with the rows that are written meanwhile.
        rows_interfere = self.style in _STREAMED_FORMATS and is_terminal(sys.stdout)
        try:
            with input_error_if_vanished(self.prog):
                audit = api.audit_under_way(
                    self.prog,
                    progress=None if rows_interfere else self.count_progress,
                    max_tasks=max_tasks,
                )
        finally:
            self.console.end_progress()
        self.introduce(audit.kernel)
        if self._is_live:
            self.console.note(f"read in {time.monotonic() - began:.2f} s")
        self._problems = audit.problems
        return audit

    def audit_all(self, max_tasks: Optional[int]) -> KernelAudit:
        """See :meth:`Session.audit_all`."""
        audit = super().audit_all(max_tasks)
        self._problems = audit.problems
        return audit

    def select(
        self, tasks: Iterable[TaskStack], selection: Selection, check: bool = False
    ) -> Iterator[TaskStack]:
        """See :meth:`Session.select`."""
        self._unjudged = _UnjudgedCounts(selection) if check else None
        return super().select(self._unjudged.count(tasks) if self._unjudged else tasks, selection)

    def show(
        self,
        tasks: Iterable[TaskStack],
        lines: Callable[[Iterable[TaskStack]], Iterable[str]],
        selection: Selection = EVERY_TASK,
    ) -> list[TaskStack]:
        """See :meth:`Session.show`. Nothing is kept."""
        self._shown = _TaskCounts()
        write_lines(lines(self._until_last(self._shown.count(tasks))))
        self.warn_of_absent(selection, self._shown.total)
        return []

    def write(self, lines: Iterable[str]) -> None:
        """See :meth:`Session.write`."""
        write_lines(self._until_last(lines))

    def _until_last(self, items: Iterable[T]) -> Iterator[T]:
        try:
            yield from items
        finally:
            self.console.end_progress()

    def finish(self) -> int:
        """Report on the tasks that were shown last.

        :return: The exit code. A finding wins over unreadable parts, because it is certain anyway.
        """
        shown, unjudged = self._shown, self._unjudged
        self.console.note(verdict_line(shown.verdicts))
        self.warn_of_problems()
        if unjudged is not None and unjudged.reasons:
            self.console.problem("warning", unjudged_line(unjudged.reasons, unjudged.why))
        elif shown.unreadable:
            self.console.problem("warning", unreadable_line(shown.unreadable))
        if unjudged is not None and shown.verdicts[Verdict.UNRELIABLE]:
            return EXIT_FINDINGS
        if self._problems or shown.unreadable or (unjudged is not None and unjudged.reasons):
            return EXIT_PARTIAL
        return EXIT_OK

    def warn_of_problems(self) -> bool:
        """Report the parts of the kernel that could not be read; return whether there are any."""
        for problem in self._problems:
            self.console.problem("warning", problem)
        return bool(self._problems)


class _TaskCounts:
    """Counts tasks on their way to the output."""

    def __init__(self) -> None:
        self.verdicts: Counter[Verdict] = Counter()
        self.unreadable = 0

    @property
    def total(self) -> int:
        return sum(self.verdicts.values())

    def count(self, tasks: Iterable[TaskStack]) -> Iterator[TaskStack]:
        """Yield each task, counted."""
        for task in tasks:
            self.verdicts[task.verdict] += 1
            self.unreadable += task.reason is Reason.UNREADABLE
            yield task


class _UnjudgedCounts:
    """Counts tasks that have no verdict, for ``--check``.

    :param selection: The tasks to count. Its verdicts are ignored: ``--check --verdict
        unreliable`` must not succeed only because there are no verdicts at all.
    """

    def __init__(self, selection: Selection) -> None:
        self._selection = selection.of_any_verdict()
        self.reasons: Counter[Reason] = Counter()
        self.why: dict[Reason, str] = {}
        """The sentences for reasons that all tasks of a kernel share."""

    def count(self, tasks: Iterable[TaskStack]) -> Iterator[TaskStack]:
        """Yield each task, counted if it should have a verdict and has none."""
        for task in tasks:
            reason = task.reason
            if (
                task.verdict is Verdict.UNKNOWN
                and reason is not None
                and reason is not Reason.RUNNING
                and task in self._selection
            ):
                self.reasons[reason] += 1
                if reason in KERNEL_WIDE and task.why is not None:
                    self.why[reason] = task.why
            yield task
