# SPDX-License-Identifier: LGPL-2.1-or-later
"""A cache of answers that cannot grow past a limit."""

from __future__ import annotations

from typing import TypeVar

__all__ = ("BoundedCache",)

K = TypeVar("K")
V = TypeVar("V")


class BoundedCache(dict[K, V]):
    """A dict that is emptied when it is full. What is in use is soon in it again.

    So a million tasks take no more memory than a few thousand.

    :param limit: how many entries it holds at most
    """

    def __init__(self, limit: int) -> None:
        super().__init__()
        self._limit = limit

    def __setitem__(self, key: K, value: V) -> None:
        if len(self) >= self._limit:
            self.clear()
        super().__setitem__(key, value)
