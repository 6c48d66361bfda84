# SPDX-License-Identifier: LGPL-2.1-or-later
"""The argument parser of all command lines, and the options that they share."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from typing import Any, Callable, NoReturn, Optional, TypeVar

from ..errors import UsageError
from ..program.redact import with_urls_redacted
from .colour import WHEN
from .console import write_lines
from .hints import unknown_words

__all__ = (
    "ROW_FORMATS",
    "Arguments",
    "Parser",
    "add_format_option",
    "add_log_options",
    "add_terminal_options",
    "checked_format",
    "interval",
    "positive",
)

_MAX_INTERVAL_S = 24 * 60 * 60.0

ROW_FORMATS = ("table", "json", "jsonl", "csv")
"""Formats of every command with ``--format``, besides those of tabulate."""


A = TypeVar("A", bound=argparse.Namespace)


class Arguments(argparse.Namespace):
    """A parsed command line. Each command adds its own options in a subclass."""

    log_level: str
    quiet: bool
    # Not every command has these.
    color: str = "auto"
    no_pager: bool = False


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that raises :class:`UsageError` and does not wrap its epilog."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(
            allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, **kwargs
        )

    def parse_words(self, words: Sequence[str], arguments: A) -> A:
        """Parse words: options and operands, in any order.

        :param arguments: Gets the values; existing values stay unless a word replaces them.
        :return: *arguments*
        :raises UsageError: if the words are wrong.
        :raises SystemExit: if ``--help`` or the like is among them; it was printed.
        """
        parsed, unknown = self._parse_in_any_order(_with_dashed_values(words), arguments)
        if unknown:
            self.error(unknown_words(unknown, self._option_names()))
        return parsed

    def _parse_in_any_order(self, words: list[str], arguments: A) -> tuple[A, list[str]]:
        # argparse accepts "51 --frames 52" only in this way, which does not work with subcommands.
        if any(action.nargs == argparse.PARSER for action in self._actions):
            return self.parse_known_args(words, arguments)
        return self.parse_known_intermixed_args(words, arguments)

    def _option_names(self) -> set[str]:
        names = set(self._option_string_actions)
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction):
                for parser in action.choices.values():
                    names |= parser._option_names()
        return names

    def error(self, message: str) -> NoReturn:
        """Raise :class:`UsageError` instead of ending the process."""
        raise UsageError(f"{with_urls_redacted(message)} (see {self.prog} --help)")

    def _print_message(self, message: str, file: Any = None) -> None:
        # For --help and --version. The method of argparse ignores a write error (full disk).
        write_lines(message.splitlines())


def _with_dashed_values(words: Sequence[str]) -> list[str]:
    # argparse would treat the value of "--sort -depth" as an option.
    joined: list[str] = []
    for word in words:
        if joined and joined[-1] == "--sort" and re.match("-[a-z_]{2}", word):
            word = f"{joined.pop()}={word}"
        joined.append(word)
    return joined


def add_log_options(parser: argparse._ActionsContainer) -> None:
    """Add ``-q`` and ``--log-level``."""
    parser.add_argument(
        "-q",
        "--quiet",
        action="store_true",
        help="print only warnings and errors to stderr",
    )
    parser.add_argument(
        "--log-level",
        choices=("debug", "info", "warning", "error", "critical", "none"),
        metavar="LEVEL",
        default="warning",
        help="log messages of this level and above to stderr: debug, info, warning (default), error, critical, none",
    )


def add_terminal_options(parser: argparse._ActionsContainer) -> None:
    """Add ``--color`` and ``--no-pager``."""
    parser.add_argument(
        "--color",
        choices=WHEN,
        metavar="WHEN",
        default="auto",
        help="auto (default), always, never",
    )
    parser.add_argument("--no-pager", action="store_true", help="do not use a pager")


def add_format_option(parser: argparse._ActionsContainer, formats: Sequence[str]) -> None:
    """Add ``--format``. Pass its value to :func:`checked_format`.

    :param formats: Names of the formats besides those of tabulate; the first is the default.
    """
    default, *others = formats
    parser.add_argument(
        "--format",
        metavar="FORMAT",
        help=f"{default} (default), {', '.join(others)}, or any format of tabulate "
        "(github, html ...)",
    )


def positive(option: str) -> Callable[[str], int]:
    """Return a converter for the value of an option that takes a number above 0.

    :param option: Name of the option, for the error message.
    :return: Function from text to number. It raises :class:`UsageError`.
    """

    def number(text: str) -> int:
        # int() alone would accept "1_0" and the digits of other scripts.
        if not text.isascii() or not text.isdigit() or not int(text):
            raise UsageError(f"{option} takes a number above 0, not {text!r}")
        return int(text)

    return number


def interval(option: str) -> Callable[[str], float]:
    """Return a converter for the value of an option that takes seconds, up to a day.

    :param option: Name of the option, for the error message.
    :return: Function from text to seconds. It raises :class:`UsageError`.
    """

    def seconds(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = -1.0
        if not 0 < value <= _MAX_INTERVAL_S:
            raise UsageError(f"{option} takes seconds, above 0 and up to a day, not {text!r}")
        return value

    return seconds


def checked_format(name: Optional[str], command: str, formats: Sequence[str] = ROW_FORMATS) -> str:
    """Return the format for the output of a command.

    :param name: Value of ``--format``, or ``None`` if it was not given.
    :param command: Name of the command, for the error message.
    :param formats: Formats of the command besides those of tabulate; the first is the default.
        Empty for a command without ``--format``.
    :return: Name of a format; the empty string if the command has none.
    :raises UsageError: if the command does not have this format.
    """
    if not formats:
        if name is not None:
            raise UsageError(f"{command} has no --format")
        return ""
    if name is None or name in formats:
        return name or formats[0]
    from tabulate import tabulate_formats

    if name in tabulate_formats:
        return name
    import difflib

    near = difflib.get_close_matches(name.lower(), (*formats, *tabulate_formats), n=1)
    meant = f"did you mean {near[0]}? " if near else ""
    raise UsageError(
        f"{command} has no format {name!r}: {meant}"
        f"it has {', '.join(formats)}, and all formats of tabulate"
    )
