# SPDX-License-Identifier: LGPL-2.1-or-later
"""What identifies the content of a source, to find out whether it has changed since its audit."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, BinaryIO

from ...program.core_file import open_regular

__all__ = ("file_id", "joint_id", "remote_id")

_WHOLE_BYTES = 64 << 20
"""A file up to this size is read completely."""
_EDGE_BYTES = 1 << 20
_SAMPLES = 256
_SAMPLE_BYTES = 1 << 16


def file_id(path: str) -> str:
    """Return a hash of the content of a file.

    It covers the whole file up to 64 MiB. In a larger file, which may be larger than memory, it
    covers both ends, 256 pieces between them and the mtime. So touching a large file costs an
    audit; but a missed change would give a wrong answer.

    :param path: Path of the file.
    :return: Hexadecimal digits.
    :raises InputError: If the file cannot be opened.
    :raises OSError: If the file cannot be read.
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
"""Names of values that change with the content, at object stores and web servers."""
_TIMES = frozenset(("lastmodified", "mtime", "modified", "updated"))


def remote_id(info: Mapping[str, Any]) -> str:
    """Return what identifies the content of a file, according to its fsspec file system.

    :param info: What ``fs.info(path)`` returned.
    :return: Hexadecimal digits; empty if *info* does not identify the content.
    """
    said = {key.lower().replace("-", "").replace("_", ""): value for key, value in info.items()}
    stamps = {key: said[key] for key in sorted(_STAMPS & said.keys()) if said[key]}
    times = {key: said[key] for key in sorted(_TIMES & said.keys()) if said[key]}
    if not stamps and not (times and said.get("size")):
        return ""
    return joint_id((str(said.get("size")), repr(stamps), repr(times)))


def joint_id(parts: Iterable[str]) -> str:
    """Return one hash of several texts in their order.

    :param parts: The texts. They may contain bytes that are not UTF-8 (surrogateescape).
    """
    digest = hashlib.sha256()
    for part in parts:
        digest.update(f"{len(part)}\0{part}\0".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()
