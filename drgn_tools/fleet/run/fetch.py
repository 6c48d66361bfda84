# SPDX-License-Identifier: LGPL-2.1-or-later
"""The core of a source: its file on this machine, and what identifies its content."""

from __future__ import annotations

import os
from datetime import datetime
from typing import Any, Optional

from ...program.url import without_secrets
from .identity import file_id, remote_id
from .remote import errors_of, file_system, is_url

__all__ = ("Core",)


class Core:
    """The core of one source."""

    def __init__(self, where: str, scratch: str) -> None:
        """
        :param where: Path or fsspec URL.
        :param scratch: Existing folder for the copy of a remote core.
        """
        self.where = where
        self._scratch = scratch
        self._copy: Optional[str] = None
        self._info: Optional[dict[str, Any]] = None

    @property
    def path(self) -> str:
        """Path of the core on this machine. A remote core is copied when this is first read.

        :raises InputError: If it cannot be copied.
        """
        if not is_url(self.where):
            return self.where
        if self._copy is None:
            # Errors name this file, so its name must not contain a query.
            name = os.path.basename(without_secrets(self.where))
            copy = os.path.join(self._scratch, name or "core")
            with errors_of(self.where):
                files, path = file_system(self.where)
                files.get_file(path, copy)
            self._copy = copy
        return self._copy

    def content_id(self) -> str:
        """Return what identifies the content of the core.

        A remote core is not read if its server says enough about it.

        :return: Hexadecimal digits, which are different for a different content.
        :raises InputError: If it cannot be read.
        """
        if is_url(self.where):
            identity = remote_id(self._remote_info())
            if identity:
                return identity
        with errors_of(self.where):
            return file_id(self.path)

    def modified_s(self) -> Optional[float]:
        """Return when the file was written, in seconds since 1970; ``None`` if its server does not say.

        :raises InputError: If the file system cannot be asked.
        """
        if not is_url(self.where):
            with errors_of(self.where):
                return os.stat(self.where).st_mtime
        for key in ("mtime", "LastModified", "last_modified", "updated"):
            time = self._remote_info().get(key)
            if isinstance(time, (int, float)):
                return float(time)
            if isinstance(time, datetime):
                return time.timestamp()
        return None

    def size_bytes(self) -> Optional[int]:
        """Return the size of the file; ``None`` if its server does not say.

        :raises InputError: If the file system cannot be asked.
        """
        if not is_url(self.where):
            with errors_of(self.where):
                return os.stat(self.where).st_size
        size = self._remote_info().get("size")
        return size if isinstance(size, int) else None

    def _remote_info(self) -> dict[str, Any]:
        if self._info is None:
            with errors_of(self.where):
                files, path = file_system(self.where)
                self._info = dict(files.info(path))
        return self._info
