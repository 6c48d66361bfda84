# SPDX-License-Identifier: LGPL-2.1-or-later
"""A dataset: a folder with one final record for each source.

::

    DATASET/dataset.json                    the schema
            audits/KEY.parquet              the final record of the source with that key
            tasks/KEY-AUDIT_ID.parquet      its tasks
            lock                            held by a run

The key is a hash of the name of the source, so a source cannot have two records. A file
appears whole or not at all. The tasks are written before the record that refers to them: the
record is the commit.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Optional

from ...errors import InputError
from ...program.core_file import shown
from .schema import SCHEMA

__all__ = ("Dataset", "source_key")

_UNFINISHED = ".unfinished-"


def source_key(source: str) -> str:
    """Return the key that names the files of a source: 20 hexadecimal digits of a hash.

    :param source: Name of the source.
    """
    return hashlib.sha256(source.encode("utf-8", "surrogateescape")).hexdigest()[:20]


class Dataset:
    """The folder of a dataset."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.audits = path / "audits"
        self.tasks = path / "tasks"

    @classmethod
    def open(cls, path: Path) -> Dataset:
        """Open an existing dataset.

        :param path: Its folder.
        :raises InputError: If the folder is not a dataset, or has another schema.
        """
        dataset = cls(path)
        found = dataset._schema()
        if found is None:
            raise InputError(
                f"{shown(str(path))}: is not a dataset ({dataset._without_schema()}); "
                "drgn-tools fleet run SOURCES -o DATASET creates one"
            )
        if found != SCHEMA:
            raise InputError(
                f"{shown(str(path))}: is a dataset of schema {shown(found)}, expected {SCHEMA}; "
                "use the drgn-tools that wrote it, or a new folder"
            )
        return dataset

    @classmethod
    def create(cls, path: Path) -> Dataset:
        """Open an existing dataset, or create one in a new or empty folder.

        :param path: Its folder.
        :raises InputError: If *path* is a file, a folder with other files, or a dataset of
            another schema, or if it cannot be written.
        """
        dataset = cls(path)
        if dataset._schema() is not None:
            cls.open(path)
        # Path.exists() raises if a folder above cannot be searched, or a name is too long.
        if os.path.exists(path) and not os.path.isdir(path):
            raise InputError(f"{shown(str(path))}: is a file; a dataset is a folder")
        try:
            path.mkdir(parents=True, exist_ok=True)
            if dataset._schema() is None:
                if not all(file.name.startswith(_UNFINISHED) for file in path.iterdir()):
                    raise InputError(
                        f"{shown(str(path))}: is a folder with other files in it; "
                        "give a new or an empty folder"
                    )
                about = json.dumps({"schema": SCHEMA})
                _write_whole(path / "dataset.json", f"{about}\n".encode())
            dataset.audits.mkdir(exist_ok=True)
            dataset.tasks.mkdir(exist_ok=True)
        except OSError as e:
            raise InputError(
                f"{shown(str(path))}: cannot be made into a dataset: {e.strerror or e}"
            ) from e
        return dataset

    def _schema(self) -> Optional[str]:
        try:
            about = json.loads((self.path / "dataset.json").read_text())
            return str(about["schema"])
        except (OSError, ValueError, LookupError, TypeError):
            return None

    def _without_schema(self) -> str:
        # Why _schema() found none.
        try:
            with open(self.path / "dataset.json"):
                return "its dataset.json has no schema"
        except (FileNotFoundError, NotADirectoryError):
            return "it has no dataset.json"
        except OSError as e:
            raise InputError(f"{shown(str(self.path))}: cannot be read: {e.strerror or e}") from e

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Return a context in which no other run can write to the dataset.

        The kernel releases the lock when the process ends, for whatever reason. Unfinished files
        of a run that was killed are removed first.

        :raises InputError: If another run holds the lock, or the lock file cannot be written.
        """
        import fcntl

        try:
            lock = open(self.path / "lock", "w")  # noqa: SIM115  # closed below
        except OSError as e:
            raise InputError(
                f"{shown(str(self.path))}: cannot be written to: {e.strerror or e}"
            ) from e
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as e:
                raise InputError(
                    f"{shown(str(self.path))}: another fleet run is writing to it; "
                    "wait for it, or give another folder"
                ) from e
            except OSError as e:
                raise InputError(
                    f"{shown(str(self.path))}: cannot be locked: {e.strerror or e}"
                ) from e
            self._remove_unfinished()
            yield

    def _remove_unfinished(self) -> None:
        # A run that was killed left them. No other run writes, because we hold the lock.
        for folder in (self.path, self.audits, self.tasks):
            for file in folder.glob(f"{_UNFINISHED}*"):
                with suppress(OSError):
                    file.unlink()

    def commit(self, key: str, audit_id: str, audit: bytes, tasks: Optional[bytes]) -> None:
        """Write the final record of a source, in place of an older one.

        :param key: :func:`source_key` of the source.
        :param audit_id: The ``audit_id`` of the record.
        :param audit: Content made by :func:`~drgn_tools.fleet.dataset.parquet.audit_file`.
        :param tasks: Content made by :func:`~drgn_tools.fleet.dataset.parquet.tasks_file`,
            ``None`` for a failure.
        :raises OSError: If it cannot be written. The older record is then still there.
        """
        if tasks is not None:
            _write_whole(self.tasks / f"{key}-{audit_id}.parquet", tasks)
        _write_whole(self.audits / f"{key}.parquet", audit)

    def forget(self, key: str) -> None:
        """Remove the record of a source. The next run removes its tasks.

        :param key: :func:`source_key` of the source.
        """
        (self.audits / f"{key}.parquet").unlink(missing_ok=True)

    def remove_tasks_except(self, audit_ids: Collection[str]) -> None:
        """Remove the tasks that no record refers to.

        A run calls this when it starts, not when it replaces a record: a reader may still
        have the older record.

        :param audit_ids: The ``audit_id`` of every record.
        """
        for file in self.tasks.glob("*.parquet"):
            if file.stem.partition("-")[2] not in audit_ids:
                with suppress(OSError):
                    file.unlink()


def _write_whole(path: Path, content: bytes) -> None:
    unfinished = path.with_name(f"{_UNFINISHED}{secrets.token_hex(8)}")
    try:
        with open(unfinished, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    except OSError:
        with suppress(OSError):
            unfinished.unlink()
        raise
