# SPDX-License-Identifier: LGPL-2.1-or-later
"""Runs long commands: shows how far they are, keeps what they said, ends them with us."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Optional

from .errors import LabError

__all__ = ("Progress", "end_group", "run", "say")

_QUIET_SECONDS = 30.0
"""How often a line is printed where no terminal can be redrawn."""
_TAIL_LINES = 15
_GRACE_SECONDS = 5.0
"""How long a child may take to end when it is asked to."""


def say(text: str) -> None:
    """A line for the person in front of it. stdout belongs to results."""
    print(f"lab: {text}", file=sys.stderr, flush=True)


class Progress:
    """What is going on and for how long: one redrawn line, or a line now and then."""

    def __init__(self, what: str, stream: Optional[IO[str]] = None) -> None:
        self._what = what
        self._stream = stream if stream is not None else sys.stderr
        self._terminal = self._stream.isatty()
        self._start = self._shown = time.monotonic()
        self._drawn = False

    @property
    def seconds(self) -> float:
        """Since the start."""
        return time.monotonic() - self._start

    def update(self, detail: str) -> None:
        """Shows ``detail``, if it is time to show something."""
        now = time.monotonic()
        if self._terminal:
            if now - self._shown < 0.1 and self._drawn:
                return
            width = shutil.get_terminal_size().columns - 1
            line = f"[{self.seconds:4.0f} s] {self._what}: {detail.strip()}"
            self._stream.write(
                "\r\033[K" + "".join(c if c.isprintable() else "?" for c in line)[:width]
            )
            self._stream.flush()
            self._drawn = True
        elif now - self._shown < _QUIET_SECONDS:
            return
        else:
            print(f"lab: {self._what}: {self.seconds:.0f} s", file=self._stream, flush=True)
        self._shown = now

    def __enter__(self) -> Progress:
        if not self._terminal:
            print(f"lab: {self._what} ...", file=self._stream, flush=True)
        return self

    def __exit__(
        self,
        kind: Optional[type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        if self._drawn:
            self._stream.write("\r\033[K")
        how = "done" if error is None else "ended"
        print(f"lab: {self._what}: {how} after {self.seconds:.1f} s", file=self._stream, flush=True)


def end_group(process: subprocess.Popen[str]) -> None:
    """Ends a child that leads a process group, and all that it started."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        if process.poll() is not None and number == signal.SIGTERM:
            # The leader is gone; what it left behind goes too.
            number = signal.SIGKILL
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            break
        try:
            process.wait(_GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            continue
    process.wait()


def run(
    argv: Sequence[str],
    progress: Progress,
    *,
    log: Path,
    cwd: Optional[Path] = None,
    env: Optional[Mapping[str, str]] = None,
) -> str:
    """Runs a command to its end, appends what it says to ``log`` and returns it.

    The child gets a process group of its own: a Ctrl-C reaches only us, and we
    end the whole group before the exception goes on.

    :raises LabError: it failed; with the last lines it said
    """
    lines: list[str] = []
    with open(log, "a") as record:
        record.write(f"$ {' '.join(argv)}\n")
        process = subprocess.Popen(
            argv,
            cwd=cwd,
            env=None if env is None else {**os.environ, **env},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        try:
            assert process.stdout is not None
            with process.stdout:
                for line in process.stdout:
                    record.write(line)
                    lines.append(line)
                    progress.update(line)
            process.wait()
        except BaseException:
            end_group(process)
            raise
    if process.returncode:
        tail = "".join(deque(lines, _TAIL_LINES))
        raise LabError(
            f"{argv[0]} failed with exit code {process.returncode}; the end of what it said:\n{tail}"
        )
    return "".join(lines)
