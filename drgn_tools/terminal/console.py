# SPDX-License-Identifier: LGPL-2.1-or-later
"""Output of the command lines: results to stdout, everything else to stderr."""

from __future__ import annotations

import codecs
import contextlib
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable
from typing import Optional, TextIO

from ..errors import DrgnToolsError
from .escape import escape

__all__ = (
    "EXIT_INTERRUPTED",
    "EXIT_OUTPUT",
    "EXIT_READER_GONE",
    "Console",
    "OutputError",
    "ReaderGoneError",
    "be_lenient",
    "discard",
    "is_terminal",
    "table_width",
    "write_lines",
)

EXIT_OUTPUT = 74
"""The result could not be written (EX_IOERR of sysexits.h)."""
EXIT_INTERRUPTED = 128 + 2
"""Ctrl-C: the exit code that a shell reports for a program killed by SIGINT."""
EXIT_READER_GONE = 128 + 13
"""The reader of the output closed the pipe: the exit code that a shell reports for SIGPIPE."""


class OutputError(DrgnToolsError):
    """The result could not be written: a full disk, a closed stdout (exit code 74)."""

    exit_code = EXIT_OUTPUT


class ReaderGoneError(Exception):
    """The reader of the output closed the pipe, as ``head -1`` does. This is not an error to report."""


_WIDTH = 100
"""Width of a table on a terminal of unknown width, in characters."""
_WIDTH_MIN = 80

_ASCII = {"…": "~", "┌": "+", "│": "|", "└": "+"}
"""Replacements of equal width, for a terminal without these characters."""


def is_terminal(stream: Optional[TextIO]) -> bool:
    """Return whether a stream is a terminal.

    :param stream: Open or closed stream; ``None`` if the process was started without it.
    """
    try:
        return stream is not None and stream.isatty()
    except ValueError:  # closed
        return False


def table_width(stream: Optional[TextIO]) -> Optional[int]:
    """Return how many characters a line of a table on a stream may have.

    The environment variable ``COLUMNS`` wins over the size of the terminal.

    :return: Number of characters, at least 80; ``None`` for any number if the stream is not a terminal:
        a program may search the lines, so they must be complete.
    """
    if is_terminal(stream) or os.environ.get("COLUMNS"):
        return max(shutil.get_terminal_size((_WIDTH, 24)).columns, _WIDTH_MIN)
    return None


def write_lines(lines: Iterable[str], stream: Optional[TextIO] = None) -> None:
    """Write each line as it comes, and flush the stream at the end.

    :param lines: Lines without newlines.
    :param stream: Stream to write to; stdout by default.
    :raises ReaderGoneError: if the reader of a pipe closed it.
    :raises OutputError: if the stream is closed or cannot be written.
    """
    stream = stream or sys.stdout
    if stream is None:
        raise OutputError("cannot write the result: standard output is closed")
    for line in lines:
        _write(stream, line)
    _write(stream, None)


def _write(stream: TextIO, line: Optional[str]) -> None:
    # Only the write is in the try block: the lines are made from the dump, and reading it may raise
    # OSError, too.
    try:
        if line is None:
            stream.flush()
        else:
            stream.write(f"{line}\n")
    except BrokenPipeError:
        raise ReaderGoneError from None
    except OSError as error:
        raise OutputError(f"cannot write the result: {error.strerror}") from None


def discard(stream: Optional[TextIO]) -> None:
    """Discard the buffer of a stream after a failed write.

    Otherwise the interpreter tries to write the buffer again when it exits, prints an error, and
    changes the exit code.
    """
    # The stream may be closed, or not a file at all.
    with contextlib.suppress(OSError, ValueError), open(os.devnull, "w") as devnull:
        if stream is not None:
            os.dup2(devnull.fileno(), stream.fileno())


def be_lenient(stream: TextIO) -> None:
    """Make a stream replace characters that its encoding lacks, instead of raising.

    With ``LC_ALL=C`` an encoding may lack all but ASCII. By default Python writes UTF-8 there.
    """
    codecs.register_error("drgn_tools", _replace)
    # A test or an embedder may have replaced stdout by a simpler object.
    if not hasattr(stream, "reconfigure"):
        return
    if os.environ.get("LC_ALL") in ("C", "POSIX") and not _ENCODING_VARIABLES & {*os.environ}:
        stream.reconfigure(encoding="ascii", errors="drgn_tools")
    else:
        stream.reconfigure(errors="drgn_tools")


_ENCODING_VARIABLES = {"PYTHONIOENCODING", "PYTHONUTF8"}


def _replace(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    plain = "".join(_ASCII.get(c) or c.encode("ascii", "backslashreplace").decode() for c in text)
    return plain, error.end


class Console:
    """Messages to the user, on stderr.

    All text is escaped here, so a message may quote a dump. If stderr cannot be written, the
    messages are lost and the command goes on.

    :param quiet: Do not show notes and progress.
    :param stream: Stream to write to; stderr by default.
    """

    def __init__(self, quiet: bool = False, stream: Optional[TextIO] = None) -> None:
        # None if stderr is closed or cannot be written.
        self._stream: Optional[TextIO] = stream or sys.stderr
        self._quiet = quiet
        self._held: Optional[list[str]] = None
        self._once = _Once()
        self._progress: Optional[_Progress] = None
        if self.is_on_terminal and not quiet:
            self._progress = _Progress()

    @property
    def is_on_terminal(self) -> bool:
        """Whether a person sees the messages at once."""
        return is_terminal(self._stream)

    def hold_notes(self) -> None:
        """Keep notes until :meth:`continue_on`, :meth:`show_held` or a message that does not wait."""
        self._held = []

    def show_held(self) -> None:
        """Show the notes that were kept, and further ones at once."""
        held, self._held = self._held, None
        for text in held or ():
            self.say(text)

    def continue_on(self, stream: Optional[TextIO]) -> Optional[TextIO]:
        """Write to another stream from now on, beginning with the notes that were kept.

        :return: The stream until now.
        """
        self.end_progress()
        before, self._stream = self._stream, stream
        # In a pager, each update of the progress would be a line.
        self._progress = _Progress() if self.is_on_terminal and not self._quiet else None
        self.show_held()
        return before

    def note(self, text: str) -> None:
        """Show information. ``-q`` hides it."""
        if self._quiet:
            return
        if self._held is None:
            self.say(text)
        else:
            self._held.append(text)

    def problem(self, kind: str, text: str) -> None:
        """Show an error or a warning. ``-q`` does not hide it.

        :param kind: ``error``, ``warning`` or another level, in lower case.
        """
        self.say(f"drgn-tools: {kind}: {text}")

    def progress(self, text: str, once: Optional[Callable[[], str]] = None) -> None:
        """Show how far the command is, on a terminal and if the command takes long.

        :param once: Returns what to show instead if there is no terminal. It is called at most once.
        """
        if self._progress is not None:
            self._write(self._progress.show(text))
        elif once is not None and not self._quiet and self._once.is_time():
            self.say(once())

    def end_progress(self) -> None:
        """Remove the progress line."""
        if self._progress is not None:
            self._write(self._progress.clear())

    def say(self, text: str) -> None:
        """Show a line without a prefix. ``-q`` does not hide it."""
        self.end_progress()
        if self._held:
            self.show_held()
        self._write(f"{escape(text)}\n")

    def _write(self, text: str) -> None:
        if self._stream is None or not text:
            return
        try:
            self._stream.write(text)
            self._stream.flush()
        except OSError:
            discard(self._stream)
            self._stream = None


class _Once:
    # Whether something takes long; is_time() returns true only once.
    _AFTER_S = 2.0

    def __init__(self) -> None:
        self._at: Optional[float] = None
        self._told = False

    def is_time(self) -> bool:
        now = time.monotonic()
        if self._at is None:
            self._at = now + self._AFTER_S
        if self._told or now < self._at:
            return False
        self._told = True
        return True


class _Progress:
    # Returns the text to write. It is often empty, so that something is written at most every _EVERY_S seconds.
    _FIRST_AFTER_S = 0.5
    _EVERY_S = 0.1

    def __init__(self) -> None:
        self._next = time.monotonic() + self._FIRST_AFTER_S
        self._shown = False

    def show(self, text: str) -> str:
        now = time.monotonic()
        if now < self._next:
            return ""
        self._next = now + self._EVERY_S
        self._shown = True
        return f"\r{escape(text)}\x1b[K"

    def clear(self) -> str:
        shown, self._shown = self._shown, False
        return "\r\x1b[K" if shown else ""
