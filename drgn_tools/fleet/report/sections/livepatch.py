# SPDX-License-Identifier: LGPL-2.1-or-later
"""The section ``livepatch``: what holds (or would hold) a live patch back, and on which hosts."""

from __future__ import annotations

from ....analysis.patch_question import HOLDING
from ....render.table import Column
from ..cells import names
from ..section import Section
from .sql import SEEN, SPREAD, distinct

__all__ = ("LIVEPATCH",)

_HOLDING = ", ".join(f"'{answer.value}'" for answer in sorted(HOLDING))

LIVEPATCH = Section(
    "livepatch",
    "What holds live patches back",
    f"""
    SELECT patch, patch_answer AS answer, patch_function AS function, count(*) AS tasks, {SPREAD},
        {distinct("comm")} AS comms, {distinct("coalesce(host, source)")} AS on_hosts, {SEEN}
    FROM tasks
    WHERE patch_answer IN ({_HOLDING})
    GROUP BY patch, patch_answer, patch_function
    UNION ALL
    SELECT patch, 'refused', refusal, 0, {SPREAD},
        [], {distinct("coalesce(host, source)")}, {SEEN}
    FROM (SELECT unnest(patch_refusals) AS refusal, * FROM audits)
    GROUP BY patch, refusal
    """,
    order="patch, answer <> 'refused', tasks DESC, answer, function",
    table=(
        Column("PATCH", lambda row: row["patch"], floor=12),
        Column("ANSWER", lambda row: row["answer"]),
        Column("FUNCTION", lambda row: row["function"] or "-", floor=30, wrap=True),
        Column("TASKS", lambda row: str(row["tasks"]), right=True),
        Column("COMMS", lambda row: names(row["comms"]), floor=14, optional=1),
        Column("HOST OR SOURCE", lambda row: names(row["on_hosts"]), floor=14),
    ),
)
