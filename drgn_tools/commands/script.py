# SPDX-License-Identifier: LGPL-2.1-or-later
"""For one-shot scripts that run both ways: ``drgn -c vmcore script.py`` and ``python script.py -c vmcore``.

``contrib/`` has examples. A script is a function that takes a program and parsed arguments, and
returns lines of text::

    def count(prog: Program, args: Namespace) -> Iterator[str]:
        yield f"{sum(1 for task in task_stacks(prog))} tasks"


    if __name__ == "__main__":
        run(count, script_parser(__doc__))
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Callable, Optional

from drgn import NoDefaultProgramError, Program, ProgramFlags, get_default_prog, set_default_prog

from ..analysis.audit import kernel_info
from ..errors import DrgnToolsError, InputError
from ..kernel.probing import has_dwarf
from ..program.builtin_types import use_builtin_types
from ..render.table import Column, table_lines
from ..terminal.console import (
    EXIT_INTERRUPTED,
    EXIT_READER_GONE,
    Console,
    OutputError,
    ReaderGoneError,
    be_lenient,
    discard,
    write_lines,
)
from ..terminal.parser import Parser
from .source_options import SourceArguments, add_source_options, check_source, open_source

__all__ = ("note", "run", "script_parser", "table", "warn")


def script_parser(doc: Optional[str]) -> argparse.ArgumentParser:
    """Return a parser for the arguments of a script. :func:`run` reports its errors in one line.

    :param doc: Docstring of the script. ``--help`` shows it as it is written.
    """
    return Parser(description=doc)


def run(
    script: Callable[[Program, argparse.Namespace], Iterable[str]],
    parser: argparse.ArgumentParser,
) -> None:
    """Run a script on drgn's program or the kernel that its arguments choose, and print its lines.

    In drgn's REPL (``execscript()``) it always returns, so that the REPL goes on.

    :param script: Called with the program and the parsed arguments.
    :param parser: Parser of the script's own arguments. If drgn has no program, the options that
        choose a kernel are added.
    :raises SystemExit: if the script failed and one line on stderr says why, or if ``--help`` was
        asked for. The exit codes are those of the command line.
    """
    try:
        _run(script, parser)
    except SystemExit:
        if not _in_repl():
            raise


def note(text: str) -> None:
    """Print a note to stderr."""
    Console().say(f"note: {text}")


def warn(text: str) -> None:
    """Print to stderr why the result may be incomplete or empty."""
    Console().say(f"warning: {text}")


def _in_repl() -> bool:
    try:
        # drgn.cli.run_interactive() sets this.
        return "outer_repl" in get_default_prog().config
    except NoDefaultProgramError:
        return False


def _run(
    script: Callable[[Program, argparse.Namespace], Iterable[str]],
    parser: argparse.ArgumentParser,
) -> None:
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            be_lenient(stream)
    try:
        prog, args = _program_and_args(parser)
        for text in kernel_info(prog).notes:
            note(text)
        write_lines(script(prog, args))
    except DrgnToolsError as error:
        Console().say(f"{parser.prog}: error: {error}")
        if isinstance(error, OutputError):
            discard(sys.stdout)
        sys.exit(error.exit_code)
    except ReaderGoneError:
        discard(sys.stdout)
        sys.exit(EXIT_READER_GONE)
    except KeyboardInterrupt:
        if _in_repl():
            raise
        sys.exit(EXIT_INTERRUPTED)


def _program_and_args(parser: argparse.ArgumentParser) -> tuple[Program, argparse.Namespace]:
    try:
        prog = get_default_prog()
    except NoDefaultProgramError:
        return _open(parser)
    args = parser.parse_args()
    if not prog.flags & ProgramFlags.IS_LINUX_KERNEL:
        raise InputError("this needs a Linux kernel, and drgn was started on something else")
    # Our plugin does the same, if it is installed.
    if not has_dwarf(prog):
        use_builtin_types(prog)
    return prog, args


def _open(parser: argparse.ArgumentParser) -> tuple[Program, argparse.Namespace]:
    add_source_options(parser)
    args = parser.parse_args(namespace=SourceArguments())
    check_source(args)
    prog = open_source(args, Console(), modules=True)
    set_default_prog(prog)
    return prog, args


def table(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> Iterator[str]:
    """Return the lines of a table. Text is escaped, so it may come from a dump.

    :param headings: Headings of the columns.
    :param rows: A value for each column. Numbers are aligned to the right, ``None`` is shown as ``-``,
        and bytes are decoded.
    """
    rows = list(rows)
    columns = [
        Column(heading, _cell(i), right=any(isinstance(row[i], int) for row in rows))
        for i, heading in enumerate(headings)
    ]
    return table_lines(columns, rows)


def _cell(index: int) -> Callable[[Sequence[object]], str]:
    def cell(row: Sequence[object]) -> str:
        value = row[index]
        if isinstance(value, bytes):
            return value.decode(errors="backslashreplace")
        return "-" if value is None else str(value)

    return cell
