# SPDX-License-Identifier: LGPL-2.1-or-later
"""Jobs through a Dask cluster, until each has an outcome, whatever dies on the way.

The cluster is trusted with nothing but the work: what is done is what was committed here,
and all else is submitted again. So a worker, the scheduler or this very process may be
killed at any time.
"""

from __future__ import annotations

import asyncio
import math
import queue
import secrets
import signal
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager, suppress
from dataclasses import asdict
from typing import Any, Optional, Protocol

from distributed import Client, Future, WorkerPlugin, get_worker
from distributed.scheduler import KilledWorker

from ... import __version__
from ...errors import EXIT_BUG, InputError
from .cluster import Cluster
from .job import Cause, Job, Limits, Outcome
from .record import failed
from .sandbox import Cells, audit_in_cell

__all__ = ("Observer", "run_jobs")

_PATIENCE_S = 600.0
"""How long to wait for a scheduler that was there and is gone."""
_TICK_S = 0.5
_FETCH_S = 10.0
"""More than it takes to have an outcome that is there brought here."""
_ABSENT_S = 60.0
"""A worker that was not seen for so long is gone."""
_LOOK_AT_WORKERS_EVERY_S = 5.0
_JOBS_PER_THREAD = 3
"""Enough that no worker waits for the next; few enough that nothing piles up in the scheduler."""


class Observer(Protocol):
    """Who watches a run."""

    def say(self, text: str) -> None:
        """Something that a person should know now."""

    def tick(self) -> None:
        """Time goes by."""


class _CellsPlugin(WorkerPlugin):  # type: ignore[misc]
    # The processes of a worker live as long as the run, or the worker.

    def __init__(self, name: str) -> None:
        self.name = name

    def setup(self, worker: Any) -> None:
        self.cells = Cells()

    def teardown(self, worker: Any) -> None:
        self.cells.close()


def on_worker(job: dict[str, Any], limits: dict[str, Any], plugin: str) -> Outcome:
    """Called on a worker with a job and its limits as plain values."""
    cells = get_worker().plugins[plugin].cells
    return audit_in_cell(Job.from_json(job), Limits(**limits), cells)


def _sent_by_value() -> Callable[[dict[str, Any], dict[str, Any], str], Outcome]:
    # The scheduler unpickles what is submitted, and need not have drgn_tools.
    expected = __version__

    def audit(job: dict[str, Any], limits: dict[str, Any], plugin: str) -> Outcome:
        from ... import __version__ as found
        from .engine import on_worker

        if found != expected:  # one that came after _check_workers()
            raise ImportError(f"it has drgn-tools {found}")
        return on_worker(job, limits, plugin)

    return audit


class _LostError(Exception):
    """The scheduler is gone, and with it all that it knew."""


def run_jobs(
    jobs: Iterable[Job],
    limits: Limits,
    cluster: Cluster,
    commit: Callable[[Job, Outcome], None],
    observer: Observer,
    at_most: Optional[int] = None,
) -> None:
    """Have all *jobs* done, in their order as far as that goes.

    :param at_most: end when so many have a new record; what is unchanged does not count.
    :param commit: called here with each outcome as it comes, once for each job.
    :raises InputError: there is no cluster, its workers cannot do this, or it is gone for good.
    """
    run = _Run(deque(jobs), limits, commit, observer, at_most)
    connected = False
    deadline = 0.0
    with _interrupts_held() as let_interrupts:
        while run.has_more:
            let_interrupts()
            try:
                with cluster.client() as client:
                    connected, deadline = True, 0.0
                    run.drive(client, let_interrupts)
            except (_LostError, OSError) as e:
                deadline = deadline or time.monotonic() + _PATIENCE_S
                where = cluster.address or "the local cluster"
                if not connected or time.monotonic() > deadline:
                    raise InputError(f"{where}: no Dask scheduler answers there: {e}") from e
                observer.say(f"{where}: is gone; waiting for it")
                time.sleep(_TICK_S)


@contextmanager
def _interrupts_held() -> Iterator[Callable[[], None]]:
    # Python raises KeyboardInterrupt wherever it is: half way through a commit, or in a
    # destructor, which ignores it. Here it waits to be asked for; pressed again, it does not.
    pressed = False

    def hold(number: int, frame: object) -> None:
        nonlocal pressed
        let()
        pressed = True

    def let() -> None:
        if pressed:
            raise KeyboardInterrupt

    # What batch systems send ends a run as well, and in the same order.
    before = {number: signal.signal(number, hold) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield let
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Run:
    def __init__(
        self,
        waiting: deque[Job],
        limits: Limits,
        commit: Callable[[Job, Outcome], None],
        observer: Observer,
        at_most: Optional[int],
    ) -> None:
        self.waiting = waiting
        self._room: float = math.inf if at_most is None else at_most
        """How many may yet get a new record."""
        self._limits = limits
        self._audit = _sent_by_value()
        self._commit = commit
        self._observer = observer
        self._plugin = f"drgn-tools-{secrets.token_hex(8)}"  # no other run's
        self._tries: Counter[str] = Counter()
        """By key of the job: how often it failed, or its worker, with no answer."""

    @property
    def has_more(self) -> bool:
        """Is there something to submit?"""
        return bool(self.waiting) and self._room > 0

    def drive(self, client: Client, let_interrupts: Callable[[], None]) -> None:
        """Submit, a few at a time, and commit what comes back.

        :raises _LostError: the scheduler went away; what was not committed is waiting again.
        """
        _check_workers(client)
        client.register_plugin(_CellsPlugin(self._plugin))
        running: dict[Future, Job] = {}
        finished: queue.SimpleQueue[Future] = queue.SimpleQueue()
        workers = _Workers(client)
        try:
            while self.has_more or running:
                let_interrupts()
                if client.status != "running":
                    raise _LostError("the connection was lost")
                workers.look()
                if not workers.threads:
                    self._observer.say("the cluster has no worker; waiting for one")
                self._submit(client, workers, running, finished)
                self._give_up_on_absent(workers, running)
                self._take(running, finished)
                self._observer.tick()
        finally:
            # Of a run that goes on these are first; of one that is over there are none.
            self.waiting.extendleft(reversed(running.values()))
            # Also of a run that was interrupted: the scheduler would give it to every new worker.
            if client.status == "running":
                with suppress(OSError, CancelledError):
                    client.unregister_worker_plugin(self._plugin)

    def _submit(
        self,
        client: Client,
        workers: _Workers,
        running: dict[Future, Job],
        finished: queue.SimpleQueue[Future],
    ) -> None:
        while self.waiting and len(running) < min(workers.room, self._room):
            job = self.waiting[0]
            only = [job.source.worker] if job.source.worker else None
            arguments = (job.as_json(), asdict(self._limits), self._plugin)
            try:
                future = client.submit(self._audit, *arguments, pure=False, workers=only)
            except Exception as e:  # of what class, that depends on the version of Dask
                if client.status == "running":
                    raise
                raise _LostError(str(e)) from e
            running[future] = self.waiting.popleft()
            future.add_done_callback(finished.put)

    def _take(self, running: dict[Future, Job], finished: queue.SimpleQueue[Future]) -> None:
        try:
            future = finished.get(timeout=_TICK_S)
        except queue.Empty:
            return
        job = running.get(future)
        if job is None:  # given up on
            return
        try:
            outcome = self._outcome(job, future)
        except asyncio.TimeoutError:
            # Its worker died before it was fetched, and another has it now. Meanwhile, the others.
            finished.put(future)
            return
        del running[future]
        if outcome is None:
            self.waiting.append(job)
        else:
            self._final(job, outcome)

    def _final(self, job: Job, outcome: Outcome) -> None:
        self._room -= not outcome.unchanged
        self._commit(job, outcome)

    def _outcome(self, job: Job, future: Future) -> Optional[Outcome]:
        # None: to be tried again.
        try:
            outcome: Outcome = future.result(timeout=_FETCH_S)
            return outcome
        except KilledWorker as e:
            return self._again(
                job, Cause.WORKER_LOST, f"the workers that had it died, last {e.last_worker}"
            )
        except (CancelledError, OSError, asyncio.TimeoutError) as e:
            if future.status == "error":  # the worker's own: it cannot start a process, say
                return self._again(job, Cause.BUG, f"{type(e).__name__}: {e}")
            if isinstance(e, asyncio.TimeoutError):
                raise
            raise _LostError(str(e)) from e
        except ImportError as e:
            raise InputError(
                f"a worker cannot audit: {e}; install drgn-tools[fleet] {__version__} on every worker"
            ) from e
        # Whatever a worker raises comes out here: a fence like that of cli.py.
        except Exception as e:
            return self._again(job, Cause.BUG, f"{type(e).__name__}: {e}")

    def _again(self, job: Job, cause: Cause, why: str) -> Optional[Outcome]:
        self._tries[job.key] += 1
        attempts = self._tries[job.key]
        if attempts <= self._limits.retries:
            return None
        code = 128 + signal.SIGKILL if cause is Cause.WORKER_LOST else EXIT_BUG
        record = failed(job.source, cause, code, f"{job.source.name}: {why}")
        return Outcome({**record, "attempts": attempts})

    def _give_up_on_absent(self, workers: _Workers, running: dict[Future, Job]) -> None:
        # Nobody else can look at a running kernel but the worker on its host.
        for future, job in list(running.items()):
            if job.source.worker and workers.is_gone(job.source.worker):
                future.cancel()
                del running[future]
                line = f"{job.source.name}: its worker {job.source.worker} is gone"
                record = failed(job.source, Cause.WORKER_LOST, 128 + signal.SIGKILL, line)
                self._final(job, Outcome({**record, "attempts": 1}))


class _Workers:
    """The workers of a cluster, as they come and go."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._next = 0.0
        self._threads: dict[str, int] = {}
        self._began = time.monotonic()
        self._seen: dict[str, float] = {}

    def look(self) -> None:
        """Ask the scheduler, if it is time.

        :raises _LostError: it does not answer.
        """
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + _LOOK_AT_WORKERS_EVERY_S
        try:
            self._threads = dict(self._client.nthreads())
        except (OSError, CancelledError) as e:
            raise _LostError(str(e)) from e
        self._seen.update(dict.fromkeys(self._threads, time.monotonic()))

    @property
    def room(self) -> int:
        """How many jobs may be under way."""
        return _JOBS_PER_THREAD * max(1, self.threads)

    @property
    def threads(self) -> int:
        """How many audits they can do at the same time."""
        return sum(self._threads.values())

    def is_gone(self, address: str) -> bool:
        """Was it not there for long? (After a restart of the scheduler all come back in a while.)"""
        return time.monotonic() > self._seen.get(address, self._began) + _ABSENT_S


def _check_workers(client: Client) -> None:
    """Refuse workers that cannot do this, before anything is submitted.

    :raises InputError: one has no drgn-tools[fleet], or another version of it.
    """

    def version_there() -> str:
        # Sent by value: where drgn_tools is missing, this must still arrive.
        import importlib.util

        missing = [
            name
            for name in ("drgn_tools", "drgn", "pyarrow", "fsspec")
            if importlib.util.find_spec(name) is None
        ]
        if missing:
            return f"no {', '.join(missing)}"
        import drgn_tools

        return f"drgn-tools {drgn_tools.__version__}"

    expected = f"drgn-tools {__version__}"
    with suppress(CancelledError):
        for address, found in client.run(version_there).items():
            if found != expected:
                raise InputError(
                    f"worker {address}: has {found}, expected {expected}; "
                    "install the same drgn-tools[fleet] on every worker"
                )
