# SPDX-License-Identifier: LGPL-2.1-or-later
"""Records in another order: by numbers, text, verdicts, several fields, and what is missing."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drgn_tools.analysis.record_fields import TASK
from drgn_tools.analysis.sorting import SortKey, parse_order, sorted_records
from drgn_tools.errors import UsageError

from ..support.fabricated import TASKS

_FIELDS = {name: (lambda record, name=name: record.get(name)) for name in ("a", "b")}


def ordered(values: list[Any], order: str) -> list[Any]:
    return [
        record["a"]
        for record in sorted_records(
            [{"a": value} for value in values], parse_order(order), _FIELDS
        )
    ]


def test_addresses_and_numbers_are_compared_as_numbers() -> None:
    assert ordered(["0x100", "0xff", "0x2000"], "a") == ["0xff", "0x100", "0x2000"]
    assert ordered([10, 9, True, False], "-a") == [10, 9, True, False]


@pytest.mark.parametrize(("order", "found"), [("a", [1, 2, None]), ("-a", [2, 1, None])])
def test_what_is_missing_comes_last(order: str, found: list[Any]) -> None:
    assert ordered([2, None, 1], order) == found


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3))), st.booleans(), st.booleans())
def test_several_keys_and_the_order_before(
    pairs: list[tuple[int, int]], first_down: bool, second_down: bool
) -> None:
    records = [{"a": a, "b": b, "n": n} for n, (a, b) in enumerate(pairs)]
    order = (SortKey("a", first_down), SortKey("b", second_down))
    found = sorted_records(records, order, _FIELDS)
    signs = (-1 if first_down else 1), (-1 if second_down else 1)
    assert found == sorted(records, key=lambda r: (signs[0] * r["a"], signs[1] * r["b"], r["n"]))


def test_the_worst_verdict_comes_first_and_the_crashed_task_before_all() -> None:
    found = sorted_records(TASKS, parse_order("verdict"), TASK)
    assert "crashed" in found[0].flags
    verdicts = [task.verdict.value for task in found[1:]]
    assert verdicts == sorted(verdicts, key=["unreliable", "unknown", "reliable"].index)


@pytest.mark.parametrize("name", TASK)
def test_sorting_by_any_field_loses_no_task(name: str) -> None:
    for order in (name, f"-{name}"):
        found = sorted_records(TASKS, parse_order(order), TASK)
        assert sorted(task.task for task in found) == sorted(task.task for task in TASKS)


@pytest.mark.parametrize("text", ["", "pid,", "-"])
def test_an_order_without_a_name(text: str) -> None:
    with pytest.raises(UsageError, match="--sort takes columns"):
        parse_order(text)
