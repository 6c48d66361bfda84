# SPDX-License-Identifier: LGPL-2.1-or-later
"""Compare the record of a source with the output of ``drgn-tools tasks`` on the same core."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

import duckdb

from drgn_tools.analysis.record_fields import KERNEL, TASK_WITH_FRAMES
from drgn_tools.fleet.dataset.dataset import Dataset
from drgn_tools.program.core_file import shown
from drgn_tools.render.summary import unreadable_line
from drgn_tools.terminal.escape import escape

__all__ = ("Answer", "Record", "differences", "live_run", "read_records", "single_run")


# ---- a process by itself


@dataclass(frozen=True)
class Answer:
    """The output of ``drgn-tools tasks --frames --format json``."""

    path: str
    exit_code: int
    document: Optional[dict[str, Any]]
    """The JSON document on stdout; ``None`` if there was none."""
    said: tuple[str, ...]
    """Its lines on stderr."""


def single_run(path: str, symbols: Sequence[str] = ()) -> Answer:
    """Run ``drgn-tools tasks`` on a core."""
    argv = ["tasks", "--frames", "--format", "json", "-c", path]
    for name in symbols:
        argv += ["-s", name]
    return _run(path, argv)


def live_run() -> Answer:
    """Run ``drgn-tools tasks`` on the running kernel."""
    return _run("live", ["tasks", "--frames", "--format", "json", "-k"])


def _run(path: str, argv: Sequence[str]) -> Answer:
    done = subprocess.run(
        [sys.executable, "-m", "drgn_tools", *argv],
        capture_output=True,
        text=True,
        errors="surrogateescape",
        timeout=300,
    )
    document = json.loads(done.stdout) if done.stdout else None
    return Answer(path, done.returncode, document, tuple(done.stderr.rstrip("\n").split("\n")))


# ---- a dataset


@dataclass(frozen=True)
class Record:
    """The final record of a source."""

    audit: Mapping[str, Any]
    """By column of ``audits``; ``time`` in microseconds since the epoch."""
    tasks: Sequence[Mapping[str, Any]]
    """By column of ``tasks``, in their order."""


_AUDITS = """
    SELECT * REPLACE (epoch_us(time) AS time, epoch_us(audited_at) AS audited_at)
    FROM read_parquet(?) ORDER BY source
"""


def read_records(dataset: Path) -> dict[str, Record]:
    """Return all records of a dataset by source. Assert that each source has one, and each task its audit."""
    folder = Dataset.open(dataset)
    with duckdb.connect() as database:
        audits = _rows(database, _AUDITS, f"{folder.audits}/*.parquet")
        records = {row["source"]: Record(row, _tasks(database, folder, row)) for row in audits}
    assert len(records) == len(audits), "a source has two records"
    with_tasks = {record.audit["audit_id"] for record in records.values() if record.tasks}
    files = {path.stem.rpartition("-")[2] for path in folder.tasks.iterdir()}
    assert with_tasks <= files, "tasks of an audit are missing"
    known = {record.audit["audit_id"] for record in records.values()}
    assert files <= known, "tasks of no audit are there"
    return records


def _tasks(
    database: duckdb.DuckDBPyConnection, folder: Dataset, audit: Mapping[str, Any]
) -> list[dict[str, Any]]:
    if audit["tasks"] is None:
        return []
    tasks = _rows(
        database,
        "SELECT * FROM read_parquet(?)",
        f"{folder.tasks}/*-{audit['audit_id']}.parquet",
    )
    assert len(tasks) == audit["tasks"]
    assert all(task["audit_id"] == audit["audit_id"] for task in tasks)
    return tasks


def _rows(database: duckdb.DuckDBPyConnection, query: str, files: str) -> list[dict[str, Any]]:
    result = database.execute(query, [files])
    names = [column[0] for column in result.description]
    return [dict(zip(names, row)) for row in result.fetchall()]


# ---- a record as JSON


def _hex(value: Optional[int]) -> Optional[str]:
    return None if value is None else hex(value)


def _registers(values: Optional[Mapping[str, int]]) -> Optional[dict[str, str]]:
    return None if values is None else {name: hex(value) for name, value in values.items()}


_AS_JSON: dict[str, Callable[[Any], Any]] = {
    "task": _hex,
    "frames": lambda frames: [
        {**frame, "ip": hex(frame["ip"]), "regs": _hex(frame["regs"])} for frame in frames
    ],
    "regs": lambda regs: [
        {**saved, "address": hex(saved["address"]), "registers": _registers(saved["registers"])}
        for saved in regs
    ],
    "cpu_registers": _registers,
}


_OF_THE_SOURCE = ("source", "host")
"""Fields for which a dataset has the value of the manifest, not that of the dump."""


def _kernel_and_tasks(record: Record) -> dict[str, Any]:
    """What ``tasks --frames --format json`` prints."""
    kernel = {name: record.audit[name] for name in KERNEL if name not in _OF_THE_SOURCE}
    tasks = [
        {name: _AS_JSON.get(name, lambda value: value)(row[name]) for name in TASK_WITH_FRAMES}
        for row in record.tasks
    ]
    return {"kernel": kernel, "tasks": tasks, "problems": record.audit["problems"]}


# ---- compared


def differences(record: Record, path: str, answer: Answer) -> Iterator[str]:
    """Yield in words where a record differs from the output of a single run.

    :param path: of the core of that run, which may be another file with the same content.
    """
    audit = record.audit
    if audit["exit_code"] != answer.exit_code:
        yield f"exit code {audit['exit_code']}, not {answer.exit_code}"
    status = {0: "audited", 5: "partly unknown"}.get(answer.exit_code, "failed")
    if audit["status"] != status:
        yield f"status {audit['status']}, not {status}"
    if audit["attempts"] != 1 or audit["quarantined"]:
        yield f"{audit['attempts']} attempts, quarantined: {audit['quarantined']}"
    said = [line.replace(shown(answer.path), shown(path)) for line in answer.said]
    if status == "failed":
        yield from _failure_differences(record, said)
    else:
        yield from _audit_differences(record, answer.document or {}, said)


def _failure_differences(record: Record, said: Sequence[str]) -> Iterator[str]:
    if said[-1:] != [f"drgn-tools: error: {escape(record.audit['line'])}"]:
        yield f"line {record.audit['line']!r}, not {said[-1:]}"
    if record.tasks or record.audit["tasks"] is not None:
        yield "a failure with tasks"
    causes = {3: "input", 4: "types"}
    if record.audit["cause"] != causes.get(record.audit["exit_code"]):
        yield f"cause {record.audit['cause']} of exit code {record.audit['exit_code']}"


def _audit_differences(
    record: Record, document: Mapping[str, Any], said: Sequence[str]
) -> Iterator[str]:
    found = _kernel_and_tasks(record)
    kernel = {
        name: value for name, value in document["kernel"].items() if name not in _OF_THE_SOURCE
    }
    expected = {"kernel": kernel, "tasks": document["tasks"], "problems": document["problems"]}
    for part in ("kernel", "problems"):
        if found[part] != expected[part]:
            yield f"{part} {found[part]}, not {expected[part]}"
    if len(found["tasks"]) != len(expected["tasks"]):
        yield f"{len(found['tasks'])} tasks, not {len(expected['tasks'])}"
    for mine, theirs in zip(found["tasks"], expected["tasks"]):
        # Text as well: the order of names and registers is part of it.
        if json.dumps(mine) != json.dumps(theirs):
            names = [name for name in mine if mine[name] != theirs.get(name)]
            yield f"pid {mine['pid']}: " + "; ".join(
                f"{name} {mine[name]}, not {theirs.get(name)}" for name in names
            )
    yield from _count_differences(record, document)
    warnings = [*document["problems"], *_unreadable(document)]
    if record.audit["line"] != ("; ".join(warnings) or None):
        yield f"line {record.audit['line']!r}, not of {warnings}"
    for warning in warnings:
        if f"drgn-tools: warning: {escape(warning)}" not in said:
            yield f"nobody said {warning!r}: {said}"


def _unreadable(document: Mapping[str, Any]) -> list[str]:
    count = sum(task["reason"] == "unreadable" for task in document["tasks"])
    return [unreadable_line(count)] if count else []


def _count_differences(record: Record, document: Mapping[str, Any]) -> Iterator[str]:
    for verdict in ("reliable", "unreliable", "unknown"):
        count = sum(task["verdict"] == verdict for task in document["tasks"])
        if record.audit[verdict] != count:
            yield f"{record.audit[verdict]} {verdict}, not {count}"
