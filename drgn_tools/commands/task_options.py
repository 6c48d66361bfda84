# SPDX-License-Identifier: LGPL-2.1-or-later
"""What all commands on tasks have: words and options that choose tasks, and the order and columns of the output."""

from __future__ import annotations

import argparse
import difflib
import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, Optional

from ..analysis.selection import STATES, Selection, parse_numbers, parse_tasks
from ..errors import UsageError
from ..records import Verdict
from ..terminal.console import write_lines
from ..terminal.parser import positive
from .source_options import KernelArguments

if TYPE_CHECKING:
    from ..analysis.sorting import SortKey
    from ..render.views import View

__all__ = (
    "SELECTORS",
    "SELECTORS_WITHOUT_VERDICT",
    "RowExamples",
    "TaskArguments",
    "add_filters",
    "add_row_options",
    "check_filters",
    "check_rows",
)

_SELECTORS = """\
TASK is a PID (51), a range of them (100-200), the address of a task (0xff...), or a name, which may
be a shell pattern ('kworker/*'); also a list of these: 1,5-9,init. All filters must match. Each may
be repeated, and {} take lists: a task must match one of the values.
"""

SELECTORS = _SELECTORS.format("--pid, --state and --verdict")
"""For ``--help``."""
SELECTORS_WITHOUT_VERDICT = _SELECTORS.format("--pid and --state")
"""The same, for a command without ``--verdict``."""


class TaskArguments(KernelArguments):
    """The command line of a command on tasks."""

    max_tasks: Optional[int]
    pid: list[str]
    comm: list[str]
    state: list[str]
    function: list[str]
    verdict: list[str]
    on_cpu: bool
    columns: list[str]
    sort: list[str]

    selection: Selection
    """The tasks that the words and filters choose."""
    order: tuple[SortKey, ...] = ()
    """The order of ``--sort``."""


def add_filters(parser: argparse.ArgumentParser, without: Sequence[str] = ()) -> None:
    """Add the words that name tasks, the filters, and ``--max-tasks``. :func:`check_filters` completes the arguments.

    :param without: Names of the filters that the command does not have; ``words`` for the words.
    """
    if "words" in without:
        parser.set_defaults(words=[])
    else:
        parser.add_argument(
            "words", metavar="TASK", nargs="*", help="51, 100-200, 0xff..., kworker/*: see below"
        )
    parser.add_argument(
        "--max-tasks",
        metavar="N",
        type=positive("--max-tasks"),
        help="read no more than N tasks; exit code 5 if there are more",
    )
    pids = "thread IDs and ranges of them"
    filters = parser.add_argument_group("which tasks")
    for name, metavar, what in (
        ("pid", "PIDS", f"{pids}: 1,5-9" if "words" in without else f"{pids}: same as TASK"),
        ("comm", "GLOB", "name of the task"),
        ("state", "LETTERS", f"state: letters of {STATES}"),
        ("function", "GLOB", "a function anywhere on the stack"),
        ("verdict", "VERDICT", "reliable, unreliable, unknown"),
    ):
        if name in without:
            parser.set_defaults(**{name: []})
            continue
        filters.add_argument(f"--{name}", metavar=metavar, action="append", default=[], help=what)
    filters.add_argument("--on-cpu", action="store_true", help="only tasks on a CPU")


class RowExamples(NamedTuple):
    """Examples of ``--columns`` and ``--sort`` for ``--help``."""

    columns: str = "pid,comm,function"
    sort: str = "verdict,-depth"
    order: str = "the kernel's order"
    """The order without ``--sort``."""


def add_row_options(parser: argparse._ActionsContainer, examples: RowExamples) -> None:
    """Add ``--columns`` and ``--sort``. :func:`check_rows` completes the arguments.

    :param examples: Columns and an order that the command has
    """
    parser.add_argument(
        "--columns",
        metavar="LIST",
        action="append",
        default=[],
        help=f"these columns in this order: {examples.columns}; --columns help lists them",
    )
    parser.add_argument(
        "--sort",
        metavar="LIST",
        action="append",
        default=[],
        help=f"order by these columns, descending with -: {examples.sort} (default: {examples.order})",
    )


def check_filters(args: TaskArguments) -> None:
    """Check words and filters, and set :attr:`TaskArguments.selection`.

    :raises UsageError: if one of them is malformed.
    """
    words = [name for word in args.words for name in parse_tasks(word)]
    typed = {
        "pid": args.pid,
        "comm": args.comm,
        "state": args.state,
        "function": args.function,
        "verdict": args.verdict,
    }
    args.selection = Selection(
        tasks=(*words, *(name for text in args.pid for name in parse_numbers(text))),
        comms=tuple(args.comm),
        states=frozenset(letter for text in args.state for letter in _states(text)),
        functions=tuple(map(_function, args.function)),
        verdicts=frozenset(verdict for text in args.verdict for verdict in _verdicts(text)),
        on_cpu=args.on_cpu,
        typed=" ".join(
            [
                *map(shlex.quote, args.words),
                *(
                    f"--{name} {shlex.quote(text)}"
                    for name, texts in typed.items()
                    for text in texts
                ),
                *(["--on-cpu"] if args.on_cpu else []),
            ]
        ),
    )


def _function(pattern: str) -> str:
    name, plus, _ = pattern.partition("+")
    if plus:
        raise UsageError(
            f"--function takes no offset: leave it out of {pattern!r}, as in --function {name}"
        )
    return pattern


def _states(text: str) -> str:
    letters = text.replace(",", "")
    unknown = [letter for letter in letters if letter not in STATES]
    if unknown or not letters:
        raise UsageError(f"{text!r} is not a state: give letters of {STATES}, as in --state D")
    return letters


def _verdicts(text: str) -> list[Verdict]:
    try:
        return [Verdict(name) for name in text.split(",")]
    except ValueError:
        names = ", ".join(verdict.value for verdict in Verdict)
        raise UsageError(f"{text!r} is not a verdict: the verdicts are {names}") from None


# ---- columns and order


def check_rows(args: TaskArguments, view: View) -> None:
    """Check ``--columns`` and ``--sort``, and set :attr:`TaskArguments.order`.

    :param view: What the command shows.
    :raises UsageError: if there is no such column.
    :raises SystemExit: if ``--columns help`` was asked for; it was printed.
    """
    from ..analysis.sorting import parse_order
    from ..render.views import column_names, sort_fields

    if args.columns and args.format == "text":
        raise UsageError("--columns needs a format with columns: add --format table, csv or json")
    if (args.columns or args.sort) and args.format == "folded":
        raise UsageError("--format folded has one form: leave --columns and --sort out")
    if args.columns == ["help"]:
        write_lines(_column_help(view, args.format))
        raise SystemExit(0)
    args.columns = [name for text in args.columns for name in text.split(",")]
    args.order = tuple(key for text in args.sort for key in parse_order(text))
    for option, names, known in (
        ("--columns", args.columns, column_names(view, args.format)),
        ("--sort", [key.field for key in args.order], list(sort_fields(view))),
    ):
        for name in names:
            if name not in known:
                raise UsageError(_no_column(option, name, known))


def _no_column(option: str, name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name.lower(), known, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    return f"{option}: there is no column {name!r}: {hint}--columns help lists them"


def _column_help(view: View, style: str) -> list[str]:
    from ..render.views import column_names, shown_names

    shown = shown_names(view, style)
    others = [name for name in column_names(view, style) if name not in shown]
    more = [f"further columns: {', '.join(others)}"] if others else []
    return [f"columns of {style}: {', '.join(shown)}", *more]
