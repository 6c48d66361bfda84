# SPDX-License-Identifier: LGPL-2.1-or-later
"""The section ``hung``: what tasks hang on, and on which hosts."""

from __future__ import annotations

from ....render.table import Column
from ....render.waits import duration
from ..cells import names
from ..section import Section
from .sql import SEEN, SPREAD, distinct

__all__ = ("HUNG",)

HUNG = Section(
    "hung",
    "What hangs",
    f"""
    SELECT hangup, waits_for, coalesce(wait_name, wait_detail) AS what,
        split_part(function, '+', 1) AS function, count(*) AS tasks, max(not_run_s) AS longest_s, {SPREAD},
        {distinct("comm")} AS comms, {distinct("coalesce(host, source)")} AS on_hosts, {SEEN}
    FROM tasks
    WHERE hangup IS NOT NULL
    GROUP BY hangup, waits_for, what, split_part(function, '+', 1)
    """,
    order="hangup <> 'deadlock', tasks DESC, waits_for, what, function",
    table=(
        Column("HELD UP BY", lambda row: row["hangup"]),
        Column("WAITS FOR", lambda row: row["waits_for"] or "not known"),
        Column("WHAT", lambda row: row["what"] or "-", floor=12),
        Column("FUNCTION", lambda row: row["function"] or "-", floor=20),
        Column("TASKS", lambda row: str(row["tasks"]), right=True),
        Column("LONGEST", lambda row: duration(row["longest_s"]), right=True),
        Column("COMMS", lambda row: names(row["comms"]), floor=14, optional=1),
        Column("HOST OR SOURCE", lambda row: names(row["on_hosts"]), floor=14),
    ),
)
