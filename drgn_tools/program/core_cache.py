# SPDX-License-Identifier: LGPL-2.1-or-later
"""The folder in which unpacked cores are kept, and how much it may hold.

``$XDG_CACHE_HOME/drgn-tools/cores`` (``~/.cache/drgn-tools/cores``) holds one file for each core:
``KEY-SIZE.core``. Its time of modification says when it was used last. A process that has a core open
holds a shared lock on it. When a core is added and the folder then holds more than its limit, the least
recently used cores are removed; a core that is in use stays.
"""

from __future__ import annotations

import atexit
import fcntl
import os
import re
import shutil
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Optional

from ..errors import UsageError

__all__ = (
    "cache_folder",
    "cached_core",
    "hold_core",
    "lasting_folder",
    "named_folder",
    "parse_size",
    "remove_abandoned",
    "size_limit",
    "trim_cache",
)

_LIMIT_VARIABLE = "DRGN_TOOLS_CACHE_SIZE"
_LIMIT_BYTES = 20 << 30
_BLOCK_BYTES = 512
"""Unit of ``st_blocks``, the space that a file takes on the disk, without its holes."""
_ABANDONED_AFTER_S = 24 * 3600
"""A file that is being unpacked is written to more often than this."""


def cache_folder() -> Path:
    """Return the folder; if it cannot be written, a temporary one that is removed at exit."""
    folder = lasting_folder()
    if folder is not None:
        return folder
    temporary = tempfile.mkdtemp(prefix="drgn-tools-")
    atexit.register(shutil.rmtree, temporary, ignore_errors=True)
    return Path(temporary)


def lasting_folder() -> Optional[Path]:
    """Return the folder, created if needed; ``None`` if it cannot be written, so that nothing is kept."""
    with suppress(OSError, RuntimeError):  # RuntimeError: there is no home
        folder = named_folder().expanduser()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if os.access(folder, os.W_OK | os.X_OK):
            return folder
    return None


def named_folder() -> Path:
    """Return the path of the folder, which may begin with ``~``. This does not check whether it exists or can be created."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return Path(base if os.path.isabs(base) else "~/.cache") / "drgn-tools" / "cores"


def size_limit() -> int:
    """Return how many bytes on the disk the folder may hold: ``DRGN_TOOLS_CACHE_SIZE``, or 20 GiB.

    :raises UsageError: if the variable is not a size.
    """
    text = os.environ.get(_LIMIT_VARIABLE, "")
    size = parse_size(text) if text else _LIMIT_BYTES
    if size is None:
        raise UsageError(f"{_LIMIT_VARIABLE} takes a size, as in 20G, not {text!r}")
    return size


def parse_size(text: str) -> Optional[int]:
    """Return the bytes of a size such as ``512M`` or ``2G`` (powers of 1024); ``None`` if it is not a size."""
    match = re.fullmatch(r"([0-9]{1,12})([KMGT]?)i?B?", text)
    return int(match[1]) << {"": 0, "K": 10, "M": 20, "G": 30, "T": 40}[match[2]] if match else None


def cached_core(folder: Path, key: str) -> Optional[Path]:
    """Return the core of a key, and note that it is used; ``None`` if it is not there.

    A copy whose size is not the one in its name is removed.
    """
    # OSError: another process removes the copy at this moment. The caller then unpacks it again.
    with suppress(OSError):
        for copy in folder.glob(f"{key}-*.core"):
            if copy.stem.rpartition("-")[2] == str(copy.stat().st_size):
                with suppress(OSError):  # it belongs to another user
                    os.utime(copy)
                return copy
            copy.unlink()
    return None


def hold_core(path: str) -> Optional[BinaryIO]:
    """Keep a core from being removed, as long as the file that is returned is open.

    :return: ``None`` if it is already removed.
    """
    try:
        file = os.fdopen(os.open(path, os.O_RDONLY), "rb")
    except OSError:
        return None
    with suppress(OSError):  # a file system without locks
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    if os.fstat(file.fileno()).st_nlink:
        return file
    file.close()
    return None


def trim_cache(folder: Path, limit_bytes: int, keep: Path) -> None:
    """Remove the least recently used cores until a folder holds no more than its limit.

    :param keep: A core that stays. So does each core that is in use; on a file system without locks,
        every core, because any of them may be in use.
    """
    cores = []
    with suppress(OSError), os.scandir(folder) as entries:  # another process removes it now
        for entry in entries:
            if entry.name.endswith(".core"):
                status = entry.stat()
                size = status.st_blocks * _BLOCK_BYTES
                cores.append((status.st_mtime_ns, size, folder / entry.name))
    too_much = sum(size for _, size, _ in cores) - limit_bytes
    for _, size, path in sorted(cores):
        if too_much <= 0:
            return
        if path != keep and _removed(path):
            too_much -= size


def _removed(path: Path) -> bool:
    with suppress(OSError), open(path, "rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # BlockingIOError: it is in use
        path.unlink()
        return True
    return False


def remove_abandoned(folder: Path) -> None:
    """Remove files that were being unpacked when a process was killed.

    Their time alone does not prove that: the clock may have jumped, in either direction.
    """
    for unfinished in folder.glob("unpacking-*"):
        with suppress(OSError):
            age_s = time.time() - unfinished.stat().st_mtime
            if abs(age_s) > _ABANDONED_AFTER_S:
                _removed(unfinished)
