# SPDX-License-Identifier: LGPL-2.1-or-later
"""drgn's REPL with our plugin on a terminal, and drgn's command line with the plugin."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import struct
import subprocess
import sys
import termios
import time
from contextlib import suppress
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


PROMPT = b">>> "
SAID = "found no debuginfo: types and symbols come from the kernel's own BTF and kallsyms"


# Whether the plugin is installed or not, use only that of this tree.
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": str(ROOT),
    "DRGN_PLUGINS": "encoded_stacks=drgn_tools.commands.plugin",
    "DRGN_DISABLE_PLUGINS": "encoded_stacks",
}


class Repl:
    """drgn's REPL, with a test that types at its terminal."""

    def __init__(self, *args: str, history: Path) -> None:
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            environment = {
                **ENVIRONMENT,
                "TERM": "dumb",
                "PYTHON_BASIC_REPL": "1",
                "XDG_STATE_HOME": str(history),
            }
            os.execve(sys.executable, [sys.executable, "-m", "drgn", *args], environment)
        # The terminal is wide, because readline folds long input.
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("4H", 100, 250, 0, 0))
        self.banner = self._until_prompt()

    def type(self, line: str) -> str:
        """Type *line*; return the answer of the REPL."""
        os.write(self.fd, line.encode() + b"\n")
        echo, _, answer = self._until_prompt().partition("\n")
        assert echo.strip() == line
        return answer.rstrip("\n")

    def _until_prompt(self) -> str:
        text = b""
        deadline = time.monotonic() + 60
        while not text.endswith(PROMPT):
            ready, _, _ = select.select([self.fd], [], [], max(0, deadline - time.monotonic()))
            assert ready, f"no prompt after {text!r}"
            try:
                text += os.read(self.fd, 1 << 16)
            except OSError:  # the REPL exited
                pytest.fail(f"the REPL ended: {text.decode(errors='replace')}")
        return text[: -len(PROMPT)].decode().replace("\r\n", "\n")

    def close(self) -> int:
        """Leave with Ctrl-D; return the wait status, which is 0 for exit code 0."""
        os.write(self.fd, b"\x04")
        with suppress(OSError):
            while os.read(self.fd, 1 << 16):
                pass
        _, status = os.waitpid(self.pid, 0)
        os.close(self.fd)
        return status


def run_drgn(*args: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "drgn", *args],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=120,
    )
