# SPDX-License-Identifier: LGPL-2.1-or-later
"""Where text goes: results to stdout or a file, everything else to stderr."""

from __future__ import annotations

import codecs
import contextlib
import os
import shutil
import sys
import time
from collections.abc import Iterable
from typing import Optional, TextIO

from ..errors import DrgnToolsError
from .escape import escape

__all__ = (
    "EXIT_OUTPUT",
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


class OutputError(DrgnToolsError):
    """The result could not be written: a full disk, a closed stdout (exit code 74)."""

    exit_code = EXIT_OUTPUT


class ReaderGoneError(Exception):
    """Whoever read our output wants no more of it, as ``head -1`` does. Nothing to report."""


_WIDTH = 100
"""Columns of a table that goes to no terminal."""
_WIDTH_MIN = 80

_ASCII = {"…": "~", "┌": "+", "│": "|", "└": "+"}
"""What we draw with, for a terminal that has no such characters. Equally wide."""


def is_terminal(stream: Optional[TextIO]) -> bool:
    """Does a person look at *stream*? It is ``None`` where the process was given none."""
    try:
        return stream is not None and stream.isatty()
    except ValueError:  # closed
        return False


def table_width(stream: Optional[TextIO]) -> int:
    """Characters a line of a table on *stream* may have. ``COLUMNS`` wins, as everywhere."""
    fallback = (_WIDTH, 24)
    if is_terminal(stream) or "COLUMNS" in os.environ:
        return max(shutil.get_terminal_size(fallback).columns, _WIDTH_MIN)
    return _WIDTH


def write_lines(lines: Iterable[str], stream: Optional[TextIO] = None) -> None:
    """Write *lines* as they come, and all of them before this returns.

    :param stream: stdout by default.
    :raises ReaderGoneError: nobody reads any more.
    :raises OutputError: they cannot be written.
    """
    stream = stream or sys.stdout
    if stream is None:
        raise OutputError("cannot write the result: standard output is closed")
    for line in lines:
        _write(stream, line)
    _write(stream, None)


def _write(stream: TextIO, line: Optional[str]) -> None:
    # Only around the write itself: an OSError of the dump is another matter.
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
    """Throw away what *stream* still holds: it cannot be written.

    Or the interpreter, on its way out, tries once more, complains, and changes
    the exit code.
    """
    # It may be closed, or none of the process.
    with contextlib.suppress(OSError, ValueError), open(os.devnull, "w") as devnull:
        if stream is not None:
            os.dup2(devnull.fileno(), stream.fileno())


def be_lenient(stream: TextIO) -> None:
    """Make *stream* write what its encoding lacks as something else rather than fail."""
    codecs.register_error("drgn_tools", _replace)
    # A test or an embedder may have put something simpler in the place of stdout.
    if hasattr(stream, "reconfigure"):
        stream.reconfigure(errors="drgn_tools")


def _replace(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    plain = "".join(_ASCII.get(c) or c.encode("ascii", "backslashreplace").decode() for c in text)
    return plain, error.end


class Console:
    """What a person is told besides the result, on stderr.

    All text is escaped here, so a message may quote a dump. Nobody loses a
    result because its side notes cannot be written: then there are none.
    """

    def __init__(self, quiet: bool = False, stream: Optional[TextIO] = None) -> None:
        # None if stderr is closed, or cannot be written.
        self._stream: Optional[TextIO] = stream or sys.stderr
        self._quiet = quiet
        self._progress: Optional[_Progress] = None
        if self._stream is not None and is_terminal(self._stream) and not quiet:
            self._progress = _Progress()

    def note(self, text: str) -> None:
        """Something good to know; muted by ``-q``."""
        if not self._quiet:
            self.say(text)

    def problem(self, kind: str, text: str) -> None:
        """Something that went wrong; never muted."""
        self.say(f"drgn-tools: {kind}: {text}")

    def progress(self, text: str) -> None:
        """How far it is. Shown only where somebody looks, and only when it takes long."""
        if self._progress is not None:
            self._write(self._progress.show(text))

    def end_progress(self) -> None:
        """Take the progress line away."""
        if self._progress is not None:
            self._write(self._progress.clear())

    def say(self, text: str) -> None:
        """*text* as it is; never muted."""
        self.end_progress()
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


class _Progress:
    # What to write, which is often nothing.
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
