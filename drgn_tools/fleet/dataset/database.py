# SPDX-License-Identifier: LGPL-2.1-or-later
"""A dataset as a DuckDB database.

The records of the sources are read once, when the database is opened. Tasks are read by each
query, only from the files that a record refers to, and only the columns that are needed.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import duckdb

from ...errors import InputError
from ...program.core_file import shown
from .damage import naming_damaged_files, remedy
from .dataset import Dataset
from .files import WILDCARDS, files_query, has_same_columns, parquet_files, pattern, quoted
from .schema import AUDITS, TASKS
from .views import VIEWS

__all__ = ("connect",)


def connect(dataset: Dataset) -> duckdb.DuckDBPyConnection:
    """Open the views of *dataset*.

    :return: A connection with :data:`~drgn_tools.fleet.dataset.views.VIEWS`, which can read
        the files of the dataset and no others. Times are ``TIMESTAMP`` in UTC. The caller
        closes it.
    :raises InputError: If a file of the dataset is damaged or missing.
    """
    folder = _absolute(dataset)
    connection = duckdb.connect(
        config={
            "autoinstall_known_extensions": "false",  # never download anything
            "autoload_known_extensions": "false",
            # Data that does not fit into memory goes to the temporary folder, not to the working directory.
            "temp_directory": os.path.join(tempfile.gettempdir(), f"drgn-tools-{os.getpid()}"),
        }
    )
    try:
        _allow_only(connection, folder)
        with naming_damaged_files(dataset):
            _create_tables(connection, dataset)
        for name, query in VIEWS.items():
            connection.execute(f"CREATE VIEW {name} AS {query}")
        # From here on no query can change these settings.
        connection.execute("SET lock_configuration = true")
    except BaseException:
        connection.close()
        raise
    return connection


def _absolute(dataset: Dataset) -> Path:
    path = str(dataset.path.absolute())
    # In a pattern a backslash separates folders, so a path cannot have both a backslash and wildcards.
    is_pattern = "\\" in path and any(c in path for c in WILDCARDS)
    if is_pattern or any("\ud800" <= c <= "\udfff" for c in path):
        raise InputError(f"{shown(path)}: DuckDB cannot read from a folder of this name; rename it")
    return Path(path)


def _allow_only(connection: duckdb.DuckDBPyConnection, folder: Path) -> None:
    for setting in (
        "enable_progress_bar = false",
        "TimeZone = 'UTC'",  # of now()::TIMESTAMP as of all times
        "preserve_insertion_order = false",
        "parquet_metadata_cache = true",
        f"allowed_directories = [{quoted(str(folder))}, {pattern(str(folder))}]",
        "enable_external_access = false",
    ):
        connection.execute(f"SET {setting}")


def _create_tables(connection: duckdb.DuckDBPyConnection, dataset: Dataset) -> None:
    audits = parquet_files(dataset.audits)
    same_columns = has_same_columns(connection, audits)
    query = files_query(connection, AUDITS, audits, same_columns)
    connection.execute(f"CREATE TABLE records AS {query}")
    tasks = _tasks_of_records(connection, dataset)
    query = files_query(connection, TASKS, tasks, same_columns)
    connection.execute(f"CREATE VIEW stored_tasks AS {query}")


def _tasks_of_records(connection: duckdb.DuckDBPyConnection, dataset: Dataset) -> list[Path]:
    # A run that was killed may leave tasks without a record. They do not count.
    files = {file.name: file for file in parquet_files(dataset.tasks)}
    records = connection.execute("SELECT filename, audit_id, status FROM records").fetchall()
    found = []
    for filename, audit_id, status in records:
        name = f"{Path(filename).stem}-{audit_id}.parquet"
        if name in files:
            found.append(files[name])
        elif status != "failed":
            raise InputError(
                f"{shown(str(dataset.tasks / name))}: is missing; {remedy(dataset, filename)}"
            )
    return sorted(found)
