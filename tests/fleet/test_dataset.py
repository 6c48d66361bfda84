# SPDX-License-Identifier: LGPL-2.1-or-later
"""A dataset on disk: whole files or none, one record a source, one run at a time, whatever is killed or full."""

from __future__ import annotations

import builtins
import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Callable

import pytest

pytest.importorskip("pyarrow", reason="needs the extra drgn-tools[fleet]")

from drgn_tools.errors import InputError
from drgn_tools.fleet.dataset.dataset import Dataset, source_key
from drgn_tools.fleet.dataset.schema import SCHEMA

from ..support.fleet_processes import ROOT, wait_until


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    return Dataset.create(tmp_path / "dataset")


def files(dataset: Dataset) -> dict[str, bytes]:
    """All there is, by its name."""
    return {
        f"{folder.name}/{file.name}": file.read_bytes()
        for folder in (dataset.audits, dataset.tasks)
        for file in folder.iterdir()
    }


def refusal(call: Callable[[Path], object], path: Path) -> str:
    with pytest.raises(InputError) as raised:
        call(path)
    message = str(raised.value)
    assert message.isprintable()
    assert message.startswith(str(path))
    return message[len(str(path)) :]


# ---- what is one


def test_a_new_one(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b"
    Dataset.create(path)
    assert json.loads((path / "dataset.json").read_text()) == {"schema": SCHEMA}
    assert Dataset.open(path).audits.is_dir()


def test_one_that_is_there_is_left_as_it_is(dataset: Dataset) -> None:
    dataset.commit("key", "1", b"audit", b"tasks")
    before = files(dataset)
    assert files(Dataset.create(dataset.path)) == before


def test_what_is_none(tmp_path: Path) -> None:
    assert refusal(Dataset.open, tmp_path / "nothing").startswith(": is not a dataset")
    assert refusal(Dataset.open, tmp_path).startswith(": is not a dataset")
    (tmp_path / "file").write_text("x")
    assert refusal(Dataset.open, tmp_path / "file").startswith(": is not a dataset")
    assert refusal(Dataset.create, tmp_path / "file") == ": is a file; a dataset is a folder"
    assert refusal(Dataset.create, tmp_path).startswith(": is a folder with other files in it")
    assert os.listdir(tmp_path) == ["file"], "nothing was put there"


def test_a_name_that_the_file_system_refuses(tmp_path: Path) -> None:
    # So does a folder that may not be searched: the check alone whether it exists fails.
    path = tmp_path / ("x" * 300)
    assert refusal(Dataset.open, path) == ": cannot be read: File name too long"
    assert refusal(Dataset.create, path) == ": cannot be made into a dataset: File name too long"


@pytest.mark.parametrize(
    "about", ["", "{", "[]", "5", '"x"', "{}", "\0", '{"schema', "\udcff"], ids=repr
)
def test_a_damaged_one(about: str, dataset: Dataset) -> None:
    (dataset.path / "dataset.json").write_bytes(os.fsencode(about))
    assert refusal(Dataset.open, dataset.path).startswith(": is not a dataset")
    assert refusal(Dataset.create, dataset.path).startswith(": is a folder with other files")


@pytest.mark.parametrize(
    "schema", ["drgn-tools.fleet/2", "drgn-tools.fleet/", "x\x1b[31m", None, 1]
)
def test_another_schema(schema: object, dataset: Dataset) -> None:
    (dataset.path / "dataset.json").write_text(json.dumps({"schema": schema}))
    for call in (Dataset.open, Dataset.create):
        assert f"expected {SCHEMA}" in refusal(call, dataset.path)


# ---- one record a source


def test_keys_are_of_the_name_and_for_ever() -> None:
    assert source_key("/var/crash/vmcore") == "0561007ebb9bac86d1cf"
    names = [f"/var/crash/{n}/vmcore" for n in range(10_000)] + ["", "ö", "\udcff", "a/../b", "b"]
    assert len({source_key(name) for name in names}) == len(names)


def test_a_new_record_takes_the_place_of_the_old(dataset: Dataset) -> None:
    dataset.commit("aa", "1", b"audit 1", b"tasks 1")
    dataset.commit("ab", "2", b"audit 2", b"tasks 2")
    dataset.commit("aa", "3", b"audit 3", b"tasks 3")
    # Who reads the dataset at this time may have the record that was replaced.
    assert files(dataset)["tasks/aa-1.parquet"] == b"tasks 1"
    dataset.remove_tasks_except({"2", "3"})
    assert files(dataset) == {
        "audits/aa.parquet": b"audit 3",
        "tasks/aa-3.parquet": b"tasks 3",
        "audits/ab.parquet": b"audit 2",
        "tasks/ab-2.parquet": b"tasks 2",
    }
    dataset.commit("aa", "4", b"failure", None)
    dataset.remove_tasks_except({"2", "4"})
    assert sorted(files(dataset)) == [
        "audits/aa.parquet",
        "audits/ab.parquet",
        "tasks/ab-2.parquet",
    ]


def test_the_record_comes_last(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    replace = os.replace

    def note_replace(source: Path, target: Path) -> None:
        order.append(f"+{target.parent.name}")
        replace(source, target)

    dataset.commit("aa", "1", b"audit", b"tasks")
    monkeypatch.setattr(os, "replace", note_replace)
    dataset.commit("aa", "2", b"audit", b"tasks")
    # A reader between any two of these sees the tasks of the record that is there.
    assert order == ["+tasks", "+audits"]


# ---- killed in the middle

WRITER = """
import sys
from pathlib import Path
from drgn_tools.fleet.dataset.dataset import Dataset
dataset = Dataset.create(Path(sys.argv[1]))
with dataset.locked():
    print("ready", flush=True)
    for n in range(1000000):
        byte = bytes((n % 256,))
        dataset.commit(f"key-{n % 3}", f"{n % 256:02x}", byte * 3_000_000, byte * 2_000_000)
"""


def test_a_writer_that_is_killed_leaves_nothing_half(tmp_path: Path) -> None:
    path = tmp_path / "dataset"
    for attempt in range(5):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path)], cwd=ROOT, stdout=subprocess.PIPE
        )
        with writer:
            assert writer.stdout is not None
            assert writer.stdout.readline() == b"ready\n"
            wait_until("records", lambda: len(list((path / "audits").glob("key-*"))) == 3)
            time.sleep(0.013 * attempt)  # anywhere in a commit
            writer.send_signal(signal.SIGKILL)
        dataset = Dataset.open(path)
        audits = list(dataset.audits.glob("*.parquet"))
        assert len(audits) == 3
        for audit in audits:
            content = audit.read_bytes()
            assert content == content[:1] * 3_000_000
            tasks = (dataset.tasks / f"{audit.stem}-{content[0]:02x}.parquet").read_bytes()
            assert tasks == content[:1] * 2_000_000
        with dataset.locked():
            assert not list(path.glob("**/.unfinished-*"))


def killed_at(step: int, commit: Callable[[], None]) -> bool:
    """Do *commit* in a process that is killed before its system call of that number; false if it has done."""
    pid = os.fork()
    if pid:
        _, status = os.waitpid(pid, 0)
        return os.WIFSIGNALED(status)
    left = step

    def stepped(call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any, **options: Any) -> Any:
            nonlocal left
            if not left:
                os.kill(os.getpid(), signal.SIGKILL)
            left -= 1
            return call(*arguments, **options)

        return counted

    builtins.open = stepped(open)  # type: ignore[assignment]
    os.fsync, os.replace = stepped(os.fsync), stepped(os.replace)
    try:
        commit()
    finally:
        os._exit(0)


def test_a_writer_that_is_killed_at_each_step(dataset: Dataset) -> None:
    steps = 0
    while True:
        dataset.commit("aa", "1", b"audit 1", b"tasks 1")
        # A process that is killed has made no record, or all of it.
        was_killed = killed_at(steps, lambda: dataset.commit("aa", "2", b"audit 2", b"tasks 2"))
        found = files(dataset)
        number = found["audits/aa.parquet"][-1:].decode()
        assert found["audits/aa.parquet"] == f"audit {number}".encode()
        assert found[f"tasks/aa-{number}.parquet"] == f"tasks {number}".encode()
        assert was_killed or number == "2"
        with dataset.locked():  # the next run
            dataset.remove_tasks_except({number})
            assert sorted(files(dataset)) == ["audits/aa.parquet", f"tasks/aa-{number}.parquet"]
        if not was_killed:
            break
        steps += 1
    assert steps == 6  # open, fsync and rename, of the tasks and of the record


def test_what_a_killed_run_left_half_written_goes_with_the_next(dataset: Dataset) -> None:
    for folder in (dataset.path, dataset.audits, dataset.tasks):
        (folder / ".unfinished-0123").write_bytes(b"half")
    dataset.commit("aa", "1", b"audit", b"tasks")
    with dataset.locked():
        assert sorted(files(dataset)) == ["audits/aa.parquet", "tasks/aa-1.parquet"]
    assert sorted(os.listdir(dataset.path)) == ["audits", "dataset.json", "lock", "tasks"]


# ---- one run at a time


def test_the_lock(dataset: Dataset) -> None:
    with dataset.locked():
        with (
            pytest.raises(InputError, match="another fleet run is writing to it"),
            dataset.locked(),
        ):
            pass
        # It keeps nobody from reading.
        assert Dataset.open(dataset.path)
    with dataset.locked():
        pass


def test_the_lock_of_a_process_that_is_killed_is_free(tmp_path: Path) -> None:
    path = tmp_path / "dataset"
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path)], cwd=ROOT, stdout=subprocess.PIPE
    )
    with writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"ready\n"
        dataset = Dataset.open(path)
        with pytest.raises(InputError), dataset.locked():
            pass
        writer.kill()
    with dataset.locked():
        pass


def test_where_no_lock_can_be(dataset: Dataset) -> None:
    (dataset.path / "lock").mkdir()
    with pytest.raises(InputError) as raised, dataset.locked():
        pass
    assert str(raised.value) == f"{dataset.path}: cannot be written to: Is a directory"


# ---- a full disk


@contextmanager
def files_up_to(size: int) -> Iterator[None]:
    """As if the disk were full: larger files cannot be written."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize(("audit_bytes", "tasks_bytes"), [(5000, 10), (10, 5000), (5000, 5000)])
def test_what_does_not_fit_changes_nothing(
    audit_bytes: int, tasks_bytes: int, dataset: Dataset
) -> None:
    dataset.commit("aa", "1", b"audit", b"tasks")
    before = files(dataset)
    with files_up_to(1000), pytest.raises(OSError):
        dataset.commit("aa", "2", bytes(audit_bytes), bytes(tasks_bytes))
    after = files(dataset)
    # Tasks that no record refers to do not count.
    after.pop("tasks/aa-2.parquet", None)
    assert after == before
    with dataset.locked():  # the next run
        dataset.remove_tasks_except({"1"})
        assert files(dataset) == before
        dataset.commit("aa", "3", b"audit 3", b"tasks 3")
        dataset.remove_tasks_except({"3"})
    assert files(dataset) == {"audits/aa.parquet": b"audit 3", "tasks/aa-3.parquet": b"tasks 3"}


def test_no_room_for_a_new_one(tmp_path: Path) -> None:
    with files_up_to(5):
        said = refusal(Dataset.create, tmp_path / "dataset")
    assert said == ": cannot be made into a dataset: File too large"
    Dataset.create(tmp_path / "dataset")


def test_readers_see_whole_files_while_it_is_written(dataset: Dataset) -> None:
    stop = threading.Event()

    def write() -> None:
        n = 0
        while not stop.is_set():
            n += 1
            dataset.commit("aa", f"{n}", bytes((n % 256,)) * 200_000, None)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        wait_until("the first", (dataset.audits / "aa.parquet").exists)
        for _ in range(200):
            content = (dataset.audits / "aa.parquet").read_bytes()
            assert content == content[:1] * 200_000
    finally:
        stop.set()
        writer.join()


# ---- a clock that jumps


def test_records_of_any_time_are_known_and_come_in_turn(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("duckdb", reason="needs the extra drgn-tools[fleet]")
    from drgn_tools.fleet.dataset.known import known_records
    from drgn_tools.fleet.dataset.parquet import audit_file
    from drgn_tools.fleet.run import record as record_module
    from drgn_tools.fleet.run.job import Cause
    from drgn_tools.fleet.run.plan import planned_jobs
    from drgn_tools.fleet.run.source import Source

    clocks = {"early": 0, "now": time.time_ns(), "before": -(10**18), "last": (1 << 63) - 1}
    sources = [Source(name=name, core=name) for name in clocks]
    for source in sources:
        now = clocks[source.name]
        monkeypatch.setattr(record_module.time, "time_ns", lambda now=now: now)
        record = record_module.failed(source, Cause.INPUT, 3, "is empty")
        dataset.commit(source_key(source.name), record["audit_id"], audit_file(record), None)
    monkeypatch.undo()
    known = known_records(dataset)
    assert {name: record.audited_at.year for name, record in known.items()} == {
        "early": 1970,
        "now": time.gmtime().tm_year,
        "before": 1938,
        "last": 2262,
    }
    # What was audited longest ago comes first: a wrong time costs a source its turn, and no more.
    turns = [each.source.name for each in planned_jobs(sources, known)]
    assert turns == ["before", "early", "now", "last"]
