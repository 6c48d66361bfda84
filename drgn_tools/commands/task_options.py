# SPDX-License-Identifier: LGPL-2.1-or-later
"""The options that choose tasks, as all commands on tasks have them."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from typing import Optional

from ..analysis.selection import STATES, Selection, parse_pids
from ..errors import UsageError
from ..records import Verdict
from ..terminal.parser import positive
from .source_options import KernelArguments, refuse_file

__all__ = ("TaskArguments", "add_filters", "add_pids", "check_filters")

_COMM_CHARS = 15
"""TASK_COMM_LEN without the zero (include/linux/sched.h)."""


class TaskArguments(KernelArguments):
    """The command line of a command on tasks."""

    max_tasks: Optional[int]
    pids: Sequence[str] = ()
    pid: list[str]
    comm: list[str]
    state: list[str]
    function: list[str]
    verdict: list[str]

    selection: Selection
    """What the filters choose."""
    filters: str
    """The filters as they were typed; empty if there are none."""


def add_filters(parser: argparse.ArgumentParser, without: Sequence[str] = ()) -> None:
    """Add ``--max-tasks`` and the filters. :func:`check_filters` completes the arguments.

    :param without: Names of the filters that the command does not have.
    """
    parser.add_argument(
        "--max-tasks",
        metavar="N",
        type=positive("--max-tasks"),
        help="look at no more than N tasks; exit code 5 if there are more",
    )
    filters = parser.add_argument_group("which tasks (default: all)")
    for name, metavar, what in (
        ("pid", "PIDS", "thread IDs and ranges of them: 1,5-9"),
        ("comm", "GLOB", "name of the task"),
        ("state", "LETTERS", f"state: letters of {STATES}"),
        ("function", "GLOB", "a function anywhere on the stack"),
        ("verdict", "VERDICT", "reliable, unreliable, unknown"),
    ):
        if name in without:
            parser.set_defaults(**{name: []})
            continue
        filters.add_argument(f"--{name}", metavar=metavar, action="append", default=[], help=what)


def add_pids(parser: argparse.ArgumentParser) -> None:
    """Add operands that mean the same as ``--pid``."""
    parser.add_argument("pids", metavar="PIDS", nargs="*", help="the same as --pid PIDS")


def check_filters(args: TaskArguments) -> None:
    """Check the filters, and set :attr:`TaskArguments.selection` and :attr:`~TaskArguments.filters`.

    :raises UsageError: if one of them is malformed.
    """
    for text in args.pids:
        refuse_file(text, "a task")
    pids = [*args.pid, *args.pids]
    args.selection = Selection(
        pids=tuple(pids for text in pids for pids in parse_pids(text)),
        comms=tuple(map(_comm, args.comm)),
        states=frozenset(letter for text in args.state for letter in _states(text)),
        functions=tuple(map(_function, args.function)),
        verdicts=frozenset(verdict for text in args.verdict for verdict in _verdicts(text)),
    )
    typed = {
        "pid": pids,
        "comm": args.comm,
        "state": args.state,
        "function": args.function,
        "verdict": args.verdict,
    }
    args.filters = " ".join(
        f"--{name} {shlex.quote(text)}" for name, texts in typed.items() for text in texts
    )


def _comm(pattern: str) -> str:
    least = len(pattern) - pattern.count("*")
    if least > _COMM_CHARS and not set(pattern) & set("[\\"):
        raise UsageError(
            f"the kernel keeps {_COMM_CHARS} bytes of the name of a task: no task matches "
            f"--comm {pattern!r}; give --comm {pattern[: _COMM_CHARS - 1] + '*'!r}"
        )
    return pattern


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
        raise UsageError(f"{text!r} is not a verdict: there are {names}") from None
