# SPDX-License-Identifier: LGPL-2.1-or-later
"""A sandbox: a process that audits dumps, and the parent's end of it.

A dump may crash the process that reads it, use up the memory or take forever. The Dask worker
starts the process (sandbox_process.py), survives it, and knows why it died.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

import msgspec

from ...errors import EXIT_BUG
from .job import Cause, Job, Limits, Outcome
from .record import Facts
from .scratch import Scratch

__all__ = ("NotStartedError", "Sandbox", "SandboxError")

_START = f"""
import sys
sys.path[:] = sys.argv.pop(1).split({os.pathsep!r})
import runpy
runpy.run_module("drgn_tools.fleet.run.sandbox_process", run_name="__main__", alter_sys=True)
"""
"""Imports from the same places as this process. ``-m`` would search the working directory
first, and a file beside a dump may be called drgn.py."""
_GRACE_S = 10.0
"""A process that its own timer does not end (in an uninterruptible read) is killed after this time."""
_MAX_ANSWER_BYTES = 1 << 30
_MAX_STDERR_BYTES = 4096
_STDERR_CHARACTERS = 200


class _Death(msgspec.Struct, frozen=True):
    cause: Cause
    exit_code: int
    line: str


class SandboxError(Exception):
    """The process died, or exceeded a limit, before it had an outcome."""

    def __init__(self, death: _Death, facts: Facts) -> None:
        super().__init__(death.line)
        self.cause = death.cause
        self.exit_code = death.exit_code
        """Exit code of the record of the source."""
        self.line = death.line
        """What happened: the line of the record without the name of the source."""
        self.facts = facts
        """What the process had found out about the source before."""


class NotStartedError(Exception):
    """The process had ended while it was idle, so the audit did not start."""


class Sandbox:
    """A process that audits one dump after another."""

    def __init__(self, limits: Limits) -> None:
        """Start the process.

        :param limits: Limits of each dump.
        :raises OSError: If it cannot be started.
        """
        self.limits = limits
        self.memory_bytes = 0
        """Memory that the process had (VmRSS) after its last audit."""
        self._has_answered = False
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115  # until close()
        self._stderr_seen = 0
        self._scratch = Scratch()
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-c", _START, os.pathsep.join(sys.path)),
                    *(str(theirs.fileno()), str(limits.memory_bytes), self._scratch.path),
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=self._stderr,
                pass_fds=(theirs.fileno(),),
            )
        self._connection = Connection(ours.detach())

    def close(self) -> None:
        """Kill the process and remove its files."""
        self._connection.close()
        self._process.kill()
        # Popen reaps a process in an uninterruptible read later.
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_GRACE_S)
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._stderr.close()
        self._scratch.remove()

    def audit(self, job: Job) -> Outcome:
        """Audit the source of *job* in the process.

        :raises SandboxError: If the process died or exceeded a limit.
        :raises NotStartedError: If the process had ended before.
        """
        self._start(job)
        facts: Facts = {}
        try:
            return self._outcome(facts)
        except (EOFError, OSError):
            raise SandboxError(self._death(), facts) from None

    def _start(self, job: Job) -> None:
        request = {
            "job": job.as_json(),
            "seconds": self.limits.seconds,
            "max_tasks": self.limits.max_tasks,
        }
        try:
            self._connection.send_bytes(json.dumps(request).encode())
            self._wait_for_message({})
            self._connection.recv_bytes()
        except (EOFError, OSError):
            if self._has_answered:
                raise NotStartedError from None
            raise SandboxError(self._death(), {}) from None
        self._has_answered = True
        self._stderr_seen = os.fstat(self._stderr.fileno()).st_size

    def _outcome(self, facts: Facts) -> Outcome:
        # Adds to facts as they come: they are known even if the process dies.
        message = self._message(facts)
        while "facts" in message:
            facts.update(message["facts"])
            message = self._message(facts)
        tasks = self._connection.recv_bytes(_MAX_ANSWER_BYTES)
        self.memory_bytes = message["memory_bytes"]
        if "out_of_memory" in message:
            raise SandboxError(self._exceeded_memory(), facts)
        if message.get("unchanged"):
            return Outcome(unchanged=True)
        record = {**facts, **message["record"], "peak_memory_bytes": message["peak_memory_bytes"]}
        return Outcome(record, tasks or None)

    def _message(self, facts: Facts) -> dict[str, Any]:
        self._wait_for_message(facts)
        message: dict[str, Any] = json.loads(self._connection.recv_bytes(_MAX_ANSWER_BYTES))
        return message

    def _wait_for_message(self, facts: Facts) -> None:
        if not self._connection.poll(self.limits.seconds + _GRACE_S):
            raise SandboxError(self._exceeded_time(), facts)

    # ---- why it died

    def _exceeded_time(self) -> _Death:
        return _Death(Cause.TIME_LIMIT, 124, f"took longer than {self.limits.seconds:g} s")

    def _exceeded_memory(self) -> _Death:
        mib = self.limits.memory_bytes >> 20
        line = f"took more than {mib} MiB of memory"
        return _Death(Cause.MEMORY_LIMIT, 128 + signal.SIGKILL, line)

    def _death(self) -> _Death:
        try:
            code = self._process.wait(_GRACE_S)
        except subprocess.TimeoutExpired:  # it is alive, and close() kills it
            return _Death(Cause.CRASHED, EXIT_BUG, "its process gave no readable answer")
        if code == -signal.SIGALRM:
            return self._exceeded_time()
        last_line = self._last_line_of_stderr()
        if code >= 0:
            line = f"its process ended with exit code {code}{last_line}"
            return _Death(Cause.CRASHED, EXIT_BUG, line)
        maybe = " (the kernel does this when memory runs out)" if code == -signal.SIGKILL else ""
        line = f"its process was killed by {_signal_name(-code)}{maybe}{last_line}"
        return _Death(Cause.CRASHED, 128 - code, line)

    def _last_line_of_stderr(self) -> str:
        size = self._stderr.seek(0, os.SEEK_END)
        # Only what was written since the audit of this dump began.
        self._stderr.seek(max(self._stderr_seen, size - _MAX_STDERR_BYTES))
        lines = self._stderr.read().decode("utf-8", "backslashreplace").split("\n")
        last = next((line.strip() for line in reversed(lines) if line.strip()), "")
        return f": {last[:_STDERR_CHARACTERS]}" if last else ""


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # most real-time signals have no name
        return f"signal {number}"
