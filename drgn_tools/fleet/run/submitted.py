# SPDX-License-Identifier: LGPL-2.1-or-later
"""The jobs at a scheduler, and which of them have ended."""

from __future__ import annotations

import queue
from functools import partial
from typing import Optional

import msgspec
from distributed import Client, Future

from .dask_workers import SchedulerLostError
from .job import Job, Limits
from .on_dask_worker import Audit

__all__ = ("Submitted",)


class Submitted:
    """Jobs that were submitted through one connection to a scheduler."""

    def __init__(self, client: Client, audit: Audit, limits: Limits, plugin: str) -> None:
        """
        :param audit: The function that audits on a worker.
        :param limits: Limits of each dump.
        :param plugin: Name of the plugin that *audit* uses.
        """
        self._client = client
        self._audit = audit
        self._limits = msgspec.structs.asdict(limits)
        self._plugin = plugin
        self._ended: queue.SimpleQueue[Future] = queue.SimpleQueue()
        self.jobs: dict[Future, Job] = {}
        """The jobs whose outcome was not fetched yet."""

    def submit(self, job: Job) -> None:
        """Submit *job*, only to the worker that can audit its source if there is just one.

        :raises SchedulerLostError: If the scheduler went away.
        """
        workers = [job.source.worker] if job.source.worker else None
        # Dask logs the arguments of a task that fails, and the URL of a core may hold a password.
        audit = partial(self._audit, job.as_json(), self._limits, self._plugin)
        try:
            future = self._client.submit(audit, pure=False, workers=workers)
        except Exception as e:  # the class of the error depends on the version of Dask
            if self._client.status == "running":
                raise
            raise SchedulerLostError(str(e)) from e
        self.jobs[future] = job
        future.add_done_callback(self._ended.put)

    def next_ended(self, timeout_s: float) -> Optional[Future]:
        """Return the future of a job in :attr:`jobs` that has ended; ``None`` if none has ended yet.

        :param timeout_s: How long to wait for one.
        """
        try:
            future = self._ended.get(timeout=timeout_s)
        except queue.Empty:
            return None
        return future if future in self.jobs else None

    def fetch_later(self, future: Future) -> None:
        """Let :meth:`next_ended` return *future* again."""
        self._ended.put(future)

    def cancel(self, future: Future) -> None:
        """Give up on a job."""
        future.cancel()
        del self.jobs[future]
