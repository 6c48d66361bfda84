# SPDX-License-Identifier: LGPL-2.1-or-later
"""``shell``: drgn's REPL, or a script from stdin, with our functions imported."""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING, Any

from ..errors import EXIT_OK, UsageError
from ..terminal.console import ReaderGoneError, discard, is_terminal, write_lines
from .base import KernelCommand
from .registry import REPL_OPERANDS
from .source_options import KernelArguments

if TYPE_CHECKING:
    from drgn import Program

    from ..terminal.console import Console

__all__ = ("COMMAND",)

_EXPLANATION = """\
The REPL has prog, everything of drgn, and the functions that its first lines name: task_stack(),
hung_tasks() ... If stdin is not a terminal, it is run as a Python script, without the % commands.
"""

_EXAMPLES = """\
examples:
  drgn-tools shell -c vmcore
  >>> task_stack(51)
  echo 'print(task_stack(51).verdict)' | drgn-tools shell -c vmcore
"""

_FUNCTIONS = (
    "crashed_stack",
    "declare",
    "hung_tasks",
    "kernel_info",
    "livepatch_answers",
    "task_stack",
    "task_stacks",
)
"""Names in :mod:`drgn_tools` that are imported for the user."""


class Shell(KernelCommand[KernelArguments]):
    """The command ``shell``."""

    arguments = KernelArguments
    explanation = _EXPLANATION
    examples = _EXAMPLES
    operands = "[VMCORE]"

    def add_options(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("words", metavar="VMCORE", nargs="*", help="same as -c VMCORE")

    def check(self, args: KernelArguments) -> None:
        if args.words:
            raise UsageError(
                f"shell takes one vmcore: {args.words[0]!r} is not a file, or one too many"
            )

    def main(self, args: KernelArguments, console: Console) -> int:
        from ..analysis.audit import kernel_info
        from .command_line_session import CommandLineSession

        if sys.stdin is None:
            raise UsageError("shell reads standard input, but it is closed")
        is_interactive = is_terminal(sys.stdin)
        if is_interactive:
            _choose_prompt()
        # For %tasks and the like, even if this is not installed as a plugin. drgn loads its
        # plugins when it opens a program.
        from . import plugin  # noqa: F401

        session = CommandLineSession(args, console, modules=True)
        session.introduce(kernel_info(session.prog))
        if is_interactive:
            _run_interactive(session.prog)
            return EXIT_OK
        code = _run_stdin(session.prog)
        write_lines(())
        return code


def _choose_prompt() -> None:
    """Choose Python's basic prompt if the one of Python 3.13 and later would fail.

    ``python`` does the same for itself. Call this before a program is opened: the modules that
    drgn then loads read the choice.
    """
    if not _can_edit_lines():
        os.environ.setdefault("PYTHON_BASIC_REPL", "1")


def _run_interactive(prog: Program) -> None:
    import drgn.cli

    from ..drawn import Drawn

    drgn.cli.display_str(Drawn)
    drgn.cli.run_interactive(prog, banner_func=_banner, globals_func=_with_functions)


def _run_stdin(prog: Program) -> int:
    """Run standard input as a script, as ``drgn`` does.

    :return: The exit code: 1 if the script raised an exception; the traceback was printed.
    :raises ReaderGoneError: if nobody reads what the script prints.
    """
    import traceback

    import drgn.cli

    drgn.set_default_prog(prog)
    sys.argv = [""]
    namespace = _with_functions(drgn.cli.default_globals(prog))
    namespace["__file__"] = "<stdin>"
    try:
        exec(compile(sys.stdin.read(), "<stdin>", "exec"), namespace)
    except BrokenPipeError:
        raise ReaderGoneError from None
    # The script is not ours, so its errors are not reported as bugs of ours.
    except Exception as error:
        above = error.__traceback__.tb_next if error.__traceback__ else None
        try:
            traceback.print_exception(type(error), error, above)
        except OSError:
            discard(sys.stderr)
        return 1
    return 0


def _can_edit_lines() -> bool:
    """Return whether the terminal can do what the prompt of Python 3.13 and later needs."""
    try:
        import curses

        curses.setupterm()
    except (ImportError, curses.error):
        return False
    return all(curses.tigetstr(name) for name in ("bel", "clear", "cup", "el"))


def _banner(banner: str) -> str:
    commands = ", ".join(f"%{name}" for name in REPL_OPERANDS)
    return (
        f"{banner}\n>>> from drgn_tools import {', '.join(_FUNCTIONS)}\n"
        f"Commands: {commands}; each has --help."
    )


def _with_functions(namespace: dict[str, Any]) -> dict[str, Any]:
    import drgn_tools

    return {**namespace, **{name: getattr(drgn_tools, name) for name in _FUNCTIONS}}


COMMAND = Shell()
