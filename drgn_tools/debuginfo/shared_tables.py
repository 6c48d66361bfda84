# SPDX-License-Identifier: LGPL-2.1-or-later
"""What several dumps of one kernel need be read for once only, in a process that opens many.

Unlike all other state this hangs on modules, not on a Program. It is safe because
a thing counts as the same only if every byte that it is made of is the same:
compared as they are, no build ID and no digest stands for them. Whatever a dump
says, it can say it of dumps with the very same tables only, of which it is true.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

__all__ = ("Shared",)

T = TypeVar("T")

_MOST = 4
_MOST_BYTES = 32 << 20
"""The tables of a distribution's kernel have 12 MB; damaged or made-up ones may have more."""


class Shared(Generic[T]):
    """The last few things of a kind, each made of bytes (and other constants) and nothing else."""

    def __init__(self) -> None:
        # Replaced as a whole: two threads at once may lose an entry, and no more.
        self._kept: tuple[tuple[tuple[object, ...], T], ...] = ()

    def get(self, parts: tuple[object, ...], make: Callable[[], T]) -> T:
        """Return what *make* makes of *parts*: a thing that does not depend on anything else."""
        for entry in self._kept:
            if entry[0] == parts:
                self._put_first(entry)
                return entry[1]
        made = make()
        size = sum(len(part) for part in parts if isinstance(part, (bytes, str, tuple)))
        if size <= _MOST_BYTES:
            self._put_first((parts, made))
        return made

    def _put_first(self, entry: tuple[tuple[object, ...], T]) -> None:
        others = [kept for kept in self._kept if kept is not entry]
        self._kept = (entry, *others[: _MOST - 1])
