# SPDX-License-Identifier: LGPL-2.1-or-later
"""A dataset: a folder in which every source has one final record, or none yet.

::

    DATASET/dataset.json                    which schema
            audits/KEY.parquet              the final record of the source with that key
            tasks/KEY-AUDIT_ID.parquet      its tasks

One file a source, named by it, so nothing can be there twice. A file appears whole or not at
all, the tasks before the record that refers to them: a record is the commit.
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
    """What the files of a source are named by: 20 hex digits of the hash of its name."""
    return hashlib.sha256(source.encode("utf-8", "surrogateescape")).hexdigest()[:20]


class Dataset:
    """The folder of a dataset."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.audits = path / "audits"
        self.tasks = path / "tasks"

    @classmethod
    def open(cls, path: Path) -> Dataset:
        """One that is there.

        :raises InputError: it is none, or of another schema.
        """
        dataset = cls(path)
        found = dataset._schema()
        if found is None:
            has = (
                "its dataset.json is of something else"
                if (path / "dataset.json").exists()
                else "it has no dataset.json"
            )
            raise InputError(
                f"{shown(str(path))}: is no dataset ({has}); "
                "drgn-tools fleet run SOURCES -o DATASET makes one"
            )
        if found != SCHEMA:
            raise InputError(
                f"{shown(str(path))}: is a dataset of schema {shown(found)}, expected {SCHEMA}; "
                "use the drgn-tools that wrote it, or a new folder"
            )
        return dataset

    @classmethod
    def create(cls, path: Path) -> Dataset:
        """One that is there, or a new one in an empty or new folder.

        :raises InputError: something else is there, or it cannot be written.
        """
        dataset = cls(path)
        if dataset._schema() is not None:
            cls.open(path)
        if path.exists() and not path.is_dir():
            raise InputError(f"{shown(str(path))}: is a file; a dataset is a folder")
        try:
            path.mkdir(parents=True, exist_ok=True)
            if dataset._schema() is None:
                if not all(file.name.startswith(_UNFINISHED) for file in path.iterdir()):
                    raise InputError(
                        f"{shown(str(path))}: is a folder with something else in it; "
                        "give a new or empty one"
                    )
                about = json.dumps({"schema": SCHEMA})
                _write_whole(path / "dataset.json", f"{about}\n".encode())
            dataset.audits.mkdir(exist_ok=True)
            dataset.tasks.mkdir(exist_ok=True)
        except OSError as e:
            raise InputError(
                f"{shown(str(path))}: cannot be made a dataset: {e.strerror or e}"
            ) from e
        return dataset

    def _schema(self) -> Optional[str]:
        try:
            about = json.loads((self.path / "dataset.json").read_text())
            return str(about["schema"])
        except (OSError, ValueError, LookupError, TypeError):
            return None

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep every other run out for as long as this lasts.

        The lock goes with the process, however it ends.

        :raises InputError: another run writes to it now.
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
        # Of a run that was killed. Only who has the lock writes.
        for folder in (self.path, self.audits, self.tasks):
            for file in folder.glob(f"{_UNFINISHED}*"):
                with suppress(OSError):
                    file.unlink()

    def commit(self, key: str, audit_id: str, audit: bytes, tasks: Optional[bytes]) -> None:
        """Make *audit* the final record of the source *key*, *tasks* its tasks.

        :param audit: what :func:`~drgn_tools.fleet.dataset.schema.audit_file` made.
        :param tasks: what :func:`~drgn_tools.fleet.dataset.schema.tasks_file` made, ``None`` for a failure.
        :raises OSError: it cannot be written; what was there is there still.
        """
        if tasks is not None:
            _write_whole(self.tasks / f"{key}-{audit_id}.parquet", tasks)
        _write_whole(self.audits / f"{key}.parquet", audit)

    def forget(self, key: str) -> None:
        """Remove the record of the source *key*. Its tasks go with the next run."""
        (self.audits / f"{key}.parquet").unlink(missing_ok=True)

    def remove_others(self, audit_ids: Collection[str]) -> None:
        """Remove the tasks of which none of *audit_ids*, those of all records, is the audit.

        Not when a record replaces another: who reads the dataset just then has the other.
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
