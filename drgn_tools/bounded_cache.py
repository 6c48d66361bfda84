# SPDX-License-Identifier: LGPL-2.1-or-later
"""A cache of limited size."""

from __future__ import annotations

from typing import TypeVar

__all__ = ("BoundedCache",)

K = TypeVar("K")
V = TypeVar("V")


class BoundedCache(dict[K, V]):
    """A dict that is emptied when it is full. Entries that are in use are soon added again.

    So a million tasks need no more memory than some thousands.

    :param limit: Largest number of entries
    """

    def __init__(self, limit: int) -> None:
        super().__init__()
        self._limit = limit

    def __setitem__(self, key: K, value: V) -> None:
        if len(self) >= self._limit:
            self.clear()
        super().__setitem__(key, value)
