# SPDX-License-Identifier: LGPL-2.1-or-later
"""The report of a fleet, against what the records say that its dataset was made of."""

from __future__ import annotations

import csv
import io
import json
import re
import statistics
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Optional

import pytest

pytest.importorskip("duckdb", reason="needs the extra drgn-tools[fleet]")
pytest.importorskip("pyarrow", reason="needs the extra drgn-tools[fleet]")
pytest.importorskip("distributed", reason="needs the extra drgn-tools[fleet]")

from drgn_tools import __version__
from drgn_tools.analysis.labels import function_label
from drgn_tools.analysis.queries import kernel_frames
from drgn_tools.commands.cli import main
from drgn_tools.errors import UsageError
from drgn_tools.fleet.dataset import parquet
from drgn_tools.fleet.dataset.dataset import Dataset, source_key
from drgn_tools.fleet.dataset.parquet import audit_file, tasks_file
from drgn_tools.fleet.dataset.stack_hash import stack_hash
from drgn_tools.fleet.dataset.views import VIEWS
from drgn_tools.fleet.report.query import query_lines
from drgn_tools.fleet.report.report import report_lines
from drgn_tools.fleet.report.sections import SECTIONS
from drgn_tools.records import Frame, KernelAudit, TaskStack, Verdict

from ..commands.test_golden import GOLDEN as GOLDEN_FILES
from ..commands.test_golden import check
from ..support import fabricated
from ..support.fleet_dataset import (
    FLEET,
    HOSTILE_TEXT,
    Source,
    audited,
    day,
    failed,
    of_audit,
    write_dataset,
    write_orphan,
)

Rows = list[dict[str, Any]]


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    dataset = write_dataset(tmp_path_factory.mktemp("fleet") / "dataset", FLEET)
    write_orphan(dataset, fabricated.TASKS[:5])
    return dataset


ALL = 1_000_000
"""More rows than any section has."""


def sections(
    dataset: Dataset, names: Sequence[str] = (), top: Optional[int] = ALL
) -> dict[str, Any]:
    found: dict[str, Any] = json.loads("\n".join(report_lines(dataset, names, top, "json", None)))
    return found


def rows(dataset: Dataset, section: str, top: Optional[int] = ALL) -> Rows:
    found: Rows = sections(dataset, [section], top)["sections"][section]["rows"]
    return found


def sql(dataset: Dataset, query: str, format: str = "json") -> Any:
    text = "\n".join(query_lines(dataset, query, format))
    return json.loads(text) if format == "json" else text


# ---- the numbers, counted again


def iso(when: Optional[datetime]) -> Optional[str]:
    return when and when.replace(tzinfo=None).isoformat() + "Z"


def seen(sources: Iterable[Source]) -> tuple[Optional[str], Optional[str]]:
    times = sorted(source["time"] for source in sources if source["time"])
    return (iso(times[0]), iso(times[-1])) if times else (None, None)


def share(sources: Iterable[Source]) -> Any:
    counts = Counter(task.verdict for source in sources for task in source.tasks or ())
    judged = counts[Verdict.RELIABLE] + counts[Verdict.UNRELIABLE]
    return pytest.approx(counts[Verdict.UNRELIABLE] / judged) if judged else None


def count(sources: Iterable[Source]) -> dict[str, int]:
    counts = Counter(task.verdict for source in sources for task in source.tasks or ())
    return {
        "tasks": sum(counts.values()),
        **{verdict.value: counts[verdict] for verdict in Verdict},
    }


def by(sources: Iterable[Source], *columns: str) -> dict[Any, list[Source]]:
    groups: dict[Any, list[Source]] = defaultdict(list)
    for source in sources:
        groups[tuple(source[column] for column in columns)].append(source)
    return groups


def distinct(sources: Iterable[Source], column: str) -> list[Any]:
    return sorted({source[column] for source in sources if source[column] is not None})


AUDITED = [source for source in FLEET if source["status"] != "failed"]


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
    found = {(row["release"], row["unwinder"]): row for row in rows(fleet, "kernels")}
    groups = by(AUDITED, "release", "unwinder")
    assert found.keys() == groups.keys()
    for key, sources in groups.items():
        first, last = seen(sources)
        assert found[key] == {
            "release": key[0],
            "unwinder": key[1],
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
                    name = function_label(Frame(regs["ip"], regs.symbol, regs.module))
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


# ---- outliers


def _audit_of(unreliable: int, reliable: int, release: str = "6.12.117") -> KernelAudit:
    tasks = [
        *(replace(fabricated.PREEMPTED, pid=100 + i) for i in range(unreliable)),
        *(replace(fabricated.SLEEPER, pid=1000 + i) for i in range(reliable)),
    ]
    return KernelAudit(replace(fabricated.KERNEL, release=release), tuple(tasks))


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
    scores = [
        (source["source"], (source[column] - median) / spread) for source in FLEET if source[column]
    ]
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
        ([2.0, 2.1, 1.9], [300.0]),
        ([2.0, 2.0, 2.0, 2.0, 2.6], [300.0]),  # no more than half more
        ([2.0, 2.0, 2.0, 2.0, 9.0], [300.0, 9.0]),
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


# ---- which sections, and how many rows


def test_all_sections_in_order(fleet: Dataset) -> None:
    assert list(sections(fleet)["sections"]) == list(SECTIONS)
    assert list(sections(fleet, ["stacks", "hosts"])["sections"]) == ["stacks", "hosts"]


def test_top_says_how_many_there_are(fleet: Dataset) -> None:
    all_ = rows(fleet, "hosts")
    found = sections(fleet, ["hosts"], 3)["sections"]["hosts"]
    assert found == {"total": len(all_), "rows": all_[:3]}
    [title, *_] = report_lines(fleet, ["hosts"], 3, "table", None)
    assert title.endswith(f"(the first 3 of {len(all_)}: see --top)")


def test_a_report_shows_as_much_of_a_section_as_is_usual(
    fleet: Dataset, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run([str(fleet.path)], capsys)
    assert code == 0
    total = len(rows(fleet, "stacks"))
    assert total > 7
    assert f"(the first 5 of {total}: see --top)" in out
    assert out == "\n".join(report_lines(fleet, [], None, "table", 100)) + "\n"
    code, out, _ = run([str(fleet.path), "--top", "7", "--section", "stacks"], capsys)
    assert f"(the first 7 of {total}: see --top)" in out


def test_wrong_use_is_refused(fleet: Dataset) -> None:
    with pytest.raises(UsageError, match=r"no section.*summary, kernels"):
        list(report_lines(fleet, ["kernel"], None, "json", None))
    for names in ([], ["hosts", "stacks"]):
        with pytest.raises(UsageError, match="--section"):
            list(report_lines(fleet, names, None, "csv", None))


# ---- formats

COLUMNS = {
    "summary": "sources audited partly_unknown failed quarantined hosts releases builds first_seen "
    "last_seen tasks reliable unreliable unknown unreliable_share seconds peak_memory_bytes tools",
    "kernels": "release unwinder builds audits hosts tasks reliable unreliable unknown "
    "unreliable_share first_seen last_seen",
    "hosts": "host sources failed releases tasks reliable unreliable unknown unreliable_share "
    "first_seen last_seen",
    "functions": "function count tasks audits hosts releases entries first_seen last_seen",
    "reasons": "verdict reason tasks audits hosts releases first_seen last_seen",
    "stacks": "stack_hash verdict reason tasks audits hosts releases first_seen last_seen source "
    "pid comm functions",
    "outliers": "kind source host release value unit median score detail",
    "failures": "status source host exit_code cause attempts quarantined line",
}
"""What programs rely on: add to it, never take away."""


def test_the_json_schema_is_stable(fleet: Dataset) -> None:
    report = sections(fleet)
    assert report["schema"] == "drgn-tools.fleet-report/1"
    assert report["tool"] == __version__
    assert report["dataset"] == str(fleet.path)
    found = {
        name: [" ".join(row) for row in section["rows"]]
        for name, section in report["sections"].items()
    }
    assert {name: set(columns) for name, columns in found.items()} == {
        name: {columns} for name, columns in COLUMNS.items()
    }


def test_jsonl_is_the_same_a_line_a_row(fleet: Dataset) -> None:
    lines = [json.loads(line) for line in report_lines(fleet, [], ALL, "jsonl", None)]
    assert lines == [
        {"section": name, **row}
        for name, section in sections(fleet)["sections"].items()
        for row in section["rows"]
    ]


@pytest.mark.parametrize("section", SECTIONS)
def test_csv_has_the_same_rows(fleet: Dataset, section: str) -> None:
    text = "\n".join(report_lines(fleet, [section], ALL, "csv", None))
    expected = rows(fleet, section)
    assert len(text.splitlines()) == 1 + len(expected)  # whatever a dump says, a row is a line
    found = list(csv.DictReader(io.StringIO(text)))
    assert list(found[0]) == list(expected[0])
    for row, wanted in zip(found, expected):
        for name, value in wanted.items():
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                assert float(row[name]) == value
            elif isinstance(value, list):
                assert len(row[name].split(";")) == max(1, len(value))
            elif value is None:
                assert row[name] == ""


@pytest.mark.parametrize("format", ["table", "csv", "github", "json", "jsonl", "grid", "html"])
def test_nothing_a_dump_says_reaches_the_terminal_as_it_is(fleet: Dataset, format: str) -> None:
    names = [["hosts"], ["stacks"], ["failures"]] if format == "csv" else [[]]
    for chosen in names:
        text = "\n".join(report_lines(fleet, chosen, ALL, format, None))
        text += "\n".join(query_lines(fleet, "FROM audits", format))
        assert all(c.isprintable() for c in text.replace("\n", ""))
        assert "script" in text  # it was there to be escaped
        if format in ("github", "html"):
            assert "<script>" not in text
    assert "\x1b" in HOSTILE_TEXT


@pytest.mark.parametrize("width", [80, 100, 140, 200])
def test_what_a_table_has_no_room_for_is_said_below_it(fleet: Dataset, width: int) -> None:
    for section in ("kernels", "hosts", "failures"):
        lines = list(report_lines(fleet, [section], None, "table", width))
        named = lines[2].lower()
        if lines[-1].startswith("left out, too wide: "):
            named += lines[-1]
            assert lines[-1].endswith(" (--format csv has them)")
        for column in COLUMNS[section].split():
            assert column.replace("unreliable_share", "share").replace("_", " ") in named
        assert ("left out" in lines[-1]) == (width < 200) or width == 140


@pytest.mark.parametrize("width", [80, 100, 200])
def test_why_something_failed_can_be_read_at_any_width(fleet: Dataset, width: int) -> None:
    lines = list(report_lines(fleet, ["failures"], None, "table", width))
    at = lines[2].index("LINE")
    text = "".join(line[at:].replace(" ", "") for line in lines[3:])
    for source in FLEET:
        if source["status"] != "audited" and "bad" not in source["source"]:
            line = source["line"].removeprefix(f"{source['source']}: ")
            assert line.replace(" ", "") in text
    assert "/var/crash/empty/vmcore:" not in text


def test_a_host_that_is_not_known_is_said(fleet: Dataset) -> None:
    assert None in [row["host"] for row in rows(fleet, "hosts")]
    lines = list(report_lines(fleet, ["hosts"], ALL, "table", 80))
    assert sum(line.startswith("(not known)") for line in lines) == 1


def test_repeats_in_a_stack_are_folded(fleet: Dataset) -> None:
    for width in (80, 100):
        lines = list(report_lines(fleet, ["stacks"], None, "table", width))
        assert sum("dig [lab_module]" in line for line in lines) == 1
        assert any(line.endswith("dig [lab_module] ×120") for line in lines)


def test_how_often_is_not_cut(tmp_path: Path) -> None:
    frame = Frame(0xFFFF_FFFF_8130_D0C4, "a_function_with_a_name_as_long_as_this+0x1", "module")
    deep = replace(fabricated.TOO_DEEP, frames=(frame,) * 98)
    audit = replace(fabricated.AUDIT, tasks=(deep,))
    dataset = write_dataset(tmp_path / "d", [of_audit("/a", audit)])
    for width in (80, 100, 200):
        lines = list(report_lines(dataset, ["stacks"], None, "table", width))
        assert sum(line.endswith(" ×98") for line in lines) == 1


@pytest.mark.parametrize("width", [80, 100, 140, 200])
def test_tables_fit(fleet: Dataset, width: int) -> None:
    lines = list(report_lines(fleet, [], 20, "table", width))
    at_least = 104 if width < 100 else width  # numbers are never cut
    assert max(map(len, lines)) <= at_least


def test_an_empty_dataset_has_a_report(tmp_path: Path) -> None:
    dataset = Dataset.create(tmp_path / "d")
    found = sections(dataset)["sections"]
    assert {name: section["total"] for name, section in found.items()} == {
        **dict.fromkeys(SECTIONS, 0),
        "summary": 1,
    }
    assert found["summary"]["rows"][0]["tasks"] == 0
    assert any("none" in line for line in report_lines(dataset, [], 20, "table", 100))


# ---- one's own query


def test_sql_in_every_format(fleet: Dataset) -> None:
    query = (
        "SELECT host, count(*) AS n FROM audits WHERE host LIKE 'web%' GROUP BY host ORDER BY host"
    )
    groups = by([s for s in FLEET if (s["host"] or "").startswith("web")], "host")
    expected = [{"host": host, "n": len(sources)} for (host,), sources in sorted(groups.items())]
    found = sql(fleet, query)
    assert found["schema"] == "drgn-tools.fleet-sql/1"
    assert found["rows"] == expected
    assert [json.loads(line) for line in sql(fleet, query, "jsonl").splitlines()] == expected
    read = list(csv.DictReader(io.StringIO(sql(fleet, query, "csv"))))
    assert read == [{name: str(value) for name, value in row.items()} for row in expected]
    assert "web-0  2" in " ".join(sql(fleet, query, "table").split(" ")).replace("   ", "  ")


def test_sql_of_every_type(fleet: Dataset) -> None:
    query = """
        SELECT 1 AS a, 2 AS a, 'nan'::DOUBLE AS nan, 1.5::DECIMAL(5, 2) AS d, '\\x00'::BLOB AS b,
            time, tags, [NULL, 1] AS l, {'x': [time]} AS s, 18446744073709551615 AS u, true AS t,
            5 AS source, 6 AS first_seen, 'abc' AS last_seen, INTERVAL 1 DAY AS i
        FROM audits WHERE source = '/var/crash/web-0/vmcore'
    """
    [row] = sql(fleet, query)["rows"]
    when = iso(day(0))
    assert row == {
        "a": 1, "a_2": 2, "nan": None, "d": "1.50", "b": "00", "time": when,
        "tags": {"role": "web", "rack": "0"}, "l": [None, 1], "s": {"x": [when]}, "u": 2**64 - 1,
        "t": True, "source": 5, "first_seen": 6, "last_seen": "abc", "i": "1 day, 0:00:00",
    }  # fmt: skip
    for format in ("table", "csv", "github"):
        assert "18446744073709551615" in sql(fleet, query, format)


def test_a_table_of_sql_is_what_was_selected(fleet: Dataset) -> None:
    query = """
        SELECT 0.5::DOUBLE AS share, 0.25::DOUBLE AS unreliable_share, peak_memory_bytes, seconds,
            quarantined, count(*) OVER (), attempts, builds, [1, 2, 3, 4, 5] AS list
        FROM (SELECT *, 7 AS builds FROM audits WHERE host = 'sick' AND status = 'audited')
    """
    heading, row = sql(fleet, query, "table").splitlines()
    assert re.split("  +", heading) == [
        *("share", "unreliable_share", "peak_memory_bytes", "seconds", "quarantined"),
        *("count() OVER ()", "attempts", "builds", "list"),
    ]
    assert re.split("  +", row.strip()) == [
        *("0.5", "0.25", "4000000000", "99.5", "false", "1", "1", "7", "[1, 2, 3, 4, 5]")
    ]


@pytest.mark.parametrize("format", ["table", "csv", "github", "html"])
def test_a_name_of_a_column_is_escaped(fleet: Dataset, format: str) -> None:
    text = sql(fleet, 'SELECT 1 AS "a\n\x1b[31m<script>|"', format)
    assert "a\\x0a\\x1b[31m" in text
    assert all(c.isprintable() for c in text.replace("\n", ""))
    if format in ("github", "html"):
        assert "<script>" not in text


def test_times_with_a_zone_are_refused_in_one_sentence(fleet: Dataset) -> None:
    for query in ("SELECT current_timestamp", "SELECT [now()] AS x", "SELECT {'a': now()} AS x"):
        with pytest.raises(UsageError, match=r"now\(\)::TIMESTAMP"):
            sql(fleet, query)


def test_now_is_that_of_utc(fleet: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    [row] = sql(fleet, "SELECT now()::TIMESTAMP AS now")["rows"]
    now = datetime.fromisoformat(row["now"].removesuffix("Z") + "+00:00")
    assert abs(now.timestamp() - time.time()) < 600


def test_a_mistake_in_sql_says_what_there_is(fleet: Dataset) -> None:
    with pytest.raises(UsageError, match=r'Candidate bindings: .*"host"'):
        sql(fleet, "SELECT hst FROM audits")
    with pytest.raises(UsageError, match='Did you mean "audits"') as caught:
        sql(fleet, "FROM audit")
    assert f"(views: {', '.join(VIEWS)})" in str(caught.value)


@pytest.mark.parametrize(
    "query",
    [
        "SELEC 1",
        "SELECT nope FROM audits",
        "FROM nowhere",
        "SELECT 'x'::INTEGER",
        "",
        "SELECT 1; SELECT 2",
        "COPY (SELECT 1) TO 'x.csv'",
        "CREATE TABLE x AS SELECT 1",
        "DROP VIEW audits",
        "FROM read_text('/etc/hostname')",
        "ATTACH 'x.db'",
        "SET threads = 1",
    ],
)
def test_a_mistake_in_sql_is_one_line(fleet: Dataset, query: str) -> None:
    with pytest.raises(UsageError) as caught:
        sql(fleet, query)
    assert str(caught.value).startswith("--sql")
    assert "\n" not in str(caught.value)


def test_sql_cannot_write_into_the_dataset(fleet: Dataset) -> None:
    before = sorted(fleet.path.rglob("*"))
    with pytest.raises(UsageError):
        sql(fleet, f"COPY (SELECT 1) TO '{fleet.audits}/x.parquet'")
    assert sorted(fleet.path.rglob("*")) == before


# ---- what is no dataset, and damage


def run(argv: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    code = main(["fleet", "report", *argv])
    return (code, *capsys.readouterr())


def one_error(code: int, err: str) -> tuple[int, str]:
    [line] = err.splitlines()
    assert line.startswith("drgn-tools: error: ")
    return code, line


def test_what_is_no_dataset(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in (tmp_path, tmp_path / "nowhere"):
        code, out, err = run([str(path)], capsys)
        assert one_error(code, err)[0] == 3
        assert str(path) in err
        assert not out


def test_a_dataset_of_another_schema(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_dataset(tmp_path / "d", FLEET[:1])
    (tmp_path / "d" / "dataset.json").write_text('{"schema": "drgn-tools.fleet/2"}')
    code, _, err = run([str(tmp_path / "d")], capsys)
    assert one_error(code, err) == (3, one_error(code, err)[1])
    assert "drgn-tools.fleet/2" in err
    assert "drgn-tools.fleet/1" in err


@pytest.mark.parametrize("more", [[], ["--sql", "SELECT sum(depth), count(frames) FROM tasks"]])
@pytest.mark.parametrize("folder", ["audits", "tasks"])
@pytest.mark.parametrize("damage", ["cut", "middle", "empty"])
def test_a_damaged_file_is_one_line(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    folder: str,
    damage: str,
    more: list[str],
) -> None:
    dataset = write_dataset(tmp_path / "d", FLEET)
    file = sorted((dataset.path / folder).iterdir())[4]
    content = file.read_bytes()
    # The first half of a file is its pages: here compressed data that is none.
    middle = content[:8] + b"\xff" * (len(content) // 4) + content[8 + len(content) // 4 :]
    file.write_bytes({"cut": content[:-20], "middle": middle, "empty": b""}[damage])
    code, out, err = run([str(dataset.path), *more], capsys)
    assert one_error(code, err)[0] == 3
    assert str(file) in err
    assert not out


def test_an_error_of_sql_is_exit_code_2(fleet: Dataset, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run([str(fleet.path), "--sql", "SELECT nope FROM audits"], capsys)
    assert one_error(code, err)[0] == 2
    assert not out


def test_a_format_that_there_is_not(fleet: Dataset, capsys: pytest.CaptureFixture[str]) -> None:
    for more in ([], ["--sql", "FROM audits"]):
        code, out, err = run([str(fleet.path), "--format", "gihtub", *more], capsys)
        assert one_error(code, err)[0] == 2
        assert "did you mean github?" in err
        assert not out


def test_help_names_the_views(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fleet", "report", "--help"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert f"{', '.join(list(VIEWS)[:-1])} and {list(VIEWS)[-1]};" in out
    assert "DESCRIBE tasks" in out


# ---- real ones, and many


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
        function_label(Frame(regs["ip"], regs.symbol, regs.module))
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


# ---- golden outputs

GOLDEN = (
    "fleet report DATASET",
    *(f"fleet report DATASET --section {name} --top 5" for name in SECTIONS),
    "fleet report DATASET --format json --top 3",
    "fleet report DATASET --section kernels --format csv",
    "fleet report DATASET --section kernels --format github",
    "fleet report DATASET --section stacks --top 2 --format jsonl",
)


@pytest.mark.parametrize("line", GOLDEN)
def test_golden(
    line: str,
    fleet: Dataset,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    code = main(line.replace("DATASET", str(fleet.path)).split())
    out, err = capsys.readouterr()
    text = f"$ drgn-tools {line}\n{out}[stderr]\n{err}[exit code {code}]\n"
    text = text.replace(str(fleet.path), "DATASET").replace(f'"{__version__}"', '"VERSION"')
    check("fleet", line, text.replace(f"  {__version__}\n", "  VERSION\n"))


def test_no_golden_file_is_left_over() -> None:
    found = {path.stem for path in (GOLDEN_FILES / "fleet").glob("*")}
    assert found <= {line.replace(" ", "_") for line in GOLDEN}


DOC = Path(__file__).parents[2] / "docs" / "fleet-report.md"


def _examples() -> list[str]:
    return re.findall(
        r'^ {4}drgn-tools fleet report fleet --sql "(.*)"', DOC.read_text(), re.MULTILINE
    )


@pytest.fixture(scope="module")
def tried(tmp_path_factory: pytest.TempPathFactory, demo_core: str) -> Dataset:
    """What "Try it" of docs/fleet.md makes."""
    text = (DOC.parent / "fleet.md").read_text()
    manifest = [json.loads(line) for line in re.findall(r'^ {4}({"core": .*})', text, re.MULTILINE)]
    assert len(manifest) == 3
    one = audited(demo_core)
    sources = [
        Source(
            {
                **one.record,
                "source": source["core"],
                "audit_id": source["host"],
                "host": source["host"],
                "tags": source["tags"],
                "time": datetime.fromisoformat(source["time"][:-1]),
            },
            one.tasks,
        )
        for source in manifest
    ]
    sources.append(failed("db2", 3, "input", "db2: is cut", time=datetime.now(timezone.utc)))
    return write_dataset(tmp_path_factory.mktemp("tried") / "dataset", sources)


@pytest.mark.parametrize("query", [*_examples(), "SELECT printf('0x%x', ip) AS ip FROM frames"])
def test_the_queries_of_the_docs_find_something(tried: Dataset, query: str) -> None:
    assert sql(tried, query)["rows"]


def test_the_docs_name_all_there_is() -> None:
    text = DOC.read_text()
    assert len(_examples()) == 5
    for name in (*SECTIONS, *VIEWS):
        assert f"| `{name}` |" in text
