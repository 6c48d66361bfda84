# SPDX-License-Identifier: LGPL-2.1-or-later
"""The tables of a report, as a person reads them: measures, days, ends of paths, folded stacks.

What someone selected with ``--sql`` is shown as it is instead.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any, Optional, Union

from ...render.table import Column, shorten, table_lines
from ...terminal.escape import escape_cell

__all__ = ("query_table", "section_table")

Row = Mapping[str, Any]


def section_table(
    section: str, columns: Sequence[str], rows: Sequence[Row], format: str, width: Optional[int]
) -> Iterator[str]:
    """The table of a section of the report; below it, what there was no room for.

    :param section: its name.
    :param columns: those that its query has.
    :param format: ``table``, or the name of a tabulate format.
    :param width: characters a line of ``table`` may have, ``None`` for any.
    """
    if section == "summary":
        return _summary(columns, rows, format, width)
    table = _TABLES.get(section) or [_column(name, rows) for name in columns]
    return table_lines(table, rows, _style(format), width, "--format csv has them")


def query_table(columns: Sequence[str], rows: Iterable[Row], format: str) -> Iterator[str]:
    """The table of the result of a query: names and values as they are, however wide."""
    rows = list(rows)
    table = [_as_it_is(name, rows) for name in columns]
    return table_lines(table, rows, _style(format))


def _style(format: str) -> Optional[str]:
    return None if format == "table" else format


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=True)


# ---- of a query


def _as_it_is(name: str, rows: Sequence[Row]) -> Column:
    # Without AS it is the expression, whatever that has.
    return Column(escape_cell(name), lambda row: _text(row[name]), right=_are_numbers(name, rows))


def _are_numbers(name: str, rows: Sequence[Row]) -> bool:
    return bool(rows) and all(isinstance(row[name], (int, float, type(None))) for row in rows)


def _text(value: Any) -> str:
    if value is None:
        return "-"
    return value if isinstance(value, str) else _json(value)


# ---- of a section


def _summary(
    columns: Sequence[str], rows: Sequence[Row], format: str, width: Optional[int]
) -> Iterator[str]:
    # One row of many columns: read downwards.
    [row] = rows
    table = (
        Column("WHAT", lambda name: _SUMMARY_LABELS.get(name, name.replace("_", " "))),
        Column("VALUE", lambda name: _cell(name, row[name]), floor=30),
    )
    return table_lines(table, columns, _style(format), width)


_SUMMARY_LABELS = {
    "seconds": "time of audits", "peak_memory_bytes": "peak memory", "tools": "drgn-tools",
}  # fmt: skip


def _column(name: str, rows: Sequence[Row] = (), optional: Optional[int] = None) -> Column:
    return Column(
        _TITLES.get(name, name.replace("_", " ")).upper(),
        lambda row: _cell(name, row[name]),
        right=_are_numbers(name, rows),
        floor=_FLOORS.get(name, 0),
        brief=lambda row: _brief(name, row[name]),
        optional=_OPTIONAL.get(name, 0) if optional is None else optional,
    )


_TITLES = {"unreliable_share": "share"}

_FLOORS = {
    "source": 20, "host": 11, "release": 10, "releases": 10, "function": 16, "entries": 10,
}  # fmt: skip
"""Columns of words, which may be shortened."""

_OPTIONAL = {
    "builds": 1, "attempts": 1, "quarantined": 2, "audits": 2, "sources": 2, "reliable": 3, "last_seen": 4,
    "unknown": 5, "releases": 6,
}  # fmt: skip
"""Columns that may be left out of a table, the first first."""


def _cell(name: str, value: Any) -> str:
    if value is None:
        return "(not known)" if name == "host" else "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (int, float)):
        return _measure(value, _unit(name))
    if isinstance(value, list):
        return _names(value)
    return _when(value) if _is_time(name) else str(value)


def _brief(name: str, value: Any) -> str:
    if name == "source" and isinstance(value, str):
        return _end_of_path(value)
    return _day(value) if _is_time(name) and isinstance(value, str) else _cell(name, value)


def _is_time(name: str) -> bool:
    return name.endswith("_seen")


def _when(time: str) -> str:
    day, t, clock = time.partition("T")
    return f"{day} {clock[:5]}" if t else day


def _day(time: str) -> str:
    return time.partition("T")[0]


def _end_of_path(path: str) -> str:
    # Most begin alike.
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
        return str(value)  # not through a float: it may have 64 bits
    return f"{value:.0f}" if unit == "frames" else f"{value:.2f}"


_NAMES_MAX = 3
_FRAMES_MAX = 12


def _names(items: list[str]) -> str:
    more = len(items) - _NAMES_MAX
    return ", ".join(items[:_NAMES_MAX]) + (f" +{more}" if more > 0 else "") or "-"


_STACK_WIDTH_MIN = 30


def _stack(functions: list[str], width: Optional[int] = None) -> list[str]:
    # With an empty line below, or the stacks of two rows run into each other.
    runs = [(function, len(list(run))) for function, run in groupby(functions)]
    lines = [_times(function, count, width) if count > 1 else function for function, count in runs]
    more = sum(count for _, count in runs[_FRAMES_MAX:])
    last = [f"and {more} more"] if more else []
    return [*(lines[:_FRAMES_MAX] or ["-"]), *last, ""]


def _times(function: str, count: int, width: Optional[int]) -> str:
    times = f" ×{count}"
    return (function if width is None else shorten(function, width - len(times))) + times


def _seen(row: Row) -> list[str]:
    # Once where it is one day.
    days = [_day(row[name]) for name in ("first_seen", "last_seen") if row[name]]
    return list(dict.fromkeys(days)) or ["-"]


def _example(row: Row, source: str) -> list[str]:
    return [source, f"pid {row['pid']} {row['comm']}", _names(row["releases"])]


def _in_its_unit(name: str, optional: int = 0) -> Column:
    return Column(
        name.upper(),
        lambda row: "-" if row[name] is None else _measure(row[name], row["unit"]),
        right=True,
        optional=optional,
    )


def _sentence(name: str, floor: int) -> Column:
    # Most begin with the source, which has a column; what matters stands at their end.
    return Column(
        name.upper(),
        lambda row: "-" if row[name] is None else row[name].removeprefix(f"{row['source']}: "),
        floor=floor,
        wrap=True,
    )


_TABLES: Mapping[str, Sequence[Column]] = {
    "stacks": (
        Column("TASKS", lambda row: str(row["tasks"]), right=True),
        Column("HOSTS", lambda row: str(row["hosts"]), right=True),
        Column("VERDICT", lambda row: [row["verdict"], row["reason"] or "", row["stack_hash"]]),
        Column("SEEN", _seen, optional=1),
        Column(
            "EXAMPLE",
            lambda row: _example(row, row["source"]),
            floor=14,
            brief=lambda row: _example(row, _end_of_path(row["source"])),
        ),
        Column(
            "STACK",
            lambda row: _stack(row["functions"]),
            floor=_STACK_WIDTH_MIN,
            brief=lambda row: _stack(row["functions"], _STACK_WIDTH_MIN),
        ),
    ),
    "outliers": (
        Column("KIND", lambda row: row["kind"]),
        _column("source"),
        _column("host", optional=2),
        _column("release", optional=1),
        _in_its_unit("value"),
        _in_its_unit("median", optional=3),
        Column(
            "SCORE", lambda row: "-" if row["score"] is None else f"{row['score']:+.1f}", right=True
        ),
        _sentence("detail", 24),
    ),
    "failures": (
        _column("status"),
        _column("source"),
        _column("host", optional=4),
        Column(
            "EXIT CODE", lambda row: _cell("exit_code", row["exit_code"]), right=True, optional=3
        ),
        _column("cause"),
        Column("ATTEMPTS", lambda row: _cell("attempts", row["attempts"]), right=True, optional=1),
        _column("quarantined"),
        _sentence("line", 28),
    ),
}
"""Columns of the table of a section, where they are not simply those of its query."""
