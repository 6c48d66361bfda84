# SPDX-License-Identifier: LGPL-2.1-or-later
"""The section ``functions``: which functions were interrupted in unreliable stacks."""

from __future__ import annotations

from ..section import Section
from .sql import SEEN, SPREAD, distinct

__all__ = ("FUNCTIONS",)

FUNCTIONS = Section(
    "functions",
    "Functions interrupted in unreliable stacks",
    f"""
    SELECT function, count(*) AS count, count(DISTINCT (audit_id, task)) AS tasks, {SPREAD},
        {distinct("entry")} AS entries, {SEEN}
    FROM interrupted
    GROUP BY function
    """,
    order="count DESC, function",
)
