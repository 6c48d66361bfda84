# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a command on tasks runs in: a kernel, and a user who reads the output."""

from __future__ import annotations

import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from typing import Callable, ClassVar, Optional, Union

from drgn import Program

from ..analysis import audit as api
from ..analysis.audit import AuditUnderWay
from ..analysis.selection import EVERY_TASK, Selection, task_name
from ..program.open import input_error_if_vanished
from ..records import KernelAudit, KernelInfo, TaskStack
from ..render.summary import nothing_selected_line
from ..render.views import View, render
from ..terminal.colour import wants_colour
from ..terminal.console import Console, table_width

__all__ = ("Audit", "Session")

Audit = Union[KernelAudit, AuditUnderWay]
"""The kernel and its tasks. The tasks can be iterated over once."""


class Session(ABC):
    """One run of a command.

    The command line and drgn's REPL differ in how they open the kernel, what they say about it,
    whether they keep the records, and how they report problems.

    :param prog: The kernel.
    :param style: Name of the output format.
    :param console: Where everything but the result goes.
    :param color: Value of ``--color``.
    """

    in_repl: ClassVar[bool]
    """Whether the user may type another command on the same kernel."""

    width: Optional[int]
    """Largest number of characters in a line of a table; ``None`` for any."""
    colour: bool
    """Whether the output has colours."""

    def __init__(self, prog: Program, style: str, console: Console, color: str = "auto") -> None:
        self.prog = prog
        self.style = style
        self.console = console
        self.width = table_width(sys.stdout)
        self.colour = wants_colour(color, sys.stdout)
        self._missing: set[int] = set()

    @abstractmethod
    def introduce(self, kernel: KernelInfo) -> None:
        """Say what users must know about a kernel. Call this before its tasks are shown."""

    @abstractmethod
    def audit(self, max_tasks: Optional[int]) -> Audit:
        """Read all tasks of the kernel, and introduce it.

        :param max_tasks: Largest number of tasks to read.
        """

    @abstractmethod
    def show(
        self,
        tasks: Iterable[TaskStack],
        lines: Callable[[Iterable[TaskStack]], Iterable[str]],
        selection: Selection = EVERY_TASK,
    ) -> list[TaskStack]:
        """Print tasks to stdout.

        :param tasks: The tasks; iterated over one by one.
        :param lines: Turns tasks into lines; called once.
        :param selection: The selection of the tasks. If there are none, a warning quotes it.
        :return: The tasks if the session keeps them, else an empty list.
        """

    @abstractmethod
    def write(self, lines: Iterable[str]) -> None:
        """Print lines to stdout, for records that are not tasks."""

    @abstractmethod
    def count_progress(self, done: int) -> None:
        """Show how many tasks were read so far."""

    def audit_all(self, max_tasks: Optional[int]) -> KernelAudit:
        """Do as :meth:`audit`, but read all tasks before this returns."""
        try:
            with input_error_if_vanished(self.prog):
                audit = api.audit_kernel(
                    self.prog, progress=self.count_progress, max_tasks=max_tasks
                )
        finally:
            self.console.end_progress()
        self.introduce(audit.kernel)
        return audit

    def audit_only(self, find: Callable[[Program], Iterable[TaskStack]]) -> KernelAudit:
        """Read a few tasks of the kernel, and introduce it.

        :param find: Returns the tasks. All are found before any is shown.
        """
        with input_error_if_vanished(self.prog):
            tasks = tuple(find(self.prog))
            kernel = api.kernel_info(self.prog)
        self.introduce(kernel)
        return KernelAudit(kernel, tasks)

    def select(
        self, tasks: Iterable[TaskStack], selection: Selection, check: bool = False
    ) -> Iterator[TaskStack]:
        """Return the tasks that a selection contains.

        :param check: Whether ``--check`` was given.
        """
        self._missing = set(selection.single_tasks)
        return selection.of(self._noted(tasks) if self._missing else tasks)

    def _noted(self, tasks: Iterable[TaskStack]) -> Iterator[TaskStack]:
        for task in tasks:
            self._missing -= {task.pid, task.task}
            yield task

    def warn_of_absent(self, selection: Selection, shown: int) -> None:
        """Warn if nothing was selected, or if single tasks were named that do not exist.

        :param selection: The last argument of :meth:`select`; all its tasks were iterated over.
        :param shown: Number of tasks that it selected.
        """
        if selection.typed and not shown:
            name = selection.lone_name
            is_file = None if self.in_repl or name is None else os.path.exists(name)
            self.console.problem("warning", nothing_selected_line(selection, is_file))
            return
        for number in selection.single_tasks:
            if number in self._missing:
                self.console.problem("warning", f"there is no task {task_name(number)}")

    def rows(
        self,
        view: View,
        audit: Audit,
        records: Iterable[object],
        before: Mapping[str, object] = {},
    ) -> Iterator[str]:
        """Return the lines of records in the format of this session.

        :param before: Members of a ``json`` document before the records.
        """
        return render(
            view,
            self.style,
            audit.kernel,
            records,
            audit.problems,
            self.width,
            before,
            self.colour,
        )
