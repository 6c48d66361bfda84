# SPDX-License-Identifier: LGPL-2.1-or-later
"""Columns that the queries of several sections have in common."""

from __future__ import annotations

__all__ = ("COUNTS", "SEEN", "SHARE", "SPREAD", "VERDICT_RANK", "distinct")

COUNTS = """
    coalesce(sum(tasks), 0)::BIGINT AS tasks,
    coalesce(sum(reliable), 0)::BIGINT AS reliable,
    coalesce(sum(unreliable), 0)::BIGINT AS unreliable,
    coalesce(sum(unknown), 0)::BIGINT AS unknown
"""
"""Number of tasks by verdict."""

SHARE = "sum(unreliable) / nullif(sum(reliable) + sum(unreliable), 0)"
"""Share of unreliable stacks among the tasks that could be judged."""

SEEN = "min(time) AS first_seen, max(time) AS last_seen"


def distinct(column: str) -> str:
    """Return the expression for the list of the different values of a column, sorted."""
    return f"coalesce(list_sort(list(DISTINCT {column}) FILTER ({column} IS NOT NULL)), [])"


SPREAD = f"""
    count(DISTINCT audit_id) AS audits, count(DISTINCT host) AS hosts,
    {distinct("release")} AS releases
"""
"""Number of audits, number of hosts, and the kernels."""

VERDICT_RANK = "CASE verdict WHEN 'unreliable' THEN 0 WHEN 'unknown' THEN 1 ELSE 2 END"
"""Order of the verdicts, unreliable first."""
