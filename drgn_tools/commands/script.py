# SPDX-License-Identifier: LGPL-2.1-or-later
"""For one-shot scripts that run both ways: ``drgn -c vmcore script.py`` and ``python script.py -c vmcore``.

See ``contrib/`` for how they look. A script is a function from a program and its
arguments to lines of text::

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
from ..errors import DrgnToolsError, InputError, UsageError
from ..program.builtin_types import use_builtin_types
from ..program.dwarf import has_dwarf
from ..program.open import open_program
from ..render.table import Column, table_lines
from ..terminal.console import (
    Console,
    OutputError,
    ReaderGoneError,
    be_lenient,
    discard,
    write_lines,
)

__all__ = ("note", "run", "script_parser", "table", "warn")


def script_parser(doc: Optional[str]) -> argparse.ArgumentParser:
    """A parser whose ``--help`` shows *doc*, the docstring of the script, as it stands."""
    return argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def run(
    script: Callable[[Program, argparse.Namespace], Iterable[str]],
    parser: argparse.ArgumentParser,
) -> None:
    """Run *script* on drgn's program, or on the one that the arguments say, and print its lines.

    From drgn's REPL, by ``execscript()``, it always returns: the REPL goes on.

    :param parser: of the script's own arguments; those that choose a kernel are
        added where drgn has not chosen one.
    :raises SystemExit: it went wrong, or ``--help`` was asked for. The exit code
        is that of the command line, what is wrong was said in a line.
    """
    try:
        _run(script, parser)
    except SystemExit:
        if not _in_repl():
            raise


def note(text: str) -> None:
    """Say what is good to know, on stderr."""
    Console().say(f"note: {text}")


def warn(text: str) -> None:
    """Say what makes the result less than it seems, on stderr."""
    Console().say(f"warning: {text}")


def _in_repl() -> bool:
    try:
        # drgn.cli.run_interactive() says so, for whoever wants to know.
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
        sys.exit(128 + 13)  # as a shell reports SIGPIPE
    except KeyboardInterrupt:
        if _in_repl():
            raise
        sys.exit(128 + 2)


def _program_and_args(parser: argparse.ArgumentParser) -> tuple[Program, argparse.Namespace]:
    try:
        prog = get_default_prog()
    except NoDefaultProgramError:
        return _open(parser)
    args = parser.parse_args()
    if not prog.flags & ProgramFlags.IS_LINUX_KERNEL:
        raise InputError("this is about a Linux kernel, and drgn was started on something else")
    # As our plugin does, where it is installed.
    if not has_dwarf(prog):
        use_builtin_types(prog)
    return prog, args


def _open(parser: argparse.ArgumentParser) -> tuple[Program, argparse.Namespace]:
    kernel = parser.add_argument_group("kernel (one of -c and -k is needed)")
    kernel.add_argument("-c", "--core", metavar="PATH", help="vmcore")
    kernel.add_argument("-k", "--kernel", action="store_true", help="the running kernel")
    kernel.add_argument(
        "-s",
        "--symbols",
        metavar="PATH",
        action="append",
        default=[],
        help="vmlinux or module with DWARF, instead of the dump's own BTF; may be repeated",
    )
    args = parser.parse_args()
    if (args.core is not None) == args.kernel:
        raise UsageError("which kernel? give -c VMCORE, or -k for the running kernel")
    prog = open_program(core=args.core, kernel=args.kernel, symbols=args.symbols)
    set_default_prog(prog)
    return prog, args


def table(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> Iterator[str]:
    """Lines of a table, escaped: text from a dump may be put in as it is.

    Numbers stand to the right, ``None`` is shown as ``-``, and bytes as the text
    they are.
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
