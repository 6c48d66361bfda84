# SPDX-License-Identifier: LGPL-2.1-or-later
"""The sandboxes of one Dask worker, and an audit in one of them, repeated if necessary."""

from __future__ import annotations

import threading
from typing import Optional

from .job import Job, Limits, Outcome
from .record import failed
from .sandbox import NotStartedError, Sandbox, SandboxError
from .scratch import remove_abandoned

__all__ = ("Sandboxes", "audit_in_sandbox")


class Sandboxes:
    """The sandboxes of one Dask worker: as many as the audits that it runs at the same time.

    A sandbox is used again, so dumps of one kernel share what is cached by the content of its
    types and symbols. An attempt after the first has a new sandbox.
    """

    def __init__(self) -> None:
        remove_abandoned()
        self._idle: list[Sandbox] = []
        self._lock = threading.Lock()

    def take(self, limits: Limits) -> Sandbox:
        """Return a sandbox that no other thread uses until it is given back.

        :param limits: Its limits. Idle sandboxes with other limits are closed.
        """
        with self._lock:
            idle, self._idle = self._idle, []
            for sandbox in idle:
                if sandbox.limits == limits:
                    self._idle.append(sandbox)
                else:
                    sandbox.close()
            return self._idle.pop() if self._idle else Sandbox(limits)

    def give_back(self, sandbox: Sandbox) -> None:
        """Keep *sandbox* for the next audit, or close it if it uses much memory."""
        if sandbox.memory_bytes > sandbox.limits.memory_bytes // 2:
            sandbox.close()
        else:
            with self._lock:
                self._idle.append(sandbox)

    def close(self) -> None:
        """Close the idle sandboxes."""
        with self._lock:
            while self._idle:
                self._idle.pop().close()


def audit_in_sandbox(job: Job, limits: Limits, sandboxes: Sandboxes) -> Outcome:
    """Audit the source of *job* in a sandbox.

    If the process dies or exceeds a limit, try again up to ``limits.retries`` times.

    :return: The outcome. If each attempt ended in this way, the record is ``failed`` and quarantined.
    :raises OSError: If no process can be started.
    """
    error: Optional[SandboxError] = None
    for attempt in range(1, limits.retries + 2):
        try:
            outcome = _attempt(job, limits, sandboxes, in_new=attempt > 1)
        except SandboxError as e:
            error = e
        else:
            if outcome.unchanged:
                return outcome
            return Outcome({**outcome.record, "attempts": attempt}, outcome.tasks)
    assert error is not None  # there was at least one attempt
    line = f"{job.source.name}: {error.line}"
    record = {**error.facts, **failed(job.source, error.cause, error.exit_code, line)}
    return Outcome({**record, "attempts": limits.retries + 1})


def _attempt(job: Job, limits: Limits, sandboxes: Sandboxes, in_new: bool) -> Outcome:
    sandbox = Sandbox(limits) if in_new else sandboxes.take(limits)
    try:
        outcome = sandbox.audit(job)
    except NotStartedError:  # a process ends when it has been idle for long
        sandbox.close()
        return _attempt(job, limits, sandboxes, in_new=True)
    except BaseException:
        sandbox.close()
        raise
    sandboxes.give_back(sandbox)
    return outcome
