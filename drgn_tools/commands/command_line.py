# SPDX-License-Identifier: LGPL-2.1-or-later
"""From the words of a command line to a command and its arguments.

All mistakes are found here, before a dump is opened. Only the command that was typed is imported.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from .. import __version__
from ..errors import UsageError
from ..program.redact import with_urls_redacted
from ..terminal.parser import (
    ROW_FORMATS,
    Arguments,
    Parser,
    add_format_option,
    add_log_options,
    add_terminal_options,
)
from .hints import unknown_command
from .registry import SUMMARIES, load_command
from .source_options import add_source_options

if TYPE_CHECKING:
    from .base import Command

__all__ = ("CommandLine", "parse_command_line", "whole_parser")

_EXIT_CODES = """\
exit codes:
  0   completed, nothing to report
  1   only with --check: a task is unreliable (tasks), hangs (hung), holds a live patch back
      (livepatch), or is listed (diff)
  2   the command line is wrong, or there is no such task
  3   the core, kernel or guest cannot be opened, or is not a Linux kernel
  4   no usable type information, or symbols of another kernel
  5   completed, but some tasks could not be read; with --check also: or judged
  70  a bug in drgn-tools
  74  the result could not be written
  130 interrupted (Ctrl-C); 141 the reader of the output closed the pipe
"""

_EXAMPLES = """\
examples:
  drgn-tools demo                                 try it: a small real vmcore comes with the package
  drgn-tools tasks -c vmcore                      every task: can its stack be trusted, and why not?
  drgn-tools tasks -c vmcore --verdict unreliable --frames
  drgn-tools stack -c vmcore                      what crashed the machine, as an oops shows it
  drgn-tools stack -c vmcore 51                   one stack in full, with all saved registers
  drgn-tools hung -c vmcore                       what hangs, on what, and who holds it; deadlocks first
  drgn-tools livepatch -c vmcore                  who holds a live patch back, and why
  sudo drgn-tools tasks -k --check                the running kernel; exit code 1 if one is unreliable
  drgn-tools diff vmcore.1 vmcore.2               who is still where, what changed, who came and went
  drgn-tools groups -c vmcore --format folded | flamegraph.pl > stacks.svg
  drgn-tools fleet run /var/crash -o fleet        many vmcores, into one dataset
  drgn-tools tasks -c vmcore --frames --format json | jq '.tasks[] | select(.verdict == "unreliable")'

Debuginfo is not needed: types and symbols come from the dump itself (BTF, kallsyms).
"""


class CommandLine(msgspec.Struct, frozen=True):
    """A command line, parsed and checked."""

    command: Command[Any]
    args: Arguments


def parse_command_line(argv: Sequence[str]) -> CommandLine:
    """Parse and check a command line.

    :param argv: The words after the name of the program.
    :raises UsageError: if the command line is wrong.
    :raises SystemExit: if ``--help`` or ``--version`` was asked for; it was printed.
    :raises OutputError: if the help or version cannot be written.
    :raises ReaderGoneError: if the reader of the help or version has closed the pipe.
    """
    if not argv:
        raise UsageError("which command? drgn-tools help lists them, drgn-tools demo shows one")
    before = _parser().parse_words(argv, argparse.Namespace())
    name, *words = before.command
    del before.command
    if name == "help":
        name, words = _asked_for_help(words)
    if name not in SUMMARIES:
        # The options before the command are moved to the end, where they mean the same.
        rest = [*words, *argv[: len(argv) - len(words) - 1]]
        raise UsageError(with_urls_redacted(unknown_command(name, rest)))
    command = load_command(name)
    if not command.options_may_come_first and len(words) + 1 < len(argv):
        raise UsageError(f"options of {name} come after it: drgn-tools {name} ...")
    args = command.parse(name, words, before)
    if args.quiet:
        args.log_level = "none"
    return CommandLine(command, args)


def _asked_for_help(words: Sequence[str]) -> tuple[str, list[str]]:
    """Return the command and the words of ``COMMAND --help``.

    :raises SystemExit: if no other command was named; the help was printed.
    """
    if not words or words[0] in ("help", "-h", "--help"):
        _parser().print_help()
        raise SystemExit(0)
    name, *more = words
    return name, [*more, "--help"]


_HELP = "show the help of a command: drgn-tools help tasks"


def whole_parser() -> argparse.ArgumentParser:
    """Return one parser with all commands, from which man pages and completion are generated.

    It parses the same as :func:`parse_command_line`, but checks less, and imports every command.
    """
    parser = _options_before()
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", prog="drgn-tools")
    for name, summary in SUMMARIES.items():
        of_command = load_command(name).parser(name)
        commands.add_parser(
            name,
            help=summary,
            parents=[of_command],
            add_help=False,  # the parent has it
            description=of_command.description,
            epilog=of_command.epilog,
        )
    of_help = commands.add_parser("help", help=_HELP, add_help=False)
    of_help.add_argument("command", metavar="COMMAND", nargs="?", choices=list(SUMMARIES))
    return parser


def _parser() -> Parser:
    """Return the parser of what is before the words of a command."""
    parser = _options_before()
    parser.add_argument("command", nargs=argparse.PARSER, metavar="COMMAND", help=argparse.SUPPRESS)
    return parser


def _options_before() -> Parser:
    listed = {**SUMMARIES, "help": _HELP}
    commands = "\n".join(f"  {name:<12}{summary}" for name, summary in listed.items())
    parser = Parser(
        prog="drgn-tools",
        usage="drgn-tools [options] COMMAND ...",
        description="What is every task's stack, can it be trusted, and what did the CPU save on it?\n"
        "For a vmcore, the running kernel or a QEMU guest.\n"
        f"\ncommands:\n{commands}",
        epilog=f"{_EXAMPLES}\n{_EXIT_CODES}",
    )
    parser.add_argument("--version", action="version", version=f"drgn-tools {__version__}")
    add_source_options(parser)
    output = parser.add_argument_group(
        "output", "stack and groups have one more format each: see their --help"
    )
    add_format_option(output, ROW_FORMATS)
    add_terminal_options(output)
    add_log_options(output)
    return parser
