# SPDX-License-Identifier: LGPL-2.1-or-later
"""The errors that drgn-tools raises. Each is one line: what is wrong, with which file, what to do.

Bad *data* is not an error: a corrupt stack has a verdict, and an unreadable task is ``unknown``.
Errors are raised for wrong use, and for an input that cannot be read at all. Every class has the
exit code of the command line.
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
"""Everything was read; nothing to report."""
EXIT_FINDINGS = 1
"""An unreliable task was found (only with ``--check``)."""
EXIT_USAGE = 2
"""The command line is wrong."""
EXIT_INPUT = 3
"""The input cannot be opened, or is not a Linux kernel."""
EXIT_TYPES = 4
"""No usable type information, or symbols of another kernel."""
EXIT_PARTIAL = 5
"""Some tasks could not be read or, with ``--check``, not be judged."""
EXIT_BUG = 70
"""A bug of ours (EX_SOFTWARE of sysexits.h)."""


def describe_bug(error: BaseException) -> str:
    """Return one line that names an unexpected exception, and the file and line that raised it.

    :param error: Exception with its traceback.
    """
    import os  # both with a bug only
    import traceback

    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error} ({os.path.basename(place.filename)}:{place.lineno})"


class DrgnToolsError(Exception):
    """Base class of the errors that this package raises.

    ``str()`` is the one line to show.
    """

    exit_code = EXIT_BUG
    """Exit code of the command line if this error ends it."""


class UsageError(DrgnToolsError):
    """The request is wrong, such as two options that exclude each other (exit code 2)."""

    exit_code = EXIT_USAGE


class TaskNotFoundError(UsageError):
    """No task has the given PID or address (exit code 2)."""


class InputError(DrgnToolsError):
    """The core, kernel or guest cannot be opened, or is not a Linux kernel (exit code 3)."""

    exit_code = EXIT_INPUT


class TypesError(DrgnToolsError):
    """No usable type information, or the symbols are of another kernel (exit code 4)."""

    exit_code = EXIT_TYPES
