# SPDX-License-Identifier: LGPL-2.1-or-later
"""Run jobs on a Dask cluster until each has an outcome.

This process does not rely on any state of the cluster. A job is done when its outcome was
committed here; every other job is submitted again. So a worker, the scheduler or this process
may be killed at any time.
"""

from __future__ import annotations

import asyncio
import math
import secrets
import signal
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from concurrent.futures import CancelledError
from contextlib import suppress
from typing import Optional, Protocol

from distributed import Client, Future
from distributed.scheduler import KilledWorker

from ... import __version__
from ...errors import EXIT_BUG, InputError
from ...program.core_file import shown
from .cluster import Cluster
from .dask_workers import DaskWorkers, SchedulerLostError
from .interrupts import interrupts_held
from .job import Cause, Job, Limits, Outcome
from .on_dask_worker import SandboxesPlugin, audit_sent_by_value, check_dask_workers
from .record import failed
from .submitted import Submitted

__all__ = ("Observer", "run_jobs")

_PATIENCE_S = 600.0
"""How long to wait for a scheduler that has gone away."""
_TICK_S = 0.5
_FETCH_S = 10.0
"""More than the transfer of an outcome takes."""
_KILLED = 128 + signal.SIGKILL


class Observer(Protocol):
    """Observes a run."""

    def say(self, text: str) -> None:
        """Called with text that a person should see now."""

    def tick(self) -> None:
        """Called now and then."""


def run_jobs(
    jobs: Iterable[Job],
    limits: Limits,
    cluster: Cluster,
    commit: Callable[[Job, Outcome], None],
    observer: Observer,
    at_most: Optional[int] = None,
) -> None:
    """Run *jobs* on *cluster*, approximately in their order.

    :param limits: Limits of each dump.
    :param commit: Called in this process with each outcome as it comes, once for each job.
    :param at_most: Stop when so many jobs have a new record. Unchanged sources do not count.
    :raises InputError: If there is no cluster, if its workers cannot audit, or if the
        scheduler went away and did not come back.
    :raises KeyboardInterrupt: If the user interrupts the run. No commit is interrupted.
    """
    run = _Run(deque(jobs), limits, commit, observer, at_most)
    connected = False
    deadline = 0.0
    with interrupts_held() as let_interrupts:
        while run.has_more:
            let_interrupts()
            try:
                with cluster.client() as client:
                    connected, deadline = True, 0.0
                    run.drive(client, let_interrupts)
            except (SchedulerLostError, OSError) as e:
                deadline = deadline or time.monotonic() + _PATIENCE_S
                where = shown(cluster.address or "the local cluster")
                if not connected or time.monotonic() > deadline:
                    raise InputError(f"{where}: no Dask scheduler answers there: {e}") from e
                observer.say(f"{where}: is gone; waiting for it")
                time.sleep(_TICK_S)


class _Run:
    """The jobs of a run, through several connections to a scheduler if necessary."""

    def __init__(
        self,
        waiting: deque[Job],
        limits: Limits,
        commit: Callable[[Job, Outcome], None],
        observer: Observer,
        at_most: Optional[int],
    ) -> None:
        self.waiting = waiting
        self._left: float = math.inf if at_most is None else at_most
        """Number of jobs that may still get a new record."""
        self._limits = limits
        self._audit = audit_sent_by_value()
        self._commit = commit
        self._observer = observer
        self._plugin = f"drgn-tools-{secrets.token_hex(8)}"  # a name that no other run has
        self._tries: Counter[str] = Counter()
        """Key of a job -> how many times the job or its worker failed without an outcome."""

    @property
    def has_more(self) -> bool:
        """Whether there is a job to submit."""
        return bool(self.waiting) and self._left > 0

    def drive(self, client: Client, let_interrupts: Callable[[], None]) -> None:
        """Submit a few jobs at a time, and commit their outcomes.

        :raises SchedulerLostError: If the scheduler went away. Jobs without an outcome wait again.
        """
        check_dask_workers(client)
        client.register_plugin(SandboxesPlugin(self._plugin))
        submitted = Submitted(client, self._audit, self._limits, self._plugin)
        workers = DaskWorkers(client)
        try:
            while self.has_more or submitted.jobs:
                let_interrupts()
                if client.status != "running":
                    raise SchedulerLostError("the connection was lost")
                workers.look()
                if not workers.threads:
                    self._observer.say("the cluster has no worker; waiting for one")
                self._submit(submitted, workers)
                self._give_up_on_absent(submitted, workers)
                self._take(submitted)
                self._observer.tick()
        finally:
            # If the run goes on, these jobs are the first. If it is over, there are none.
            self.waiting.extendleft(reversed(submitted.jobs.values()))
            # After an interrupt, too: otherwise the scheduler would give the plugin to every new worker.
            if client.status == "running":
                with suppress(OSError, CancelledError):
                    client.unregister_worker_plugin(self._plugin)

    def _submit(self, submitted: Submitted, workers: DaskWorkers) -> None:
        while self.waiting and len(submitted.jobs) < min(workers.max_jobs, self._left):
            submitted.submit(self.waiting[0])
            self.waiting.popleft()

    def _give_up_on_absent(self, submitted: Submitted, workers: DaskWorkers) -> None:
        # Only the worker on its host can read a running kernel.
        for future, job in list(submitted.jobs.items()):
            if job.source.worker and workers.is_gone(job.source.worker):
                submitted.cancel(future)
                line = f"{job.source.name}: its worker {job.source.worker} is gone"
                record = failed(job.source, Cause.WORKER_LOST, _KILLED, line)
                self._finish(job, Outcome({**record, "attempts": 1}))

    def _take(self, submitted: Submitted) -> None:
        future = submitted.next_ended(_TICK_S)
        if future is None:
            return
        job = submitted.jobs[future]
        try:
            outcome = self._outcome(job, future)
        except asyncio.TimeoutError:
            # The worker died before the outcome was fetched, so another worker has the job now.
            submitted.fetch_later(future)
            return
        del submitted.jobs[future]
        if outcome is None:
            self.waiting.append(job)
        else:
            self._finish(job, outcome)

    def _finish(self, job: Job, outcome: Outcome) -> None:
        self._left -= not outcome.unchanged
        self._commit(job, outcome)

    def _outcome(self, job: Job, future: Future) -> Optional[Outcome]:
        # None: try again.
        try:
            outcome: Outcome = future.result(timeout=_FETCH_S)
            return outcome
        except KilledWorker as e:
            line = f"the workers that had it died, last {e.last_worker}"
            return self._try_again(job, Cause.WORKER_LOST, line)
        except (CancelledError, OSError, asyncio.TimeoutError) as e:
            if (
                future.status == "error"
            ):  # raised on the worker, which could not start a process, say
                return self._try_again(job, Cause.BUG, f"{type(e).__name__}: {e}")
            if isinstance(e, asyncio.TimeoutError):
                raise
            raise SchedulerLostError(str(e)) from e
        except ImportError as e:
            raise InputError(
                f"a worker cannot audit: {e}; install drgn-tools[fleet] {__version__} on every worker"
            ) from e
        # Every error that a worker raises is raised here: this is a fence like that of the command line.
        except Exception as e:
            return self._try_again(job, Cause.BUG, f"{type(e).__name__}: {e}")

    def _try_again(self, job: Job, cause: Cause, line: str) -> Optional[Outcome]:
        # The failure, if it was tried often enough.
        self._tries[job.key] += 1
        attempts = self._tries[job.key]
        if attempts <= self._limits.retries:
            return None
        code = _KILLED if cause is Cause.WORKER_LOST else EXIT_BUG
        record = failed(job.source, cause, code, f"{job.source.name}: {line}")
        return Outcome({**record, "attempts": attempts})
