# SPDX-License-Identifier: LGPL-2.1-or-later
"""The stacks of a dataset for the HTML page: each stack once, with its number of tasks at each source."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from itertools import groupby
from typing import TYPE_CHECKING, Any, Optional

from ...terminal.escape import escape
from .page_sources import Sources, escaped

if TYPE_CHECKING:
    import duckdb

__all__ = ("command_to_go_on", "page_stacks")

Row = tuple[Any, ...]


def page_stacks(
    views: duckdb.DuckDBPyConnection, sources: Sources, most_stacks: int, most_counts: int
) -> dict[str, Any]:
    """Return the stacks (``groups``), their ``frames``, and the number of stacks and tasks ``left_out``.

    :param views: From :func:`~drgn_tools.fleet.dataset.database.connect`. Temporary tables are
        added to it.
    :param most_stacks: Maximum number of stacks.
    :param most_counts: Maximum number of pairs of a stack and a source.
    """
    views.execute(
        "CREATE OR REPLACE TEMP TABLE page_lines AS"
        " SELECT unnest($1::VARCHAR[]) AS audit_id, unnest($2::INTEGER[]) AS line",
        [list(sources.of_audit), list(sources.of_audit.values())],
    )
    views.execute(_TASKS)
    views.execute(_RANKED, [most_stacks, most_counts])
    left = views.execute(
        "SELECT count(*)::BIGINT, coalesce(sum(tasks), 0)::BIGINT FROM page_stacks WHERE NOT kept"
    ).fetchall()[0]
    frames = _FrameTable()
    groups = [_group(row, frames) for row in views.execute(_EXAMPLES).fetchall()]
    index_of = {group.pop("id"): index for index, group in enumerate(groups)}
    for id_, comms in views.execute(_NAMES, [_NAMES_MOST]).fetchall():
        groups[index_of[id_]]["comms"] = [escape(comm) for comm in comms]
    counts = views.execute(_COUNTS).fetchall()
    for (id_, verdict), rows in groupby(counts, key=lambda row: row[:2]):
        group = groups[index_of[id_]] if id_ in index_of else _not_listed(verdict, groups, frames)
        group["counts"] = list(_pairs(rows))
    return {
        "groups": groups,
        "frames": frames.rows(),
        "left_out": {"stacks": left[0], "tasks": left[1]},
    }


_NAMES_MOST = 5
"""Most names of tasks that are listed for one stack."""

_TASKS = """
    CREATE OR REPLACE TEMP TABLE page_tasks AS
    SELECT line, audit_id, source, time, pid, task, comm, verdict, reason, stack_hash
    FROM tasks JOIN page_lines USING (audit_id)
"""

# Stacks of one verdict must not displace those of another: take the most frequent stack of each
# verdict, then the second of each, and so on.
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

# The latest one: its dump most likely still exists.
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
    # Most stacks share frames, so the page contains each frame once.
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
            name = _function_name(frame["symbol"])
            offset = frame["symbol"][len(name) :]
        if frame["guessed"]:
            offset += " (guessed)"
        row = (escape(name), escape(offset), escaped(frame["module"]), frame["stack"], mode)
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
        "why": escaped(why),
        "comms": [],
        "command": command,
        "advice": advice,
        "frames": [frames.add(frame) for frame in stack],
        # Index of the function that the task waits in, outside the scheduler.
        "start": symbols.index(function) if function in symbols else 0,
        "counts": [],
    }


def _not_listed(verdict: str, groups: list[dict[str, Any]], frames: _FrameTable) -> dict[str, Any]:
    # One entry for all other stacks of a verdict, so that the sums of the page are right.
    frame = {
        "ip": 0,
        "symbol": "(stacks not listed)",
        "module": None,
        "stack": "task",
        "regs": None,
        "guessed": False,
    }
    groups.append({"hash": None, "verdict": verdict, "reason": None, "comms": [], "start": 0})
    groups[-1]["frames"] = [frames.add(frame)]
    return groups[-1]


def _pairs(rows: Iterable[Row]) -> Iterable[int]:
    # Line and number of tasks, alternately. The line is stored as a difference, because small numbers are short.
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
    """Return the command line that shows one stack of a dump in full, to be pasted into bash.

    :param source: Path of the dump. It may contain any characters.
    """
    if source.startswith("-"):
        source = f"./{source}"
    return f"drgn-tools stack -c {_shell_word(source)} {pid}"


def _shell_word(text: str) -> str:
    if escape(text) == text:
        return shlex.quote(text)
    # Characters that are not printable are written as bytes, which bash joins again.
    content = text.encode("utf-8", "surrogateescape")
    return "$'" + "".join(_shell_byte(byte) for byte in content) + "'"


def _shell_byte(byte: int) -> str:
    char = chr(byte)
    return char if char.isascii() and char.isprintable() and char not in "'\\" else f"\\x{byte:02x}"


def _function_name(symbol: str) -> str:
    """``vfs_read`` of ``vfs_read+0x8f``, as the dataset has it."""
    return symbol.rpartition("+")[0] or symbol
