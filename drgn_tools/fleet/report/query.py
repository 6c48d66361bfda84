# SPDX-License-Identifier: LGPL-2.1-or-later
"""``--sql``: a query of the user on the views of a dataset."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import duckdb

from ... import __version__
from ...errors import UsageError
from ...render.structured import csv_lines, jsonl_lines
from ...terminal.escape import escape
from ..dataset.damage import naming_damaged_files
from ..dataset.database import connect
from ..dataset.dataset import Dataset
from ..dataset.views import VIEWS
from .tables import query_table
from .values import Row, as_json, csv_fields, json_items, plain_row

__all__ = ("SCHEMA", "query_lines")

SCHEMA = "drgn-tools.fleet-sql/1"
"""Name and number of the JSON schema of the result of a query."""


def query_lines(dataset: Dataset, query: str, format: str) -> Iterator[str]:
    """Return the lines of the result of *query*.

    :param query: One query on the views that only reads.
    :param format: ``table``, ``json``, ``jsonl``, ``csv``, or the name of a tabulate format. A
        table is as wide as its values.
    :raises UsageError: If *query* is not one query that only reads, or DuckDB refuses it.
    :raises InputError: If a file of the dataset is damaged.
    """
    with connect(dataset) as connection:
        _check_only_reads(connection, query)
        with _naming_mistakes(dataset):
            result = connection.execute(query)
        _check_times(result)
        columns = _distinct([column[0] for column in result.description])
        yield from _lines(dataset, columns, _rows(dataset, result, columns), format)


def _lines(
    dataset: Dataset, columns: Sequence[str], rows: Iterator[Row], format: str
) -> Iterator[str]:
    if format == "csv":
        # A name may be an expression with line ends in it.
        headings = _distinct([escape(name) for name in columns])
        return csv_lines(csv_fields(columns, headings), rows)
    if format == "jsonl":
        return jsonl_lines(map(dict, rows))
    if format == "json":
        return _json_lines(dataset, rows)
    return query_table(columns, rows, format)


def _json_lines(dataset: Dataset, rows: Iterator[Row]) -> Iterator[str]:
    yield f'{{"schema": {as_json(SCHEMA)}, "tool": {as_json(__version__)},'
    yield f' "dataset": {as_json(str(dataset.path))},'
    yield ' "rows": ['
    yield from json_items("  ", rows)
    yield " ]}"


def _rows(
    dataset: Dataset, result: duckdb.DuckDBPyConnection, columns: Sequence[str]
) -> Iterator[Row]:
    while True:
        with _naming_mistakes(dataset):
            rows = result.fetchmany(1000)
        if not rows:
            return
        for row in rows:
            yield plain_row(columns, row)


def _distinct(names: Sequence[str]) -> list[str]:
    # An object in JSON cannot have two members of the same name.
    found: list[str] = []
    for name in names:
        number = 1
        while (distinct := name if number == 1 else f"{name}_{number}") in found:
            number += 1
        found.append(distinct)
    return found


# ---- mistakes


def _check_only_reads(connection: duckdb.DuckDBPyConnection, query: str) -> None:
    try:
        statements = connection.extract_statements(query)
    except duckdb.Error as e:
        raise _refusal(e) from e
    types = [statement.type for statement in statements]
    if types not in ([duckdb.StatementType.SELECT], [duckdb.StatementType.EXPLAIN]):
        raise UsageError("--sql takes one query that only reads (SELECT, FROM, DESCRIBE ...)")


def _check_times(result: duckdb.DuckDBPyConnection) -> None:
    # Python needs pytz for a time with a time zone. Nothing else here needs it.
    for name, type_, *_ in result.description:
        if "TIMESTAMP WITH TIME ZONE" in str(type_):
            raise UsageError(
                f"--sql: {name!r} is a time with a time zone; now()::TIMESTAMP is one without, in UTC"
            )


@contextmanager
def _naming_mistakes(dataset: Dataset) -> Iterator[None]:
    # DuckDB works while rows are fetched, so any fetch may show a mistake or a damaged file.
    try:
        with naming_damaged_files(dataset), _naming_certain_mistakes():
            yield
    except duckdb.Error as e:
        raise _refusal(e) from e


@contextmanager
def _naming_certain_mistakes() -> Iterator[None]:
    # These errors are not caused by damage, so no file need be checked.
    try:
        yield
    except (duckdb.BinderException, duckdb.CatalogException, duckdb.PermissionException) as e:
        raise _refusal(e) from e


def _refusal(error: duckdb.Error) -> UsageError:
    # DuckDB says what is wrong and suggests names. After an empty line it repeats the query.
    what = " ".join(str(error).strip().partition("\n\n")[0].split())
    views = f" (views: {', '.join(VIEWS)})" if isinstance(error, duckdb.CatalogException) else ""
    return UsageError(f"--sql: {what or type(error).__name__}{views}")
