# SPDX-License-Identifier: LGPL-2.1-or-later
"""Tables of the sections of the report, and of the result of ``--sql``, which is shown as it is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Optional

from ...render.table import Column, table_lines
from ...terminal.escape import escape_cell
from .cells import are_numbers, cell, column
from .section import Found, Section
from .values import Row, as_json

__all__ = ("query_table", "section_table")


def section_table(
    section: Section, found: Found, format: str, width: Optional[int]
) -> Iterator[str]:
    """Return the lines of the table of a section. The last line names columns that were left out.

    :param format: ``table``, or the name of a tabulate format.
    :param width: Maximum number of characters in a line of ``table``; ``None`` for any number.
    """
    if section.vertical:
        return _vertical_table(found, format, width)
    table = section.table or [column(name, found.rows) for name in found.columns]
    return table_lines(table, found.rows, _style(format), width, "--format csv has them")


def _vertical_table(found: Found, format: str, width: Optional[int]) -> Iterator[str]:
    # One row with many columns: a line for each column.
    [row] = found.rows
    table = (
        Column("WHAT", lambda name: _VERTICAL_LABELS.get(name, name.replace("_", " "))),
        Column("VALUE", lambda name: cell(name, row[name]), floor=30),
    )
    return table_lines(table, found.columns, _style(format), width)


_VERTICAL_LABELS = {
    "seconds": "time of audits", "peak_memory_bytes": "peak memory", "tools": "drgn-tools",
}  # fmt: skip


def query_table(columns: Sequence[str], rows: Iterable[Row], format: str) -> Iterator[str]:
    """Return the lines of the table of a query: names and values as they are, in any width.

    :param format: ``table``, or the name of a tabulate format.
    """
    rows = list(rows)
    table = [_unchanged(name, rows) for name in columns]
    return table_lines(table, rows, _style(format))


def _unchanged(name: str, rows: Sequence[Row]) -> Column:
    # Without AS the name of a column is its expression, which may contain anything.
    return Column(escape_cell(name), lambda row: _text(row[name]), right=are_numbers(name, rows))


def _text(value: Any) -> str:
    if value is None:
        return "-"
    return value if isinstance(value, str) else as_json(value)


def _style(format: str) -> Optional[str]:
    return None if format == "table" else format
