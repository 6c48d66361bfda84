# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a command is.

A command is one module of this package, named as the command, with a ``COMMAND`` in it. Its line
in :mod:`.registry` makes it known to the command line and to drgn's REPL.
"""

from __future__ import annotations

import argparse
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from ..terminal.parser import (
    ROW_FORMATS,
    Arguments,
    Parser,
    add_format_option,
    add_log_options,
    checked_format,
)
from .registry import SUMMARIES
from .source_options import KernelArguments, add_source_options, check_source, refuse_file
from .task_options import TaskArguments, check_filters

if TYPE_CHECKING:
    from ..terminal.console import Console
    from .session import Session

__all__ = ("Command", "KernelCommand", "TaskCommand")


A = TypeVar("A", bound=Arguments)
K = TypeVar("K", bound=KernelArguments)
T = TypeVar("T", bound=TaskArguments)


class Command(ABC, Generic[A]):
    """A command of ``drgn-tools``."""

    options_may_come_first = True
    """Whether options may stand before the name of the command."""

    @abstractmethod
    def parse(self, name: str, words: Sequence[str], before: argparse.Namespace) -> A:
        """Parse and check a command line. Imports neither drgn nor tabulate unless it has to.

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
    explanation = ""
    """End of ``--help``, on the command line and in the REPL."""
    examples = ""
    """Further text of ``--help`` on the command line."""
    formats: tuple[str, ...] = ()
    """Its formats that tabulate does not have. The first is the default."""

    def add_options(self, parser: argparse.ArgumentParser) -> None:
        """Add the options that the command line and the REPL have in common."""

    def add_command_line_options(self, parser: argparse.ArgumentParser) -> None:
        """Add the options that the REPL does not have."""

    def check(self, args: K) -> None:
        """Check the options of :meth:`add_options`.

        :raises UsageError: if something is wrong with them.
        """

    def check_command_line(self, args: K) -> None:
        """Check what only the command line has: the source, and :meth:`add_command_line_options`.

        :raises UsageError: if something is wrong with it.
        """
        check_source(args)

    def parse(self, name: str, words: Sequence[str], before: argparse.Namespace) -> K:
        """See :meth:`Command.parse`."""
        parser = Parser(
            prog=f"drgn-tools {name}",
            description=f"{SUMMARIES[name]}.",
            epilog="\n".join(filter(None, (self.explanation, self.examples))),
        )
        self.add_options(parser)
        self.add_command_line_options(parser)
        add_source_options(parser)
        output = parser.add_argument_group("output")
        if self.formats:
            add_format_option(output, self.formats)
        add_log_options(output)
        args, others = parser.parse_known_args(words, self.arguments(**vars(before)))
        for word in others:
            refuse_file(word, f"an operand of {name}")
        if others:
            parser.error(f"unrecognized arguments: {' '.join(others)}")
        args.format = checked_format(args.format, name, self.formats)
        self.check(args)
        self.check_command_line(args)
        return args


class TaskCommand(KernelCommand[T]):
    """A command that shows tasks, on the command line and in drgn's REPL."""

    formats: tuple[str, ...] = ROW_FORMATS

    def check(self, args: T) -> None:
        """See :meth:`KernelCommand.check`."""
        check_filters(args)

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
