# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which sections a report has, and how many rows of each."""

from __future__ import annotations

import pytest

pytest.importorskip("duckdb", reason="needs the extra drgn-tools[fleet]")
pytest.importorskip("pyarrow", reason="needs the extra drgn-tools[fleet]")
pytest.importorskip("distributed", reason="needs the extra drgn-tools[fleet]")

from drgn_tools.errors import UsageError
from drgn_tools.fleet.dataset.dataset import Dataset
from drgn_tools.fleet.report.report import report_lines
from drgn_tools.fleet.report.sections import SECTIONS

from ...support.fleet_report import rows, run, sections


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
    fleet: Dataset, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
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
