# SPDX-License-Identifier: LGPL-2.1-or-later
"""The time line of the page, and how it is divided."""

from __future__ import annotations

import re
from datetime import datetime, timezone
from typing import Any, Optional

import pytest

pytest.importorskip("duckdb", reason="needs the extra drgn-tools[fleet]")
pytest.importorskip("pyarrow", reason="needs the extra drgn-tools[fleet]")

from drgn_tools.fleet.report.time_line import TimeLine

from ...support.fleet_dataset import FLEET
from ...support.fleet_page import figure, number, rows


def bars(page: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = page.eval_on_selector_all(
        "#timeline button",
        "all => all.map(e => ({label: e.ariaLabel, pressed: e.ariaPressed, off: e.disabled}))",
    )
    return found


def sources_of(bar: dict[str, Any]) -> int:
    found = re.search(r"; ([\d,]+) sources?", bar["label"])
    assert found
    return number(found[1])


def test_every_source_is_on_the_time_line(page: Any) -> None:
    assert sum(map(sources_of, bars(page))) == len(FLEET)
    assert sources_of(next(b for b in bars(page) if "no time known" in b["label"])) == sum(
        source["time"] is None for source in FLEET
    )
    assert sum("failed" in bar["label"] for bar in bars(page)) >= 3


def test_a_time_is_chosen_and_left(page: Any) -> None:
    full = [
        i
        for i, bar in enumerate(bars(page))
        if sources_of(bar) > 1 and "no time" not in bar["label"]
    ]
    button = page.locator("#timeline button")
    button.nth(full[0]).click()
    assert figure(page, "sources") == len(rows(page, "sources")) == sources_of(bars(page)[full[0]])
    assert [i for i, bar in enumerate(bars(page)) if bar["pressed"] == "true"] == [full[0]]
    first, last = bars(page)[full[0]]["label"][:10], bars(page)[full[0]]["label"][14:24]
    assert all(first <= row["time"][:10] <= last for row in rows(page, "sources"))
    button.nth(full[-1]).click(modifiers=["Shift"])
    assert figure(page, "sources") == sum(map(sources_of, bars(page)[full[0] : full[-1] + 1]))
    page.click("#time-chip")
    assert figure(page, "sources") == len(FLEET)
    button.nth(full[0]).focus()
    page.keyboard.press("Enter")
    page.keyboard.press("Enter")
    assert figure(page, "sources") == len(FLEET)


def seconds(year: int, month: int, day: int, hour: int = 0, minute: int = 0) -> int:
    return int(datetime(year, month, day, hour, minute, tzinfo=timezone.utc).timestamp())


def test_a_time_line_has_sensible_parts() -> None:
    months = TimeLine([seconds(2024, 1, 15), seconds(2026, 3, 2)])
    assert months.buckets[0] == (seconds(2024, 1, 1), seconds(2024, 2, 1))
    assert len(months.buckets) == 27
    hours = TimeLine([seconds(2026, 3, 1, 10, 20), seconds(2026, 3, 2, 9)])
    assert all(start % hours.seconds == 0 for start, _ in hours.buckets if start)
    assert hours.seconds in (900, 3600)
    weeks = TimeLine([seconds(2026, 1, 1), seconds(2026, 9, 1)])
    assert (
        datetime.fromtimestamp(weeks.buckets[0][0] or 0, timezone.utc).strftime("%a %H") == "Mon 00"
    )


@pytest.mark.parametrize(
    "times",
    [[], [None], [0], [5] * 9, [-(2**62), 2**62, 3], [seconds(1, 1, 1), seconds(8999, 1, 1)]],
)
def test_a_time_line_holds_any_time(times: list[Optional[int]]) -> None:
    line = TimeLine(times)
    assert all(0 <= line.bucket(time) < len(line.buckets) <= 100 for time in times)


def test_a_broken_clock_does_not_stretch_the_time_line() -> None:
    times = [seconds(2026, 3, 1) + i * 3600 for i in range(100)]
    line = TimeLine([0, *times, seconds(2200, 1, 1)])
    assert line.seconds <= 86400
    start, end = line.buckets[line.bucket(0)]
    assert start is None and end is not None and end <= times[0]
    assert line.buckets[line.bucket(seconds(2200, 1, 1))][1] is None
    for time in times:
        start, end = line.buckets[line.bucket(time)]
        assert start is not None and end is not None and start <= time < end
