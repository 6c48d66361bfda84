# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the HTML page holds: of each source its counts, of each stack where it was how often.

The page counts by itself whatever is filtered for, so it gets the parts and no totals. They
are bounded (:data:`MOST`); what is beyond goes in taken together, and the page says so.
All text is escaped here.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING, Any, Optional

from .. import __version__
from ..queries import function_name
from ..render.escape import escape
from .time_line import TimeLine

if TYPE_CHECKING:
    import duckdb

__all__ = ("MOST", "Most", "command_to_go_on", "page_data")

Row = tuple[Any, ...]


@dataclass(frozen=True)
class Most:
    """How much goes into a page one by one."""

    sources: int = 5_000
    stacks: int = 2_000
    counts: int = 300_000
    """Of one stack at one source."""
    section_rows: int = 2_000
    names: int = 5
    """Of the tasks that have one stack."""


MOST = Most()


def page_data(views: duckdb.DuckDBPyConnection, dataset: str, most: Most = MOST) -> dict[str, Any]:
    """What is put into the page: JSON values only.

    :param views: of :func:`~drgn_tools.fleet.views.connect`; gets temporary tables.
    :param dataset: its name, as shown.
    """
    audits = [_Audit(*row) for row in views.execute(_AUDITS).fetchall()]
    sources = _Sources(audits, _kept_hosts(audits, most.sources))
    stacks = _stacks(views, sources, most)
    sections, cut = _sections(views, sources, most)
    return {
        "tool": __version__,
        "dataset": escape(dataset),
        "written": int(time.time()),
        "totals": _totals(audits),
        "kernels": [
            {"release": _text(release), "unwinder": _text(unwinder)}
            for release, unwinder in sources.kernels
        ],
        "hosts": [escape(host) for host in sources.hosts],
        "other_hosts": sources.other_hosts,
        "buckets": [{"from": start, "to": end} for start, end in sources.time_line.buckets],
        "bucket_seconds": sources.time_line.seconds,
        "audits": sources.columns(),
        **stacks,
        "sections": sections,
        "left_out": {**sources.left_out, **stacks["left_out"], "sections": cut},
    }


def _text(text: Optional[str]) -> Optional[str]:
    return None if text is None else escape(text)


# ---- sources

_AUDITS = """
    SELECT audit_id, source, host, release, unwinder, build_id, epoch_us(time) // 1000000, status,
           coalesce(reliable, 0), coalesce(unreliable, 0), coalesce(unknown, 0),
           coalesce(map_entries(tags), [])
    FROM audits ORDER BY source
"""


@dataclass(frozen=True)
class _Audit:
    audit_id: str
    source: str
    host: Optional[str]
    release: Optional[str]
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


def _totals(audits: Sequence[_Audit]) -> dict[str, Any]:
    times = [audit.seconds for audit in audits if audit.seconds is not None]
    return {
        "sources": len(audits),
        "hosts": len({audit.host for audit in audits if audit.host is not None}),
        "tasks": sum(audit.reliable + audit.unreliable + audit.unknown for audit in audits),
        "first": min(times, default=None),
        "last": max(times, default=None),
    }


def _kept_hosts(audits: Sequence[_Audit], most: int) -> set[Optional[str]]:
    # Those with the most unreliable stacks, each with all its sources or not at all.
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


@dataclass
class _Line:
    # One of the page's: a source, or all of one kernel and time at hosts not listed.
    source: Optional[str]
    host: Optional[int]
    kernel: int
    build: Optional[int]
    bucket: int
    tags: list[str]
    first: Optional[int] = None
    last: Optional[int] = None
    counts: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys(("sources", *_STATUSES, *_VERDICTS), 0)
    )

    def add(self, audit: _Audit) -> None:
        self.counts["sources"] += 1
        for column, status in _STATUSES.items():
            self.counts[column] += audit.status == status
        for verdict in _VERDICTS:
            self.counts[verdict] += getattr(audit, verdict)
        if audit.seconds is not None:
            self.first = audit.seconds if self.first is None else min(self.first, audit.seconds)
            self.last = audit.seconds if self.last is None else max(self.last, audit.seconds)


class _Sources:
    def __init__(self, audits: Sequence[_Audit], kept: set[Optional[str]]) -> None:
        self.lines: list[_Line] = []
        self.of_audit: dict[str, int] = {}
        """Audit ID -> index of its line."""
        self.time_line = TimeLine(audit.seconds for audit in audits)
        self.kernels: dict[tuple[Optional[str], Optional[str]], int] = {}
        """(Release, unwinder) -> index."""
        self.hosts = sorted(host for host in kept if host is not None)
        left = [audit for audit in audits if audit.host not in kept]
        self.left_out = {"hosts": len({audit.host for audit in left}), "sources": len(left)}
        self.other_hosts = len(self.hosts) if left else None
        """Index of the one that stands for the hosts not listed."""
        self._host_index = {host: index for index, host in enumerate(self.hosts)}
        self._builds: dict[str, int] = {}
        self._together: dict[tuple[int, int], int] = {}
        for audit in audits:
            line = self._own(audit) if audit.host in kept else self._shared(audit)
            self.lines[line].add(audit)
            self.of_audit[audit.audit_id] = line
        if left:
            self.hosts.append("(other hosts)")

    def _where(self, audit: _Audit) -> tuple[int, int]:
        kernel = self.kernels.setdefault((audit.release, audit.unwinder), len(self.kernels))
        return kernel, self.time_line.bucket(audit.seconds)

    def _own(self, audit: _Audit) -> int:
        kernel, bucket = self._where(audit)
        host = None if audit.host is None else self._host_index[audit.host]
        build = None
        if audit.build_id is not None:
            build = self._builds.setdefault(audit.build_id, len(self._builds))
        tags = [escape(f"{tag['key']}={tag['value'] or ''}") for tag in audit.tags]
        self.lines.append(_Line(audit.source, host, kernel, build, bucket, tags))
        return len(self.lines) - 1

    def _shared(self, audit: _Audit) -> int:
        kernel, bucket = self._where(audit)
        if (kernel, bucket) not in self._together:
            self._together[kernel, bucket] = len(self.lines)
            self.lines.append(_Line(None, self.other_hosts, kernel, None, bucket, []))
        return self._together[kernel, bucket]

    def columns(self) -> dict[str, list[Any]]:
        columns: dict[str, list[Any]] = {
            "source": [_text(line.source) for line in self.lines],
            **{
                name: [getattr(line, name) for line in self.lines]
                for name in ("host", "kernel", "build", "bucket", "first", "last", "tags")
            },
        }
        for name in ("sources", *_STATUSES, *_VERDICTS):
            columns[name] = [line.counts[name] for line in self.lines]
        return columns


# ---- stacks


def _stacks(views: duckdb.DuckDBPyConnection, sources: _Sources, most: Most) -> dict[str, Any]:
    views.execute(
        "CREATE OR REPLACE TEMP TABLE page_lines AS"
        " SELECT unnest($1::VARCHAR[]) AS audit_id, unnest($2::INTEGER[]) AS line",
        [list(sources.of_audit), list(sources.of_audit.values())],
    )
    views.execute(_TASKS)
    views.execute(_RANKED, [most.stacks, most.counts])
    left = views.execute(
        "SELECT count(*)::BIGINT, coalesce(sum(tasks), 0)::BIGINT FROM page_stacks WHERE NOT kept"
    ).fetchall()[0]
    frames = _FrameTable()
    groups = [_group(row, frames) for row in views.execute(_EXAMPLES).fetchall()]
    place_of = {group.pop("id"): index for index, group in enumerate(groups)}
    for id_, comms in views.execute(_NAMES, [most.names]).fetchall():
        groups[place_of[id_]]["comms"] = [escape(comm) for comm in comms]
    counts = views.execute(_COUNTS).fetchall()
    for (id_, verdict), rows in groupby(counts, key=lambda row: row[:2]):
        group = groups[place_of[id_]] if id_ in place_of else _not_listed(verdict, groups, frames)
        group["counts"] = list(_further(rows))
    return {
        "groups": groups,
        "frames": frames.rows(),
        "left_out": {"stacks": left[0], "tasks": left[1]},
    }


_TASKS = """
    CREATE OR REPLACE TEMP TABLE page_tasks AS
    SELECT line, audit_id, source, epoch_us(time) AS time, pid, task, comm, verdict, reason, stack_hash
    FROM tasks JOIN page_lines USING (audit_id)
"""

# Rare reliable stacks must not push out the unreliable ones, nor the other way round: the
# most frequent of each verdict, then the next of each, and so on.
_RANKED = """
    CREATE OR REPLACE TEMP TABLE page_stacks AS
    WITH stacks AS (
        SELECT stack_hash, verdict, reason, count(*) AS tasks, count(DISTINCT line) AS counts
        FROM page_tasks GROUP BY ALL
    ), ranked AS (
        SELECT *, row_number() OVER (
            PARTITION BY verdict ORDER BY tasks DESC, stack_hash, reason
        ) AS rank FROM stacks
    ), numbered AS (
        SELECT *, row_number() OVER row_order AS id, sum(counts) OVER row_order AS all_counts
        FROM ranked WINDOW row_order AS (
            ORDER BY rank, verdict = 'unreliable' DESC, verdict ROWS UNBOUNDED PRECEDING
        )
    )
    SELECT id, stack_hash, verdict, reason, tasks, id <= $1 AND all_counts <= $2 AS kept
    FROM numbered
"""

_SAME_STACK = """
    t.stack_hash IS NOT DISTINCT FROM s.stack_hash AND t.verdict IS NOT DISTINCT FROM s.verdict
    AND t.reason IS NOT DISTINCT FROM s.reason
"""

# The latest: of what is found there is most likely to be still there.
_EXAMPLES = f"""
    WITH examples AS (
        SELECT id, t.audit_id, t.task, t.pid, t.stack_hash, t.reason
        FROM page_tasks t JOIN page_stacks s ON {_SAME_STACK} WHERE kept
        QUALIFY row_number() OVER (
            PARTITION BY id ORDER BY t.time DESC NULLS LAST, t.source, t.pid, t.task
        ) = 1
    )
    SELECT id, e.stack_hash, any_value(verdict), e.reason, any_value(source), any_value(host), e.pid,
           any_value(why), any_value(function), any_value(frames)
    FROM examples e JOIN tasks t ON t.audit_id = e.audit_id AND t.task = e.task AND t.pid = e.pid
        AND t.stack_hash IS NOT DISTINCT FROM e.stack_hash
    GROUP BY ALL ORDER BY id
"""

_NAMES = f"""
    WITH names AS (
        SELECT id, comm, count(*) AS found FROM page_tasks t JOIN page_stacks s ON {_SAME_STACK}
        WHERE kept AND comm IS NOT NULL GROUP BY id, comm
        QUALIFY row_number() OVER (PARTITION BY id ORDER BY found DESC, comm) <= $1
    )
    SELECT id, list(comm ORDER BY found DESC, comm) FROM names GROUP BY id
"""

_COUNTS = f"""
    SELECT CASE WHEN kept THEN id END AS listed, t.verdict, line, count(*)
    FROM page_tasks t JOIN page_stacks s ON {_SAME_STACK}
    GROUP BY ALL ORDER BY listed, t.verdict, line
"""


class _FrameTable:
    # Frames are alike on most stacks: each goes into the page once.
    def __init__(self) -> None:
        self._index: dict[Row, int] = {}

    def add(self, frame: dict[str, Any]) -> int:
        mode = None
        if frame["regs"] is not None:
            mode = "user" if frame["user_mode"] else "kernel"
        if mode == "user" or not frame["symbol"]:
            name = "user mode" if mode == "user" else "?"
            offset = f" {frame['ip']:#x}"
        else:
            name = function_name(frame["symbol"])
            offset = frame["symbol"][len(name) :]
        row = (escape(name), escape(offset), _text(frame["module"]), frame["stack"], mode)
        return self._index.setdefault(row, len(self._index))

    def rows(self) -> list[dict[str, Any]]:
        return [
            dict(zip(("name", "offset", "module", "stack", "mode"), row)) for row in self._index
        ]


def _group(row: Row, frames: _FrameTable) -> dict[str, Any]:
    id_, stack_hash, verdict, reason, source, host, pid, why, function, stack = row
    command, advice = _how_to_go_on(source, host, pid)
    symbols = [frame["symbol"] or hex(frame["ip"]) for frame in stack]
    return {
        "id": id_,
        "hash": stack_hash,
        "verdict": verdict,
        "reason": reason,
        "source": escape(source),
        "pid": pid,
        "why": _text(why),
        "comms": [],
        "command": command,
        "advice": advice,
        "frames": [frames.add(frame) for frame in stack],
        # Where it waits, below the scheduler.
        "start": symbols.index(function) if function in symbols else 0,
        "counts": [],
    }


def _not_listed(verdict: str, groups: list[dict[str, Any]], frames: _FrameTable) -> dict[str, Any]:
    # One stack for all those of a verdict, so that the figures stay right.
    frame = {
        "ip": 0,
        "symbol": "(stacks not listed)",
        "module": None,
        "stack": "task",
        "regs": None,
    }
    groups.append({"hash": None, "verdict": verdict, "reason": None, "comms": [], "start": 0})
    groups[-1]["frames"] = [frames.add(frame)]
    return groups[-1]


def _further(rows: Iterable[Row]) -> Iterable[int]:
    # Line and tasks by turns, the line as how many further: small numbers are short.
    before = 0
    for _, _, line, tasks in rows:
        yield from (line - before, tasks)
        before = line


def _how_to_go_on(
    source: str, host: Optional[str], pid: int
) -> tuple[Optional[str], Optional[str]]:
    if source.startswith("live:"):
        return f"drgn-tools stack -k {pid}", (
            f"As root on {escape(host or 'the host')}, which ran on: what the task does now."
        )
    if "://" in source:
        name = source.rstrip("/").rpartition("/")[2]
        return command_to_go_on(name, pid), f"After a copy of {escape(source)} is here."
    return command_to_go_on(source, pid), None


def command_to_go_on(source: str, pid: int) -> str:
    """The command line that shows one stack of a dump in full, to be pasted into bash."""
    if source.startswith("-"):
        source = f"./{source}"
    return f"drgn-tools stack -c {_shell_word(source)} {pid}"


def _shell_word(text: str) -> str:
    if escape(text) == text:
        return shlex.quote(text)
    # What cannot be seen is written as bytes, which bash makes it of again.
    content = text.encode("utf-8", "surrogateescape")
    return "$'" + "".join(_shell_byte(byte) for byte in content) + "'"


def _shell_byte(byte: int) -> str:
    char = chr(byte)
    return char if char.isascii() and char.isprintable() and char not in "'\\" else f"\\x{byte:02x}"


# ---- tables that are shown as they are


def _sections(
    views: duckdb.DuckDBPyConnection, sources: _Sources, most: Most
) -> tuple[list[dict[str, Any]], list[str]]:
    sections, notices = [], []
    for section in _SECTIONS:
        rows = views.execute(section.query).fetchall()
        if len(rows) > most.section_rows:
            notices.append(
                f"{section.title}: {most.section_rows:,} of {len(rows):,} are listed. All are in the dataset."
            )
        sections.append(
            {
                "name": section.name,
                "title": section.title,
                "hint": section.hint,
                "columns": [
                    {"name": name, "label": name, "kind": kind} for name, kind in section.columns
                ],
                "rows": [
                    {
                        "audit": sources.of_audit.get(row[0]),
                        "cells": [_cell(value) for value in row[1:]],
                    }
                    for row in rows[: most.section_rows]
                ],
            }
        )
    return sections, notices


def _cell(value: Any) -> Any:
    return escape(value) if isinstance(value, str) else value


@dataclass(frozen=True)
class _Section:
    name: str
    title: str
    hint: str
    columns: Sequence[tuple[str, str]]
    """Name, and kind as in page.js."""
    query: str
    """Rows: the audit ID of what the row is about, and the columns."""


_SECTIONS = (
    _Section(
        "failures",
        "Failures",
        "Sources that could not be audited, or not all of them.",
        (
            ("source", "mono"),
            ("status", "word"),
            ("cause", "word"),
            ("exit code", "number"),
            ("attempts", "number"),
            ("quarantined", "word"),
            ("time", "time"),
            ("line", "text"),
        ),
        """
        SELECT audit_id, source, status, cause, exit_code, attempts,
               CASE WHEN quarantined THEN 'yes' ELSE 'no' END, epoch_us(time) // 1000000, line
        FROM audits WHERE status <> 'audited' ORDER BY status, source
        """,
    ),
)
