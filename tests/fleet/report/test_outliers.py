# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which audits and stacks the report calls outliers."""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Optional

import pytest
from msgspec.structs import replace

pytest.importorskip("duckdb", reason="needs the extra drgn-tools[fleet]")
pytest.importorskip("pyarrow", reason="needs the extra drgn-tools[fleet]")
pytest.importorskip("distributed", reason="needs the extra drgn-tools[fleet]")

from drgn_tools.analysis.waiting import kernel_frames
from drgn_tools.fleet.dataset.dataset import Dataset
from drgn_tools.fleet.report.report import report_lines
from drgn_tools.records import KernelAudit

from ...support import fabricated
from ...support.fleet_dataset import FLEET, failed, of_audit, write_dataset
from ...support.fleet_report import ALL, AUDITED, Rows, rows


def _audit_of(
    unreliable: int, reliable: int, release: str = "6.12.117", arch: str = "x86_64"
) -> KernelAudit:
    tasks = [
        *(replace(fabricated.PREEMPTED, pid=100 + i) for i in range(unreliable)),
        *(replace(fabricated.SLEEPER, pid=1000 + i) for i in range(reliable)),
    ]
    return KernelAudit(replace(fabricated.KERNEL, release=release, arch=arch), tuple(tasks))


def _shares(tmp_path: Path, audits: Sequence[KernelAudit]) -> Rows:
    dataset = write_dataset(
        tmp_path / "d", [of_audit(f"/{i}", audit) for i, audit in enumerate(audits)]
    )
    return [row for row in rows(dataset, "outliers") if row["kind"] == "unreliable share"]


def test_a_share_far_from_that_of_its_release_is_an_outlier(tmp_path: Path) -> None:
    usual = [(10, 90), (12, 88), (14, 86), (16, 84), (18, 82)]
    audits = [_audit_of(*each) for each in [*usual, (60, 40), (26, 74)]]
    [row] = _shares(tmp_path, [*audits, _audit_of(60, 40, "6.6"), _audit_of(0, 100, "6.6")])
    values = [0.10, 0.12, 0.14, 0.16, 0.18, 0.60, 0.26]
    median = statistics.median(values)
    spread = 1.4826 * statistics.median(abs(value - median) for value in values)
    assert row["source"] == "/5"
    assert row["value"] == pytest.approx(0.60)
    assert row["median"] == pytest.approx(median)
    assert row["score"] == pytest.approx((0.60 - median) / spread)
    assert row["detail"] == "60 of 100 judged tasks are unreliable"


def test_a_share_that_is_far_below_is_an_outlier_too(tmp_path: Path) -> None:
    [row] = _shares(tmp_path, [_audit_of(50, 50)] * 4 + [_audit_of(0, 100)])
    assert row["source"] == "/4"
    assert row["score"] < -3.5


def test_a_share_is_compared_with_kernels_of_its_architecture(tmp_path: Path) -> None:
    audits = [_audit_of(0, 100)] * 5 + [_audit_of(50, 50, arch="i386")] * 4
    [row] = _shares(tmp_path, [*audits, _audit_of(0, 100, arch="i386")])
    assert row["source"] == "/9"
    assert row["median"] == pytest.approx(0.5)


@pytest.mark.parametrize(
    "audits",
    [
        [(1, 99), (90, 10)],  # two of a release
        [(0, 100)] * 6 + [(3, 97)],  # three tasks among hosts where usually there is none
        [(0, 0), (0, 0), (0, 0), (5, 5)],  # nothing to compare with
    ],
)
def test_too_little_is_no_outlier(tmp_path: Path, audits: list[tuple[int, int]]) -> None:
    assert _shares(tmp_path, [_audit_of(*each) for each in audits]) == []


def _far_above(column: str) -> list[tuple[str, Any]]:
    # The furthest first, with how many times the usual spread that is.
    usual = [source[column] for source in AUDITED]
    median = statistics.median(usual)
    spread = max(1.4826 * statistics.median(abs(value - median) for value in usual), median / 10)
    scores = [(source["source"], (source[column] - median) / spread) for source in AUDITED]
    scores.sort(key=lambda each: -each[1])
    return [(source, pytest.approx(score)) for source, score in scores if score > 3.5]


def test_the_rest_of_the_outliers(fleet: Dataset) -> None:
    found: dict[str, Rows] = defaultdict(list)
    for row in rows(fleet, "outliers"):
        found[row["kind"]].append(row)
    depths = {
        source["source"]: max(len(kernel_frames(task)) for task in source.tasks)
        for source in FLEET
        if source.tasks
    }
    deepest = found["deepest stack"]
    assert [(row["source"], row["value"]) for row in deepest] == sorted(
        depths.items(), key=lambda each: (-each[1], each[0])
    )[:5]
    for kind, column in (("slowest audit", "seconds"), ("most memory", "peak_memory_bytes")):
        assert [(row["source"], row["score"]) for row in found[kind]] == _far_above(column)
        assert found[kind][0]["source"] == "s3://dumps/sick/vmcore"
        assert found[kind][0]["median"] == pytest.approx(
            statistics.median(source[column] for source in AUDITED)
        )
    assert found["unreliable share"][0]["source"] == "s3://dumps/sick/vmcore"


def _costs(tmp_path: Path, seconds: Sequence[Optional[float]]) -> list[float]:
    sources = [
        of_audit(f"/{i}", _audit_of(1, 1), seconds=value, peak_memory_bytes=None)
        for i, value in enumerate(seconds)
    ]
    sources.append(failed("/slow", 124, "time limit", "took longer than 300 s", seconds=300.0))
    sources.append(failed("/nothing", 3, "input", "is empty", seconds=None))
    dataset = write_dataset(tmp_path / "d", sources)
    found = rows(dataset, "outliers")
    return [row["value"] for row in found if row["kind"] == "slowest audit"]


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        ([2.0, 2.1, 1.9], []),
        ([2.0, 2.0, 2.0, 2.0, 2.6], []),  # no more than half more
        ([2.0, 2.0, 2.0, 2.0, 9.0], [9.0]),
        ([2.0, 9.0], []),  # too few to say what is usual
        ([2.0, 9.0, None, None], []),
    ],
)
def test_what_took_unusually_long(
    tmp_path: Path, seconds: list[Optional[float]], expected: list[float]
) -> None:
    assert _costs(tmp_path, seconds) == expected


def test_each_kind_of_outlier_has_its_part_of_the_top(fleet: Dataset) -> None:
    share, deepest, slowest, most = (
        "unreliable share",
        "deepest stack",
        "slowest audit",
        "most memory",
    )
    for top, expected in (
        (4, {share: 1, deepest: 1, slowest: 1, most: 1}),
        (6, {share: 2, deepest: 2, slowest: 1, most: 1}),
        (ALL, {share: 2, deepest: 5, slowest: 1, most: 1}),
    ):
        assert Counter(row["kind"] for row in rows(fleet, "outliers", top)) == expected
    assert "the 5 deepest stacks" in next(report_lines(fleet, ["outliers"], None, "table", 100))
