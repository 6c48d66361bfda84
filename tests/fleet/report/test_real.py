# SPDX-License-Identifier: LGPL-2.1-or-later
"""The report on real dumps, and on ten thousand audits."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path

import pytest
from msgspec.structs import replace

pytest.importorskip("duckdb", reason="needs the extra drgn-tools[fleet]")
pytest.importorskip("pyarrow", reason="needs the extra drgn-tools[fleet]")
pytest.importorskip("distributed", reason="needs the extra drgn-tools[fleet]")

from drgn_tools.analysis.labels import function_label
from drgn_tools.fleet.dataset import parquet
from drgn_tools.fleet.dataset.dataset import Dataset, source_key
from drgn_tools.fleet.dataset.parquet import audit_file, tasks_file
from drgn_tools.records import Frame, Verdict

from ...support import fabricated
from ...support.fleet_dataset import Source, audited, day, of_audit, write_dataset
from ...support.fleet_report import iso, rows, sections


def test_the_demo_dump_on_two_hosts(tmp_path: Path, demo_core: str) -> None:
    one = audited(demo_core, "/a", host="a", time=day(1))
    assert one.tasks is not None
    other = Source(
        {**one.record, "source": "/b", "audit_id": "b", "host": "b", "time": day(2)}, one.tasks
    )
    dataset = write_dataset(tmp_path / "d", [one, other])
    [kernel] = rows(dataset, "kernels")
    assert kernel["tasks"] == 2 * len(one.tasks)
    assert kernel["unreliable"] == 2 * one["unreliable"] > 0
    interrupted = Counter(
        function_label(Frame(regs["ip"], regs.symbol))
        for task in one.tasks
        for regs in task.regs
        if task.verdict is Verdict.UNRELIABLE and not regs.user_mode
    )
    assert {row["function"]: row["count"] for row in rows(dataset, "functions")} == {
        name: 2 * number for name, number in interrupted.items()
    }
    assert {row["hosts"] for row in rows(dataset, "stacks")} == {2}
    assert {row["first_seen"] for row in rows(dataset, "stacks")} == {iso(day(1))}


def test_ten_thousand_audits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # Each like another but for a few letters, which uncompressed are in the file as they are.
    write = parquet.pq.write_table
    monkeypatch.setattr(
        parquet.pq,
        "write_table",
        lambda table, out, compression: write(table, out, compression="none"),
    )
    some = (fabricated.SLEEPER, fabricated.FAULTING, fabricated.PREEMPTED)
    audit = replace(fabricated.AUDIT, tasks=some, problems=())
    record = {**of_audit("/@@@@@@@@", audit).record, "audit_id": "@@@@@@@@", "host": "h###"}
    audit_content, tasks_content = audit_file(record), tasks_file("@@@@@@@@", some)
    failed_content = audit_file({**record, "status": "failed", "exit_code": 3, "cause": "input"})
    dataset = Dataset.create(tmp_path / "many")
    number, hosts, each = 10_000, 700, 10
    for i in range(number):
        audit_id, host = f"{i:08}".encode(), f"h{i % hosts:03}".encode()
        key = source_key(f"/{i:08}")
        content = failed_content if i % each else audit_content
        content = content.replace(b"@@@@@@@@", audit_id).replace(b"h###", host)
        (dataset.audits / f"{key}.parquet").write_bytes(content)
        if not i % each:
            content = tasks_content.replace(b"@@@@@@@@", audit_id)
            (dataset.tasks / f"{key}-{i:08}.parquet").write_bytes(content)
    began = time.monotonic()
    found = sections(dataset, top=20)["sections"]
    seconds = time.monotonic() - began
    with capsys.disabled():
        print(f"\nfleet report of {number} sources, {number // each} with tasks: {seconds:.1f} s")
    assert found["summary"]["rows"][0]["sources"] == number
    assert found["hosts"]["total"] == hosts
    assert {
        row["function"]: (row["count"], row["hosts"]) for row in found["functions"]["rows"]
    } == {
        "rep_stos_alternative": (number // each, hosts // each),
        "vfs_read": (number // each, hosts // each),
    }
