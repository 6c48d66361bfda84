# SPDX-License-Identifier: LGPL-2.1-or-later
"""Fleets of real dumps, whole and damaged, on a local cluster: each record is what a process says.

A small one of the bundled vmcore; one of 300 sources of all that the lab has.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

pytest.importorskip("distributed", reason="needs the extra drgn-tools[fleet]")
pytest.importorskip("pyarrow", reason="needs the extra drgn-tools[fleet]")
pytest.importorskip("duckdb", reason="needs the extra drgn-tools[fleet]")
pytest.importorskip("fsspec", reason="needs the extra drgn-tools[fleet]")
pytest.importorskip("tqdm", reason="needs the extra drgn-tools[fleet]")

from drgn_tools.data import demo_vmcore
from drgn_tools.fleet.run.cluster import Cluster

from ..conftest import GROUPS_VARIABLE, lab_dump, lab_file, lab_vmlinux, need_group
from ..lab.variants import variants_of
from ..support import damaged_cores as damaged
from ..support.fleet_answers import Answer, Record, differences, live_run, read_records, single_run
from ..support.fleet_sources import Expected, Given, Sources

ROOT = Path(__file__).parents[2]
LIMITS = ("--memory", "1G", "--retries", "1")
TOO_LARGE = Expected("memory limit", 137, "took more than 1024 MiB of memory")
SECONDS = 30
TOO_LONG = Expected("time limit", 124, f"took longer than {SECONDS} s")


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """One that is gone afterwards: what is in it is large."""
    yield tmp_path / "fleet"
    shutil.rmtree(tmp_path / "fleet", ignore_errors=True)


def fleet_run(dataset: Path, *arguments: str) -> tuple[int, str]:
    """Exit code and stderr of ``drgn-tools fleet run``."""
    done = subprocess.run(
        [sys.executable, "-m", "drgn_tools", "fleet", "run", *arguments, "-o", str(dataset)],
        capture_output=True,
        text=True,
        errors="surrogateescape",
        timeout=1800,
    )
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    # Five failures, that there are more, and how the run ended. How often it says how far it is depends on the machine.
    lines = [
        line for line in done.stderr.splitlines() if not re.match(r"\d+ of \d+ sources\b", line)
    ]
    assert len(lines) <= 10, done.stderr
    return done.returncode, done.stderr


# ---- a fleet of the bundled vmcore


SMALL_DAMAGES = ("list-loops", "hostile-names", "btf-types-length")


def test_a_small_fleet(demo_core: str, folder: Path) -> None:
    core = Path(demo_core)
    sources = Sources(folder)
    sources.copy(core)
    sources.list_copy(core)
    sources.with_odd_names(Path(demo_vmcore()))
    for path in damaged.in_memory(core, sources.room(), (1, 4), SMALL_DAMAGES):
        sources.found(path)
    for path in (*damaged.no_cores(sources.room()), *damaged.sparse(core, sources.room())):
        sources.found(path)
    for path in sources.no_files():
        sources.list_as_it_is(path)
    sources.found(damaged.of_much_memory(sources.room()), quarantined=TOO_LARGE)
    check(sources, folder / "dataset")


# ---- a fleet of what the lab has


@pytest.mark.lab
def test_a_fleet_of_300_sources(demo_core: str, folder: Path) -> None:
    need_group("crashes")
    need_group("formats")
    sources = Sources(folder)
    # First, so that others are done meanwhile.
    sources.found(damaged.of_much_time(sources.room()), quarantined=TOO_LONG)
    sources.found(damaged.of_much_memory(sources.room()), quarantined=TOO_LARGE)
    cores = list(lab_cores())
    for core in cores:
        sources.copy(core)
        sources.list_copy(core)
    add_symbols(sources)
    add_damaged(sources, Path(demo_core))
    sources.fill(300, cores)
    check(sources, folder / "dataset", "--time", str(SECONDS))


def lab_cores() -> Iterator[Path]:
    """Of the groups that are asked for, in every format."""
    for name in ("fp-lsb", "fp-v3", "debian"):
        yield lab_file(f"{name}.core")
    groups = os.environ.get(GROUPS_VARIABLE, "").split()
    for group in ("crashes", "formats", "kernels", "crashes-years", "stock", "crashes-stock"):
        for variant in variants_of(group) if group in groups else ():
            dump = lab_dump(variant)
            yield dump.core
            formats = dump.read_about().get("formats", ())
            for file in sorted(dump.core.parent.glob("core.*")):
                if file.suffix[1:].rstrip("12") in formats:
                    yield file


def add_symbols(sources: Sources) -> None:
    """Dumps with DWARF: of their kernel, of another, of nothing."""
    lsb, v3 = lab_vmlinux("fp-lsb"), lab_vmlinux("fp-v3")
    sources.list_copy(lab_file("fp-lsb.core"), [lsb])
    sources.list_copy(lab_file("fp-v3.core"), [v3])
    sources.list_copy(lab_file("fp-v3.core"), [lsb])
    sources.list_copy(lab_file("fp-lsb.core"), [lsb, v3])
    for group in ("formats", "crashes"):
        for variant in variants_of(group)[:2]:
            dump = lab_dump(variant)
            sources.list_copy(dump.core, [str(dump.read_about()["vmlinux"])])
    no_symbols = sources.folder / "text"
    no_symbols.write_text("no symbols\n")
    for path in (no_symbols, sources.folder, sources.folder / "gone"):
        sources.list_copy(lab_file("fp-lsb.core"), [str(path)])


def add_damaged(sources: Sources, demo_core: Path) -> None:
    """Everything that can be wrong with a source."""
    packed = Path(demo_vmcore())
    for core in (packed, packed, demo_core, demo_core):
        sources.copy(core)
    sources.with_odd_names(packed)
    dump = lab_dump(variants_of("formats")[0]).core
    small = [dump.with_name(f"core.{name}") for name in ("zlib", "lzo", "zstd", "flat")]
    for path in sources.no_files():
        sources.list_as_it_is(path)
    room = sources.room
    for files in (
        damaged.no_cores(room()),
        damaged.sparse(demo_core, room()),
        damaged.sparse(small[0], room()),
        damaged.in_memory(demo_core, room(), range(16)),
        damaged.cut_short(demo_core, room(), 3),
        damaged.cut_short(packed, room(), 1),
        *(damaged.cut_short(file, room(), 3) for file in small),
        damaged.with_turned_bits(demo_core, room(), range(4)),
        *(damaged.with_turned_bits(file, room(), range(6)) for file in small),
    ):
        for path in files:
            sources.found(path)


# ---- every record right


def check(sources: Sources, dataset: Path, *options: str) -> None:
    """Run a fleet of these; each record is what a process by itself says, and there is one each."""
    began = time.monotonic()
    code, said = fleet_run(dataset, *sources.arguments, *LIMITS, *options)
    took_s = time.monotonic() - began
    print(f"\n{said}{took_s:.1f} s in all")
    assert code == 5
    records = read_records(dataset)
    names = Counter(given.name for given in sources.given)
    assert max(names.values()) == 1
    assert records.keys() == names.keys()
    wrong = list(wrong_records(sources.given, records))
    assert not wrong, "\n".join(text[:500] for text in wrong)
    print_figures(records)
    assert not list(Path(dataset).rglob(".unfinished-*"))
    check_again(sources, dataset, records, *options)


def wrong_records(given: list[Given], records: dict[str, Record]) -> Iterator[str]:
    """In words: which source is not as it should be, and how."""
    contents = {one.alike: one for one in given if one.quarantined is None}
    began = time.monotonic()
    with ThreadPoolExecutor(2) as threads:
        asked = threads.map(lambda one: single_run(one.path, one.symbols), contents.values())
        answers: dict[str, Answer] = dict(zip(contents, asked))
    print(f"{len(answers)} processes by themselves: {time.monotonic() - began:.1f} s")
    codes = Counter(answer.exit_code for answer in answers.values())
    assert codes.keys() >= {0, 3, 4, 5}, "the sources are too much alike"
    for one in given:
        record = records[one.name]
        if one.quarantined is not None:
            found = quarantine_differences(record, one, one.quarantined)
        else:
            found = differences(record, one.path, answers[one.alike])
        yield from (f"{one.name}: {text}" for text in (*found, *fact_differences(record, one)))


def quarantine_differences(record: Record, given: Given, expected: Expected) -> Iterator[str]:
    audit = record.audit
    line = f"{given.name}: {expected.line}"
    found = (audit["status"], audit["cause"], audit["exit_code"], audit["line"])
    if found != ("failed", expected.cause, expected.exit_code, line):
        yield f"{found}, not {expected}"
    if not audit["quarantined"] or audit["attempts"] != 2:
        yield f"{audit['attempts']} attempts, quarantined: {audit['quarantined']}"


def fact_differences(record: Record, given: Given) -> Iterator[str]:
    """What was known of it beforehand."""
    audit = record.audit
    if given.facts:
        host, tags = given.facts["host"], given.facts["tags"]
        if (audit["host"], audit["tags"], audit["time_from"]) != (host, tags, "manifest"):
            yield f"host {audit['host']}, tags {audit['tags']}, time from {audit['time_from']}"
    elif audit["time_from"] == "file":
        # What the file's own clock says, to the microsecond.
        if abs(audit["time"] * 1000 - os.stat(given.path).st_mtime_ns) > 1000:
            yield f"time {audit['time']} is not that of the file"
    elif audit["time_from"] is None and audit["content_id"] is not None:
        yield "nothing is known of when it was"
    if os.path.isfile(given.path) and audit["size_bytes"] not in (
        None if audit["content_id"] is None else os.path.getsize(given.path),
    ):
        yield f"{audit['size_bytes']} bytes"


def print_figures(records: dict[str, Record]) -> None:
    """What a person wants to see of it."""
    audits = [record.audit for record in records.values()]
    causes = Counter((audit["status"], audit["cause"], audit["exit_code"]) for audit in audits)
    for (status, cause, code), count in sorted(causes.items(), key=str):
        print(f"  {count} {status}{f' ({cause})' if cause else ''}, exit code {code}")
    releases = Counter(audit["release"] for audit in audits if audit["release"])
    print(f"  kernels: {dict(releases)}")
    print(f"  tasks: {sum(audit['tasks'] or 0 for audit in audits)}")
    slowest = max(audits, key=lambda audit: audit["seconds"] or 0)
    largest = max(audits, key=lambda audit: audit["peak_memory_bytes"] or 0)
    print(f"  slowest: {slowest['seconds']:.1f} s, {slowest['source']!r}")
    print(f"  largest: {largest['peak_memory_bytes'] >> 20} MiB, {largest['source']!r}")


def check_again(sources: Sources, dataset: Path, before: dict[str, Record], *options: str) -> None:
    """The same command once more: what has content that can be read is not audited again."""
    code, said = fleet_run(dataset, *sources.arguments, *LIMITS, *options)
    print(said)
    assert code == 5
    after = read_records(dataset)
    assert after.keys() == before.keys()
    for name, record in after.items():
        same = record.audit["audit_id"] == before[name].audit["audit_id"]
        assert same == (record.audit["content_id"] is not None), name


# ---- the running kernel


def test_live_is_what_a_process_says(tmp_path: Path) -> None:
    check_live(tmp_path / "dataset")


def test_two_workers_on_a_host_look_at_one_kernel(tmp_path: Path) -> None:
    with Cluster(workers=2).client() as client:
        client.wait_for_workers(2, timeout=60)
        check_live(tmp_path / "dataset", "--scheduler", client.scheduler.address)


def test_a_scheduler_needs_no_drgn_tools(demo_core: str, tmp_path: Path) -> None:
    (tmp_path / "drgn_tools").mkdir()
    (tmp_path / "drgn_tools" / "__init__.py").write_text("raise ImportError('not here')\n")
    where = tmp_path / "scheduler.json"
    python = (sys.executable, "-m")
    options = ("--scheduler-file", str(where), "--no-dashboard")
    scheduler = (*python, "distributed.cli.dask_scheduler", *options)
    worker = (*python, "distributed.cli.dask_worker", *options, "--nworkers", "1")
    with (
        running([*scheduler, "--host", "127.0.0.1", "--port", "0"], tmp_path),
        running(worker, ROOT),
    ):
        wait_for(where)
        code, said = fleet_run(tmp_path / "dataset", demo_core, "--scheduler", str(where))
    assert code == 0, said


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < deadline, f"{path.name} does not come"
        time.sleep(0.1)


@contextmanager
def running(argv: Sequence[str], folder: Path) -> Iterator[None]:
    """A process with the modules of a folder, until it is not needed any more."""
    process = subprocess.Popen(
        argv,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield
    finally:
        process.terminate()
        process.wait(60)


def check_live(dataset: Path, *options: str) -> None:
    """One record, of what a process by itself says of this kernel: as root an audit, or why not."""
    code, said = fleet_run(dataset, "--live", *options)
    ((name, record),) = read_records(dataset).items()
    assert name.startswith(f"live:{socket.gethostname()}@")
    assert record.audit["host"] == socket.gethostname()
    assert record.audit["time_from"] == "now"
    assert abs(record.audit["time"] / 1e6 - time.time()) < 300
    answer = live_run()
    if answer.document is None:
        assert list(differences(record, name, answer)) == []
        assert code == 5
        assert "1 of 1 source: 0 audited, 0 partly unknown, 1 failed" in said
    else:
        # Tasks come and go; the kernel stays.
        kernel = answer.document["kernel"]
        assert {key: record.audit[key] for key in kernel if key != "source"} == {
            key: value for key, value in kernel.items() if key != "source"
        }
        assert len(record.tasks) > len(answer.document["tasks"]) / 2
