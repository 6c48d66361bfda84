# SPDX-License-Identifier: LGPL-2.1-or-later
"""Cells of the tables of a report, as people read them: measures, days, ends of paths, names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Optional, Union

from ...render.table import Column
from .values import Row

__all__ = (
    "are_numbers",
    "cell",
    "column",
    "day",
    "end_of_path",
    "measure_column",
    "names",
    "sentence_column",
)


def column(name: str, rows: Sequence[Row] = (), optional: Optional[int] = None) -> Column:
    """Return a column of a table.

    :param name: Name of the column of the query.
    :param rows: Rows of the table. A column of numbers is aligned to the right.
    :param optional: As :attr:`Column.optional`; ``None`` for the default of this name.
    """
    return Column(
        _HEADINGS.get(name, name.replace("_", " ")).upper(),
        lambda row: cell(name, row[name]),
        right=are_numbers(name, rows),
        floor=_FLOORS.get(name, 0),
        brief=lambda row: _brief_cell(name, row[name]),
        optional=_OPTIONAL.get(name, 0) if optional is None else optional,
    )


def measure_column(name: str, optional: int = 0) -> Column:
    """Return a column of measures. The column ``unit`` of each row has the unit."""
    return Column(
        name.upper(),
        lambda row: "-" if row[name] is None else _measure(row[name], row["unit"]),
        right=True,
        optional=optional,
    )


def sentence_column(name: str, floor: int) -> Column:
    """Return a column of sentences, which is wrapped in a narrow table.

    A sentence that begins with the source is shown without it: the source has its own column.

    :param floor: As :attr:`Column.floor`.
    """
    return Column(
        name.upper(),
        lambda row: "-" if row[name] is None else row[name].removeprefix(f"{row['source']}: "),
        floor=floor,
        wrap=True,
    )


_HEADINGS = {"unreliable_share": "share"}

_FLOORS = {
    "source": 20, "host": 11, "release": 10, "releases": 10, "function": 16, "entries": 10,
}  # fmt: skip
"""Columns of words, which may be shortened."""

_OPTIONAL = {
    "builds": 1, "attempts": 1, "quarantined": 2, "audits": 2, "sources": 2, "reliable": 3, "last_seen": 4,
    "unknown": 5, "releases": 6,
}  # fmt: skip
"""Columns that may be left out of a narrow table, those with 1 first."""


def are_numbers(name: str, rows: Sequence[Row]) -> bool:
    """Return whether the column *name* of *rows* has only numbers and nulls."""
    return bool(rows) and all(isinstance(row[name], (int, float, type(None))) for row in rows)


def cell(name: str, value: Any) -> str:
    """Return a value of the column *name* as text."""
    if value is None:
        return "(not known)" if name == "host" else "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (int, float)):
        return _measure(value, _unit(name))
    if isinstance(value, list):
        return names(value)
    return _minute(value) if _is_time(name) else str(value)


def _brief_cell(name: str, value: Any) -> str:
    if name == "source" and isinstance(value, str):
        return end_of_path(value)
    return day(value) if _is_time(name) and isinstance(value, str) else cell(name, value)


def _is_time(name: str) -> bool:
    return name.endswith("_seen")


def _minute(time: str) -> str:
    date, t, clock = time.partition("T")
    return f"{date} {clock[:5]}" if t else date


def day(time: str) -> str:
    """Return the date of a time such as ``2026-01-31T12:00:00Z``."""
    return time.partition("T")[0]


def end_of_path(path: str) -> str:
    """Return the last two parts of *path*, because most paths begin in the same way."""
    parts = path.rsplit("/", 2)
    return "…/" + "/".join(parts[1:]) if len(parts) == 3 and len(parts[0]) > 1 else path


def _unit(name: str) -> Optional[str]:
    endings = {"_share": "share", "seconds": "seconds", "_bytes": "bytes"}
    return next((unit for ending, unit in endings.items() if name.endswith(ending)), None)


def _measure(value: Union[int, float], unit: Optional[str]) -> str:
    if unit == "share":
        return f"{100 * value:.1f}%"
    if unit == "bytes":
        return f"{value / (1 << 20):.1f} MiB"
    if unit == "seconds":
        return f"{value:.1f} s"
    if isinstance(value, int):
        return str(value)  # not as a float: it may have 64 bits
    return f"{value:.0f}" if unit == "frames" else f"{value:.2f}"


_NAMES_MAX = 3


def names(items: list[str]) -> str:
    """Return the first names of a list, and how many more there are."""
    more = len(items) - _NAMES_MAX
    return ", ".join(items[:_NAMES_MAX]) + (f" +{more}" if more > 0 else "") or "-"
