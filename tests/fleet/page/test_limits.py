# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the page does not list is said and counted; empty datasets and odd times."""

from __future__ import annotations

import re
from datetime import datetime, timezone
from pathlib import Path

import pytest

pytest.importorskip("duckdb", reason="needs the extra drgn-tools[fleet]")
pytest.importorskip("pyarrow", reason="needs the extra drgn-tools[fleet]")

from drgn_tools.fleet.dataset.dataset import Dataset
from drgn_tools.fleet.report.page import write_page
from drgn_tools.fleet.report.page_data import PageLimits
from drgn_tools.records import KernelAudit

from ...support import fabricated
from ...support.fleet_dataset import FLEET, of_audit, write_dataset
from ...support.fleet_page import TASKS, Open, figure, frame, rows, verdicts


def test_what_is_not_listed_is_said_and_counted(tmp_path: Path, open_page: Open) -> None:
    dataset = write_dataset(tmp_path / "dataset", FLEET)
    write_page(dataset, tmp_path / "page.html", PageLimits(sources=6, stacks=5, failures=2))
    page = open_page(tmp_path / "page.html")
    notices = page.inner_text("#notices")
    assert re.search(r"\d+ rarer stacks with \d+ tasks are not listed", notices)
    assert re.search(r"\d+ hosts with \d+ sources are taken together", notices)
    assert "Failures: 2 of 5 are listed" in notices
    assert figure(page, "sources") == len(FLEET)
    assert figure(page, "hosts") == len({source["host"] for source in FLEET} - {None})
    assert figure(page, "unreliable") == verdicts(task for _, task in TASKS)["unreliable"]
    assert len(rows(page, "stacks")) == 5
    assert len(rows(page, "sources")) <= 6
    assert "(other hosts)" in {row["host"] for row in rows(page, "hosts")}
    assert f"{len(TASKS)} tasks" in frame(page, "all stacks").get_attribute("aria-label")
    page.select_option("#release", label="6.12.117")
    sources = [source for source in FLEET if source["release"] == "6.12.117"]
    assert figure(page, "sources") == len(sources)
    assert page.inner_text('[data-figure="hosts"]').startswith("≥ ")


def test_a_dataset_with_nothing_in_it_has_a_page(tmp_path: Path, open_page: Open) -> None:
    write_page(Dataset.create(tmp_path / "dataset"), tmp_path / "page.html")
    page = open_page(tmp_path / "page.html")
    assert figure(page, "sources") == figure(page, "tasks") == 0
    assert "No stack is shown" in page.inner_text("#flame-said")


def test_a_time_that_no_calendar_has_is_none(tmp_path: Path, open_page: Open) -> None:
    # A dump may say anything; the last that a Parquet timestamp holds is in 294247.
    times = (datetime(9999, 12, 31, tzinfo=timezone.utc), datetime(1, 1, 1, tzinfo=timezone.utc))
    sources = [
        of_audit(f"/dump/{time.year}", KernelAudit(fabricated.KERNEL, ()), time=time, host="h")
        for time in times
    ]
    write_page(write_dataset(tmp_path / "dataset", sources), tmp_path / "page.html")
    page = open_page(tmp_path / "page.html")
    assert {row["source"]: row["time"] for row in rows(page, "sources")} == {
        "/dump/9999": "–",
        "/dump/1": "0001-01-01 00:00",
    }
