# SPDX-License-Identifier: LGPL-2.1-or-later
"""A run on ``dask scheduler`` and ``dask worker`` from the shell, with SIGKILL for each of them in the middle."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

pytest.importorskip("distributed", reason="needs the extra drgn-tools[fleet]")
pytest.importorskip("pyarrow", reason="needs the extra drgn-tools[fleet]")
pytest.importorskip("duckdb", reason="needs the extra drgn-tools[fleet]")
pytest.importorskip("fsspec", reason="needs the extra drgn-tools[fleet]")
pytest.importorskip("tqdm", reason="needs the extra drgn-tools[fleet]")

from drgn_tools.errors import EXIT_INPUT, EXIT_PARTIAL

from ..support.fleet_processes import (
    PATIENCE_S,
    DaskCluster,
    Processes,
    committed,
    contents,
    processes,
    records,
    wait_until,
)
from ..support.fleet_sources import Sources

SANDBOX = "drgn_tools.fleet.run.sandbox_process"
INTERRUPTED = 130
CORES = 18
FAILING = 6
LAB_PATIENCE_S = 900


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory, demo_core: str) -> Path:
    """A folder: copies of the demo core under names of their own, and what is none."""
    folder = tmp_path_factory.mktemp("crash")
    for number in range(CORES):
        os.symlink(demo_core, folder / f"vmcore-{number:02}")
    with open(demo_core, "rb") as core:
        start = core.read(1 << 20)
    for number in range(FAILING):
        content = (b"", b"no core at all\n", start)[number % 3]
        (folder / f"vmcore-{number * 4:02}-bad").write_bytes(content)
    return folder


@pytest.fixture(scope="module")
def undisturbed(sources: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The dataset of a run to which nothing happened."""
    folder = tmp_path_factory.mktemp("undisturbed")
    with processes(folder) as started:
        client = started.fleet_run("client", [sources], folder / "dataset")
        assert client.wait(PATIENCE_S) == EXIT_PARTIAL, started.said("client")
    found = contents(folder / "dataset")
    assert len(found) == CORES + FAILING
    assert sum(about["status"] == "audited" for about, _ in found.values()) == CORES
    return folder / "dataset"


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Processes]:
    with processes(tmp_path) as started:
        yield started


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    return tmp_path / "dataset"


@pytest.fixture
def cluster(started: Processes) -> DaskCluster:
    cluster = DaskCluster(started)
    cluster.start()
    return cluster


def killed(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGKILL)
    assert process.wait(PATIENCE_S) == -signal.SIGKILL


def wait_for_records(client: subprocess.Popen[bytes], dataset: Path, number: int) -> None:
    """Until so many are committed, and the client has not yet done."""
    wait_until(
        f"{number} records", lambda: committed(dataset) >= number or client.poll() is not None
    )
    assert client.poll() is None


def finished(started: Processes, client: subprocess.Popen[bytes]) -> None:
    assert client.wait(PATIENCE_S) == EXIT_PARTIAL, started.said("client")


def assert_nothing_lost(started: Processes, dataset: Path, undisturbed: Path) -> None:
    """The dataset is that of the undisturbed run, and when the cluster ends nothing is left."""
    assert contents(dataset) == contents(undisturbed)
    assert not list(dataset.glob("**/.unfinished-*"))
    started.end_all_but_orphans()
    wait_until("all processes gone", lambda: not started.alive())


def test_a_worker_is_killed(
    started: Processes, cluster: DaskCluster, sources: Path, dataset: Path, undisturbed: Path
) -> None:
    client = started.fleet_run("client", [sources], dataset, "--scheduler", cluster.address)
    wait_for_records(client, dataset, 6)
    killed(cluster.workers[0])
    cluster.start_worker()
    finished(started, client)
    # No sandbox outlives its run or its worker.
    wait_until("the sandboxes are gone", lambda: not started.alive(SANDBOX), 10)
    assert_nothing_lost(started, dataset, undisturbed)


def test_a_worker_with_a_nanny_is_killed(
    started: Processes, sources: Path, dataset: Path, undisturbed: Path
) -> None:
    cluster = DaskCluster(started, nanny=True)
    cluster.start()
    client = started.fleet_run("client", [sources], dataset, "--scheduler", cluster.address)
    for number in (4, 8):
        wait_for_records(client, dataset, number)
        # The parent of a sandbox process is a Dask worker.
        for pid in started.alive(SANDBOX)[:1]:
            with suppress(OSError):
                stat = Path(f"/proc/{pid}/stat").read_text()
                os.kill(int(stat.rpartition(")")[2].split()[1]), signal.SIGKILL)
    finished(started, client)
    assert_nothing_lost(started, dataset, undisturbed)


def test_the_client_is_killed(
    started: Processes, cluster: DaskCluster, sources: Path, dataset: Path, undisturbed: Path
) -> None:
    command = ([sources], dataset, "--scheduler", cluster.address)
    client = started.fleet_run("killed", *command)
    wait_for_records(client, dataset, 6)
    killed(client)
    before = {row["source"]: row["audit_id"] for row in records(dataset)}
    assert 6 <= len(before) < CORES + FAILING
    finished(started, started.fleet_run("client", *command))
    after = {row["source"]: row["audit_id"] for row in records(dataset)}
    changed = {source for source in before if after[source] != before[source]}
    assert not changed, "was done already"
    assert f"{len(before)} unchanged" in started.said("client")
    assert_nothing_lost(started, dataset, undisturbed)


def test_the_scheduler_is_killed(
    started: Processes, cluster: DaskCluster, sources: Path, dataset: Path, undisturbed: Path
) -> None:
    client = started.fleet_run("client", [sources], dataset, "--scheduler", cluster.address)
    wait_for_records(client, dataset, 6)
    assert cluster.scheduler is not None
    killed(cluster.scheduler)
    wait_until("it says so", lambda: "is gone; waiting for it" in started.said("client"))
    before = {row["source"]: row["audit_id"] for row in records(dataset)}
    cluster.start()
    finished(started, client)
    after = {row["source"]: row["audit_id"] for row in records(dataset)}
    assert before.items() <= after.items()
    assert "Traceback" not in started.said("client")
    assert_nothing_lost(started, dataset, undisturbed)


def assert_says_how_to_go_on(started: Processes, dataset: Path) -> None:
    *before, last = started.said("interrupted").splitlines()
    # There may be notes (the cluster has no worker yet), and on a busy machine a line of progress.
    known = re.compile(r"drgn-tools: (failed|note): |\d+ of \d+ sources, \d+ failed$")
    assert [line for line in before if not known.match(line)] == []
    assert last == (
        f"interrupted: {committed(dataset)} of {CORES + FAILING} sources are done; "
        "the same command continues from there"
    )


def test_ctrl_c(
    started: Processes, cluster: DaskCluster, sources: Path, dataset: Path, undisturbed: Path
) -> None:
    command = ([sources], dataset, "--scheduler", cluster.address)
    client = started.fleet_run("interrupted", *command)
    wait_for_records(client, dataset, 6)
    client.send_signal(signal.SIGINT)
    assert client.wait(PATIENCE_S) == INTERRUPTED
    assert_says_how_to_go_on(started, dataset)
    finished(started, started.fleet_run("client", *command))
    assert_nothing_lost(started, dataset, undisturbed)


def test_ctrl_c_on_a_cluster_of_its_own(
    started: Processes, sources: Path, dataset: Path, undisturbed: Path
) -> None:
    client = started.fleet_run("interrupted", [sources], dataset, start_new_session=True)
    wait_for_records(client, dataset, 6)
    os.killpg(client.pid, signal.SIGINT)  # as a terminal does
    assert client.wait(PATIENCE_S) == INTERRUPTED
    assert_says_how_to_go_on(started, dataset)
    wait_until("all processes gone", lambda: not started.alive(), 20)


def ignores_ctrl_c(pid: int) -> bool:
    status = Path(f"/proc/{pid}/status").read_text()
    (ignored,) = re.findall(r"^SigIgn:\s*(\w+)$", status, re.MULTILINE)
    return bool(int(ignored, 16) & 1 << (signal.SIGINT - 1))


def test_ctrl_c_while_the_cluster_starts(
    started: Processes, sources: Path, dataset: Path, undisturbed: Path
) -> None:
    client = started.fleet_run("interrupted", [sources], dataset, start_new_session=True)
    wait_until("it starts workers", lambda: ignores_ctrl_c(client.pid))
    # As timeout(1) does: to the process and to its group.
    client.send_signal(signal.SIGINT)
    os.killpg(client.pid, signal.SIGINT)
    assert client.wait(PATIENCE_S) == INTERRUPTED
    assert_says_how_to_go_on(started, dataset)
    wait_until("all processes gone", lambda: not started.alive(), 20)


def test_the_client_is_killed_with_a_cluster_of_its_own(
    started: Processes, sources: Path, dataset: Path, undisturbed: Path
) -> None:
    client = started.fleet_run("killed", [sources], dataset)
    wait_for_records(client, dataset, 6)
    killed(client)
    wait_until("all processes gone", lambda: not started.alive(), 30)
    finished(started, started.fleet_run("client", [sources], dataset))
    assert_nothing_lost(started, dataset, undisturbed)


def test_two_clients(
    started: Processes,
    cluster: DaskCluster,
    sources: Path,
    dataset: Path,
    tmp_path: Path,
    undisturbed: Path,
) -> None:
    where = ("--scheduler", cluster.address)
    client = started.fleet_run("client", [sources], dataset, *where)
    other = started.fleet_run("other", [sources], tmp_path / "other", *where)
    wait_for_records(client, dataset, 2)
    third = started.fleet_run("third", [sources], dataset, *where)
    assert third.wait(PATIENCE_S) == EXIT_INPUT
    assert started.said("third") == (
        f"drgn-tools: error: {dataset}: another fleet run is writing to it; "
        "wait for it, or give another folder\n"
    )
    finished(started, client)
    finished(started, other)
    assert contents(tmp_path / "other") == contents(undisturbed)
    assert_nothing_lost(started, dataset, undisturbed)


@pytest.mark.lab
def test_300_sources_and_all_of_it(started: Processes, demo_core: str, tmp_path: Path) -> None:
    """Worker, client, Ctrl-C, scheduler: one after the other in a fleet of all that the lab has."""
    from ..conftest import need_group
    from ..support import damaged_cores as damaged
    from .test_lab import add_symbols, lab_cores

    need_group("crashes")
    need_group("formats")
    sources = Sources(tmp_path / "fleet")
    cores = list(lab_cores())
    for core in cores:
        sources.copy(core)
    add_symbols(sources)
    sources.with_odd_names(Path(demo_core))
    for path in damaged.no_cores(sources.room()):
        sources.found(path)
    sources.fill(300, cores)
    options = ("--retries", "1")
    began = time.monotonic()
    client = started.fleet_run("undisturbed", sources.arguments, tmp_path / "undisturbed", *options)
    assert client.wait(LAB_PATIENCE_S) == EXIT_PARTIAL, started.said("undisturbed")
    print(f"\n300 sources undisturbed: {time.monotonic() - began:.1f} s")

    began = time.monotonic()
    cluster = DaskCluster(started)
    cluster.start()
    dataset = tmp_path / "dataset"
    command = (sources.arguments, dataset, "--scheduler", cluster.address, *options)

    def run_up_to(number: int, name: str) -> subprocess.Popen[bytes]:
        client = started.fleet_run(name, *command)
        wait_until(f"{number} records", lambda: committed(dataset) >= number, LAB_PATIENCE_S)
        assert client.poll() is None, started.said(name)
        return client

    client = run_up_to(30, "first")
    killed(cluster.workers[0])
    cluster.start_worker()
    wait_until("60 records", lambda: committed(dataset) >= 60, LAB_PATIENCE_S)
    killed(client)
    client = run_up_to(100, "second")
    client.send_signal(signal.SIGINT)
    assert client.wait(PATIENCE_S) == INTERRUPTED
    client = run_up_to(140, "third")
    assert cluster.scheduler is not None
    killed(cluster.scheduler)
    cluster.start()
    wait_until("180 records", lambda: committed(dataset) >= 180, LAB_PATIENCE_S)
    for worker in cluster.workers[-2:]:
        killed(worker)
        cluster.start_worker()
    assert client.wait(LAB_PATIENCE_S) == EXIT_PARTIAL, started.said("third")
    print(f"with SIGKILL for all: {time.monotonic() - began:.1f} s")
    assert len(records(dataset)) == len(sources.given) >= 300
    assert_nothing_lost(started, dataset, tmp_path / "undisturbed")
    shutil.rmtree(tmp_path / "fleet")
