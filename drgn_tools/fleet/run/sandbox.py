# SPDX-License-Identifier: LGPL-2.1-or-later
"""Audits behind a wall: a process of its own does it (inmate.py), this side sees what becomes of it.

The worker of Dask lives on whatever a dump does, and the cause of a death is known.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any, Optional

from ...errors import EXIT_BUG
from .job import Cause, Job, Limits, Outcome
from .record import failed
from .scratch import Scratch, remove_abandoned

__all__ = ("Cells", "audit_in_cell")

_START = f"""
import sys
sys.path[:] = sys.argv.pop(1).split({os.pathsep!r})
import runpy
runpy.run_module("drgn_tools.fleet.run.worker", run_name="__main__", alter_sys=True)
"""
"""Imports from where this process does. ``-m`` would look into the working directory first, and what
lies beside a dump may be called drgn.py."""
_GRACE_S = 10.0
"""A process that its own timer does not end (in an uninterruptible read) is killed so much later."""
_MAX_ANSWER_BYTES = 1 << 30
_MAX_STDERR_BYTES = 4096
_STDERR_CHARACTERS = 200


class _Died(Exception):
    """The process died before it had an answer."""

    def __init__(self, cause: Cause, exit_code: int, line: str, facts: dict[str, Any]) -> None:
        super().__init__(line)
        self.cause = cause
        self.exit_code = exit_code
        self.line = line
        self.facts = facts


class _GoneError(Exception):
    """It was gone before it had the job, through no fault of the job."""


class Cell:
    """One such process."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.memory_bytes = 0
        self._is_used = False
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115  # until close()
        self._said_before = 0
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
        """End it."""
        self._connection.close()
        self._process.kill()
        # One in an uninterruptible read is reaped later, by Popen.
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_GRACE_S)
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._stderr.close()
        self._scratch.remove()

    def audit(self, job: Job) -> Outcome:
        """Have *job* done.

        :raises _Died: it was not.
        :raises _GoneError: it was not begun.
        """
        request = {
            "job": job.as_json(),
            "seconds": self.limits.seconds,
            "max_tasks": self.limits.max_tasks,
        }
        try:
            self._connection.send_bytes(json.dumps(request).encode())
            if not self._connection.poll(self.limits.seconds + _GRACE_S):
                raise _Died(*self._too_long(), {})
            self._connection.recv_bytes()
        except (EOFError, OSError):
            if self._is_used:
                raise _GoneError from None
            raise _Died(*self._end(), {}) from None
        self._is_used = True
        self._said_before = os.fstat(self._stderr.fileno()).st_size
        facts: dict[str, Any] = {}
        try:
            return self._answer(facts)
        except (EOFError, OSError):
            raise _Died(*self._end(), facts) from None

    def _answer(self, facts: dict[str, Any]) -> Outcome:
        while True:
            if not self._connection.poll(self.limits.seconds + _GRACE_S):
                raise _Died(*self._too_long(), facts)
            message = json.loads(self._connection.recv_bytes(_MAX_ANSWER_BYTES))
            if "facts" not in message:
                break
            facts.update(message["facts"])
        tasks = self._connection.recv_bytes(_MAX_ANSWER_BYTES)
        self.memory_bytes = message["memory_bytes"]
        if "out_of_memory" in message:
            raise _Died(*self._too_large(), facts)
        if message.get("unchanged"):
            return Outcome(unchanged=True)
        record = {**facts, **message["record"], "peak_memory_bytes": message["peak_memory_bytes"]}
        return Outcome(record, tasks or None)

    def _too_long(self) -> tuple[Cause, int, str]:
        return Cause.TIME_LIMIT, 124, f"took longer than {self.limits.seconds:g} s"

    def _too_large(self) -> tuple[Cause, int, str]:
        mib = self.limits.memory_bytes >> 20
        return Cause.MEMORY_LIMIT, 128 + signal.SIGKILL, f"took more than {mib} MiB of memory"

    def _end(self) -> tuple[Cause, int, str]:
        try:
            code = self._process.wait(_GRACE_S)
        except subprocess.TimeoutExpired:  # it lives, and close() ends it
            return Cause.CRASHED, EXIT_BUG, "its process gave no answer that can be read"
        if code == -signal.SIGALRM:
            return self._too_long()
        words = self._last_words()
        if code >= 0:
            return Cause.CRASHED, EXIT_BUG, f"its process ended with exit code {code}{words}"
        maybe = " (as the kernel does when memory runs out)" if code == -signal.SIGKILL else ""
        return (
            Cause.CRASHED,
            128 - code,
            f"its process was killed by {_signal(-code)}{maybe}{words}",
        )

    def _last_words(self) -> str:
        size = self._stderr.seek(0, os.SEEK_END)
        # What it said of an earlier dump is not about this one.
        self._stderr.seek(max(self._said_before, size - _MAX_STDERR_BYTES))
        lines = self._stderr.read().decode("utf-8", "backslashreplace").split("\n")
        last = next((line.strip() for line in reversed(lines) if line.strip()), "")
        return f": {last[:_STDERR_CHARACTERS]}" if last else ""


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # of the real-time ones only two have a name
        return f"signal {number}"


class Cells:
    """The processes of one worker: as many as it has audits at the same time.

    They are used again, so dumps of one kernel share what is kept by the content
    of its types and symbols. An attempt after the first has a new one.
    """

    def __init__(self) -> None:
        remove_abandoned()
        self._idle: list[Cell] = []
        self._lock = threading.Lock()

    def take(self, limits: Limits) -> Cell:
        """One that nobody uses, for now only by the caller."""
        with self._lock:
            others, self._idle = self._idle, []
            for cell in others:
                if cell.limits == limits:
                    self._idle.append(cell)
                else:
                    cell.close()
            return self._idle.pop() if self._idle else Cell(limits)

    def give_back(self, cell: Cell) -> None:
        """Done with, and well; but one that has grown is not used again."""
        if cell.memory_bytes > cell.limits.memory_bytes // 2:
            cell.close()
        else:
            with self._lock:
                self._idle.append(cell)

    def close(self) -> None:
        """End those that are idle."""
        with self._lock:
            while self._idle:
                self._idle.pop().close()


def audit_in_cell(job: Job, limits: Limits, cells: Cells) -> Outcome:
    """Audit the source of *job*, again and again if it must be; what kills each attempt is quarantined."""
    died: Optional[_Died] = None
    for attempt in range(1, limits.retries + 2):
        try:
            outcome = _attempt(job, limits, cells, afresh=attempt > 1)
        except _Died as e:
            died = e
        else:
            if outcome.unchanged:
                return outcome
            return Outcome({**outcome.record, "attempts": attempt}, outcome.tasks)
    assert died is not None  # there was at least one attempt
    line = f"{job.source.name}: {died.line}"
    record = {**died.facts, **failed(job.source, died.cause, died.exit_code, line)}
    return Outcome({**record, "attempts": limits.retries + 1})


def _attempt(job: Job, limits: Limits, cells: Cells, afresh: bool) -> Outcome:
    cell = Cell(limits) if afresh else cells.take(limits)
    try:
        outcome = cell.audit(job)
    except _GoneError:  # it had been idle for too long; a new one has not
        cell.close()
        return _attempt(job, limits, cells, afresh=True)
    except BaseException:
        cell.close()
        raise
    cells.give_back(cell)
    return outcome
