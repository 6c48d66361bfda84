# SPDX-License-Identifier: LGPL-2.1-or-later
"""The figures of the report, counted again from the records of the dataset."""

from __future__ import annotations

from collections import Counter, defaultdict
from pathlib import Path
from typing import Any, Optional

import pytest
from msgspec.structs import replace

pytest.importorskip("duckdb", reason="needs the extra drgn-tools[fleet]")
pytest.importorskip("pyarrow", reason="needs the extra drgn-tools[fleet]")
pytest.importorskip("distributed", reason="needs the extra drgn-tools[fleet]")

from drgn_tools import __version__
from drgn_tools.analysis.labels import function_label
from drgn_tools.analysis.waiting import kernel_frames
from drgn_tools.fleet.dataset.dataset import Dataset
from drgn_tools.fleet.dataset.stack_hash import stack_hash
from drgn_tools.records import Frame, KernelAudit, TaskStack, Verdict

from ...support import fabricated
from ...support.fleet_dataset import FLEET, Source, of_audit, write_dataset
from ...support.fleet_report import AUDITED, by, count, distinct, rows, seen, share


def test_summary(fleet: Dataset) -> None:
    [row] = rows(fleet, "summary")
    statuses = Counter(source["status"] for source in FLEET)
    first, last = seen(FLEET)
    assert row == {
        "sources": len(FLEET),
        "audited": statuses["audited"],
        "partly_unknown": statuses["partly unknown"],
        "failed": statuses["failed"],
        "quarantined": 1,
        "hosts": len(distinct(FLEET, "host")),
        "releases": len(distinct(FLEET, "release")),
        "builds": len(distinct(FLEET, "build_id")),
        "first_seen": first,
        "last_seen": last,
        **count(FLEET),
        "unreliable_share": share(FLEET),
        "seconds": pytest.approx(sum(source["seconds"] for source in FLEET)),
        "peak_memory_bytes": max(source["peak_memory_bytes"] for source in FLEET),
        "tools": [__version__],
    }
    assert min(statuses.values()) >= 1


def test_kernels(fleet: Dataset) -> None:
    found = {(row["release"], row["arch"], row["unwinder"]): row for row in rows(fleet, "kernels")}
    groups = by(AUDITED, "release", "arch", "unwinder")
    assert found.keys() == groups.keys()
    for key, sources in groups.items():
        first, last = seen(sources)
        assert found[key] == {
            "release": key[0],
            "arch": key[1],
            "unwinder": key[2],
            "builds": len(distinct(sources, "build_id")),
            "audits": len(sources),
            "hosts": len(distinct(sources, "host")),
            **count(sources),
            "unreliable_share": share(sources),
            "first_seen": first,
            "last_seen": last,
        }
    shares = [row["unreliable_share"] for row in rows(fleet, "kernels")]
    known = [each for each in shares if each is not None]
    assert shares == sorted(known, reverse=True) + [None] * (len(shares) - len(known))


def test_one_release_on_two_architectures_is_two_kernels(tmp_path: Path) -> None:
    kernels = [replace(fabricated.KERNEL, arch=arch) for arch in ("x86_64", "i386", "i386")]
    sources = [of_audit(f"/{i}", KernelAudit(kernel, ())) for i, kernel in enumerate(kernels)]
    found = rows(write_dataset(tmp_path / "dataset", sources), "kernels")
    assert [(row["arch"], row["audits"]) for row in found] == [("i386", 2), ("x86_64", 1)]


def test_hosts(fleet: Dataset) -> None:
    found = {row["host"]: row for row in rows(fleet, "hosts")}
    groups = by(FLEET, "host")
    assert found.keys() == {host for (host,) in groups}
    for (host,), sources in groups.items():
        first, last = seen(sources)
        assert found[host] == {
            "host": host,
            "sources": len(sources),
            "failed": sum(source["status"] == "failed" for source in sources),
            "releases": distinct(sources, "release"),
            **count(sources),
            "unreliable_share": share(sources),
            "first_seen": first,
            "last_seen": last,
        }


def test_functions_are_those_that_were_interrupted(fleet: Dataset) -> None:
    groups: dict[str, list[tuple[Source, TaskStack, Optional[str]]]] = defaultdict(list)
    for source in FLEET:
        for task in source.tasks or ():
            for regs in task.regs if task.verdict is Verdict.UNRELIABLE else ():
                if not regs.user_mode:
                    name = function_label(Frame(regs["ip"], regs.symbol))
                    groups[name].append((source, task, regs.entry))
    found = rows(fleet, "functions")
    assert {row["function"] for row in found} == groups.keys()
    assert [row["count"] for row in found] == sorted(map(len, groups.values()), reverse=True)
    for row in found:
        members = groups[row["function"]]
        sources = [source for source, _, _ in members]
        first, last = seen(sources)
        assert row == {
            "function": row["function"],
            "count": len(members),
            "tasks": len({(source["audit_id"], task.task) for source, task, _ in members}),
            "audits": len(distinct(sources, "audit_id")),
            "hosts": len(distinct(sources, "host")),
            "releases": distinct(sources, "release"),
            "entries": sorted({entry for _, _, entry in members if entry}),
            "first_seen": first,
            "last_seen": last,
        }
    assert any(row["hosts"] > 5 for row in found)


def _grouped(key: Any) -> dict[Any, list[tuple[Source, TaskStack]]]:
    groups: dict[Any, list[tuple[Source, TaskStack]]] = defaultdict(list)
    for source in FLEET:
        for task in source.tasks or ():
            groups[key(task)].append((source, task))
    return groups


def _reason(task: TaskStack) -> Optional[str]:
    return task.reason and task.reason.value


def test_reasons(fleet: Dataset) -> None:
    groups = _grouped(lambda task: (task.verdict.value, _reason(task)))
    found = {(row["verdict"], row["reason"]): row for row in rows(fleet, "reasons")}
    assert found.keys() == groups.keys()
    for key, members in groups.items():
        sources = [source for source, _ in members]
        row = found[key]
        assert (row["tasks"], row["audits"], row["hosts"]) == (
            len(members),
            len(distinct(sources, "audit_id")),
            len(distinct(sources, "host")),
        )
        assert (row["first_seen"], row["last_seen"]) == seen(sources)
    order = [row["verdict"] for row in rows(fleet, "reasons")]
    assert order == sorted(order, key=["unreliable", "unknown", "reliable"].index)


def test_stacks_that_are_the_same_on_several_hosts_are_one(fleet: Dataset) -> None:
    groups = _grouped(lambda task: (stack_hash(task), task.verdict.value, _reason(task)))
    found = {
        (row["stack_hash"], row["verdict"], row["reason"]): row for row in rows(fleet, "stacks")
    }
    assert found.keys() == groups.keys()
    for key, members in groups.items():
        sources = [source for source, _ in members]
        row = found[key]
        assert (row["tasks"], row["audits"], row["hosts"], row["releases"]) == (
            len(members),
            len(distinct(sources, "audit_id")),
            len(distinct(sources, "host")),
            distinct(sources, "release"),
        )
        assert (row["first_seen"], row["last_seen"]) == seen(sources)
        assert row["functions"] in [
            [function_label(frame) for frame in kernel_frames(task)] for _, task in members
        ]
        assert (row["source"], row["pid"]) in [(s["source"], task.pid) for s, task in members]
    # The six web hosts booted at other addresses, and have the faulting reader's stack in common.
    key = (stack_hash(fabricated.FAULTING), "unreliable", "kernel_mode_regs")
    assert found[key]["hosts"] >= 6


def test_failures_are_all_that_was_not_audited(fleet: Dataset) -> None:
    columns = "status source host exit_code cause attempts quarantined line".split()
    found = rows(fleet, "failures")
    expected = [
        {column: source[column] for column in columns}
        for source in FLEET
        if source["status"] != "audited"
    ]
    assert sorted(found, key=repr) == sorted(expected, key=repr)
    assert found[0]["quarantined"]
    assert found[-1]["status"] == "partly unknown"
