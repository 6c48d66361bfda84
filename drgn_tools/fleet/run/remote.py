# SPDX-License-Identifier: LGPL-2.1-or-later
"""Files on other machines or inside archives: URLs of fsspec."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ...errors import DrgnToolsError, InputError
from ...program.core_file import shown

__all__ = ("complete_url", "errors_of", "file_system", "is_url", "url_of", "without_password")


def is_url(text: str) -> bool:
    """Return whether *text* is a URL.

    ``s3://bucket/core`` and ``zip::s3://bucket/cores.zip`` are, ``/var/crash`` and ``C:x`` are not.
    """
    scheme, separator, _ = text.partition("://")
    return bool(separator) and scheme.replace("+", "").replace("::", "").isalnum()


def complete_url(url: str) -> str:
    """Return *url* with the path of a local file in it made absolute: ``zip://core::cores.zip`` has one."""
    outer, separator, inner = url.rpartition("::")
    return url if not separator or is_url(inner) else f"{outer}::{os.path.abspath(inner)}"


def file_system(url: str) -> tuple[Any, str]:
    """Return the fsspec file system of a URL, and the path in it."""
    import fsspec

    # Not the cached file system that another job has used: its listings may be old.
    files, path = fsspec.core.url_to_fs(url, skip_instance_cache=True)
    return files, path


def url_of(files: Any, path: str, url: str) -> str:
    """Return the URL of *path* in *files*, the file system of *url*."""
    outer, separator, inner = url.partition("::")
    if separator and "://" not in outer:  # simplecache::s3://bucket/core
        return f"{outer}::{url_of(files, path, inner)}"
    return str(files.unstrip_protocol(path)) + separator + inner


def without_password(url: str) -> str:
    """*url* as it may be kept: ``http://user:secret@host/core`` without ``user:secret@``."""
    return _USER.sub("://", url)


_USER = re.compile(r"://[^/@]*@")


@contextmanager
def errors_of(where: str) -> Iterator[None]:
    """What a file system raises meanwhile becomes one line.

    :raises InputError: with that line.
    """
    try:
        yield
    except (DrgnToolsError, MemoryError):
        raise
    # Each is over a library of its own (aiohttp, botocore, zipfile ...) with errors of its
    # own, and takes it for granted that they are known.
    except Exception as e:
        raise InputError(
            f"{shown(without_password(where))}: {shown(str(e) or type(e).__name__)}"
        ) from e
