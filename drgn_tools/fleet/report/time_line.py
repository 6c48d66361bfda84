# SPDX-License-Identifier: LGPL-2.1-or-later
"""A time line in equal parts that begin at full hours, days or months."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from datetime import datetime, timezone
from typing import Optional

__all__ = ("TimeLine",)

_MOST = 60
"""Maximum number of parts."""
_HOUR, _DAY, _YEAR = 3600, 86400, 31_556_952
_STEPS_S = (60, 300, 900, _HOUR, 3 * _HOUR, 6 * _HOUR, _DAY, 7 * _DAY)
_STEPS_MONTHS = (1, 3, 12, 60, 120, 1200)
_MONDAY = 4 * _DAY
"""The first Monday of 1970. It is a multiple of a day, so shorter steps do not depend on it."""
_FIRST = int(datetime(1, 1, 1, tzinfo=timezone.utc).timestamp())
_LAST = int(datetime(9000, 1, 1, tzinfo=timezone.utc).timestamp())


class TimeLine:
    """A time line for given times.

    A few times far from all others, such as those of a broken clock, do not stretch it. They
    are in the part before the first or after the last.
    """

    def __init__(self, times: Iterable[Optional[int]]) -> None:
        """
        :param times: Seconds since 1970 in UTC. ``None``, and a time outside the calendar, is
            an unknown time.
        """
        times = list(times)
        known = sorted(time for time in times if time is not None and _FIRST <= time < _LAST)
        self._edges: list[int] = []
        self.seconds = _DAY
        """Approximate length of a part."""
        if known:
            first, last = _most_of(known)
            self.seconds, self._edges = _edges(first, last)
        ends = [None, *self._edges, None]
        used = sorted({self._place(time) for time in times} - set(range(1, len(self._edges))))
        # With the empty parts in between, so that a gap can be seen.
        places = sorted({*used, *range(1, len(self._edges))}, key=lambda place: (place < 0, place))
        self._index = {place: index for index, place in enumerate(places)}
        self.buckets = [
            (None, None) if place < 0 else (ends[place], ends[place + 1]) for place in places
        ]
        """First second of each part and of the next one. The outer parts have no start or no end; the part of
        unknown times has neither."""

    def bucket(self, time: Optional[int]) -> int:
        """Return the index in :attr:`buckets` of one of the given times."""
        return self._index[self._place(time)]

    def _place(self, time: Optional[int]) -> int:
        if time is None or not _FIRST <= time < _LAST:
            return -1
        return bisect_right(self._edges, time)


def _most_of(known: list[int]) -> tuple[int, int]:
    low, high = known[len(known) // 20], known[-1 - len(known) // 20]
    reach = max(high - low, _DAY)
    return max(known[0], low - reach), min(known[-1], high + reach)


def _edges(first: int, last: int) -> tuple[int, list[int]]:
    for step in _STEPS_S:
        if (last - first) // step < _MOST - 1:
            start = first - (first - _MONDAY) % step
            return step, list(range(start, last + step + 1, step))
    for months in _STEPS_MONTHS:
        step = months * _YEAR // 12
        if (last - first) // step < _MOST - 2 or months == _STEPS_MONTHS[-1]:
            break
    return step, list(_month_edges(first, last, months))


def _month_edges(first: int, last: int, step: int) -> Iterator[int]:
    day = datetime.fromtimestamp(first, timezone.utc)
    month = (day.year * 12 + day.month - 1) // step * step
    edge = first
    while edge <= last:
        year, of_year = divmod(month, 12)
        edge = int(datetime(max(year, 1), of_year + 1, 1, tzinfo=timezone.utc).timestamp())
        yield edge
        month += step
