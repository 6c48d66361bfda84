# SPDX-License-Identifier: LGPL-2.1-or-later
"""Is this still the content that was audited? Asked of every source when a run is resumed."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, BinaryIO

from ...program.core_file import open_regular

__all__ = ("file_id", "joint_id", "remote_id")

_WHOLE_BYTES = 64 << 20
"""A file up to this size is read to its end."""
_EDGE_BYTES = 1 << 20
_SAMPLES = 256
_SAMPLE_BYTES = 1 << 16


def file_id(path: str) -> str:
    """What a file holds: hex digits that are others when it holds something else.

    Up to 64 MiB that is a hash of all of it. Of a larger one, which may be larger than memory, it
    is of both ends, of 256 pieces between and of its mtime: a touch makes it another,
    which costs an audit, and overlooking a change would cost a wrong answer.

    :raises InputError: it cannot be opened.
    :raises OSError: it cannot be read.
    """
    digest = hashlib.sha256()
    with open_regular(path) as file:
        status = os.fstat(file.fileno())
        size = status.st_size
        digest.update(f"{size}\0".encode())
        if size > _WHOLE_BYTES:
            digest.update(f"{status.st_mtime_ns}\0".encode())
        for offset, size_bytes in _pieces(size):
            file.seek(offset)
            _update(digest, file, size_bytes)
    return digest.hexdigest()


def _pieces(size: int) -> Iterator[tuple[int, int]]:
    if size <= _WHOLE_BYTES:
        yield 0, size
        return
    yield 0, _EDGE_BYTES
    step = (size - 2 * _EDGE_BYTES) // _SAMPLES
    for number in range(_SAMPLES):
        yield _EDGE_BYTES + number * step, _SAMPLE_BYTES
    yield size - _EDGE_BYTES, _EDGE_BYTES


def _update(digest: Any, file: BinaryIO, size_bytes: int) -> None:
    while size_bytes > 0:
        chunk = file.read(min(size_bytes, _EDGE_BYTES))
        if not chunk:
            return
        digest.update(chunk)
        size_bytes -= len(chunk)


_STAMPS = frozenset(
    ("etag", "contentmd5", "md5hash", "md5", "sha256", "checksum", "crc32c", "generation")
)
"""What object stores and web servers say of a content; a change of it changes them."""
_TIMES = frozenset(("lastmodified", "mtime", "modified", "updated"))


def remote_id(info: Mapping[str, Any]) -> str:
    """The same by what an fsspec file system says of a file; empty if that does not tell.

    :param info: of ``fs.info(path)``.
    """
    told = {key.lower().replace("-", "").replace("_", ""): value for key, value in info.items()}
    stamps = {key: told[key] for key in sorted(_STAMPS & told.keys()) if told[key]}
    times = {key: told[key] for key in sorted(_TIMES & told.keys()) if told[key]}
    if not stamps and not (times and told.get("size")):
        return ""
    return joint_id((str(told.get("size")), repr(stamps), repr(times)))


def joint_id(parts: Iterable[str]) -> str:
    """One identity of several things, in their order."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(f"{len(part)}\0{part}\0".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()
