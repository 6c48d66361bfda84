# SPDX-License-Identifier: LGPL-2.1-or-later
"""Writes an initramfs: cpio archives in the "newc" format, gzipped or as they are.

The kernel unpacks one after the other that it is given in a row, each at a multiple of
four bytes.

Format: Documentation/driver-api/early-userspace/buffer-format.rst (v6.12).
"""

from __future__ import annotations

import gzip
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Optional

__all__ = ("archive_of", "join_initramfs", "write_initramfs")


def _pad(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)


def _entry(inode: int, name: str, mode: int, data: bytes) -> bytes:
    encoded = name.encode() + b"\0"
    fields = (inode, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(encoded), 0)
    header = b"070701" + b"".join(b"%08X" % field for field in fields)
    return _pad(header + encoded) + _pad(data)


def archive_of(
    files: Mapping[str, bytes],
    folders: Iterable[str] = (),
    links: Optional[Mapping[str, str]] = None,
) -> bytes:
    """A cpio archive of ``files`` (name in the guest, without leading slash, to content).

    Every file is executable. Parent folders are made. ``links``: name to what a symbolic
    link holds. The same input gives the same bytes.
    """
    links = links or {}
    wanted = {
        str(parent)
        for name in (*files, *links, *(f"{folder}/x" for folder in folders))
        for parent in Path(name).parents
    }
    wanted.discard(".")
    archive = bytearray()
    for inode, folder in enumerate(sorted(wanted), 1):
        archive += _entry(inode, folder, stat.S_IFDIR | 0o755, b"")
    for inode, name in enumerate(sorted({*files, *links}), len(wanted) + 1):
        if name in links:
            archive += _entry(inode, name, stat.S_IFLNK | 0o777, links[name].encode())
        else:
            archive += _entry(inode, name, stat.S_IFREG | 0o755, files[name])
    archive += _entry(0, "TRAILER!!!", 0, b"")
    return bytes(archive)


def write_initramfs(path: Path, files: Mapping[str, bytes], folders: Iterable[str] = ()) -> None:
    """Write ``files`` to ``path``, gzipped; see archive_of()."""
    path.write_bytes(gzip.compress(archive_of(files, folders), 9, mtime=0))


def join_initramfs(path: Path, archives: Iterable[bytes]) -> None:
    """Write one initramfs of several, packed or not; what comes later wins."""
    path.write_bytes(b"".join(_pad(archive) for archive in archives))
