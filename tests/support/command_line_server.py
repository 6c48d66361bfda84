# SPDX-License-Identifier: LGPL-2.1-or-later
"""Run our command lines quickly, one after another, each in a process of its own.

A process that has imported everything forks for each, so that a run costs some milliseconds, and
a crash, a hang or a large allocation ends only that run. It is not the process of the tests,
because that may have threads.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
SECONDS_A_RUN = 60
MEMORY_BYTES = 1 << 30
"""Limit of the memory that a run may add to that of the process."""


class Ended(NamedTuple):
    """How a command line ended."""

    exit_code: int
    """128 plus the number of the signal if a signal killed it, as in a shell."""
    stderr: str


class CommandLines:
    """Runs command lines; a context at whose end the process exits."""

    def __enter__(self) -> CommandLines:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.command_line_server"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def run(self, *arguments: str) -> Ended:
        """Run ``drgn-tools`` with these arguments."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps(arguments), file=self._process.stdin, flush=True)
        return Ended(*json.loads(self._process.stdout.readline()))


def main() -> None:
    """Run the server process: it reads arguments as JSON from stdin and writes results to stdout, one a line."""
    # Imported once, not in each child.
    from drgn_tools.analysis import audit  # noqa: F401
    from drgn_tools.commands import main as command_line  # noqa: F401
    from drgn_tools.render import summary, views  # noqa: F401

    gc.freeze()
    for line in sys.stdin:
        print(json.dumps(_run(json.loads(line))), flush=True)


def _run(arguments: Sequence[str]) -> Ended:
    read, write = os.pipe()
    child = os.fork()
    if not child:
        os.close(read)
        os.dup2(write, 2)
        os.dup2(os.open(os.devnull, os.O_RDWR), 1)
        # The streams of the parent may be open on files of another kind.
        sys.stdout, sys.stderr = (open(fd, "w", closefd=False) for fd in (1, 2))  # noqa: SIM115
        _limit()
        os._exit(_exit_code(arguments))
    os.close(write)
    with open(read, encoding="utf-8", errors="backslashreplace") as said:
        stderr = said.read()
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    return Ended(code if code >= 0 else 128 - code, stderr)


def _limit() -> None:
    signal.alarm(SECONDS_A_RUN)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY_BYTES,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _exit_code(arguments: Sequence[str]) -> int:
    from drgn_tools.commands.main import main

    try:
        return main(arguments)
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()


if __name__ == "__main__":
    main()
