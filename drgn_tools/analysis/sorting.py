# SPDX-License-Identifier: LGPL-2.1-or-later
"""Put records in order, by any of their fields and by several."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any, Callable, TypeVar

import msgspec

from ..errors import UsageError
from ..records import TaskStack, Verdict
from .record_fields import Fields

__all__ = ("SortKey", "parse_order", "sorted_records")

R = TypeVar("R")

_VERDICTS = (Verdict.UNRELIABLE, Verdict.UNKNOWN, Verdict.RELIABLE)
_VERDICT_ORDER = {verdict.value: number for number, verdict in enumerate(_VERDICTS)}

_HEX = re.compile("0x[0-9a-f]{1,16}")


class SortKey(msgspec.Struct, frozen=True):
    """A field to sort by."""

    field: str
    """Name of the field."""
    descending: bool = False
    """Whether the largest value comes first."""


def parse_order(text: str) -> tuple[SortKey, ...]:
    """Return the keys of ``verdict,-depth``: by verdict, and those of one verdict deepest first.

    :raises UsageError: if a name is empty.
    """
    keys = tuple(SortKey(word.lstrip("-"), word.startswith("-")) for word in text.split(","))
    if not all(key.field for key in keys):
        raise UsageError(f"--sort takes columns, as in --sort verdict,-depth, not {text!r}")
    return keys


def sorted_records(records: Iterable[R], order: Sequence[SortKey], fields: Fields) -> list[R]:
    """Return records in another order. Records with equal values keep their order.

    Numbers and addresses are compared as numbers, text letter by letter. Worse verdicts come
    first, and the verdict of the task that crashed the machine before all. Missing values come last, also in
    descending order.

    :param order: Keys, the most important first
    :param fields: Fields of the records; each :attr:`SortKey.field` must be one of them
    """
    done = list(records)
    for key in reversed(order):
        done.sort(
            key=_value_of(key.field, fields[key.field], key.descending), reverse=key.descending
        )
    return done


def _value_of(
    name: str, get: Callable[[Any], Any], descending: bool
) -> Callable[[Any], tuple[bool, float, str]]:
    def value(record: Any) -> tuple[bool, float, str]:
        found = get(record)
        if name == "verdict":
            crashed = isinstance(record, TaskStack) and "crashed" in record.flags
            return True, -1 if crashed else _VERDICT_ORDER[found], ""
        is_missing = found is None
        return (is_missing != descending, *_comparable(found))

    return value


def _comparable(value: Any) -> tuple[float, str]:
    if isinstance(value, (bool, int, float)):
        return value, ""
    if isinstance(value, str) and _HEX.fullmatch(value):
        return int(value, 16), ""
    return 0, "" if value is None else str(value)
