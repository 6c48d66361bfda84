# SPDX-License-Identifier: LGPL-2.1-or-later
"""``drgn-tools fleet`` and a Dask cluster as a person starts them: commands in processes of their own.

Each process that is started here has a mark in its environment, which its children inherit. So
processes that are left over can be found, even if their parent is another by then.
"""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any, Optional

ROOT = Path(__file__).parents[2]
PATIENCE_S = 180.0
"""How long to wait for something that must happen. Only a failure takes this long."""
_MARK = "DRGN_TOOLS_TEST_MARK"


def wait_until(what: str, is_so: Callable[[], bool], patience_s: float = PATIENCE_S) -> None:
    """Wait until *is_so* returns true. If it does not in time, fail with *what*."""
    deadline = time.monotonic() + patience_s
    while not is_so():
        assert time.monotonic() < deadline, f"waited for {patience_s:g} s: {what}"
        time.sleep(0.005)


def free_port() -> int:
    """Return a free TCP port on loopback that the kernel does not assign to a process that asks for any port.

    The caller binds it later, more than once. Meanwhile, other processes ask for many ports
    (net.ipv4.ip_local_port_range).
    """
    while True:
        port = 20_000 + secrets.randbelow(10_000)
        with socket.socket() as s, suppress(OSError):
            s.bind(("127.0.0.1", port))
            return port


class Processes:
    """Commands that run in the background, with their output in files."""

    def __init__(self, folder: Path, **environment: str) -> None:
        self.folder = folder
        self.mark = secrets.token_hex(8)
        self._environment = {**os.environ, "PYTHONPATH": str(ROOT), _MARK: self.mark, **environment}
        self._started: list[subprocess.Popen[bytes]] = []

    def start(
        self,
        name: str,
        *command: str,
        python: str = sys.executable,
        environment: Mapping[str, str] = MappingProxyType({}),
        **options: Any,
    ) -> subprocess.Popen[bytes]:
        """Start ``python -m COMMAND...``; :meth:`said` returns its output."""
        with open(self.folder / f"{name}.log", "ab") as log:
            process = subprocess.Popen(
                [python, "-m", *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**self._environment, **environment},
                # A process that a shell starts with & ignores Ctrl-C, and so do its children.
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
                **options,
            )
        self._started.append(process)
        return process

    def fleet_run(
        self, name: str, sources: Sequence[object], dataset: Path, *more: str, **options: Any
    ) -> subprocess.Popen[bytes]:
        """Start ``drgn-tools fleet run``."""
        given = [*map(str, sources), "-o", str(dataset), *more]
        return self.start(name, "drgn_tools", "fleet", "run", *given, **options)

    def said(self, name: str) -> str:
        """Return stdout and stderr so far of the process that was started under *name*."""
        return (self.folder / f"{name}.log").read_text()

    def alive(self, *words: str) -> list[int]:
        """Return the processes with our mark that have *words* in their command."""
        found = []
        for folder in Path("/proc").iterdir():
            if folder.name.isdigit():
                # Gone, a zombie, or a kernel thread.
                with suppress(OSError):
                    environment = (folder / "environ").read_bytes().split(b"\0")
                    command = (folder / "cmdline").read_bytes().decode("utf-8", "replace")
                    if f"{_MARK}={self.mark}".encode() in environment and all(
                        word in command for word in words
                    ):
                        found.append(int(folder.name))
        return found

    def end_all_but_orphans(self) -> None:
        """End the processes that were started here. Their children should end by themselves."""
        for process in self._started:
            process.kill()
            process.wait()

    def end(self) -> None:
        """End the processes that were started here, and their children."""
        self.end_all_but_orphans()
        for pid in self.alive():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@contextmanager
def processes(folder: Path, **environment: str) -> Iterator[Processes]:
    """Return a context for processes, which are ended at its end."""
    started = Processes(folder, **environment)
    try:
        yield started
    finally:
        started.end()


class DaskCluster:
    """``dask scheduler`` and ``dask worker`` as shell commands."""

    def __init__(self, started: Processes, nanny: bool = False) -> None:
        self._started = started
        self._nanny = nanny
        self._port = free_port()
        self._workers = 0
        self.address = f"tcp://127.0.0.1:{self._port}"
        self.scheduler: Optional[subprocess.Popen[bytes]] = None
        self.workers: list[subprocess.Popen[bytes]] = []

    def start_scheduler(self) -> None:
        """Start the scheduler, again on the same port if it was started before."""
        self.scheduler = self._started.start(
            "scheduler",
            *("dask", "scheduler", "--host", "127.0.0.1", "--port", str(self._port)),
            "--no-dashboard",
        )

    def start_worker(self, **options: Any) -> subprocess.Popen[bytes]:
        """Start one more worker."""
        self._workers += 1
        worker = self._started.start(
            f"worker-{self._port}-{self._workers}",
            *("dask", "worker", self.address, "--nthreads", "1", "--no-dashboard"),
            *("--host", "127.0.0.1", "--local-directory", str(self._started.folder)),
            "--nanny" if self._nanny else "--no-nanny",
            **options,
        )
        self.workers.append(worker)
        return worker

    def wait_for_workers(self, number: int) -> None:
        """Wait until this many of the workers started last are connected."""
        names = [f"worker-{self._port}-{self._workers - n}" for n in range(number)]
        wait_until(
            "the workers",
            lambda: all("Registered to:" in self._started.said(name) for name in names),
        )

    def start(self) -> None:
        """Start a scheduler and two workers."""
        self.start_scheduler()
        self.start_worker()
        self.start_worker()


# ---- datasets, as they are on disk


def committed(dataset: Path) -> int:
    """Return how many records a dataset has."""
    audits = dataset / "audits"
    return len(list(audits.glob("*.parquet"))) if audits.exists() else 0


Row = dict[str, Any]

_OF_THE_RUN = ("audit_id", "audited_at", "seconds", "peak_memory_bytes", "worker", "attempts")
"""Columns of a record that describe the run, not the source."""


def records(dataset: Path) -> list[Row]:
    """Return all rows of all audits files; times in microseconds since the epoch."""
    # DuckDB needs pytz to return times to Python.
    return _rows(
        "SELECT * REPLACE (epoch_us(time) AS time, epoch_us(audited_at) AS audited_at) "
        f"FROM read_parquet('{dataset}/audits/*.parquet') ORDER BY source"
    )


def contents(dataset: Path) -> dict[str, tuple[Row, list[Row]]]:
    """Return the record and the tasks of each source, without the columns that describe the run.

    Asserts that no source is there twice, and that all tasks belong to a record.
    """
    if not committed(dataset):
        return {}
    rows = records(dataset)
    tasks: dict[str, list[Row]] = {row["audit_id"]: [] for row in rows}
    if list((dataset / "tasks").glob("*.parquet")):
        for row in _rows(
            f"SELECT * FROM read_parquet('{dataset}/tasks/*.parquet') ORDER BY audit_id, task"
        ):
            tasks[row.pop("audit_id")].append(row)
    found: dict[str, tuple[Row, list[Row]]] = {}
    for row in rows:
        assert row["source"] not in found
        assert len(tasks[row["audit_id"]]) == (row["tasks"] or 0)
        about = {name: value for name, value in row.items() if name not in _OF_THE_RUN}
        found[row["source"]] = about, tasks[row["audit_id"]]
    return found


def _rows(query: str) -> list[Row]:
    import duckdb

    with duckdb.connect() as database:
        result = database.execute(query)
        names = [column[0] for column in result.description]
        return [dict(zip(names, row)) for row in result.fetchall()]
