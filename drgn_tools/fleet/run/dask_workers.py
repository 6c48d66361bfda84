# SPDX-License-Identifier: LGPL-2.1-or-later
"""The Dask workers of a cluster, as they come and go."""

from __future__ import annotations

import time
from concurrent.futures import CancelledError

from distributed import Client

__all__ = ("DaskWorkers", "SchedulerLostError")

_ABSENT_S = 60.0
"""A worker that was not seen for this time is gone."""
_LOOK_EVERY_S = 5.0
_JOBS_PER_THREAD = 3
"""Enough so that no worker waits for its next job, and few enough so that jobs do not pile up in the scheduler."""


class SchedulerLostError(Exception):
    """The connection to the scheduler was lost, and with it the state of all submitted jobs."""


class DaskWorkers:
    """The workers that the scheduler knows."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._next_look = 0.0
        self._threads: dict[str, int] = {}
        self._began = time.monotonic()
        self._seen: dict[str, float] = {}

    def look(self) -> None:
        """Ask the scheduler for its workers, if the last answer is old.

        :raises SchedulerLostError: If it does not answer.
        """
        if time.monotonic() < self._next_look:
            return
        self._next_look = time.monotonic() + _LOOK_EVERY_S
        try:
            self._threads = dict(self._client.nthreads())
        except (OSError, CancelledError) as e:
            raise SchedulerLostError(str(e)) from e
        self._seen.update(dict.fromkeys(self._threads, time.monotonic()))

    @property
    def threads(self) -> int:
        """Number of audits that the workers can do at the same time."""
        return sum(self._threads.values())

    @property
    def max_jobs(self) -> int:
        """Number of jobs that may be submitted and unfinished."""
        return _JOBS_PER_THREAD * max(1, self.threads)

    def is_gone(self, address: str) -> bool:
        """Return whether a worker has not been seen for ``_ABSENT_S`` seconds.

        After a restart of the scheduler it takes a while until all workers are back.

        :param address: Address of the worker.
        """
        return time.monotonic() > self._seen.get(address, self._began) + _ABSENT_S
