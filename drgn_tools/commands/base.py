# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a command is.

A command is one module of this package, named as the command, with a ``COMMAND`` in it. Its line
in :mod:`.registry` makes it known to the command line and to drgn's REPL.
"""

from __future__ import annotations

import argparse
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Generic, Optional, TypeVar

from ..terminal.parser import (
    ROW_FORMATS,
    Arguments,
    Parser,
    add_format_option,
    add_log_options,
    add_terminal_options,
    checked_format,
)
from .registry import SUMMARIES
from .source_options import (
    ONE_NEEDED,
    KernelArguments,
    add_source_options,
    adopt_core,
    check_source,
)
from .task_options import (
    SELECTORS,
    RowExamples,
    TaskArguments,
    add_row_options,
    check_filters,
    check_rows,
)

if TYPE_CHECKING:
    from ..render.views import View
    from ..terminal.console import Console
    from .session import Session

__all__ = ("Command", "KernelCommand", "TaskCommand")


A = TypeVar("A", bound=Arguments)
K = TypeVar("K", bound=KernelArguments)
T = TypeVar("T", bound=TaskArguments)
R = TypeVar("R")


class Command(ABC, Generic[A]):
    """A command of ``drgn-tools``."""

    options_may_come_first = True
    """Whether options may stand before the name of the command."""

    def is_paged(self, args: A) -> bool:
        """Return whether the result is text to be read in a pager, if stdout is a terminal."""
        return False

    @abstractmethod
    def parser(self, name: str) -> Parser:
        """Return the parser of what follows the name of the command.

        Man pages and shell completion are also generated from it.

        :param name: Name of the command.
        """

    @abstractmethod
    def parse(self, name: str, words: Sequence[str], before: argparse.Namespace) -> A:
        """Parse and check a command line, without importing drgn or tabulate if possible.

        :param name: Name of the command.
        :param words: What follows the name.
        :param before: The options that stand before the name.
        :raises UsageError: if something is wrong with it.
        :raises SystemExit: if ``--help`` was asked for; it was printed.
        """

    @abstractmethod
    def main(self, args: A, console: Console) -> int:
        """Run the command.

        :return: The exit code.
        :raises DrgnToolsError: if it cannot be done.
        """


class KernelCommand(Command[K]):
    """A command on one kernel."""

    arguments: type[K]
    """Class of its parsed command line."""
    operands = ""
    """The words that it accepts, for its usage line."""
    sources = ONE_NEEDED
    """Title of the options that choose a kernel, in its help."""
    selectors = ""
    """Part of ``--help``: how tasks are named."""
    explanation = ""
    """End of ``--help``, on the command line and in the REPL."""
    examples = ""
    """Further text of ``--help`` on the command line."""
    formats: tuple[str, ...] = ()
    """Its formats besides those of tabulate. The first is the default."""

    def add_options(self, parser: argparse.ArgumentParser) -> None:
        """Add the options that the command line and the REPL have in common."""

    def add_output_options(self, parser: argparse._ActionsContainer) -> None:
        """Add the options for the form of the output that the command line and the REPL have in common."""
        if self.formats:
            add_format_option(parser, self.formats)

    def add_command_line_options(self, parser: argparse.ArgumentParser) -> None:
        """Add the options that the REPL does not have."""

    def adopt_words(self, args: K) -> None:
        """Take the words that are not operands of the command: a core that was given without ``-c``.

        :raises UsageError: if the words are wrong.
        """
        adopt_core(args)

    def check(self, args: K) -> None:
        """Check the options of :meth:`add_options` and :meth:`add_output_options`.

        :raises UsageError: if something is wrong with them.
        :raises SystemExit: if one of them asked for help; it was printed.
        """

    def check_command_line(self, args: K) -> None:
        """Check what only the command line has: the source, and :meth:`add_command_line_options`.

        :raises UsageError: if the source or an option is wrong.
        """
        check_source(args)

    def parser(self, name: str) -> Parser:
        """See :meth:`Command.parser`."""
        parser = Parser(
            prog=f"drgn-tools {name}",
            usage=f"%(prog)s [options] {self.operands}".rstrip(),
            description=f"{SUMMARIES[name]}.",
            epilog="\n".join(filter(None, (self.selectors, self.explanation, self.examples))),
        )
        self.add_options(parser)
        self.add_command_line_options(parser)
        add_source_options(parser, self.sources)
        output = parser.add_argument_group("output")
        self.add_output_options(output)
        add_terminal_options(output)
        add_log_options(output)
        return parser

    def parse(self, name: str, words: Sequence[str], before: argparse.Namespace) -> K:
        """See :meth:`Command.parse`."""
        args = self.parser(name).parse_words(words, self.arguments(**vars(before)))
        args.format = checked_format(args.format, name, self.formats)
        self.adopt_words(args)
        self.check(args)
        self.check_command_line(args)
        return args


class TaskCommand(KernelCommand[T]):
    """A command that shows tasks, on the command line and in drgn's REPL."""

    formats: tuple[str, ...] = ROW_FORMATS

    operands = "[TASK ...]"
    selectors = SELECTORS
    row_examples = RowExamples()
    """Examples of ``--columns`` and ``--sort`` for its help."""

    def add_output_options(self, parser: argparse._ActionsContainer) -> None:
        """See :meth:`KernelCommand.add_output_options`."""
        super().add_output_options(parser)
        add_row_options(parser, self.row_examples)

    def check(self, args: T) -> None:
        """See :meth:`KernelCommand.check`."""
        check_filters(args)
        if args.columns or args.sort:
            check_rows(args, self.whole_view(args))

    @abstractmethod
    def whole_view(self, args: T, arch: Optional[str] = None) -> View:
        """Return what the command shows, with all columns.

        :param arch: Architecture of the kernel; ``None`` if it is not known yet.
        """

    def view(self, args: T, arch: Optional[str] = None) -> View:
        """Return what the command shows, with the columns that were asked for.

        :param arch: Architecture of the kernel.
        """
        view = self.whole_view(args, arch)
        if not args.columns:
            return view
        from ..render.views import with_columns

        return with_columns(view, args.columns, args.format)

    def in_order(self, records: Iterable[R], args: T) -> Iterable[R]:
        """Return records in the order of ``--sort``."""
        if not args.order:
            return records
        from ..analysis.sorting import sorted_records
        from ..render.views import sort_fields

        return sorted_records(records, args.order, sort_fields(self.whole_view(args)))

    def is_paged(self, args: T) -> bool:
        """See :meth:`Command.is_paged`."""
        return True

    @abstractmethod
    def run(self, args: T, session: Session) -> list[Any]:
        """Show what was asked for.

        :param session: The kernel, and where the output goes.
        :return: The records that were shown if the session keeps them, else an empty list.
        """

    def main(self, args: T, console: Console) -> int:
        """See :meth:`Command.main`."""
        from .command_line_session import CommandLineSession

        session = CommandLineSession(args, console)
        self.run(args, session)
        return session.finish()
