# SPDX-License-Identifier: LGPL-2.1-or-later
"""A pager between the result and the terminal, as git has it.

The first line of the result starts it, so earlier errors and progress go to the terminal as usual. From
then on messages go through it, too: the line about the kernel is above its tasks, and warnings are below them.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import IO, Optional, TextIO, cast

from .console import Console, be_lenient, is_terminal

__all__ = ("pager_command", "paging")

_DEFAULT = "less"
_LESS = "FRX"
"""F: quit if the text fits on the screen; R: show colours; X: leave the text on the screen."""


def pager_command() -> Optional[str]:
    """Return the command of the pager for the shell; ``None`` for no pager.

    ``DRGN_TOOLS_PAGER`` wins over ``PAGER``. There is no pager if the value is empty or ``cat``, if
    the command is not installed, or if ``TERM`` is ``dumb``.
    """
    given = os.environ.get("DRGN_TOOLS_PAGER", os.environ.get("PAGER", _DEFAULT)).strip()
    if given in ("", "cat") or os.environ.get("TERM") == "dumb":
        return None
    try:
        program = next((word for word in shlex.split(given) if "=" not in word), "")
    except ValueError:  # a quote that nobody closed
        return None
    return given if shutil.which(program) else None


@contextlib.contextmanager
def paging(console: Console) -> Iterator[None]:
    """Send stdout through the pager while the context is entered, if stdout is a terminal.

    The context ends when the user has left the pager. A write to a pager that the user has left raises
    :class:`BrokenPipeError`.

    :param console: Its messages go through the pager, too, if it is on a terminal.
    """
    command = pager_command()
    if command is None or not is_terminal(sys.stdout):
        yield
        return
    terminal = sys.stdout
    pager = _Pager(command, terminal, console)
    console.hold_notes()
    sys.stdout = cast(TextIO, pager)
    try:
        yield
    finally:
        sys.stdout = terminal
        pager.close()


class _Pager:
    """A text stream that starts a pager when something is written to it."""

    def __init__(self, command: str, terminal: TextIO, console: Console) -> None:
        self._command = command
        self._terminal = terminal
        self._console = console
        self._process: Optional[subprocess.Popen[str]] = None
        self._stream: Optional[IO[str]] = None
        self._stderr: Optional[TextIO] = None
        self._took_console = False

    def isatty(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._terminal.fileno()

    @property
    def encoding(self) -> str:
        return self._terminal.encoding

    def write(self, text: str) -> int:
        if self._stream is None:
            self._stream = self._start()
        return self._stream.write(text)

    def flush(self) -> None:
        if self._stream is not None:
            self._stream.flush()

    def close(self) -> None:
        """Signal the end of the text to the pager, and wait until the user has left it."""
        if self._process is None or self._stream is None:
            self._console.show_held()
            return
        # From now on Ctrl-C belongs to the pager, where it ends a search. The terminal is not ours until
        # the pager has ended, and writing the rest may have to wait for the pager.
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            with contextlib.suppress(OSError):  # the user has left it before
                self._stream.close()
            self._process.wait()
            if self._took_console:
                self._console.continue_on(self._stderr)
        finally:
            signal.signal(signal.SIGINT, before)

    def _start(self) -> IO[str]:
        self._console.end_progress()
        encoding = self._terminal.encoding
        environment = {"LESS": _LESS, "LV": "-c", **os.environ}
        if encoding.lower() in ("utf-8", "utf8"):  # less goes by the locale, not by our encoding
            environment.setdefault("LESSCHARSET", "utf-8")
        self._process = subprocess.Popen(
            self._command, shell=True, stdin=subprocess.PIPE, encoding=encoding, env=environment
        )
        stream = self._process.stdin
        assert stream is not None
        be_lenient(cast(TextIO, stream))
        if self._console.is_on_terminal:
            self._took_console = True
            self._stderr = self._console.continue_on(cast(TextIO, stream))
        else:
            self._console.show_held()
        return stream
