# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a dataset says: sections, each a query on the views, in every format.

docs/fleet-report.md says what is in which section; within :data:`SCHEMA` a section or a
column of one is only ever added.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Optional

import duckdb

from ... import __version__
from ...errors import UsageError
from ...render.structured import csv_lines, jsonl_lines
from ...terminal.escape import escape
from ..dataset.damage import naming_damaged_files
from ..dataset.database import connect
from ..dataset.dataset import Dataset
from ..dataset.views import VIEWS
from .report_tables import query_table, section_table

__all__ = ("SCHEMA", "SECTIONS", "Found", "Section", "read_section", "report_lines", "sql_lines")

SCHEMA = "drgn-tools.fleet-report/1"
"""Name and number of the JSON schema of a report."""
SQL_SCHEMA = "drgn-tools.fleet-sql/1"
"""The same of the result of a query."""

Row = Mapping[str, Any]
"""A row by column: plain JSON values, times as ``2026-01-31T12:00:00Z``."""


@dataclass(frozen=True)
class Section:
    """A part of the report."""

    name: str
    """What ``--section`` takes."""
    title: str
    """What is said above it."""
    query: str
    """On the views. A column whose name begins with ``_`` is only to order by."""
    order: str = "ALL"
    """What matters most comes first; no two rows are alike in this."""
    together: Optional[str] = None
    """Rows alike in this column stand together, however they were ranked."""
    usual: int = 20
    """Rows that are shown unless told otherwise."""


@dataclass(frozen=True)
class Found:
    """What a section says of a dataset."""

    columns: tuple[str, ...]
    """Their names, in order."""
    rows: tuple[Row, ...]
    """The first of them."""
    total: int
    """How many there are."""


def report_lines(
    dataset: Dataset,
    sections: Sequence[str],
    top: Optional[int],
    format: str,
    width: Optional[int],
) -> Iterator[str]:
    """The lines of a report.

    :param sections: their names, in order; none: all of them.
    :param top: rows a section may have, ``None`` for as many as is usual for each.
    :param format: ``table``, ``json``, ``jsonl``, ``csv``, or the name of a tabulate format.
    :param width: characters a line of ``table`` may have, ``None`` for any.
    :raises UsageError: there is no such section, or ``csv`` of several.
    :raises InputError: a file of the dataset is damaged.
    """
    chosen = [_section(name) for name in sections or SECTIONS]
    if format == "csv" and len(chosen) != 1:
        raise UsageError("csv has room for one table: choose one with --section, or use --sql")
    # All of it before the first line: half a report is none.
    with naming_damaged_files(dataset), connect(dataset) as connection:
        found = [
            (section, read_section(connection, section, top or section.usual)) for section in chosen
        ]
    return _LINES.get(format, _table_report)(dataset, found, format, width)


def _section(name: str) -> Section:
    if name not in SECTIONS:
        raise UsageError(f"{name!r} is no section of the report: {', '.join(SECTIONS)}")
    return SECTIONS[name]


def read_section(
    connection: duckdb.DuckDBPyConnection, section: Section, top: Optional[int] = None
) -> Found:
    """What *section* says.

    :param connection: of :func:`~drgn_tools.fleet.dataset.database.connect`.
    """
    limit = "" if top is None else f"LIMIT {top}"
    # Ordered at the very outside: of what is inside, DuckDB promises no order.
    result = connection.execute(
        f"SELECT *, count(*) OVER () FROM ({section.query}) ORDER BY {section.order} {limit}"
    )
    names = [column[0] for column in result.description]
    shown = tuple(name for name in names[:-1] if not name.startswith("_"))
    values = result.fetchall()
    each = (dict(zip(names, map(_plain, row))) for row in values)
    rows = [{name: row[name] for name in shown} for row in each]
    if section.together is not None:
        order = list(dict.fromkeys(row[section.together] for row in rows))
        rows.sort(key=lambda row: order.index(row[section.together]))
    return Found(shown, tuple(rows), values[0][-1] if values else 0)


def sql_lines(dataset: Dataset, query: str, format: str) -> Iterator[str]:
    """The lines of the result of one's own query on the views, as wide as they are.

    :param format: as of :func:`report_lines`.
    :raises UsageError: *query* is not one query that only reads, or DuckDB refuses it.
    :raises InputError: a file of the dataset is damaged.
    """
    with connect(dataset) as connection:
        _check_reads(connection, query)
        with _asking(dataset):
            result = connection.execute(query)
        _check_times(result)
        columns = _distinct([column[0] for column in result.description])
        rows = _each_row(dataset, result, columns)
        if format == "csv":
            # A name may be an expression, with line ends and all.
            shown = _distinct([escape(name) for name in columns])
            yield from csv_lines(dict(zip(shown, map(_flat_item, columns))), rows)
        elif format == "jsonl":
            yield from jsonl_lines(map(dict, rows))
        elif format == "json":
            yield f'{{"schema": {_json(SQL_SCHEMA)}, "tool": {_json(__version__)},'
            yield f' "dataset": {_json(str(dataset.path))},'
            yield ' "rows": ['
            yield from _with_commas("  ", rows)
            yield " ]}"
        else:
            yield from query_table(columns, rows, format)


def _check_reads(connection: duckdb.DuckDBPyConnection, query: str) -> None:
    try:
        statements = connection.extract_statements(query)
    except duckdb.Error as e:
        raise _refusal(e) from e
    types = [statement.type for statement in statements]
    if types not in ([duckdb.StatementType.SELECT], [duckdb.StatementType.EXPLAIN]):
        raise UsageError("--sql takes one query that only reads (SELECT, FROM, DESCRIBE ...)")


@contextmanager
def _asking(dataset: Dataset) -> Iterator[None]:
    # DuckDB works while rows are taken, so what is wrong may show in any of them.
    try:
        with naming_damaged_files(dataset), _refusing_mistakes():
            yield
    except duckdb.Error as e:
        raise _refusal(e) from e


@contextmanager
def _refusing_mistakes() -> Iterator[None]:
    # What is certainly no damage: no file need be looked at.
    try:
        yield
    except (duckdb.BinderException, duckdb.CatalogException, duckdb.PermissionException) as e:
        raise _refusal(e) from e


def _refusal(error: duckdb.Error) -> UsageError:
    # What is wrong and what could be meant; below an empty line the query follows.
    what = " ".join(str(error).strip().partition("\n\n")[0].split())
    views = f" (views: {', '.join(VIEWS)})" if isinstance(error, duckdb.CatalogException) else ""
    return UsageError(f"--sql: {what or type(error).__name__}{views}")


def _check_times(result: duckdb.DuckDBPyConnection) -> None:
    # For one with a zone Python needs pytz, which nothing else needs.
    for name, type_, *_ in result.description:
        if "TIMESTAMP WITH TIME ZONE" in str(type_):
            raise UsageError(
                f"--sql: {name!r} is a time with a zone; give it without: now()::TIMESTAMP is that of UTC"
            )


def _distinct(names: Sequence[str]) -> list[str]:
    # Of two columns of one name an object would keep one.
    found: list[str] = []
    for name in names:
        number = 1
        while (distinct := name if number == 1 else f"{name}_{number}") in found:
            number += 1
        found.append(distinct)
    return found


def _each_row(
    dataset: Dataset, result: duckdb.DuckDBPyConnection, columns: Sequence[str]
) -> Iterator[Row]:
    while True:
        with _asking(dataset):
            rows = result.fetchmany(1000)
        if not rows:
            return
        for row in rows:
            yield dict(zip(columns, map(_plain, row)))


# ---- values


def _plain(value: Any) -> Any:
    """A value of DuckDB as JSON has it."""
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


def _flat(value: Any) -> Any:
    """A value as a cell of csv has it: of lists the items, and objects as JSON."""
    if isinstance(value, list):
        return [_json(item) if isinstance(item, (dict, list)) else item for item in value]
    return _json(value) if isinstance(value, dict) else value


def _flat_item(name: str) -> Any:
    return lambda row: _flat(row[name])


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=True)


def _with_commas(indent: str, rows: Iterable[Any]) -> Iterator[str]:
    before = None
    for row in rows:
        if before is not None:
            yield f"{indent}{before},"
        before = _json(row)
    if before is not None:
        yield f"{indent}{before}"


# ---- formats

Sections = Sequence[tuple[Section, Found]]


def _json_report(dataset: Dataset, found: Sections, _: str, __: Optional[int]) -> Iterator[str]:
    yield f'{{"schema": {_json(SCHEMA)}, "tool": {_json(__version__)},'
    yield f' "dataset": {_json(str(dataset.path))},'
    yield ' "sections": {'
    for number, (section, what) in enumerate(found, 1):
        yield f'  {_json(section.name)}: {{"total": {what.total}, "rows": ['
        yield from _with_commas("   ", what.rows)
        yield "  ]}" if number == len(found) else "  ]},"
    yield " }}"


def _jsonl_report(_: Dataset, found: Sections, __: str, ___: Optional[int]) -> Iterator[str]:
    return jsonl_lines(
        {"section": section.name, **row} for section, what in found for row in what.rows
    )


def _csv_report(_: Dataset, found: Sections, __: str, ___: Optional[int]) -> Iterator[str]:
    [(_section, what)] = found
    return csv_lines({name: _flat_item(name) for name in what.columns}, what.rows)


def _table_report(_: Dataset, found: Sections, format: str, width: Optional[int]) -> Iterator[str]:
    for number, (section, what) in enumerate(found):
        if number:
            yield ""
        yield _heading(section, what)
        if what.rows:
            yield ""
            yield from section_table(section.name, what.columns, what.rows, format, width)


_LINES = {"json": _json_report, "jsonl": _jsonl_report, "csv": _csv_report}


def _heading(section: Section, what: Found) -> str:
    if not what.rows:
        return f"{section.title}: none"
    if len(what.rows) < what.total:
        return f"{section.title} (the first {len(what.rows)} of {what.total}: see --top)"
    return section.title


# ---- the sections

_SHARE = "sum(unreliable) / nullif(sum(reliable) + sum(unreliable), 0)"
"""Of those that could be judged."""

_COUNTS = """
    coalesce(sum(tasks), 0)::BIGINT AS tasks,
    coalesce(sum(reliable), 0)::BIGINT AS reliable,
    coalesce(sum(unreliable), 0)::BIGINT AS unreliable,
    coalesce(sum(unknown), 0)::BIGINT AS unknown
"""

_SEEN = "min(time) AS first_seen, max(time) AS last_seen"


def _distinct_of(column: str) -> str:
    return f"coalesce(list_sort(list(DISTINCT {column}) FILTER ({column} IS NOT NULL)), [])"


_SPREAD = f"""
    count(DISTINCT audit_id) AS audits, count(DISTINCT host) AS hosts,
    {_distinct_of("release")} AS releases
"""

_FAR = 3.5
"""As many times the usual spread from the median is far (Iglewicz and Hoaglin 1993)."""

_SAMPLE_MIN = 3
"""Among fewer nothing is usual."""

_SHARE_OUTLIERS = f"""
    SELECT 'unreliable share' AS kind, source, host, release, share AS value, 'share' AS unit,
        median, (share - median) / spread AS score,
        unreliable || ' of ' || judged || ' judged tasks are unreliable' AS detail
    FROM (
        -- The median absolute deviation, as that of a normal distribution; but one task is no spread.
        SELECT *, greatest(
            1.4826 * median(abs(share - median)) OVER (PARTITION BY release, unwinder),
            1 / judged
        ) AS spread
        FROM (
            SELECT *, median(share) OVER alike AS median, count(*) OVER alike AS sample
            FROM (
                SELECT source, host, release, unwinder, unreliable, reliable + unreliable AS judged,
                    unreliable / (reliable + unreliable) AS share
                FROM audits WHERE reliable + unreliable > 0
            )
            WINDOW alike AS (PARTITION BY release, unwinder)
        )
        WHERE sample >= {_SAMPLE_MIN}
    )
    WHERE abs(share - median) > {_FAR} * spread
"""

_DEEPEST_MAX = 5
"""Something is always deepest; what is far from usual there is no rule for."""

_DEEPEST = f"""
    SELECT 'deepest stack' AS kind, source, host, release, deepest.depth AS value, 'frames' AS unit,
        (SELECT median(depth) FROM tasks) AS median, NULL AS score,
        'pid ' || deepest.pid || ' ' || deepest.comm || coalesce(' in ' || deepest.function, '') AS detail
    FROM (
        SELECT source, any_value(host) AS host, any_value(release) AS release, min({{
            'rank': -depth, 'pid': pid, 'depth': depth, 'comm': comm, 'function': function
        }}) AS deepest
        FROM tasks WHERE depth > 0 GROUP BY source
    )
    ORDER BY value DESC, source LIMIT {_DEEPEST_MAX}
"""


_SPREAD_MIN = 0.1
"""No less of the median is a spread: where all take the same, a little more is nothing."""


def _costliest(kind: str, column: str, unit: str) -> str:
    return f"""
        SELECT '{kind}' AS kind, source, host, release, value, '{unit}' AS unit,
            median, (value - median) / spread AS score, coalesce(tasks || ' tasks', line) AS detail
        FROM (
            SELECT *, greatest(
                1.4826 * median(abs(value - median)) FILTER (usual) OVER (), {_SPREAD_MIN} * median
            ) AS spread
            FROM (
                -- What failed may have ended at once, or at its limit: not what an audit usually takes.
                SELECT source, host, release, tasks, line, {column} AS value,
                    status <> 'failed' AS usual, median({column}) FILTER (status <> 'failed') OVER () AS median,
                    count(*) FILTER (status <> 'failed') OVER () AS sample
                FROM audits WHERE {column} > 0
            )
            WHERE sample >= {_SAMPLE_MIN}
        )
        WHERE value - median > {_FAR} * spread
    """


_OUTLIERS = f"""
    SELECT kind, source, host, release, value::DOUBLE AS value, unit, median::DOUBLE AS median,
        score::DOUBLE AS score, detail, _number, _rank
    FROM (
        SELECT *, row_number() OVER (
            PARTITION BY kind ORDER BY abs(coalesce(score, value)) DESC, source, detail
        ) AS _rank
        FROM (
            SELECT 1 AS _number, * FROM ({_SHARE_OUTLIERS})
            UNION ALL SELECT 2, * FROM ({_DEEPEST})
            UNION ALL SELECT 3, * FROM ({_costliest("slowest audit", "seconds", "seconds")})
            UNION ALL SELECT 4, * FROM ({_costliest("most memory", "peak_memory_bytes", "bytes")})
        )
    )
"""

_VERDICT_RANK = "CASE verdict WHEN 'unreliable' THEN 0 WHEN 'unknown' THEN 1 ELSE 2 END"

SECTIONS = {
    section.name: section
    for section in (
        Section(
            "summary",
            "Summary",
            f"""
            SELECT count(*) AS sources,
                count(*) FILTER (status = 'audited') AS audited,
                count(*) FILTER (status = 'partly unknown') AS partly_unknown,
                count(*) FILTER (status = 'failed') AS failed,
                count(*) FILTER (quarantined) AS quarantined,
                count(DISTINCT host) AS hosts, count(DISTINCT release) AS releases,
                count(DISTINCT build_id) AS builds, {_SEEN}, {_COUNTS},
                {_SHARE} AS unreliable_share, round(coalesce(sum(seconds), 0), 3) AS seconds,
                max(peak_memory_bytes) AS peak_memory_bytes,
                {_distinct_of("tool")} AS tools
            FROM audits
            """,
        ),
        Section(
            "kernels",
            "Kernels, those with the largest share of unreliable stacks first",
            f"""
            SELECT release, unwinder, count(DISTINCT build_id) AS builds, count(*) AS audits,
                count(DISTINCT host) AS hosts, {_COUNTS}, {_SHARE} AS unreliable_share, {_SEEN}
            FROM audits WHERE status <> 'failed'
            GROUP BY release, unwinder
            """,
            order="unreliable_share DESC NULLS LAST, release, unwinder",
        ),
        Section(
            "hosts",
            "Hosts, those with the largest share of unreliable stacks first",
            f"""
            SELECT host, count(*) AS sources, count(*) FILTER (status = 'failed') AS failed,
                {_distinct_of("release")} AS releases,
                {_COUNTS}, {_SHARE} AS unreliable_share, {_SEEN}
            FROM audits
            GROUP BY host
            """,
            order="unreliable_share DESC NULLS LAST, failed DESC, host",
        ),
        Section(
            "functions",
            "Functions interrupted in unreliable stacks",
            f"""
            SELECT function, count(*) AS count, count(DISTINCT (audit_id, task)) AS tasks, {_SPREAD},
                {_distinct_of("entry")} AS entries, {_SEEN}
            FROM interrupted
            GROUP BY function
            """,
            order="count DESC, function",
        ),
        Section(
            "reasons",
            "Verdicts and reasons",
            f"""
            SELECT verdict, reason, count(*) AS tasks, {_SPREAD}, {_SEEN}
            FROM tasks
            GROUP BY verdict, reason
            """,
            order=f"{_VERDICT_RANK}, tasks DESC, reason",
        ),
        Section(
            "stacks",
            "Identical stacks, unreliable ones first, then those on most hosts",
            """
            SELECT stack_hash, verdict, reason, tasks, audits, hosts, releases, first_seen,
                last_seen, source, pid, comm, functions
            FROM stacks
            """,
            order=f"{_VERDICT_RANK}, hosts DESC, tasks DESC, stack_hash, reason",
            usual=5,
        ),
        Section(
            "outliers",
            f"Outliers: unusual shares and costs, the {_DEEPEST_MAX} deepest stacks, one a source",
            _OUTLIERS,
            order="_rank, _number",
            together="kind",
        ),
        Section(
            "failures",
            "What could not be audited, or not all of it",
            """
            SELECT status, source, host, exit_code, cause, attempts, quarantined, line
            FROM audits WHERE status <> 'audited'
            """,
            order="status, quarantined DESC, source",
        ),
    )
}
"""All sections by name, in the order of the report."""
