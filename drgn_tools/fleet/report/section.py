# SPDX-License-Identifier: LGPL-2.1-or-later
"""A section of the report: its query, its table, and what it found in a dataset."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Optional

import msgspec

from ...render.table import Column
from .values import Row, plain_row

if TYPE_CHECKING:
    import duckdb

__all__ = ("Found", "Section", "read_section")


class Section(msgspec.Struct, frozen=True):
    """A part of the report."""

    name: str
    """Name that ``--section`` takes."""
    title: str
    """Heading of the table."""
    query: str
    """Query on the views. Columns whose names begin with ``_`` are only for :attr:`order`."""
    order: str = "ALL"
    """``ORDER BY`` of the rows, the most important first. It must order any two rows."""
    together: Optional[str] = None
    """Column by whose values rows are kept together, after :attr:`order` has chosen the first rows."""
    usual: int = 20
    """Number of rows that are shown without ``--top``."""
    vertical: bool = False
    """The section has one row, and its table has a line for each column."""
    table: Sequence[Column] = ()
    """Columns of its table; empty to use those of the query."""


class Found(msgspec.Struct, frozen=True):
    """The rows of a section in one dataset."""

    columns: tuple[str, ...]
    """Names of the columns, in order."""
    rows: tuple[Row, ...]
    """The first rows."""
    total: int
    """Number of all rows."""


def read_section(
    connection: duckdb.DuckDBPyConnection, section: Section, top: Optional[int] = None
) -> Found:
    """Return the rows of *section*.

    :param connection: From :func:`~drgn_tools.fleet.dataset.database.connect`.
    :param top: Maximum number of rows; ``None`` for all.
    :raises duckdb.Error: If a file of the dataset cannot be read.
    """
    limit = "" if top is None else f"LIMIT {top}"
    # The outermost query has the order: DuckDB does not keep the order of a subquery.
    result = connection.execute(
        f"SELECT *, count(*) OVER () FROM ({section.query}) ORDER BY {section.order} {limit}"
    )
    names = [column[0] for column in result.description]
    columns = tuple(name for name in names[:-1] if not name.startswith("_"))
    values = result.fetchall()
    each = (plain_row(names, row) for row in values)
    rows = [{name: row[name] for name in columns} for row in each]
    if section.together is not None:
        order = list(dict.fromkeys(row[section.together] for row in rows))
        rows.sort(key=lambda row: order.index(row[section.together]))
    return Found(columns, tuple(rows), values[0][-1] if values else 0)
