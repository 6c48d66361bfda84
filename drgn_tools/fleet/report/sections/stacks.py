# SPDX-License-Identifier: LGPL-2.1-or-later
"""The section ``stacks``: identical stacks, with one example each."""

from __future__ import annotations

from itertools import groupby
from typing import Optional

from ....render.table import Column, shorten
from ..cells import day, end_of_path, names
from ..section import Section
from ..values import Row
from .sql import VERDICT_RANK

__all__ = ("STACKS",)

_FRAMES_MAX = 12
_STACK_WIDTH_MIN = 30


def _stack(functions: list[str], width: Optional[int] = None) -> list[str]:
    # An empty line at the end separates the stacks of two rows.
    runs = [(function, len(list(run))) for function, run in groupby(functions)]
    lines = [_times(function, count, width) if count > 1 else function for function, count in runs]
    more = sum(count for _, count in runs[_FRAMES_MAX:])
    last = [f"and {more} more"] if more else []
    return [*(lines[:_FRAMES_MAX] or ["-"]), *last, ""]


def _times(function: str, count: int, width: Optional[int]) -> str:
    times = f" ×{count}"
    return (function if width is None else shorten(function, width - len(times))) + times


def _seen(row: Row) -> list[str]:
    # One day if both are the same.
    days = [day(row[name]) for name in ("first_seen", "last_seen") if row[name]]
    return list(dict.fromkeys(days)) or ["-"]


def _example(row: Row, source: str) -> list[str]:
    return [source, f"pid {row['pid']} {row['comm']}", names(row["releases"])]


STACKS = Section(
    "stacks",
    "Identical stacks, unreliable ones first, then those on most hosts",
    """
    SELECT stack_hash, verdict, reason, tasks, audits, hosts, releases, first_seen,
        last_seen, source, pid, comm, functions
    FROM stacks
    """,
    order=f"{VERDICT_RANK}, hosts DESC, tasks DESC, stack_hash, reason",
    usual=5,
    table=(
        Column("TASKS", lambda row: str(row["tasks"]), right=True),
        Column("HOSTS", lambda row: str(row["hosts"]), right=True),
        Column("VERDICT", lambda row: [row["verdict"], row["reason"] or "", row["stack_hash"]]),
        Column("SEEN", _seen, optional=1),
        Column(
            "EXAMPLE",
            lambda row: _example(row, row["source"]),
            floor=14,
            brief=lambda row: _example(row, end_of_path(row["source"])),
        ),
        Column(
            "STACK",
            lambda row: _stack(row["functions"]),
            floor=_STACK_WIDTH_MIN,
            brief=lambda row: _stack(row["functions"], _STACK_WIDTH_MIN),
        ),
    ),
)
