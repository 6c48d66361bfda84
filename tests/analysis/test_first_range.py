# SPDX-License-Identifier: LGPL-2.1-or-later
"""The first of many ranges that holds an address."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from drgn_tools.analysis.first_range import FirstRange

RANGES = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), max_size=8)


def test_no_ranges_hold_nothing() -> None:
    assert FirstRange([]).at(0) is None


def test_ranges_are_half_open_and_may_touch() -> None:
    found = FirstRange([(20, 30), (10, 20), (40, 40), (50, 45)])
    assert [found.at(address) for address in (9, 10, 19, 20, 29, 30, 40, 45, 50)] == [
        *(None, 1, 1, 0, 0, None, None, None, None)
    ]


@given(RANGES)
def test_it_is_the_first_of_the_list(ranges: Sequence[tuple[int, int]]) -> None:
    found = FirstRange(ranges)
    for address in range(-1, 32):
        holding = (i for i, (start, end) in enumerate(ranges) if start <= address < end)
        assert found.at(address) == next(holding, None)
