# SPDX-License-Identifier: LGPL-2.1-or-later
"""What was made once is kept outside the repository, under a hash of what it was made from.

An entry is a folder. It is filled under another name and appears by a rename, so
it is there whole or not at all.

The size of the cache is limited: a new dump replaces the older ones of its variant, and of what
takes long to build those go that were not used for the longest time.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Callable, Optional

__all__ = (
    "INPUTS_FILE",
    "Entry",
    "cache_dir",
    "entry_path",
    "exclusive",
    "file_hash",
    "find_entry",
    "key_of",
    "make_entry",
)

INPUTS_FILE = "inputs.json"
_PART_PREFIX = ".part-"
_ONE_OF_A_NAME = ("debuginfo", "dumps", "live")
"""Kinds of which an entry replaces those of the same name: large, and made in a minute."""
_LIMITS = {
    "kernels": 8 << 30,
    "trees": 24 << 30,
    "sources": 6 << 30,
    "roots": 2 << 30,
    "initramfs": 1 << 30,
    "modules": 1 << 30,
}
"""How many bytes a kind may take. All kernels and trees of the lab together need less."""

Entry = Path
"""Folder of a finished entry."""


def cache_dir() -> Path:
    """$DRGN_TOOLS_LAB_CACHE, else drgn-tools/lab under $XDG_CACHE_HOME or ~/.cache."""
    own = os.environ.get("DRGN_TOOLS_LAB_CACHE")
    if own:
        return Path(own).expanduser().absolute()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache").absolute() / "drgn-tools" / "lab"


def file_hash(*paths: Path) -> str:
    """One hash over names and contents."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(f"{path.name}\0{path.stat().st_size}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def key_of(inputs: Mapping[str, str]) -> str:
    """A short name for everything an entry is made from."""
    return hashlib.sha256(json.dumps(dict(inputs), sort_keys=True).encode()).hexdigest()[:16]


def entry_path(kind: str, name: str, inputs: Mapping[str, str]) -> Path:
    """Where the entry is or would be."""
    return cache_dir() / kind / f"{name}-{key_of(inputs)}"


def find_entry(kind: str, name: str, inputs: Mapping[str, str]) -> Optional[Entry]:
    """The entry, if it was made."""
    path = entry_path(kind, name, inputs)
    try:
        os.utime(path / INPUTS_FILE)  # its last use
    except FileNotFoundError:
        return None
    return path


def make_entry(
    kind: str,
    name: str,
    inputs: Mapping[str, str],
    fill: Callable[[Path], None],
    *,
    fresh: bool = False,
) -> Entry:
    """Returns the entry, and calls ``fill(folder)`` first if it was not made yet.

    If ``fill`` raises, or is interrupted, nothing is left behind. ``fresh``
    replaces an entry that exists.
    """
    path = entry_path(kind, name, inputs)
    if not fresh and find_entry(kind, name, inputs):
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    with exclusive(kind):
        if not fresh and find_entry(kind, name, inputs):
            return path  # somebody else made it while we waited
        for left_behind in path.parent.glob(f"{_PART_PREFIX}*"):
            shutil.rmtree(left_behind)  # of a process that was killed: we hold the lock
        if kind in _ONE_OF_A_NAME:
            _remove_others(path, name)
        part = Path(tempfile.mkdtemp(prefix=_PART_PREFIX, dir=path.parent))
        try:
            part.chmod(0o755)
            fill(part)
            (part / INPUTS_FILE).write_text(
                json.dumps(dict(inputs), indent=1, sort_keys=True) + "\n"
            )
            if path.exists():
                old = Path(tempfile.mkdtemp(prefix=_PART_PREFIX, dir=path.parent))
                path.rename(old / "old")
                part.rename(path)
                shutil.rmtree(old)
            else:
                part.rename(path)
        finally:
            shutil.rmtree(part, ignore_errors=True)
        for limited in ("kernels", "trees") if kind == "kernels" else (kind,):
            _keep_within_limit(limited, path)
    return path


def _remove_others(path: Path, name: str) -> None:
    """Remove the entries of a name that were made from other inputs."""
    for entry in path.parent.glob(f"{name}-*"):
        if entry != path and re.fullmatch(re.escape(name) + "-[0-9a-f]{16}", entry.name):
            shutil.rmtree(entry)


def _keep_within_limit(kind: str, made: Path) -> None:
    """Remove the entries of a kind that were not used for the longest time, but not ``made``."""
    folder = cache_dir() / kind
    if kind not in _LIMITS or not folder.exists():
        return
    by_use = sorted(folder.iterdir(), key=_last_use)
    sizes = {entry: _size(entry) for entry in by_use}
    excess = sum(sizes.values()) - _LIMITS[kind]
    for entry in by_use:
        if excess <= 0:
            return
        if entry not in (made, by_use[-1]):
            shutil.rmtree(entry)
            excess -= sizes[entry]


def _last_use(entry: Path) -> float:
    """Seconds since the epoch. A tree of sources has a folder for each kernel built in it."""
    inputs = entry / INPUTS_FILE
    marks = [inputs] if inputs.exists() else [entry, *entry.glob("build-*")]
    return max(path.stat().st_mtime for path in marks)


def _size(entry: Path) -> int:
    """Bytes on the disk."""
    return sum(
        os.lstat(os.path.join(folder, name)).st_blocks * 512
        for folder, _, names in os.walk(entry)
        for name in names
    )


_held: set[str] = set()


@contextmanager
def exclusive(kind: str) -> Iterator[None]:
    """One process at a time makes things of a kind. May be entered again by its holder."""
    if kind in _held:
        yield
        return
    folder = cache_dir()
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / f"{kind}.lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"lab: waiting for another run of the lab to end ({kind})", file=sys.stderr)
            fcntl.flock(lock, fcntl.LOCK_EX)
        _held.add(kind)
        try:
            yield
        finally:
            _held.remove(kind)
