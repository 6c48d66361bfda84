# SPDX-License-Identifier: LGPL-2.1-or-later
"""The commands on tasks as ``%`` commands of drgn's REPL, on the program that is open there."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable, Sequence
from typing import Any, Callable, Optional

from drgn import Program
from drgn.commands import CommandError

from ..analysis.selection import EVERY_TASK, Selection
from ..cache_key import cache_key
from ..errors import DrgnToolsError
from ..kernel.probing import has_dwarf
from ..program.builtin_types import use_builtin_types
from ..records import KernelAudit, KernelInfo, Reason, TaskStack
from ..render.summary import unreadable_line
from ..terminal.console import Console, ReaderGoneError, be_lenient, write_lines
from ..terminal.escape import escape
from ..terminal.parser import Parser, checked_format
from .base import TaskCommand
from .registry import SUMMARIES, load_command
from .session import Session
from .task_options import TaskArguments

__all__ = ("run_in_repl",)

_CACHE_KEY = cache_key(__name__)
"""Whether the notes on the kernel were shown."""

_EPILOG = """\
Pipes and redirects work as in a shell: %tasks | grep unreliable, %tasks > file. Afterwards
_ holds the records that were shown, as a list.
"""


def run_in_repl(prog: Program, name: str, words: Sequence[str]) -> Optional[list[Any]]:
    """Run a ``%`` command.

    :param name: Name of the command, one of :data:`.registry.REPL_OPERANDS`.
    :param words: The words that were typed after it.
    :return: The records that were shown, which the REPL keeps as ``_``; ``None`` after ``--help``.
    :raises CommandError: if the command fails; the message says why in one line.
    """
    command = load_command(name)
    assert isinstance(command, TaskCommand)
    try:
        args = _parse(command, name, words)
        # drgn may have been started without looking for types (--no-default-symbols).
        if not has_dwarf(prog):
            use_builtin_types(prog)
        return command.run(args, _ReplSession(prog, args.format, Console()))
    except (SystemExit, ReaderGoneError):  # --help, and --help | true
        return None
    except DrgnToolsError as error:
        raise CommandError(escape(str(error))) from None


def _parse(command: TaskCommand[Any], name: str, words: Sequence[str]) -> TaskArguments:
    parser = Parser(
        prog=f"%{name}",
        usage=f"%(prog)s [options] {command.operands}",
        description=f"{SUMMARIES[name]}.",
        epilog="\n".join(filter(None, (command.selectors, command.explanation, _EPILOG))),
    )
    command.add_options(parser)
    command.add_output_options(parser)
    args: TaskArguments = parser.parse_words(words, command.arguments())
    args.format = checked_format(args.format, name, command.formats)
    command.check(args)
    return args


class _ReplSession(Session):
    """One ``%`` command. It keeps the records, and shows the notes on the kernel only once."""

    in_repl = True

    def introduce(self, kernel: KernelInfo) -> None:
        """See :meth:`Session.introduce`."""
        if self.prog.cache.setdefault(_CACHE_KEY, False):
            return
        self.prog.cache[_CACHE_KEY] = True
        for note in kernel.notes:
            self.console.note(f"note: {note}")

    def count_progress(self, done: int) -> None:
        """See :meth:`Session.count_progress`. The REPL shows none."""

    def audit(self, max_tasks: Optional[int]) -> KernelAudit:
        """See :meth:`Session.audit`."""
        return self.audit_all(max_tasks)

    def audit_all(self, max_tasks: Optional[int]) -> KernelAudit:
        """See :meth:`Session.audit_all`. Reports problems with the kernel, whatever is shown."""
        audit = super().audit_all(max_tasks)
        for problem in audit.problems:
            self.console.problem("warning", problem)
        unreadable = sum(task.reason is Reason.UNREADABLE for task in audit)
        if unreadable:
            self.console.problem("warning", unreadable_line(unreadable))
        return audit

    def show(
        self,
        tasks: Iterable[TaskStack],
        lines: Callable[[Iterable[TaskStack]], Iterable[str]],
        selection: Selection = EVERY_TASK,
    ) -> list[TaskStack]:
        """See :meth:`Session.show`."""
        kept = list(tasks)
        self.warn_of_absent(selection, len(kept))
        self.write(lines(kept))
        return kept

    def write(self, lines: Iterable[str]) -> None:
        """See :meth:`Session.write`."""
        be_lenient(sys.stdout)
        # With "%tasks | head -1", too, the records are returned.
        with contextlib.suppress(ReaderGoneError):
            write_lines(lines)
