# SPDX-License-Identifier: LGPL-2.1-or-later
"""Values of DuckDB as JSON and CSV represent them."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from ...analysis.record_fields import Fields

__all__ = ("Row", "as_json", "csv_fields", "json_items", "plain_row")

Row = Mapping[str, Any]
"""A row by column: plain JSON values, times as ``2026-01-31T12:00:00Z``."""


def plain_row(columns: Sequence[str], values: Iterable[Any]) -> dict[str, Any]:
    """Return a row with plain JSON values.

    :param columns: Names of the columns.
    :param values: Values of DuckDB, one for each column.
    """
    return dict(zip(columns, map(_plain, values)))


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, datetime):
        return f"{value.isoformat()}Z"
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    return value.hex() if isinstance(value, bytes) else str(value)


def as_json(value: Any) -> str:
    """Return *value* as JSON in ASCII."""
    return json.dumps(value, ensure_ascii=True)


def json_items(indent: str, items: Iterable[Any]) -> Iterator[str]:
    """Return the lines of the items of a JSON list, one per line, with commas between them."""
    before = None
    for item in items:
        if before is not None:
            yield f"{indent}{before},"
        before = as_json(item)
    if before is not None:
        yield f"{indent}{before}"


def csv_fields(columns: Iterable[str], headings: Iterable[str]) -> Fields:
    """Return the fields of a row in CSV: a list as its items, an object as JSON.

    :param columns: Names of the columns of the row.
    :param headings: Their names in the CSV file.
    """
    return {heading: _csv_cell(column) for heading, column in zip(headings, columns)}


def _csv_cell(column: str) -> Any:
    return lambda row: _flat(row[column])


def _flat(value: Any) -> Any:
    if isinstance(value, list):
        return [as_json(item) if isinstance(item, (dict, list)) else item for item in value]
    return as_json(value) if isinstance(value, dict) else value
