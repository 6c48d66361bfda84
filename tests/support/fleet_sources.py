# SPDX-License-Identifier: LGPL-2.1-or-later
"""A folder full of sources for a fleet run, and what is known about each beforehand.

Sources that are alike have the same content under different names, so the answer of one process
must be that of all. Copies of large files are links; those of small files are files with an
mtime of their own. Other sources have their host, time and tags in a manifest.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from itertools import count, cycle
from pathlib import Path
from typing import Any, Optional

__all__ = ("Expected", "Given", "Sources")

_FIRST_TIME = datetime(2026, 1, 1, tzinfo=timezone.utc)
_SMALL_BYTES = 10_000_000


@dataclass(frozen=True)
class Expected:
    """The expected record of a quarantined source. A single process would not fail at it."""

    cause: str
    exit_code: int
    line: str
    """The line of the record after the name of the source."""


@dataclass(frozen=True)
class Given:
    """One source."""

    path: str
    """Its path. Bytes that are not UTF-8 are surrogates."""
    alike: str
    """Equal for sources with the same content and symbols."""
    symbols: tuple[str, ...] = ()
    facts: dict[str, Any] = field(default_factory=dict)
    """``host``, ``time``, ``tags`` of its line in the manifest, if it has one."""
    quarantined: Optional[Expected] = None

    @property
    def name(self) -> str:
        """Its name in the dataset."""
        return os.fsencode(self.path).decode("utf-8", "backslashreplace")


class Sources:
    """Some sources in a folder that is searched, others in a manifest."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.given: list[Given] = []
        self._rooms = count()
        self._found = folder / "crash"
        self._listed = folder / "listed"
        for part in (self._found, self._listed):
            part.mkdir(parents=True)
        self._manifest = folder / "dumps.jsonl"
        self._manifest.touch()

    @property
    def arguments(self) -> list[str]:
        """The sources on the command line of ``fleet run``."""
        return [str(self._found), str(self._manifest)]

    def room(self) -> Path:
        """Make a new folder that will be searched. Call :meth:`found` for each file in it."""
        room = self._found / f"host-{next(self._rooms):03}" / "2026"
        room.mkdir(parents=True)
        return room

    def found(
        self, path: Path, alike: Optional[str] = None, quarantined: Optional[Expected] = None
    ) -> None:
        """Record that *path*, below :meth:`room`, is a source."""
        time = _FIRST_TIME + timedelta(hours=len(self.given))
        if not path.is_symlink():
            os.utime(path, (time.timestamp(),) * 2)
        self.given.append(Given(str(path), alike or str(path), quarantined=quarantined))

    def copy(self, core: Path, name: str = "vmcore", by_itself: bool = False) -> None:
        """Add a source with the content of *core* to the folder that is searched.

        :param by_itself: whether its answer may differ from those of other copies.
        """
        path = self.room() / f"{name}{_suffix(core)}"
        if core.stat().st_size > _SMALL_BYTES:
            path.symlink_to(core)
        else:
            shutil.copyfile(core, path)
        self.found(path, None if by_itself else str(core))

    def list_copy(self, core: Path, symbols: Sequence[str] = ()) -> None:
        """Add a source with the content of *core*, and these symbols, to the manifest."""
        number = len(self.given)
        path = self._listed / f"{number:03}-vmcore{_suffix(core)}"
        path.symlink_to(core)
        facts = {
            "host": f"host-{number % 17}",
            "time": (_FIRST_TIME + timedelta(minutes=number)).isoformat(),
            "tags": {"number": str(number), "of": "the lab"},
        }
        alike = "\0".join((str(core), *symbols))
        self._add_line(Given(str(path), alike, tuple(symbols), facts))

    def list_as_it_is(self, path: Path) -> None:
        """Add a path to the manifest that a search of its folder would not find."""
        self._add_line(Given(str(path), str(path)))

    def _add_line(self, given: Given) -> None:
        line = {"core": given.path, **given.facts}
        if given.symbols:
            line["symbols"] = list(given.symbols)
        with open(self._manifest, "a") as manifest:
            manifest.write(f"{json.dumps(line)}\n")
        self.given.append(given)

    def fill(self, number_of_sources: int, cores: Iterable[Path]) -> None:
        """Add copies of *cores* until there are this many sources."""
        for number, core in enumerate(cycle(cores)):
            if len(self.given) >= number_of_sources:
                return
            if number % 2:
                self.list_copy(core)
            else:
                self.copy(core)

    def no_files(self) -> Iterator[Path]:
        """Yield paths with the name of a core that are not regular files, or cannot be read."""
        fifo = self._listed / "vmcore-fifo"
        os.mkfifo(fifo)
        folder = self._listed / "vmcore-folder"
        folder.mkdir()
        nowhere = self._listed / "vmcore-nowhere"
        nowhere.symlink_to(self._listed / "gone")
        loop = self._listed / "vmcore-loop"
        loop.symlink_to(loop)
        secret = self._listed / "vmcore-secret"
        secret.write_bytes(b"\x7fELF")
        secret.chmod(0)  # which does not keep root out
        yield from (fifo, folder, nowhere, loop, secret, Path(os.devnull))

    def with_odd_names(self, core: Path) -> None:
        """Add copies under names with odd characters."""
        for name in (
            b"vmcore of 5 \xe2\x82\xac",
            b"vmcore\n\x1b[31m",
            b"vmcore-\xff",
            b"-c vmcore",
        ):
            self.copy(core, os.fsdecode(name), by_itself=True)


def _suffix(core: Path) -> str:
    return core.suffix if core.suffix in (".xz", ".gz") else ""
