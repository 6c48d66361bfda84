# SPDX-License-Identifier: LGPL-2.1-or-later
"""drgn in a terminal, and somebody who types."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import struct
import termios
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from guest import ENVIRONMENT, TIMEOUT, say

_PROMPT = b">>> "


def session(args: Sequence[str], lines: Sequence[str]) -> dict[str, Any]:
    """What drgn says to begin with, what it answers to each line, and its exit code."""
    say(f"drgn {' '.join(args)}")
    start = time.monotonic()
    pid, terminal = pty.fork()
    if pid == 0:
        environment = {**ENVIRONMENT, "PYTHON_BASIC_REPL": "1"}
        os.execve("/usr/bin/python3", ["python3", "-m", "drgn", *args], environment)
    # Wide, or readline folds what is typed.
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("4H", 100, 250, 0, 0))
    banner = _until_prompt(terminal)
    seconds = [time.monotonic() - start]
    answers = []
    for line in lines:
        say(f">>> {line}")
        start = time.monotonic()
        os.write(terminal, line.encode() + b"\n")
        echo, _, answer = _until_prompt(terminal).partition("\n")
        answers.append([line, echo, answer])
        seconds.append(time.monotonic() - start)
    os.write(terminal, b"\x04")
    with suppress(OSError):  # it went away
        while os.read(terminal, 1 << 16):
            pass
    _, status = os.waitpid(pid, 0)
    return {"banner": banner, "answers": answers, "status": status, "seconds": seconds}


def _until_prompt(terminal: int) -> str:
    text = b""
    limit = time.monotonic() + TIMEOUT
    while not text.endswith(_PROMPT):
        ready, _, _ = select.select([terminal], [], [], max(0.0, limit - time.monotonic()))
        if not ready:
            raise TimeoutError(f"no prompt after {text[-2000:]!r}")
        text += os.read(terminal, 1 << 16)
    return text[: -len(_PROMPT)].decode(errors="replace").replace("\r\n", "\n")
