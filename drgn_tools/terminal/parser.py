# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the command lines of all commands are made of."""

from __future__ import annotations

import argparse
from typing import Any, Callable, NoReturn, Optional

from ..analysis.queries import Selection
from ..errors import UsageError
from .console import write_lines

__all__ = ("Arguments", "Parser", "add_log_options", "checked_format", "positive")

_FORMATS = ("table", "json", "jsonl", "csv")
"""Every command that has ``--format`` has these, and all that tabulate has."""
_FORMATS_OF = {
    "tasks": _FORMATS,
    "stack": ("text", *_FORMATS),
    "regs": _FORMATS,
    "groups": (*_FORMATS, "folded"),
    "demo": _FORMATS,
    "fleet report": _FORMATS,
}
"""The first is the default."""


class Arguments(argparse.Namespace):
    """A command line, understood and checked."""

    command: str
    core: Optional[str]
    kernel: bool
    qemu: Optional[str]
    symbols: list[str]
    vmcoreinfo: Optional[str]
    log_level: str
    quiet: bool
    format: str
    # tasks, demo, stack, regs, groups
    selection: Selection
    filters: str
    """:attr:`selection` as it was typed."""
    max_tasks: Optional[int]
    # tasks, demo
    frames: bool
    sort: Optional[str]
    check: bool
    # tasks
    watch: Optional[float]
    until_reliable: bool
    # stack
    which: list[int]
    all: bool
    on_cpu: bool
    # regs
    mode: Optional[str]
    # groups
    by_comm: bool
    # fleet
    fleet_command: str
    # fleet run
    sources: list[str]
    output: str
    live: bool
    scheduler: Optional[str]
    workers: Optional[int]
    time: float
    memory: int
    retries: int
    limit: Optional[int]
    redo: Optional[str]
    # fleet report
    dataset: str
    section: list[str]
    top: Optional[int]
    sql: Optional[str]
    html: Optional[str]


class Parser(argparse.ArgumentParser):
    """One that raises :class:`UsageError` instead of ending the process, and keeps the text of its epilog."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(
            allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, **kwargs
        )

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (see {self.prog} --help)")

    def _print_message(self, message: str, file: Any = None) -> None:
        # Of --help and --version. argparse's own takes no notice of a full disk.
        write_lines(message.splitlines())


def add_log_options(parser: argparse._ActionsContainer, defaults: bool = True) -> None:
    """``-q`` and ``--log-level``, as every command has them."""
    parser.add_argument(
        "-q",
        "--quiet",
        action="store_true",
        default=False if defaults else argparse.SUPPRESS,
        help="nothing on stderr but errors and what could not be read",
    )
    parser.add_argument(
        "--log-level",
        choices=("debug", "info", "warning", "error", "critical", "none"),
        metavar="LEVEL",
        default="warning" if defaults else argparse.SUPPRESS,
        help="log this and worse to stderr: debug, info, warning (default), error, critical, none",
    )


def positive(option: str) -> Callable[[str], int]:
    """What turns the text given to *option* into a number above 0."""

    def number(text: str) -> int:
        if not text.isascii() or not text.isdigit() or not int(text):
            raise UsageError(f"{option} takes a number above 0: {text!r} is none")
        return int(text)

    return number


def checked_format(name: Optional[str], command: str) -> str:
    """What ``--format`` of *command* was given, or its default.

    :raises UsageError: *command* has no such format, or none at all.
    """
    ours = _FORMATS_OF.get(command)
    if ours is None:
        if name is not None:
            raise UsageError(f"{command} has no --format")
        return ""
    if name is None or name in ours:
        return name or ours[0]
    from tabulate import tabulate_formats

    if name in tabulate_formats:
        return name
    import difflib

    near = difflib.get_close_matches(name.lower(), (*ours, *tabulate_formats), n=1)
    meant = f"did you mean {near[0]}? " if near else ""
    raise UsageError(
        f"{command} has no format {name!r}: {meant}"
        f"there are {', '.join(ours)}, or any format of tabulate"
    )
