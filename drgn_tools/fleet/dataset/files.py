# SPDX-License-Identifier: LGPL-2.1-or-later
"""SQL that reads the Parquet files of a dataset, written by this version or by an older one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import duckdb
import pyarrow as pa

__all__ = ("WILDCARDS", "files_query", "has_same_columns", "parquet_files", "pattern", "quoted")

WILDCARDS = "*?["
"""Characters with a meaning in DuckDB's patterns of file names."""


def parquet_files(folder: Path) -> list[Path]:
    """Return the absolute paths of the Parquet files in *folder*, sorted."""
    return sorted(folder.absolute().glob("*.parquet"))


def has_same_columns(connection: duckdb.DuckDBPyConnection, audits: Sequence[Path]) -> bool:
    """Return whether one version of drgn-tools wrote all of *audits*.

    If so, all have the same columns, and DuckDB need not open each file to find them, which
    is slow.
    """
    if not audits:
        return True
    tools = connection.execute(f"SELECT count(DISTINCT tool) FROM {_read(audits, True)}").fetchone()
    return bool(tools == (1,))


def files_query(
    connection: duckdb.DuckDBPyConnection,
    schema: pa.Schema,
    files: Sequence[Path],
    same_columns: bool,
) -> str:
    """Return the query for the rows of *files* by the columns of *schema*.

    Columns and struct members that the files do not have are null. The query adds the column ``filename``.

    :param same_columns: Whether all files have the same columns.
    :raises duckdb.Error: If a file cannot be read.
    """
    nulls = {field.name: f"NULL::{_sql_type(field.type)}" for field in schema}
    if not files:
        columns = ", ".join(f"{value} AS {_name(name)}" for name, value in nulls.items())
        return f"SELECT {columns}, NULL::VARCHAR AS filename WHERE false"
    source = _read(files, same_columns)
    described = connection.execute(f"DESCRIBE FROM {source}").fetchall()
    found = {name: type_ for name, type_, *_ in described}
    columns = ", ".join(
        _value(field, found[field.name])
        if field.name in found
        else f"{nulls[field.name]} AS {_name(field.name)}"
        for field in schema
    )
    return f"SELECT {columns}, filename FROM {source}"


def _read(files: Sequence[Path], same_columns: bool) -> str:
    names = ", ".join(pattern(str(file)) for file in files)
    return (
        f"read_parquet([{names}], filename = true, hive_partitioning = false, "
        f"union_by_name = {'false' if same_columns else 'true'})"
    )


def _value(field: pa.Field, type_there: str) -> str:
    name, type_ = _name(field.name), _sql_type(field.type)
    if pa.types.is_timestamp(field.type):
        # Without a time zone: with one, Python needs pytz, and DuckDB uses the zone of the machine.
        return f"make_timestamp(epoch_us({name})) AS {name}"
    if pa.types.is_list(field.type) and type_.replace('"', "") != type_there.replace('"', ""):
        # Frames of an older version have fewer members; missing members become null.
        return f"{name}::{type_} AS {name}"
    return name


def _sql_type(type_: pa.DataType) -> str:
    if pa.types.is_map(type_):
        return f"MAP({_sql_type(type_.key_type)}, {_sql_type(type_.item_type)})"
    if pa.types.is_list(type_):
        return f"{_sql_type(type_.value_type)}[]"
    if pa.types.is_struct(type_):
        members = ", ".join(f"{_name(each.name)} {_sql_type(each.type)}" for each in type_)
        return f"STRUCT({members})"
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


def quoted(text: str) -> str:
    """Return *text* as a string literal of SQL."""
    return "'" + text.replace("'", "''") + "'"


def pattern(path: str) -> str:
    """Return the literal of a pattern that matches only *path*.

    DuckDB treats the name of a file as a pattern.
    """
    return quoted("".join(f"[{c}]" if c in WILDCARDS else c for c in path))
