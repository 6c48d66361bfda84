# SPDX-License-Identifier: LGPL-2.1-or-later
"""``drgn-tools fleet run`` as a command: what is done again, what is refused in a line, and the exit code."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import sysconfig
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Optional

import pytest

from drgn_tools import __version__
from drgn_tools.commands.main import main
from drgn_tools.errors import EXIT_INPUT, EXIT_OK, EXIT_PARTIAL, EXIT_USAGE
from drgn_tools.terminal.console import EXIT_OUTPUT

from ..end_to_end.test_vmcoreinfo_fit import core_with, of_another_boot, vmcoreinfo_of
from ..support.fleet_processes import (
    PATIENCE_S,
    ROOT,
    DaskCluster,
    Processes,
    processes,
    records,
    wait_until,
)

EXTRA = ("distributed", "duckdb", "fsspec", "pyarrow", "tqdm")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaskCluster]:
    """For all runs here, which saves the start of one for each."""
    for module in EXTRA:
        pytest.importorskip(module, reason="needs the extra drgn-tools[fleet]")
    with processes(tmp_path_factory.mktemp("cluster")) as started:
        cluster = DaskCluster(started)
        cluster.start()
        yield cluster


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Processes]:
    folder = tmp_path / "logs"
    folder.mkdir()
    with processes(folder) as started:
        yield started


@pytest.fixture
def crash(tmp_path: Path, demo_core: str) -> Path:
    """A folder of two cores, one of them packed, and three that are none."""
    from drgn_tools.data import demo_vmcore

    folder = tmp_path / "crash"
    folder.mkdir()
    os.symlink(demo_core, folder / "vmcore-a")
    shutil.copy(str(demo_vmcore()), folder / "vmcore-b.packed")
    for number in range(3):
        (folder / f"vmcore-{number}").write_text(f"no core {number}")
    return folder


class Run:
    """Runs into one dataset; after each, what it did is there."""

    def __init__(self, started: Processes, cluster: DaskCluster, dataset: Path) -> None:
        self._started = started
        self._where = ("--scheduler", cluster.address)
        self._audits: dict[str, str] = {}
        self._number = 0
        self.dataset = dataset
        self.said = ""

    def __call__(self, sources: Sequence[object], *options: str, expect: int) -> set[str]:
        """Last parts of the names of the sources that were audited."""
        self._number += 1
        name = f"run-{self._number}"
        client = self._started.fleet_run(name, sources, self.dataset, *self._where, *options)
        code = client.wait(PATIENCE_S)
        self.said = self._started.said(name)
        assert code == expect, self.said
        assert "Traceback" not in self.said
        before, self._audits = (
            self._audits,
            {row["source"]: row["audit_id"] for row in records(self.dataset)},
        )
        return {
            os.path.basename(source)
            for source, audit_id in self._audits.items()
            if before.get(source) != audit_id
        }


@pytest.fixture
def run(started: Processes, cluster: DaskCluster, tmp_path: Path) -> Run:
    return Run(started, cluster, tmp_path / "dataset")


# ---- what is done again

CORES = {"vmcore-a", "vmcore-b.packed"}
OTHERS = {"vmcore-0", "vmcore-1", "vmcore-2"}


def test_the_same_again_does_what_is_missing_or_changed(run: Run, crash: Path) -> None:
    assert run([crash], expect=EXIT_PARTIAL) == CORES | OTHERS
    assert "5 of 5 sources: 2 audited, 0 partly unknown, 3 failed\n" in run.said

    assert run([crash], expect=EXIT_PARTIAL) == set()
    assert "5 of 5 sources: 0 audited, 0 partly unknown, 0 failed, 5 unchanged\n" in run.said

    os.utime(crash / "vmcore-0", (1, 1))  # the content is the same
    (crash / "vmcore-1").write_text("no core !")  # as long as before
    (crash / "vmcore-2").unlink()
    (crash / "vmcore-new").touch()
    assert run([crash], expect=EXIT_PARTIAL) == {"vmcore-1", "vmcore-new"}
    assert "2 failed, 3 unchanged\n" in run.said
    # What is no source any more keeps its record.
    assert len(records(run.dataset)) == 6

    assert run([crash], "--redo", "failed", expect=EXIT_PARTIAL) == {
        "vmcore-0",
        "vmcore-1",
        "vmcore-new",
    }
    assert run([crash / "vmcore-a"], "--redo", "all", expect=EXIT_OK) == {"vmcore-a"}
    assert run([crash / "vmcore-a"], "--max-tasks", "7", expect=EXIT_PARTIAL) == {"vmcore-a"}
    assert "7 tasks" in run.said


def test_other_facts_are_another_record(run: Run, crash: Path) -> None:
    manifest = crash / "fleet.jsonl"

    def with_host(host: str) -> list[Path]:
        entry = {"core": "vmcore-0", "host": host, "time": "2026-11-22", "tags": {"rack": "r1"}}
        manifest.write_text(json.dumps(entry))
        return [manifest]

    assert run(with_host("web-1"), expect=EXIT_PARTIAL) == {"vmcore-0"}
    assert run(with_host("web-1"), expect=EXIT_PARTIAL) == set()
    assert run(with_host("web-2"), expect=EXIT_PARTIAL) == {"vmcore-0"}
    (record,) = records(run.dataset)
    assert (record["host"], record["tags"]) == ("web-2", {"rack": "r1"})
    assert (record["time"], record["time_from"]) == (1795305600 * 1_000_000, "manifest")


def test_vmcoreinfo_that_does_not_fit(run: Run, crash: Path, demo_core: str) -> None:
    good = vmcoreinfo_of(demo_core)
    for name, kept in (("vmcore-moved", True), ("vmcore-lost", False)):
        core_with(demo_core, crash / name, of_another_boot(good), kept)
    dumps = [crash / name for name in ("vmcore-a", "vmcore-moved", "vmcore-lost")]

    def said_of() -> dict[str, str]:
        rows = {os.path.basename(row["source"]): row for row in records(run.dataset)}
        for name, row in rows.items():
            if row["status"] == "audited":
                assert row["tasks"] == rows["vmcore-a"]["tasks"] > 100, name
        return {name: row["line"] or row["status"] for name, row in rows.items()}

    run(dumps, expect=EXIT_PARTIAL)
    said = said_of()
    assert said["vmcore-a"] == "audited"
    for name in ("vmcore-moved", "vmcore-lost"):
        assert "its VMCOREINFO does not fit its memory" in said[name]
        assert "--vmcoreinfo auto" in said[name]

    assert run(dumps, "--vmcoreinfo", "auto", expect=EXIT_PARTIAL) == {d.name for d in dumps}
    said = said_of()
    assert (said["vmcore-a"], said["vmcore-moved"]) == ("audited", "audited")
    assert "its memory was searched for VMCOREINFO: none found" in said["vmcore-lost"]
    assert run(dumps, "--vmcoreinfo", "auto", expect=EXIT_PARTIAL) == set()

    # One that is in no memory is given for this dump alone.
    (crash / "info").write_text(good)
    manifest = crash / "fleet.jsonl"
    manifest.write_text(json.dumps({"core": "vmcore-lost", "vmcoreinfo": "info"}))
    run([manifest], "--vmcoreinfo", "auto", expect=EXIT_OK)
    assert said_of()["vmcore-lost"] == "audited"
    (crash / "info").write_text(of_another_boot(good))
    assert run([manifest], expect=EXIT_PARTIAL) == {"vmcore-lost"}


def test_limit(run: Run, crash: Path) -> None:
    texts = [crash / name for name in sorted(OTHERS)]
    done: set[str] = set()
    for number in (1, 2):
        done |= run(texts, "--limit", "1", expect=EXIT_PARTIAL)
        assert len(done) == number
    assert "1 of 3 sources" in run.said
    assert run(texts, "--limit", "2", expect=EXIT_PARTIAL) == OTHERS - done
    # What is unchanged is no audit: it must not keep a run from what changed.
    for name in sorted(OTHERS):
        (crash / name).write_text("something else")
        assert run(texts, "--limit", "1", expect=EXIT_PARTIAL) == {name}


def test_names_that_are_no_utf8(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "names"
    folder.mkdir()
    name = os.fsdecode(b"vmcore-\xff\x1b[31m\n")
    (folder / name).write_text("no core")
    assert run([folder], expect=EXIT_PARTIAL) == {"vmcore-\\xff\x1b[31m\n"}
    assert "\x1b" not in run.said
    (record,) = records(run.dataset)
    assert record["line"].isprintable()


# ---- where it cannot be done


def test_a_worker_that_cannot_start_a_process(
    started: Processes, crash: Path, tmp_path: Path
) -> None:
    # As after an upgrade of its Python.
    python = tmp_path / "python"
    python.symlink_to(os.path.realpath(sys.executable))
    cluster = DaskCluster(started)
    cluster.start_scheduler()
    path = f"{ROOT}:{sysconfig.get_path('purelib')}"
    cluster.start_worker(python=str(python), environment={"PYTHONPATH": path})
    cluster.wait_for_workers(1)
    python.unlink()
    run = Run(started, cluster, tmp_path / "dataset")
    assert run([crash / "vmcore-0"], "--retries", "1", expect=EXIT_PARTIAL) == {"vmcore-0"}
    (record,) = records(run.dataset)
    assert (record["cause"], record["exit_code"], record["attempts"]) == ("bug", 70, 2)
    assert "FileNotFoundError" in record["line"]


def test_workers_without_drgn_tools_or_with_another(
    started: Processes, tmp_path: Path, demo_core: str
) -> None:
    other = tmp_path / "other"
    shutil.copytree(ROOT / "drgn_tools", other / "drgn_tools")
    (other / "drgn_tools" / "__init__.py").write_text('__version__ = "99"\n')
    expected = (
        f"expected drgn-tools {__version__}; install the same drgn-tools[fleet] on every worker"
    )
    for path, found in (("", "no drgn_tools"), (str(other), "drgn-tools 99")):
        if not path and installed_elsewhere():
            continue
        cluster = DaskCluster(started)
        cluster.start_scheduler()
        cluster.start_worker(environment={"PYTHONPATH": path}, cwd="/")
        cluster.wait_for_workers(1)
        name = f"client {found}"
        where = ("--scheduler", cluster.address)
        client = started.fleet_run(name, [demo_core], tmp_path / "dataset", *where)
        assert client.wait(PATIENCE_S) == EXIT_INPUT
        said = started.said(name)
        assert said.startswith("drgn-tools: error: worker tcp://127.0.0.1:")
        assert said.endswith(f": has {found}, {expected}\n")
        assert said.count("\n") == 1


def installed_elsewhere() -> bool:
    """Is drgn_tools found without this folder?"""
    command = [sys.executable, "-c", "import drgn_tools"]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return not subprocess.run(
        command, cwd="/", env=environment, stderr=subprocess.DEVNULL
    ).returncode


def test_a_cluster_without_workers_is_waited_for(
    started: Processes, crash: Path, tmp_path: Path
) -> None:
    cluster = DaskCluster(started)
    cluster.start_scheduler()
    client = started.fleet_run(
        "client", [crash / "vmcore-0"], tmp_path / "dataset", "--scheduler", cluster.address
    )
    said = "drgn-tools: note: the cluster has no worker; waiting for one\n"
    wait_until("it says so", lambda: started.said("client") == said)
    cluster.start_worker()
    assert client.wait(PATIENCE_S) == EXIT_PARTIAL


def test_a_full_disk(started: Processes, cluster: DaskCluster, crash: Path, tmp_path: Path) -> None:
    # Its own file system of 64 KiB: that of one record has no room beside that of its tasks.
    dataset = tmp_path / "dataset"
    dataset.mkdir()
    mount = f"mount -t tmpfs -o size=64k none {dataset}"
    unshare = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    if subprocess.run([*unshare, mount], stderr=subprocess.DEVNULL).returncode:
        pytest.skip("needs unshare --user --mount")
    command = [sys.executable, "-m", "drgn_tools", "fleet", "run", str(crash), "-o", str(dataset)]
    done = subprocess.run(
        [*unshare, f'{mount} && "$@"', "sh", *command, "--scheduler", cluster.address],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == EXIT_OUTPUT
    assert done.stderr.splitlines()[-1] == (
        f"drgn-tools: error: cannot write to {dataset}: No space left on device"
    )


# ---- what is wrong with a command line, before anything is done


def refusal(capfd: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """Exit code, and the one line, of ``drgn-tools fleet``."""
    code = main(["fleet", *arguments])
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith("drgn-tools: error: ")
    assert err.endswith("\n")
    assert err[:-1].isprintable()
    return code, err[len("drgn-tools: error: ") : -1]


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ("", "COMMAND"),
        ("walk", "walk"),
        ("run", "-o"),
        ("run -o d", "give sources (cores, folders, manifests, URLs) or --live"),
        ("run a", "-o"),
        ("run a -o", "-o"),
        ("run a -o d --workers 0", "--workers"),
        ("run a -o d --workers 2 --scheduler tcp://h:1", "--workers"),
        ("run a -o d --time 0", "--time takes a time up to 7 days, as in 90, 10m or 2h, not '0'"),
        ("run a -o d --time -1", "--time"),
        ("run a -o d --time nan", "not 'nan'"),
        ("run a -o d --time 1e5", "not '1e5'"),
        ("run a -o d --time 8000h", "not '8000h'"),
        (
            "run a -o d --vmcoreinfo info",
            "fleet run: --vmcoreinfo takes auto only, because a file fits one dump; "
            'name it with "vmcoreinfo" in a manifest',
        ),
        (
            "run a -o d --memory 1M",
            "--memory takes a size of at least 128M, as in 2G, not '1M'",
        ),
        ("run a -o d --memory lots", "not 'lots'"),
        ("run a -o d --memory -1G", "--memory"),
        ("run a -o d --retries -1", "--retries"),
        ("run a -o d --retries 1000", "--retries takes a number up to 999, not '1000'"),
        ("run a -o d --limit 0", "--limit"),
        ("run a -o d --max-tasks 0", "--max-tasks"),
        ("run a -o d --redo some", "--redo"),
        ("run a -o d --format json", "--format"),
        ("report", "DATASET"),
        ("report d --html p --sql x", "--html writes a complete page"),
        ("report d --html p --section x", "--html writes a complete page"),
        ("report d --section x --sql x", "--sql and --section exclude each other"),
        ("report d --top 0", "--top"),
    ],
)
def test_usage(arguments: str, why: str, capfd: pytest.CaptureFixture[str]) -> None:
    code, line = refusal(capfd, *arguments.split())
    assert code == EXIT_USAGE
    assert why in line


def run_refusal(
    capfd: pytest.CaptureFixture[str], source: object, dataset: Path, *options: str
) -> tuple[int, str]:
    return refusal(capfd, "run", str(source), "-o", str(dataset), *options)


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("nonsense", "missing port number"),
        ("tcp://", "missing port number"),
        ("tcp://127.0.0.1", "missing port number"),
        ("tcp://127.0.0.1:99999", "there is no such port"),
        ("tcp://127.0.0.1:\x1b[31m", r"not 'tcp://127.0.0.1:\x1b[31m'"),
        ("http://127.0.0.1:8786", "unknown address scheme 'http'"),
    ],
)
def test_an_address_where_no_scheduler_can_be(
    address: str, why: str, crash: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("distributed", reason="needs the extra drgn-tools[fleet]")
    for more in ((), ("--live",)):
        code, line = run_refusal(capfd, crash, tmp_path / "dataset", "--scheduler", address, *more)
        assert code == EXIT_USAGE
        assert line.startswith(
            "--scheduler takes tcp://HOST:PORT, or a scheduler file (*.json), not "
        )
        assert why in line


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (None, "No such file or directory"),
        ("", "it is not a scheduler file"),
        ("[]", "it is not a scheduler file"),
        ("{}", "it is not a scheduler file"),
    ],
)
def test_a_scheduler_file_that_is_none(
    content: str, why: str, crash: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("distributed", reason="needs the extra drgn-tools[fleet]")
    path = tmp_path / "scheduler.json"
    if content is not None:
        path.write_text(content)
    code, line = run_refusal(capfd, crash, tmp_path / "dataset", "--scheduler", str(path))
    assert code == EXIT_INPUT
    assert line.startswith(f"{path}: no Dask scheduler answers there: ")
    assert why in line


class SomebodyElse:
    """A server that says one thing, and is no Dask scheduler."""

    def __init__(self, says: bytes) -> None:
        self._says = says
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.address = f"tcp://127.0.0.1:{self._socket.getsockname()[1]}"
        self._connections: list[socket.socket] = []
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._socket.accept()
                self._connections.append(connection)
                connection.sendall(self._says)

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        for each in (self._socket, *self._connections):
            each.close()


@pytest.mark.parametrize(
    "says", [None, b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"SSH-2.0-OpenSSH_9.6\r\n", bytes(64)]
)
def test_nobody_there_or_somebody_else(
    says: Optional[bytes],
    crash: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for module in EXTRA:
        pytest.importorskip(module, reason="needs the extra drgn-tools[fleet]")
    from drgn_tools.fleet.run import cluster as cluster_module

    monkeypatch.setattr(cluster_module, "_CONNECT_S", 1.0)
    server = SomebodyElse(says or b"")
    try:
        if says is None:
            server.close()
        code, line = run_refusal(capfd, crash, tmp_path / "dataset", "--scheduler", server.address)
    finally:
        if says is not None:
            server.close()
    assert code == EXIT_INPUT
    assert line.startswith(f"{server.address}: no Dask scheduler answers there: ")


def test_what_cannot_be_a_source_or_a_dataset(
    crash: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for module in EXTRA:
        pytest.importorskip(module, reason="needs the extra drgn-tools[fleet]")
    dataset = tmp_path / "dataset"
    (tmp_path / "empty").mkdir()
    assert run_refusal(capfd, tmp_path / "nothing", dataset)[0] == EXIT_USAGE
    assert run_refusal(capfd, tmp_path / "empty", dataset) == (
        EXIT_USAGE,
        "fleet run: there is no core among the sources",
    )
    assert not dataset.exists(), "found before anything is written"
    code, line = run_refusal(capfd, crash, crash)
    assert code == EXIT_INPUT
    assert line == f"{crash}: is a folder with other files in it; give a new or an empty folder"


# ---- without the extra

WITHOUT = """
import sys
for name in sys.argv[1].split(","):
    sys.modules[name] = None
from drgn_tools.commands.main import main
sys.exit(main(sys.argv[2:]))
"""


def without(modules: Sequence[str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", WITHOUT, ",".join(modules), "fleet", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )


@pytest.mark.parametrize("missing", [EXTRA, ("duckdb",), ("distributed", "tqdm")], ids=",".join)
def test_without_the_extra(missing: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "vmcore").touch()
    dataset = str(tmp_path / "dataset")
    for command in (("run", str(tmp_path), "-o", dataset), ("report", dataset)):
        done = without(missing, *command)
        assert done.returncode == EXIT_USAGE
        assert done.stdout == ""
        assert done.stderr.startswith("drgn-tools: error: fleet needs ")
        assert ", ".join(missing) in done.stderr
        assert done.stderr.endswith(" (in a clone of drgn-tools: pip install '.[fleet]')\n")
        assert done.stderr.count("\n") == 1
    assert not os.path.exists(dataset)


def test_help_needs_no_extra() -> None:
    for arguments in (("--help",), ("run", "--help"), ("report", "--help")):
        done = without(EXTRA, *arguments)
        assert (done.returncode, done.stderr) == (EXIT_OK, "")
        assert "usage: drgn-tools fleet" in done.stdout


def test_forget(
    crash: Path, cluster: DaskCluster, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    dataset = tmp_path / "dataset"
    arguments = ["fleet", "run", str(crash), "-o", str(dataset), "--scheduler", cluster.address]
    assert main(arguments) == EXIT_PARTIAL
    there = {path.name for path in (dataset / "audits").iterdir()}
    capfd.readouterr()
    assert main(["fleet", "forget", str(dataset), f"{crash}/vmcore-0", f"{crash}/*-1"]) == EXIT_OK
    assert capfd.readouterr().err == (f"removed: {crash}/vmcore-0\nremoved: {crash}/vmcore-1\n")
    left = {path.name for path in (dataset / "audits").iterdir()}
    assert left < there and len(there - left) == 2
    assert main(["fleet", "forget", str(dataset), f"{crash}/vmcore-0"]) == EXIT_USAGE
    assert f"{dataset}: has no source {crash}/vmcore-0\n" in capfd.readouterr().err
