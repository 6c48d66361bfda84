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
from ...program.redact import redacted

__all__ = ("complete_url", "errors_of", "file_system", "has_query", "is_url", "url_of")


def is_url(text: str) -> bool:
    """Return whether *text* is a URL.

    ``s3://bucket/core`` and ``zip::s3://bucket/cores.zip`` are, ``/var/crash`` and ``C:x`` are not.
    """
    scheme, separator, _ = text.partition("://")
    return bool(separator) and re.sub("[+.-]|::", "", scheme).isalnum()


def complete_url(url: str) -> str:
    """Return *url* with an absolute path for a local file in it, as in ``zip://core::cores.zip``."""
    outer, separator, inner = url.rpartition("::")
    return url if not separator or is_url(inner) else f"{outer}::{os.path.abspath(inner)}"


def has_query(url: str) -> bool:
    """Return whether a URL has a query. If so, it names one file and is not a pattern with ``?``."""
    return "=" in url.partition("?")[2]


def file_system(url: str) -> tuple[Any, str]:
    """Return the fsspec file system of a URL, and the path in it."""
    import fsspec

    # Do not use the cached file system of another job: its listings may be old.
    files, path = fsspec.core.url_to_fs(url, skip_instance_cache=True)
    return files, path


def url_of(files: Any, path: str, url: str) -> str:
    """Return the URL of *path* in *files*, the file system of *url*."""
    outer, separator, inner = url.partition("::")
    if separator and "://" not in outer:  # simplecache::s3://bucket/core
        return f"{outer}::{url_of(files, path, inner)}"
    return str(files.unstrip_protocol(path)) + separator + inner


@contextmanager
def errors_of(where: str) -> Iterator[None]:
    """Return a context in which an error of a file system becomes one line.

    :param where: Path or URL that is used in the context.
    :raises InputError: With that line, which has no user info and no query of the URL.
    """
    try:
        yield
    except (DrgnToolsError, MemoryError):
        raise
    # Each file system uses a library of its own (aiohttp, botocore, zipfile ...) and lets the
    # errors of that library through.
    except Exception as e:
        text = redacted(str(e) or type(e).__name__, where)
        raise InputError(f"{shown(where)}: {text if text.isprintable() else repr(text)}") from e
