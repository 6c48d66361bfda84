# SPDX-License-Identifier: LGPL-2.1-or-later
"""drgn's REPL, or a script from stdin, with our functions at hand."""

from __future__ import annotations

import os
import sys
import traceback
from typing import Any

import drgn

from ..analysis.audit import crashed_stack, kernel_info, task_stack, task_stacks
from ..records import TaskStack
from ..terminal.console import ReaderGoneError, discard

# For its side effect: %tasks and the like, also where it is not installed as a plugin.
from . import plugin  # noqa: F401

__all__ = ("choose_prompt", "run_interactive", "run_stdin")

_OURS = {
    "crashed_stack": crashed_stack,
    "kernel_info": kernel_info,
    "task_stack": task_stack,
    "task_stacks": task_stacks,
}

_COMMANDS = "Commands: %tasks, %stack, %regs, %groups; each has --help."


def choose_prompt() -> None:
    """Have drgn take Python's prompt of old where that of Python 3.13 and later would fail.

    To be called before a program is opened, by which drgn loads what looks at that. ``python``
    does the same for itself.
    """
    if not _can_edit_lines():
        os.environ.setdefault("PYTHON_BASIC_REPL", "1")


def run_interactive(prog: drgn.Program) -> None:
    """drgn's REPL on *prog*, until the user leaves it."""
    import drgn.cli

    drgn.cli.display_str(TaskStack)
    drgn.cli.run_interactive(prog, banner_func=_banner, globals_func=_add_ours)


def run_stdin(prog: drgn.Program) -> int:
    """Run what stdin says as a script on *prog*, as ``drgn`` does.

    :return: exit code: 1 if the script failed; its author is shown the traceback.
    :raises ReaderGoneError: nobody reads what the script prints.
    """
    import drgn.cli

    drgn.set_default_prog(prog)
    sys.argv = [""]
    namespace = _add_ours(drgn.cli.default_globals(prog))
    namespace["__file__"] = "<stdin>"
    try:
        exec(compile(sys.stdin.read(), "<stdin>", "exec"), namespace)
    except BrokenPipeError:
        raise ReaderGoneError from None
    # The code is not ours, nor are its mistakes: no bug to report here.
    except Exception as error:
        above = error.__traceback__.tb_next if error.__traceback__ else None
        try:
            traceback.print_exception(type(error), error, above)
        except OSError:
            discard(sys.stderr)
        return 1
    return 0


def _can_edit_lines() -> bool:
    """Can the terminal do what the prompt of Python 3.13 and later wants of it?"""
    try:
        import curses

        curses.setupterm()
    except (ImportError, curses.error):
        return False
    return all(curses.tigetstr(name) for name in ("bel", "clear", "cup", "el"))


def _banner(banner: str) -> str:
    return f"{banner}\n>>> from drgn_tools import {', '.join(_OURS)}\n{_COMMANDS}"


def _add_ours(namespace: dict[str, Any]) -> dict[str, Any]:
    return {**namespace, **_OURS}
