# SPDX-License-Identifier: LGPL-2.1-or-later
"""Find the file of a dataset that cannot be read, and say how to replace it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Optional

import duckdb
import pyarrow as pa

from ...errors import InputError
from ...program.core_file import shown
from .dataset import Dataset
from .files import files_query, parquet_files
from .schema import AUDITS, TASKS

__all__ = ("naming_damaged_files", "remedy")


@contextmanager
def naming_damaged_files(dataset: Dataset) -> Iterator[None]:
    """Return a context in which a failed query names the damaged file of *dataset*.

    :raises InputError: If a query fails and a file cannot be read.
    :raises duckdb.Error: If a query fails for another reason.
    """
    try:
        yield
    except duckdb.Error as e:
        damaged = _damaged_file(dataset)
        if damaged is None:
            raise
        raise InputError(
            f"{shown(str(damaged))}: cannot be read as a file of this dataset (is it damaged?); "
            f"{remedy(dataset, damaged.name.partition('-')[0])}"
        ) from e


def remedy(dataset: Dataset, key: str) -> str:
    """Return what the user can do to replace the files of a source.

    :param key: Key of the source, or the name of its file in ``audits``.
    """
    audit = dataset.audits / f"{Path(key).stem}.parquet"
    return f"remove {shown(str(audit))} and repeat the fleet run, which writes both again"


def _damaged_file(dataset: Dataset) -> Optional[Path]:
    with duckdb.connect() as connection:
        for schema, folder in ((AUDITS, dataset.audits), (TASKS, dataset.tasks)):
            for file in parquet_files(folder):
                if not _is_readable(connection, schema, file):
                    return file
    return None


def _is_readable(connection: duckdb.DuckDBPyConnection, schema: pa.Schema, file: Path) -> bool:
    # Each column of the schema must have its type and readable values.
    try:
        query = files_query(connection, schema, [file], True)
        columns = connection.execute(f"DESCRIBE {query}").fetchall()
        expected_query = files_query(connection, schema, [], True)
        expected = connection.execute(f"DESCRIBE {expected_query}").fetchall()
        connection.execute(f"CREATE OR REPLACE TEMP TABLE whole AS {query}")
        without_id = connection.execute("SELECT count(*) FROM whole WHERE audit_id IS NULL")
        return bool(columns == expected and without_id.fetchone() == (0,))
    except duckdb.Error:
        return False
