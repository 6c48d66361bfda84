# SPDX-License-Identifier: LGPL-2.1-or-later
"""A dict that begins anew when it is full."""

from __future__ import annotations

from drgn_tools.bounded_cache import Bounded


def test_it_never_has_more_than_its_limit_and_always_the_last() -> None:
    memory: Bounded[int, int] = Bounded(3)
    sizes = []
    for n in range(8):
        memory[n] = -n
        sizes.append(len(memory))
        assert memory[n] == -n
    assert sizes == [1, 2, 3, 1, 2, 3, 1, 2]
    assert memory.get(0) is None
