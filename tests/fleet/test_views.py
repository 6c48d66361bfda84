# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the views of a dataset say, against the records that it was made of."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, Optional

import pytest

pytest.importorskip("duckdb", reason="needs the extra drgn-tools[fleet]")
pytest.importorskip("pyarrow", reason="needs the extra drgn-tools[fleet]")

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from drgn_tools.analysis.labels import frame_label, function_label, symbol_text
from drgn_tools.analysis.waiting import kernel_frames
from drgn_tools.errors import InputError
from drgn_tools.fleet.dataset.damage import naming_damaged_files
from drgn_tools.fleet.dataset.database import connect
from drgn_tools.fleet.dataset.dataset import Dataset, source_key
from drgn_tools.fleet.dataset.schema import AUDITS, TASKS
from drgn_tools.fleet.dataset.stack_hash import stack_hash
from drgn_tools.fleet.dataset.views import VIEWS
from drgn_tools.records import Frame, TaskStack, Verdict

from ..support import fabricated
from ..support.fleet_dataset import FLEET, Source, audited, write_dataset, write_orphan

Rows = list[tuple[Any, ...]]


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    dataset = write_dataset(tmp_path_factory.mktemp("fleet") / "dataset", FLEET)
    write_orphan(dataset, fabricated.KTHREADS)
    return dataset


@pytest.fixture(scope="module")
def ask(fleet: Dataset) -> Iterator[Any]:
    with connect(fleet) as connection:
        yield lambda query: connection.execute(query).fetchall()


def each_task() -> Iterator[tuple[Source, TaskStack]]:
    return ((source, task) for source in FLEET for task in source.tasks or ())


def utc(time: Optional[datetime]) -> Optional[datetime]:
    return time and time.replace(tzinfo=None)


def reason_of(task: TaskStack) -> Optional[str]:
    return task.reason and task.reason.value


def in_order(rows: Any) -> Rows:
    return sorted(rows, key=repr)


def names(connection: duckdb.DuckDBPyConnection, view: str) -> list[str]:
    return [row[0] for row in connection.execute(f"DESCRIBE {view}").fetchall()]


def test_audits_are_the_records(ask: Any) -> None:
    columns = [field.name for field in AUDITS]
    found = [dict(zip(columns, row)) for row in ask("FROM audits")]
    assert len(found) == len(FLEET)
    of = {row["source"]: row for row in found}
    for source in FLEET:
        expected = {name: source[name] for name in columns}
        for name in ("time", "audited_at"):
            expected[name] = utc(expected[name])
        assert of[source["source"]] == expected


def test_the_key_names_the_files_of_a_source(fleet: Dataset, ask: Any) -> None:
    found = ask("SELECT source, key, status, audit_id FROM audits")
    assert {source: key for source, key, *_ in found} == {
        source["source"]: source_key(source["source"]) for source in FLEET
    }
    for _, key, status, audit_id in found:
        assert (fleet.audits / f"{key}.parquet").exists()
        assert status == "failed" or (fleet.tasks / f"{key}-{audit_id}.parquet").exists()


def test_tasks_are_those_of_the_records_and_say_whose(ask: Any) -> None:
    found = ask(
        "SELECT source, host, release, build_id, unwinder, time, tags, pid, comm, task, verdict, "
        "reason, stack_hash, interrupted FROM tasks"
    )
    expected = [
        (
            *(source[name] for name in ("source", "host", "release", "build_id", "unwinder")),
            utc(source["time"]),
            source["tags"],
            *(task.pid, task.comm, task.task, task.verdict.value, reason_of(task)),
            stack_hash(task),
            [
                function_label(frame)
                for frame in task.frames
                if frame.regs is not None and not frame.user_mode
            ],
        )
        for source, task in each_task()
    ]
    assert in_order(found) == in_order(expected)


def test_frames_are_all_frames_innermost_first(ask: Any) -> None:
    found = ask(
        "SELECT source, pid, frame, function, symbol, module, stack, ip, regs, user_mode "
        "FROM frames ORDER BY source, pid, task, frame"
    )
    expected = [
        (
            *(source["source"], task.pid, number),
            frame.symbol and frame.symbol.name,
            *(symbol_text(frame), frame.module, frame.stack, frame.ip, frame.regs, frame.user_mode),
        )
        for source, task in each_task()
        for number, frame in enumerate(task.frames)
    ]
    assert in_order(found) == in_order(expected)
    assert any(
        frame.symbol is None and not frame.user_mode for _, t in each_task() for frame in t.frames
    )


def test_regs_are_all_saved_registers(ask: Any) -> None:
    found = ask(
        "SELECT source, pid, number, function, caller, entry, user_mode, address, registers FROM regs"
    )
    expected = [
        (
            *(source["source"], task.pid, number, regs.symbol and regs.symbol.name),
            regs.caller and frame_label(regs.caller),
            *(regs.entry, regs.user_mode, regs.address, dict(regs.registers)),
        )
        for source, task in each_task()
        for number, regs in enumerate(task.regs)
    ]
    assert in_order(found) == in_order(expected)


def expected_interrupted(sources: tuple[Source, ...]) -> Rows:
    return [
        (
            source["source"],
            task.pid,
            task.task,
            function_label(Frame(r["ip"], r.symbol)),
            r.entry,
        )
        for source in sources
        for task in source.tasks or ()
        if task.verdict is Verdict.UNRELIABLE
        for r in task.regs
        if not r.user_mode
    ]


def test_interrupted_are_the_kernel_mode_registers_of_unreliable_stacks(ask: Any) -> None:
    found = ask("SELECT source, pid, task, function, entry FROM interrupted")
    assert in_order(found) == in_order(expected_interrupted(FLEET))


def test_stacks_are_the_groups(ask: Any) -> None:
    groups: dict[Any, list[tuple[Source, TaskStack]]] = defaultdict(list)
    for source, task in each_task():
        groups[stack_hash(task), task.verdict.value, reason_of(task)].append((source, task))
    expected = []
    for key, members in groups.items():
        times = [utc(source["time"]) for source, _ in members if source["time"]]
        first, example = min(
            members,
            key=lambda member: (
                utc(member[0]["time"]) or datetime.max,
                member[0]["source"],
                member[1].pid,
            ),
        )
        expected.append(
            (
                *key,
                len(members),
                len({source["audit_id"] for source, _ in members}),
                len({source["host"] for source, _ in members if source["host"]}),
                sorted({source["release"] for source, _ in members}),
                *(min(times), max(times)),
                [function_label(frame) for frame in kernel_frames(example)],
                *(first["source"], example.pid, example.comm),
            )
        )
    assert in_order(ask("FROM stacks")) == in_order(expected)


def test_tasks_without_a_record_do_not_count_and_are_not_read(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "d", FLEET[:1])
    write_orphan(dataset, fabricated.KTHREADS)
    (dataset.tasks / f"{source_key('/other')}-1.parquet").write_bytes(b"half a fi")
    with connect(dataset) as connection:
        assert connection.execute("SELECT count(*) FROM tasks").fetchone() == (
            len(FLEET[0].tasks or ()),
        )


def test_a_dataset_without_records_has_the_same_views(tmp_path: Path, fleet: Dataset) -> None:
    with connect(Dataset.create(tmp_path / "d")) as empty, connect(fleet) as full:
        for view in VIEWS:
            assert empty.execute(f"FROM {view}").fetchall() == []
            query = f"DESCRIBE {view}"
            assert empty.execute(query).fetchall() == full.execute(query).fetchall()


def test_the_name_of_the_folder_is_no_pattern(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "it's [a] *? dataset", FLEET)
    write_dataset(tmp_path / "it's a bb dataset", FLEET[:2])
    with connect(dataset) as connection:
        assert connection.execute("SELECT count(*) FROM audits").fetchone() == (len(FLEET),)


@pytest.mark.parametrize("name", ["\udcff", "back\\slash and *"])
def test_a_folder_that_duckdb_cannot_name_is_one_line(tmp_path: Path, name: str) -> None:
    dataset = write_dataset(tmp_path / name, FLEET[:1])
    with pytest.raises(InputError, match="folder of this name"):
        connect(dataset)


def _rewrite(file: Path, columns: str) -> None:
    # As another version of ours would have written it. DuckDB reads, as everywhere.
    with duckdb.connect() as connection:
        connection.execute(
            f"COPY (SELECT {columns} FROM '{file}') TO '{file}.new' (FORMAT parquet)"
        )
    Path(f"{file}.new").replace(file)


_OLDER_FRAMES = """[{'ip': f.ip, 'symbol': f.symbol, 'module': f.module, 'stack': f.stack,
    'regs': f.regs, 'user_mode': f.user_mode} FOR f IN frames]"""


@pytest.mark.parametrize("which", ["all", "some"])
def test_a_column_that_is_newer_than_a_file_is_null_there(tmp_path: Path, which: str) -> None:
    dataset = write_dataset(tmp_path / "d", FLEET)
    audits = sorted(dataset.audits.iterdir())
    older = audits if which == "all" else audits[:5]
    gone = {file.stem for file in older}
    for file in older:
        _rewrite(file, "* EXCLUDE (audited_at) REPLACE ('0.0.9' AS tool)")
    for file in dataset.tasks.iterdir():
        if file.name.partition("-")[0] in gone:
            _rewrite(file, f"* EXCLUDE (brief) REPLACE ({_OLDER_FRAMES} AS frames)")
    with connect(dataset) as connection:
        counts = connection.execute("SELECT count(*), count(audited_at) FROM audits").fetchone()
        assert counts == (len(FLEET), len(FLEET) - len(older))
        frames = connection.execute("SELECT count(ip), count(exact) FROM frames").fetchone()
        assert frames == (
            sum(len(task.frames) for _, task in each_task()),
            sum(
                len(task.frames)
                for source, task in each_task()
                if source_key(source["source"]) not in gone
            ),
        )
        left = [
            task.brief
            for source, task in each_task()
            if source_key(source["source"]) not in gone and task.brief
        ]
        rows = connection.execute("SELECT count(*), count(brief) FROM tasks").fetchone()
        assert rows == (len(list(each_task())), len(left))


DAMAGE = {
    "empty": lambda content: b"",
    "text": lambda content: b"not Parquet\n" * 100,
    "cut": lambda content: content[: len(content) // 2],
    "no end": lambda content: content[:-1],
    "other columns": lambda content: _of_other_columns(),
    "a column of another type": lambda content: _of_another_type(),
}


def _of_other_columns() -> bytes:
    out = pa.BufferOutputStream()
    pq.write_table(pa.table({"x": pa.array([1])}), out)
    return bytes(out.getvalue())


def _of_another_type() -> bytes:
    out = pa.BufferOutputStream()
    pq.write_table(pa.table({"audit_id": pa.array([[1]]), "tool": pa.array([b"x"])}), out)
    return bytes(out.getvalue())


@pytest.mark.parametrize("folder", ["audits", "tasks"])
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_is_named_in_one_line(tmp_path: Path, folder: str, damage: str) -> None:
    dataset = write_dataset(tmp_path / "d", FLEET)
    file = sorted((dataset.path / folder).iterdir())[3]
    file.write_bytes(DAMAGE[damage](file.read_bytes()))
    with pytest.raises(InputError) as caught:  # noqa: SIM117
        with connect(dataset) as connection, naming_damaged_files(dataset):
            connection.execute(
                "SELECT count(frames), count(regs), count(tags) FROM tasks"
            ).fetchall()
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "repeat the fleet run" in str(caught.value)


def test_missing_tasks_are_named(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "d", FLEET)
    file = sorted(dataset.tasks.iterdir())[2]
    file.unlink()
    with pytest.raises(InputError, match="is missing") as caught:
        connect(dataset)
    assert str(file) in str(caught.value)


@pytest.mark.parametrize(
    "query",
    [
        "FROM read_text('/etc/hostname')",
        "SET enable_external_access = true",
        "ATTACH 'x.db'",
        "COPY (SELECT 1) TO '/tmp/x.csv'",
        "INSTALL httpfs",
    ],
)
def test_nothing_but_the_dataset_can_be_reached(fleet: Dataset, query: str) -> None:
    with connect(fleet) as connection, pytest.raises(duckdb.Error):
        connection.execute(query)


def test_a_real_dump(tmp_path: Path, demo_core: str) -> None:
    source = audited(demo_core, "/var/crash/demo", host="demo")
    assert source.tasks
    with connect(write_dataset(tmp_path / "d", [source])) as connection:
        counts = connection.execute(
            "SELECT verdict, count(*) FROM tasks GROUP BY verdict"
        ).fetchall()
        assert dict(counts) == {v.value: source[v.value] for v in Verdict if source[v.value]}
        found = connection.execute("SELECT source, pid, task, function, entry FROM interrupted")
        assert in_order(found.fetchall()) == in_order(expected_interrupted((source,)))
        # Each saved pt_regs is the frame of it: two ways to the same list.
        query = "SELECT function FROM interrupted ORDER BY function"
        stored = (
            "SELECT unnest(interrupted) AS f FROM tasks WHERE verdict = 'unreliable' ORDER BY f"
        )
        rows = connection.execute(query).fetchall()
        assert rows == connection.execute(stored).fetchall()
        assert rows


def test_every_field_of_a_task_is_a_column(fleet: Dataset) -> None:
    with connect(fleet) as connection:
        assert names(connection, "audits") == [*(field.name for field in AUDITS), "key"]
        assert names(connection, "tasks")[: len(TASKS)] == [field.name for field in TASKS]
