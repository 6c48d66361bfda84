# SPDX-License-Identifier: LGPL-2.1-or-later
"""Writes a gzipped initramfs: a cpio archive in the "newc" format.

Format: Documentation/driver-api/early-userspace/buffer-format.rst (v6.12).
"""

from __future__ import annotations

import gzip
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path

__all__ = ("write_initramfs",)


def _pad(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)


def _entry(inode: int, name: str, mode: int, data: bytes) -> bytes:
    encoded = name.encode() + b"\0"
    fields = (inode, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(encoded), 0)
    header = b"070701" + b"".join(b"%08X" % field for field in fields)
    return _pad(header + encoded) + _pad(data)


def write_initramfs(path: Path, files: Mapping[str, bytes], folders: Iterable[str] = ()) -> None:
    """Write ``files`` (name in the guest, without leading slash, to content) to ``path``.

    Every file is executable. Parent folders are made. The same input gives the
    same bytes.
    """
    wanted = {
        str(parent)
        for name in (*files, *(f"{folder}/x" for folder in folders))
        for parent in Path(name).parents
    }
    wanted.discard(".")
    archive = bytearray()
    for inode, folder in enumerate(sorted(wanted), 1):
        archive += _entry(inode, folder, stat.S_IFDIR | 0o755, b"")
    for inode, name in enumerate(sorted(files), len(wanted) + 1):
        archive += _entry(inode, name, stat.S_IFREG | 0o755, files[name])
    archive += _entry(0, "TRAILER!!!", 0, b"")
    path.write_bytes(gzip.compress(bytes(archive), 9, mtime=0))
