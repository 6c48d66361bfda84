# SPDX-License-Identifier: LGPL-2.1-or-later
"""A dataset in DuckDB: the views that reports, the page and ``--sql`` ask (docs/fleet-report.md).

Records of sources are read once, when it is opened; tasks each time they are asked for, from
the files that a record refers to, and of those only the columns that are needed.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Optional

import duckdb
import pyarrow as pa

from ...errors import InputError
from ...program.core_file import shown
from .dataset import Dataset
from .schema import AUDITS, TASKS

__all__ = ("VIEWS", "connect", "naming_damaged_files")


def connect(dataset: Dataset) -> duckdb.DuckDBPyConnection:
    """A connection with the views of *dataset*, which can read its files and no others.

    Times are ``TIMESTAMP`` in UTC. Close it when done.

    :raises InputError: a file of the dataset is damaged, or missing.
    """
    folder = _absolute(dataset)
    connection = duckdb.connect(
        config={
            "autoinstall_known_extensions": "false",  # nothing is ever fetched
            "autoload_known_extensions": "false",
            # What does not fit into memory goes where temporary files go, not into this folder.
            "temp_directory": os.path.join(tempfile.gettempdir(), f"drgn-tools-{os.getpid()}"),
        }
    )
    try:
        for setting in (
            "enable_progress_bar = false",
            "TimeZone = 'UTC'",  # of now()::TIMESTAMP as of all times
            "preserve_insertion_order = false",
            "parquet_metadata_cache = true",
            f"allowed_directories = [{_quoted(str(folder))}, {_pattern(folder)}]",
            "enable_external_access = false",
        ):
            connection.execute(f"SET {setting}")
        with naming_damaged_files(dataset):
            audits = _parquet_files(dataset.audits)
            alike = _are_of_one_tool(connection, audits)
            query = _rows(connection, AUDITS, audits, alike)
            connection.execute(f"CREATE TABLE records AS {query}")
            query = _rows(connection, TASKS, _tasks_referred_to(connection, dataset), alike)
            connection.execute(f"CREATE VIEW stored_tasks AS {query}")
        for name, query in VIEWS.items():
            connection.execute(f"CREATE VIEW {name} AS {query}")
        # Whoever asks now cannot undo any of this.
        connection.execute("SET lock_configuration = true")
    except BaseException:
        connection.close()
        raise
    return connection


def _absolute(dataset: Dataset) -> Path:
    path = str(dataset.path.absolute())
    # In a pattern, and so where these must be escaped, a backslash separates folders.
    is_pattern = "\\" in path and any(c in path for c in _WILD)
    if is_pattern or any("\ud800" <= c <= "\udfff" for c in path):
        raise InputError(f"{shown(path)}: DuckDB cannot read from a folder of this name; rename it")
    return Path(path)


# ---- the files


def _parquet_files(folder: Path) -> list[Path]:
    return sorted(folder.absolute().glob("*.parquet"))


def _tasks_referred_to(connection: duckdb.DuckDBPyConnection, dataset: Dataset) -> list[Path]:
    # A run that was killed may leave tasks without a record; they do not count, nor are they read.
    there = {file.name: file for file in _parquet_files(dataset.tasks)}
    records = connection.execute("SELECT filename, audit_id, status FROM records").fetchall()
    needed = []
    for filename, audit_id, status in records:
        name = f"{Path(filename).stem}-{audit_id}.parquet"
        if name in there:
            needed.append(there[name])
        elif status != "failed":
            raise InputError(
                f"{shown(str(dataset.tasks / name))}: is missing; {_remedy(dataset, filename)}"
            )
    return sorted(needed)


def _are_of_one_tool(connection: duckdb.DuckDBPyConnection, audits: Sequence[Path]) -> bool:
    # If so they have the same columns, and need not all be opened to see which: that is slow.
    if not audits:
        return True
    tools = connection.execute(f"SELECT count(DISTINCT tool) FROM {_read(audits)}").fetchone()
    return bool(tools == (1,))


def _rows(
    connection: duckdb.DuckDBPyConnection, schema: pa.Schema, files: Sequence[Path], alike: bool
) -> str:
    """The query for the rows of *files* by the columns of *schema*, whichever of them they have.

    :param alike: all have the same.
    """
    nothing = {field.name: f"NULL::{_sql_type(field.type)}" for field in schema}
    if not files:
        columns = ", ".join(f"{value} AS {_name(name)}" for name, value in nothing.items())
        return f"SELECT {columns}, NULL::VARCHAR AS filename WHERE false"
    source = _read(files, alike)
    there = {row[0] for row in connection.execute(f"DESCRIBE FROM {source}").fetchall()}
    # A column that was added since may be in none of them.
    columns = ", ".join(
        _value(field) if field.name in there else f"{nothing[field.name]} AS {_name(field.name)}"
        for field in schema
    )
    return f"SELECT {columns}, filename FROM {source}"


def _read(files: Sequence[Path], alike: bool = True) -> str:
    names = ", ".join(map(_pattern, files))
    return (
        f"read_parquet([{names}], filename = true, hive_partitioning = false, "
        f"union_by_name = {'false' if alike else 'true'})"
    )


def _value(field: pa.Field) -> str:
    name = _name(field.name)
    if pa.types.is_timestamp(field.type):
        # Without a zone: with one, Python needs pytz, and everyone the zone of the machine.
        return f"make_timestamp(epoch_us({name})) AS {name}"
    return name


def _sql_type(type_: pa.DataType) -> str:
    if pa.types.is_map(type_):
        return f"MAP({_sql_type(type_.key_type)}, {_sql_type(type_.item_type)})"
    if pa.types.is_list(type_):
        return f"{_sql_type(type_.value_type)}[]"
    if pa.types.is_struct(type_):
        return (
            f"STRUCT({', '.join(f'{_name(each.name)} {_sql_type(each.type)}' for each in type_)})"
        )
    if pa.types.is_timestamp(type_):
        return "TIMESTAMP"
    return _SQL_TYPES[str(type_)]


_SQL_TYPES = {
    "string": "VARCHAR",
    "bool": "BOOLEAN",
    "int32": "INTEGER",
    "int64": "BIGINT",
    "uint64": "UBIGINT",
    "double": "DOUBLE",
}


def _name(name: str) -> str:
    return f'"{name}"'


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


_WILD = "*?["


def _pattern(file: Path) -> str:
    # DuckDB takes the name of a file for a pattern.
    return _quoted("".join(f"[{c}]" if c in _WILD else c for c in str(file)))


# ---- damage


@contextmanager
def naming_damaged_files(dataset: Dataset) -> Iterator[None]:
    """Where a query fails because a file of *dataset* cannot be read, say which.

    :raises InputError: that is why; any other error stays as it is.
    """
    try:
        yield
    except duckdb.Error as e:
        damaged = _damaged_file(dataset)
        if damaged is None:
            raise
        key = damaged.name.partition("-")[0]
        raise InputError(
            f"{shown(str(damaged))}: cannot be read as a file of this dataset (is it damaged?); "
            f"{_remedy(dataset, key)}"
        ) from e


def _remedy(dataset: Dataset, key: str) -> str:
    audit = dataset.audits / f"{Path(key).stem}.parquet"
    return f"remove {shown(str(audit))} and repeat the fleet run, which makes both anew"


def _damaged_file(dataset: Dataset) -> Optional[Path]:
    with duckdb.connect() as connection:
        for schema, folder in ((AUDITS, dataset.audits), (TASKS, dataset.tasks)):
            for file in _parquet_files(folder):
                if not _is_readable(connection, schema, file):
                    return file
    return None


def _is_readable(connection: duckdb.DuckDBPyConnection, schema: pa.Schema, file: Path) -> bool:
    # Of its columns each that we know is of the type that we know, and can be read.
    try:
        query = _rows(connection, schema, [file], True)
        columns = connection.execute(f"DESCRIBE {query}").fetchall()
        expected = connection.execute(f"DESCRIBE {_rows(connection, schema, [], True)}").fetchall()
        connection.execute(f"CREATE OR REPLACE TEMP TABLE whole AS {query}")
        strangers = connection.execute("SELECT count(*) FROM whole WHERE audit_id IS NULL")
        return bool(columns == expected and strangers.fetchone() == (0,))
    except duckdb.Error:
        return False


# ---- the views

_OF_AUDIT = "source, host, release, build_id, unwinder, time, tags"
"""What every task is given of its source."""

_WHOSE = "source, host, release, time, audit_id, task, pid, comm, verdict, reason, stack_hash"
"""What tells whose a frame or a pt_regs is."""


def _function(symbol: str) -> str:
    # As function_name(): without the offset, if that leaves anything.
    return rf"regexp_replace({symbol}, '(?s)^(.+)\+[^+]*$', '\1')"


def _label(of: str, ip: str) -> str:
    # As function_label().
    name = f"coalesce(nullif({_function(f'{of}.symbol')}, ''), '0x' || lower(hex({ip})))"
    return f"{name} || coalesce(' [' || nullif({of}.module, '') || ']', '')"


def _columns(schema: pa.Schema, without: Iterable[str] = ()) -> str:
    return ", ".join(_name(field.name) for field in schema if field.name not in without)


VIEWS = {
    "audits": f"SELECT {_columns(AUDITS)}, parse_filename(filename, true) AS key FROM records",
    "tasks": f"""
        SELECT {_columns(TASKS)}, {_OF_AUDIT}
        FROM stored_tasks
        JOIN (SELECT audit_id, {_OF_AUDIT} FROM records) USING (audit_id)
    """,
    "frames": f"""
        SELECT {_WHOSE}, frame, {_function("f.symbol")} AS function,
            f.symbol AS symbol, f.module AS module, f.stack AS stack, f.ip AS ip,
            f.regs AS regs, f.user_mode AS user_mode
        FROM (
            SELECT {_WHOSE}, unnest(frames) AS f, unnest(range(len(frames))) AS frame FROM tasks
        )
    """,
    "regs": f"""
        SELECT {_WHOSE}, number, {_function("r.symbol")} AS function,
            r.symbol AS symbol, r.module AS module, r.caller AS caller, r.entry AS entry,
            r.user_mode AS user_mode, r.address AS address, r.registers AS registers
        FROM (
            SELECT {_WHOSE}, unnest(regs) AS r, unnest(range(len(regs))) AS number FROM tasks
        )
    """,
    "interrupted": f"""
        SELECT {_label("r", "r.registers['ip']")} AS function, r.entry AS entry,
            * EXCLUDE (r, function)
        FROM (SELECT unnest(regs) AS r, * FROM tasks WHERE verdict = 'unreliable')
        WHERE NOT r.user_mode
    """,
    "stacks": f"""
        SELECT stack_hash, verdict, reason, count(*) AS tasks,
            count(DISTINCT audit_id) AS audits, count(DISTINCT host) AS hosts,
            list_sort(list(DISTINCT release)) AS releases,
            min(time) AS first_seen, max(time) AS last_seen,
            arg_min(functions, example) AS functions,
            min(example).source AS source, min(example).pid AS pid, min(example).comm AS comm
        FROM (
            SELECT *, {{
                    'time': coalesce(time, 'infinity'::TIMESTAMP),
                    'source': source, 'pid': pid, 'comm': comm
                }} AS example,
                [{_label("f", "f.ip")} FOR f IN frames IF NOT f.user_mode] AS functions
            FROM tasks
        )
        GROUP BY stack_hash, verdict, reason
    """,
}
"""Name of each view -> its query. A view may ask those before it."""
