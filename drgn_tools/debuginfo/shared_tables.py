# SPDX-License-Identifier: LGPL-2.1-or-later
"""Tables that several dumps of one kernel have in common, kept by a process that opens many dumps.

All other state is kept on a Program; this is kept in Python modules. It is safe because two tables count
as the same only if all the bytes that they are made from are equal. The bytes themselves are
compared, not a build ID or a digest. So a dump with wrong tables can only affect dumps with
exactly the same tables.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

__all__ = ("SharedTables",)

T = TypeVar("T")

_MOST = 4
"""How many tables are kept."""
_MOST_BYTES = 32 << 20
"""Larger tables are not kept. Those of a distribution's kernel have 12 MB; damaged or made-up ones may have more."""


class SharedTables(Generic[T]):
    """The few tables of one kind that were used last."""

    def __init__(self) -> None:
        # Replaced as a whole: with two threads at once, the worst is a lost entry.
        self._kept: tuple[tuple[tuple[object, ...], T], ...] = ()

    def get(self, parts: tuple[object, ...], make: Callable[[], T]) -> T:
        """Return the table that is made from some parts.

        :param parts: bytes, strings, numbers and tuples of these
        :param make: makes the table; it must depend on *parts* alone
        """
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
