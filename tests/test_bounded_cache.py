# SPDX-License-Identifier: LGPL-2.1-or-later
"""A cache that is emptied when it is full."""

from __future__ import annotations

from drgn_tools.bounded_cache import BoundedCache


def test_it_never_has_more_than_its_limit_and_always_the_last() -> None:
    cache: BoundedCache[int, int] = BoundedCache(3)
    sizes = []
    for n in range(8):
        cache[n] = -n
        sizes.append(len(cache))
        assert cache[n] == -n
    assert sizes == [1, 2, 3, 1, 2, 3, 1, 2]
    assert cache.get(0) is None
