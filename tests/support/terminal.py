# SPDX-License-Identifier: LGPL-2.1-or-later
"""A command on a terminal of a given size: what it shows, and what a test types there."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import struct
import sys
import termios
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Optional

ROOT = Path(__file__).parents[2]

_DROPPED = (
    "COLUMNS",
    "NO_COLOR",
    "FORCE_COLOR",
    "CLICOLOR_FORCE",
    "PAGER",
    "DRGN_TOOLS_PAGER",
    "LESS",
)


class Terminal:
    """A process whose stdin, stdout and stderr are a terminal.

    :param words: What to run with this Python.
    :param columns: Width of the terminal.
    :param rows: Its height.
    :param environment: Variables to set. Those of this process that choose a pager, colours or a width
        are not passed on.
    """

    def __init__(
        self,
        words: Sequence[str],
        columns: int = 100,
        rows: int = 40,
        environment: Optional[Mapping[str, str]] = None,
    ) -> None:
        self.text = b""
        kept = {name: value for name, value in os.environ.items() if name not in _DROPPED}
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            # Set the size before the program reads it.
            fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("4H", rows, columns, 0, 0))
            os.chdir(ROOT)
            os.execve(
                sys.executable,
                [sys.executable, *words],
                {**kept, "TERM": "xterm", **(environment or {})},
            )

    def wait_for(self, text: bytes, timeout_s: float = 60) -> None:
        """Read until *text* is shown."""
        deadline = time.monotonic() + timeout_s
        while text not in self.text:
            assert self._read(deadline), f"no {text!r} in {self.text!r}"

    def type(self, keys: bytes) -> None:
        """Type keys: ``b"q"``, ``b"\\x03"`` for Ctrl-C."""
        os.write(self.fd, keys)

    def finish(self, keys: bytes = b"", timeout_s: float = 60) -> tuple[str, int]:
        """Read to the end; return everything that was shown, and the exit code.

        :param keys: Keys that are typed again each time the output pauses. (less discards keys that were
            typed before it notices Ctrl-C.)
        """
        deadline = time.monotonic() + timeout_s
        while self._read(deadline, keys):
            pass
        _, status = os.waitpid(self.pid, 0)
        os.close(self.fd)
        return self.text.decode(errors="replace").replace("\r\n", "\n"), os.waitstatus_to_exitcode(
            status
        )

    def _read(self, deadline: float, keys: bytes = b"") -> bool:
        ready: list[int] = []
        while not ready and time.monotonic() < deadline:
            ready, _, _ = select.select([self.fd], [], [], 1.0)
            if not ready:
                os.write(self.fd, keys)
        assert ready, f"it goes on after {self.text[-2000:]!r}"
        try:
            data = os.read(self.fd, 1 << 16)
        except OSError:  # no process has the terminal open any more
            return False
        self.text += data
        return bool(data)
