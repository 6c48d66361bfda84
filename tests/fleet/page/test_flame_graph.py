# SPDX-License-Identifier: LGPL-2.1-or-later
"""The flame graph of the page."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("duckdb", reason="needs the extra drgn-tools[fleet]")
pytest.importorskip("pyarrow", reason="needs the extra drgn-tools[fleet]")

from drgn_tools.analysis.labels import function_label
from drgn_tools.analysis.waiting import kernel_frames
from drgn_tools.records import TaskStack

from ...support.fleet_page import TASKS, frame, share_of_width, verdicts


def entered(name: str) -> list[TaskStack]:
    """Tasks whose stack begins in that function."""
    stacks = ((task, kernel_frames(task)) for _, task in TASKS)
    return [task for task, frames in stacks if frames and function_label(frames[-1]) == name]


def test_the_flame_graph_zooms_and_comes_back(page: Any) -> None:
    entry = "entry_SYSCALL_64_after_hwframe"
    tasks = entered(entry)
    assert share_of_width(page, entry) == pytest.approx(len(tasks) / len(TASKS), abs=0.005)
    assert f"{len(tasks)} tasks" in frame(page, entry).get_attribute("aria-label")
    frame(page, entry).click()
    assert share_of_width(page, entry) == pytest.approx(1, abs=0.005)
    assert page.locator(".frame", has_text="ret_from_fork_asm").count() == 0
    bad = verdicts(tasks)["unreliable"]
    assert f"{bad} unreliable ({100 * bad / len(tasks):.1f} %)" in page.inner_text("#flame-said")
    page.click("#flame-reset")
    assert share_of_width(page, entry) == pytest.approx(len(tasks) / len(TASKS), abs=0.005)
    assert page.is_disabled("#flame-reset")


def test_the_flame_graph_by_keyboard(page: Any) -> None:
    page.locator("#flame-graph [tabindex='0']").focus()
    page.keyboard.press("ArrowDown")
    largest = page.evaluate("document.activeElement.textContent")
    page.keyboard.press("ArrowRight")
    assert page.evaluate("document.activeElement.textContent") != largest
    page.keyboard.press("ArrowLeft")
    assert page.evaluate("document.activeElement.textContent") == largest
    assert page.is_visible("#tip")
    page.keyboard.press("Enter")
    assert share_of_width(page, largest) == pytest.approx(1, abs=0.005)
    page.keyboard.press("Escape")
    assert share_of_width(page, largest) < 0.9


def test_the_flame_graph_finds_a_function(page: Any) -> None:
    page.fill("#flame-search", "rep_stos")
    tasks = sum(any("rep_stos" in str(f.symbol) for f in kernel_frames(task)) for _, task in TASKS)
    assert page.inner_text("#flame-found").startswith(f"{tasks} tasks (")
    assert page.locator(".frame.found").count() > 0
    page.fill("#flame-search", "")
    assert page.locator(".frame.found").count() == 0


def test_the_flame_graph_is_coloured_by_verdict(page: Any) -> None:
    def colour(name: str) -> str:
        return str(frame(page, name).evaluate("e => getComputedStyle(e).backgroundColor"))

    assert verdicts(entered("ret_from_fork_asm"))["unreliable"] == 0
    page.select_option("#release", label="6.12.117")
    colours = [
        colour(name)
        for name in ("ret_from_fork_asm", "entry_SYSCALL_64_after_hwframe", "rep_stos_alternative")
    ]
    assert len(set(colours)) == 3


def test_a_tip_says_counts(page: Any) -> None:
    frame(page, "ret_from_fork_asm").hover()
    tip = page.inner_text("#tip")
    counts = verdicts(entered("ret_from_fork_asm"))
    assert f"{counts['reliable']} reliable" in tip
    assert f"{sum(counts.values())} tasks" in tip
