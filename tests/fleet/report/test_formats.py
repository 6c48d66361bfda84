# SPDX-License-Identifier: LGPL-2.1-or-later
"""The report as JSON, JSON lines and CSV; escaping in every format."""

from __future__ import annotations

import csv
import io
import json

import pytest

pytest.importorskip("duckdb", reason="needs the extra drgn-tools[fleet]")
pytest.importorskip("pyarrow", reason="needs the extra drgn-tools[fleet]")
pytest.importorskip("distributed", reason="needs the extra drgn-tools[fleet]")

from drgn_tools import __version__
from drgn_tools.fleet.dataset.dataset import Dataset
from drgn_tools.fleet.report.query import query_lines
from drgn_tools.fleet.report.report import report_lines
from drgn_tools.fleet.report.sections import SECTIONS

from ...support.fleet_dataset import HOSTILE_TEXT
from ...support.fleet_report import ALL, COLUMNS, rows, sections


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
