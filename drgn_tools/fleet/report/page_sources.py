# SPDX-License-Identifier: LGPL-2.1-or-later
"""The sources of a dataset as lines of the HTML page: one line each, or one line for several."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Optional

import msgspec

from ...terminal.escape import escape
from .time_line import TimeLine

if TYPE_CHECKING:
    import duckdb

__all__ = ("Audit", "Sources", "escaped", "read_audits", "totals")


def escaped(text: Optional[str]) -> Optional[str]:
    """Return *text* escaped; ``None`` for ``None``."""
    return None if text is None else escape(text)


_AUDITS = """
    SELECT audit_id, source, host, release, arch, unwinder, build_id,
           -- A browser cannot show a time that no calendar has.
           CASE WHEN time >= '0001-01-01' AND time < '9000-01-01' THEN epoch_us(time) // 1000000 END,
           status,
           coalesce(reliable, 0), coalesce(unreliable, 0), coalesce(unknown, 0),
           coalesce(map_entries(tags), [])
    FROM audits ORDER BY source
"""


class Audit(msgspec.Struct, frozen=True):
    """The part of the record of a source that the page shows."""

    audit_id: str
    source: str
    host: Optional[str]
    release: Optional[str]
    arch: Optional[str]
    unwinder: Optional[str]
    build_id: Optional[str]
    seconds: Optional[int]
    status: str
    reliable: int
    unreliable: int
    unknown: int
    tags: Sequence[dict[str, Optional[str]]]


_STATUSES = {"audited": "audited", "partly": "partly unknown", "failed": "failed"}
_VERDICTS = ("reliable", "unreliable", "unknown")


def read_audits(views: duckdb.DuckDBPyConnection) -> list[Audit]:
    """Return the records of all sources, sorted by name.

    :param views: From :func:`~drgn_tools.fleet.dataset.database.connect`.
    """
    return [Audit(*row) for row in views.execute(_AUDITS).fetchall()]


def totals(audits: Sequence[Audit]) -> dict[str, Any]:
    """Return the figures of the whole dataset that the page cannot compute by adding up its data."""
    times = [audit.seconds for audit in audits if audit.seconds is not None]
    return {
        "sources": len(audits),
        "hosts": len({audit.host for audit in audits} - {None}),
        "without_host": sum(audit.host is None for audit in audits),
        "tasks": sum(audit.reliable + audit.unreliable + audit.unknown for audit in audits),
        "first": min(times, default=None),
        "last": max(times, default=None),
    }


def _kept_hosts(audits: Sequence[Audit], most: int) -> set[Optional[str]]:
    # The hosts with the most unreliable stacks. A host is listed with all its sources or not at all.
    count: dict[Optional[str], int] = {}
    unreliable: dict[Optional[str], int] = {}
    for audit in audits:
        count[audit.host] = count.get(audit.host, 0) + 1
        unreliable[audit.host] = unreliable.get(audit.host, 0) + audit.unreliable
    kept: set[Optional[str]] = set()
    for host in sorted(count, key=lambda host: (-unreliable[host], host or "")):
        if count[host] <= most:
            kept.add(host)
            most -= count[host]
    return kept


class _Line(msgspec.Struct):
    # A source, or all sources of one build and time on the hosts that are not listed.
    source: Optional[str]
    host: Optional[int]
    kernel: int
    build: Optional[int]
    bucket: int
    tags: list[str]
    first: Optional[int] = None
    last: Optional[int] = None
    counts: dict[str, int] = msgspec.field(
        default_factory=lambda: dict.fromkeys(("sources", *_STATUSES, *_VERDICTS), 0)
    )

    def add(self, audit: Audit) -> None:
        self.counts["sources"] += 1
        for column, status in _STATUSES.items():
            self.counts[column] += audit.status == status
        for verdict in _VERDICTS:
            self.counts[verdict] += getattr(audit, verdict)
        if audit.seconds is not None:
            self.first = audit.seconds if self.first is None else min(self.first, audit.seconds)
            self.last = audit.seconds if self.last is None else max(self.last, audit.seconds)


class Sources:
    """The lines of the page, and the lists that they refer to by index."""

    def __init__(self, audits: Sequence[Audit], most: int) -> None:
        """
        :param audits: The records of all sources.
        :param most: Maximum number of sources with their own line.
        """
        kept = _kept_hosts(audits, most)
        self.lines: list[_Line] = []
        self.of_audit: dict[str, int] = {}
        """Audit ID -> index of its line."""
        self.of_source: dict[str, int] = {}
        self.time_line = TimeLine(audit.seconds for audit in audits)
        self.kernels: dict[tuple[Optional[str], Optional[str], Optional[str]], int] = {}
        """(Release, architecture, unwinder) -> index."""
        self.hosts = sorted(host for host in kept if host is not None)
        left = [audit for audit in audits if audit.host not in kept]
        named = [audit.host for audit in left if audit.host is not None]
        self.left_out = {
            "hosts": len(set(named)),
            "sources": len(named),
            "without_host": len(left) - len(named),
        }
        self.other_hosts = len(self.hosts) if named else None
        """Index in :attr:`hosts` of the entry for all hosts that are not listed."""
        self._host_index = {host: index for index, host in enumerate(self.hosts)}
        self._builds: dict[str, int] = {}
        self._together: dict[tuple[Optional[int], int, Optional[int], int], int] = {}
        for audit in audits:
            line = self._own(audit) if audit.host in kept else self._shared(audit)
            self.lines[line].add(audit)
            self.of_audit[audit.audit_id] = self.of_source[audit.source] = line
        if named:
            self.hosts.append("(other hosts)")

    def _where(self, audit: Audit) -> tuple[int, Optional[int], int]:
        identity = (audit.release, audit.arch, audit.unwinder)
        kernel = self.kernels.setdefault(identity, len(self.kernels))
        build = None
        if audit.build_id is not None:
            build = self._builds.setdefault(audit.build_id, len(self._builds))
        return kernel, build, self.time_line.bucket(audit.seconds)

    def _own(self, audit: Audit) -> int:
        host = None if audit.host is None else self._host_index[audit.host]
        tags = [escape(f"{tag['key']}={tag['value'] or ''}") for tag in audit.tags]
        self.lines.append(_Line(audit.source, host, *self._where(audit), tags))
        return len(self.lines) - 1

    def _shared(self, audit: Audit) -> int:
        host = None if audit.host is None else self.other_hosts
        where = (host, *self._where(audit))
        if where not in self._together:
            self._together[where] = len(self.lines)
            self.lines.append(_Line(None, *where, []))
        return self._together[where]

    def columns(self) -> dict[str, list[Any]]:
        """Return the lines, column by column."""
        columns: dict[str, list[Any]] = {
            "source": [escaped(line.source) for line in self.lines],
            **{
                name: [getattr(line, name) for line in self.lines]
                for name in ("host", "kernel", "build", "bucket", "first", "last", "tags")
            },
        }
        for name in ("sources", *_STATUSES, *_VERDICTS):
            columns[name] = [line.counts[name] for line in self.lines]
        return columns
