# SPDX-License-Identifier: LGPL-2.1-or-later
"""The tables of the report: what is left out, shortened and folded to fit."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

pytest.importorskip("duckdb", reason="needs the extra drgn-tools[fleet]")
pytest.importorskip("pyarrow", reason="needs the extra drgn-tools[fleet]")
pytest.importorskip("distributed", reason="needs the extra drgn-tools[fleet]")

from drgn_tools.fleet.dataset.dataset import Dataset
from drgn_tools.fleet.report.report import report_lines
from drgn_tools.fleet.report.sections import SECTIONS
from drgn_tools.records import Frame

from ...support import fabricated
from ...support.fleet_dataset import FLEET, of_audit, write_dataset
from ...support.fleet_report import ALL, COLUMNS, rows, sections


@pytest.mark.parametrize("width", [80, 100, 140, 200])
def test_what_a_table_has_no_room_for_is_said_below_it(fleet: Dataset, width: int) -> None:
    for section in ("kernels", "hosts", "failures"):
        lines = list(report_lines(fleet, [section], None, "table", width))
        _, _, note = "\n".join(lines).partition("\nleft out, too wide: ")
        note = " ".join(note.split())
        named = lines[2].lower() + note
        assert not note or note.endswith(" (--format csv has them)")
        for column in COLUMNS[section].split():
            assert column.replace("unreliable_share", "share").replace("_", " ") in named
        assert bool(note) == (width < 200) or width == 140


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
    frame = Frame(
        0xFFFF_FFFF_8130_D0C4,
        fabricated.symbol("a_function_with_a_name_as_long_as_this+0x1", "module"),
    )
    deep = replace(fabricated.TOO_DEEP, frames=(frame,) * 98)
    audit = replace(fabricated.AUDIT, tasks=(deep,))
    dataset = write_dataset(tmp_path / "d", [of_audit("/a", audit)])
    for width in (80, 100, 200):
        lines = list(report_lines(dataset, ["stacks"], None, "table", width))
        assert sum(line.endswith(" ×98") for line in lines) == 1


@pytest.mark.parametrize("width", [80, 100, 140, 200])
def test_tables_fit(fleet: Dataset, width: int) -> None:
    lines = list(report_lines(fleet, [], 20, "table", width))
    assert [line for line in lines if len(line) > width] == []


def test_a_title_and_what_was_left_out_fit_too(fleet: Dataset) -> None:
    lines = list(report_lines(fleet, ["stacks", "failures"], 2, "table", 80))
    assert max(map(len, lines)) <= 80
    text = " ".join(" ".join(lines).split())
    assert "those on most hosts (the first 2 of " in text
    assert "left out, too wide: exit code, attempts, quarantined (--format csv has them)" in text
    # Another format has its title in one line.
    title, *_ = report_lines(fleet, ["stacks"], 2, "github", 80)
    assert title.endswith(": see --top)")


def test_an_empty_dataset_has_a_report(tmp_path: Path) -> None:
    dataset = Dataset.create(tmp_path / "d")
    found = sections(dataset)["sections"]
    assert {name: section["total"] for name, section in found.items()} == {
        **dict.fromkeys(SECTIONS, 0),
        "summary": 1,
    }
    assert found["summary"]["rows"][0]["tasks"] == 0
    assert any("none" in line for line in report_lines(dataset, [], 20, "table", 100))
