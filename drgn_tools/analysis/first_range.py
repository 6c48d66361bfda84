# SPDX-License-Identifier: LGPL-2.1-or-later
"""Find the range that holds an address: the first of a list if several do."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from heapq import heappop, heappush
from typing import Optional

__all__ = ("FirstRange",)


class FirstRange:
    """A list of ranges, which may overlap.

    :param ranges: [start, end) each; a range that does not end after its start is empty
    """

    def __init__(self, ranges: Sequence[tuple[int, int]]) -> None:
        begins = sorted((start, at) for at, (start, end) in enumerate(ranges) if start < end)
        self._edges = sorted({edge for start, at in begins for edge in (start, ranges[at][1])})
        self._first: list[Optional[int]] = []
        """For each edge: the first range that holds the addresses from there to the next edge."""
        open_: list[int] = []
        begun = 0
        for edge in self._edges:
            while begun < len(begins) and begins[begun][0] == edge:
                heappush(open_, begins[begun][1])
                begun += 1
            while open_ and ranges[open_[0]][1] <= edge:
                heappop(open_)
            self._first.append(open_[0] if open_ else None)

    def at(self, address: int) -> Optional[int]:
        """Return the index of the first range that holds an address."""
        edge = bisect_right(self._edges, address) - 1
        return None if edge < 0 else self._first[edge]
