# SPDX-License-Identifier: LGPL-2.1-or-later
"""Filters of the page narrow every figure and table."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("duckdb", reason="needs the extra drgn-tools[fleet]")
pytest.importorskip("pyarrow", reason="needs the extra drgn-tools[fleet]")


from ...support.fleet_dataset import FLEET
from ...support.fleet_page import TASKS, column, figure, frame, rows, verdicts


def test_a_kernel_and_a_host_narrow_everything(page: Any) -> None:
    page.select_option("#release", label="6.12.117")
    sources = [source for source in FLEET if source["release"] == "6.12.117"]
    assert figure(page, "sources") == len(sources)
    assert (
        figure(page, "unreliable")
        == verdicts(t for s in sources for t in s.tasks or ())["unreliable"]
    )
    page.get_by_role("button", name="web-1", exact=True).first.click()
    sources = [source for source in sources if source["host"] == "web-1"]
    tasks = [task for source in sources for task in source.tasks or ()]
    assert len(sources) == figure(page, "sources") == len(rows(page, "sources")) == 2
    assert sum(column(page, "stacks", "tasks")) == len(tasks)
    assert f"{len(tasks)} tasks" in frame(page, "all stacks").get_attribute("aria-label")
    assert {row["host"] for row in rows(page, "hosts")} == {"web-1"}
    page.click("#clear")
    assert figure(page, "sources") == len(FLEET)


def test_a_verdict_narrows_tasks(page: Any) -> None:
    page.uncheck("#verdicts [value=reliable]")
    page.uncheck("#verdicts [value=unknown]")
    unreliable = verdicts(task for _, task in TASKS)["unreliable"]
    assert figure(page, "tasks") == unreliable == sum(column(page, "stacks", "tasks"))
    assert f"{unreliable} tasks" in frame(page, "all stacks").get_attribute("aria-label")
    assert "reliable: 0" not in page.inner_text("#flame")
    assert {row["verdict"] for row in rows(page, "stacks")} == {"unreliable"}
    page.uncheck("#verdicts [value=unreliable]")
    assert figure(page, "tasks") == 0
    assert "No stack is shown" in page.inner_text("#flame-said")
