# SPDX-License-Identifier: LGPL-2.1-or-later
"""The few errors a user can meet. Each is one line: what, which file, what to do.

Bad *data* is never an error here: a corrupt stack is a verdict, an unreadable
task is ``unknown``. What is raised is wrong use, or an input nothing can be
said about. Every class carries the exit code of the command line.
"""

from __future__ import annotations

__all__ = (
    "DrgnToolsError",
    "InputError",
    "TaskNotFoundError",
    "TypesError",
    "UsageError",
    "describe_bug",
)

EXIT_OK = 0
"""Looked; nothing to report."""
EXIT_FINDINGS = 1
"""Looked and found an unreliable task (only with ``--check``)."""
EXIT_USAGE = 2
"""The command line is wrong."""
EXIT_INPUT = 3
"""The input cannot be opened or is no Linux kernel."""
EXIT_TYPES = 4
"""No usable type information, or symbols of another kernel."""
EXIT_PARTIAL = 5
"""Looked, but some tasks could not be read, or (with ``--check``) not be judged."""
EXIT_BUG = 70
"""A bug of ours (EX_SOFTWARE of sysexits.h)."""


def describe_bug(error: BaseException) -> str:
    """An exception that nobody expected, and where it came from, in a line."""
    import os  # both with a bug only
    import traceback

    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error} ({os.path.basename(place.filename)}:{place.lineno})"


class DrgnToolsError(Exception):
    """Base of every error this package raises on purpose.

    ``str()`` of it is the one line to show.
    """

    exit_code = EXIT_BUG
    """Exit code of the command line when this ends it."""


class UsageError(DrgnToolsError):
    """The caller asked for something that makes no sense (exit code 2)."""

    exit_code = EXIT_USAGE


class TaskNotFoundError(UsageError):
    """No task has the PID or address that was asked for (exit code 2)."""


class InputError(DrgnToolsError):
    """The core, kernel or guest cannot be opened, or is no Linux kernel (exit code 3)."""

    exit_code = EXIT_INPUT


class TypesError(DrgnToolsError):
    """No usable type information, or the symbols are another kernel's (exit code 4)."""

    exit_code = EXIT_TYPES
