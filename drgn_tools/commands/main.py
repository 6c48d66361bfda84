# SPDX-License-Identifier: LGPL-2.1-or-later
"""``drgn-tools``: one command line, from its words to the exit code.

Modules that take long to import (drgn, tabulate) are imported after the arguments were parsed, so
that ``--help`` and mistakes are answered at once.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from typing import Optional

from ..errors import EXIT_BUG, DrgnToolsError, describe_bug
from ..program.redact import with_urls_redacted
from ..terminal.console import (
    EXIT_INTERRUPTED,
    EXIT_READER_GONE,
    Console,
    OutputError,
    ReaderGoneError,
    be_lenient,
    discard,
    is_terminal,
    write_lines,
)
from .command_line import CommandLine, parse_command_line

__all__ = ("main",)


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Run one command line.

    :param argv: The words after the name of the program; those of the process by default.
    :return: The exit code, see ``docs/commands.md``.
    """
    try:
        return _main(sys.argv[1:] if argv is None else argv)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except ReaderGoneError:
        discard(sys.stdout)
        return EXIT_READER_GONE


def _main(argv: Sequence[str]) -> int:
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            be_lenient(stream)
    try:
        line = parse_command_line(argv)
        write_lines(())  # fails if there is no stdout, before any work is done
    except SystemExit as end:  # --help, --version
        return int(end.code or 0)
    except DrgnToolsError as error:
        return _report(error, Console())
    from ..terminal.log import log_to_console

    console = Console(line.args.quiet)
    with log_to_console(console, line.args.log_level):
        return _run(line, console)


def _run(line: CommandLine, console: Console) -> int:
    try:
        with _paging(line, console):
            return line.command.main(line.args, console)
    except DrgnToolsError as error:
        return _report(error, console)
    except ReaderGoneError:
        raise
    # The outermost fence, the only place that catches everything: a traceback helps only the
    # authors, and the exit code lets a script distinguish a bug of ours from a broken dump.
    except Exception as error:
        import logging

        logging.getLogger("drgn_tools").debug("traceback of the bug:", exc_info=True)
        bug = with_urls_redacted(describe_bug(error))
        console.problem("bug", f"{bug}; --log-level debug shows the traceback")
        return EXIT_BUG
    finally:
        console.end_progress()


def _paging(line: CommandLine, console: Console) -> contextlib.AbstractContextManager[None]:
    if line.args.no_pager or not is_terminal(sys.stdout) or not line.command.is_paged(line.args):
        return contextlib.nullcontext()
    from ..terminal.pager import paging

    return paging(console)


def _report(error: DrgnToolsError, console: Console) -> int:
    console.problem("error", str(error))
    if isinstance(error, OutputError):
        discard(sys.stdout)
    return error.exit_code
