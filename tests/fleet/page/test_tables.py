# SPDX-License-Identifier: LGPL-2.1-or-later
"""The tables of the page are sorted, filtered, and drawn in parts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("duckdb", reason="needs the extra drgn-tools[fleet]")
pytest.importorskip("pyarrow", reason="needs the extra drgn-tools[fleet]")

from drgn_tools.fleet.report.page import write_page
from drgn_tools.records import KernelAudit

from ...support import fabricated
from ...support.fleet_dataset import day, of_audit, write_dataset
from ...support.fleet_page import TASKS, Open, column, header, rows, sort_by


def test_a_header_sorts_by_number(page: Any) -> None:
    before = column(page, "stacks", "tasks")
    assert sort_by(page, "stacks", "tasks") == "descending"
    falling = column(page, "stacks", "tasks")
    assert falling == sorted(before, reverse=True) != before
    assert sort_by(page, "stacks", "tasks") == "ascending"
    rising = column(page, "stacks", "tasks")
    assert rising == sorted(before)
    assert rising != sorted(before, key=str), "or text would sort alike"
    assert header(page, "stacks", "verdict").get_attribute("aria-sort") == "none"


def test_a_header_sorts_text_naturally_and_by_keyboard(page: Any) -> None:
    header(page, "kernels", "release").locator("button").focus()
    page.keyboard.press("Enter")
    releases = [row["release"] for row in rows(page, "kernels")]
    assert releases.index("6.6.63") < releases.index("6.12.117")


def test_rows_are_filtered_by_text(page: Any) -> None:
    page.fill("#sources input", "web-0 older")
    assert [row["source"] for row in rows(page, "sources")] == ["/var/crash/web-0/older"]
    assert page.text_content("#sources .count") == "1 of 17"
    page.fill("#sources input", "no such thing")
    assert rows(page, "sources") == []
    assert page.is_visible("#sources .nothing")


def test_a_filter_finds_a_stack_by_any_of_its_functions(page: Any) -> None:
    page.fill("#stacks input", "rep_stos_alternative")
    tasks = {task for _, task in TASKS if any("rep_stos" in str(f.symbol) for f in task.frames)}
    assert sum(column(page, "stacks", "tasks")) == sum(task in tasks for _, task in TASKS)


def test_long_tables_are_drawn_in_parts(tmp_path: Path, open_page: Open) -> None:
    audit = KernelAudit(fabricated.KERNEL, (fabricated.SLEEPER,))
    sources = [of_audit(f"/dump/{i}", audit, host=f"h{i}", time=day(i)) for i in range(250)]
    write_page(write_dataset(tmp_path / "dataset", sources), tmp_path / "page.html")
    page = open_page(tmp_path / "page.html")
    assert len(rows(page, "sources")) == 200
    page.click("#sources .more")
    assert len(rows(page, "sources")) == 250
    assert page.is_hidden("#sources .more")
