# SPDX-License-Identifier: LGPL-2.1-or-later
"""Log messages of this package and of drgn, shown on the console."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

from ..program.redact import with_urls_redacted
from .console import Console

__all__ = ("log_to_console",)


@contextlib.contextmanager
def log_to_console(console: Console, level: str) -> Iterator[None]:
    """Show log messages on the console while the context is entered.

    :param level: Lowest level to show, in lower case, or ``none``.
    """
    handler = _ConsoleHandler(console)
    root = logging.getLogger()
    root.addHandler(handler)
    loggers = [logging.getLogger(name) for name in ("drgn", "drgn_tools")]
    levels_before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1 if level == "none" else level.upper())
    try:
        yield
    finally:
        root.removeHandler(handler)
        for logger, level_before in zip(loggers, levels_before):
            logger.setLevel(level_before)


class _ConsoleHandler(logging.Handler):
    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        for line in with_urls_redacted(self.format(record)).split("\n"):
            self._console.problem(record.levelname.lower(), line)
