# SPDX-License-Identifier: LGPL-2.1-or-later
"""A memory for answers that are asked for again and again."""

from __future__ import annotations

from typing import TypeVar

__all__ = ("Bounded",)

K = TypeVar("K")
V = TypeVar("V")


class Bounded(dict[K, V]):
    """A dict that begins anew when it is full: what is in use is soon in it again.

    A million tasks need no more memory than thousands.
    """

    def __init__(self, limit: int) -> None:
        super().__init__()
        self._limit = limit

    def __setitem__(self, key: K, value: V) -> None:
        if len(self) >= self._limit:
            self.clear()
        super().__setitem__(key, value)
