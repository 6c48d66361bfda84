# SPDX-License-Identifier: LGPL-2.1-or-later
"""The section ``livepatch``: what holds a live patch back, or would, and on which hosts."""

from __future__ import annotations

from ....analysis.livepatch import HOLDING
from ..section import Section
from .sql import SEEN, SPREAD, distinct

__all__ = ("LIVEPATCH",)

_HOLDING = ", ".join(f"'{answer.value}'" for answer in sorted(HOLDING))

LIVEPATCH = Section(
    "livepatch",
    "What holds live patches back",
    f"""
    SELECT patch, patch_answer AS answer, patch_function AS function, count(*) AS tasks, {SPREAD},
        {distinct("comm")} AS comms, {distinct("host")} AS on_hosts, {SEEN}
    FROM tasks
    WHERE patch_answer IN ({_HOLDING})
    GROUP BY patch, patch_answer, patch_function
    """,
    order="patch, tasks DESC, answer, function",
)
