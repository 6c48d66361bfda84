# SPDX-License-Identifier: LGPL-2.1-or-later
"""The section ``outliers``: audits and stacks that stand out."""

from __future__ import annotations

from ....render.table import Column
from ..cells import column, measure_column, sentence_column
from ..section import Section

__all__ = ("OUTLIERS",)

_FAR = 3.5
"""An outlier is farther from the median than this many times the usual spread (Iglewicz and Hoaglin 1993)."""

_MAD_TO_SIGMA = 1.4826
"""The standard deviation of a normal distribution by its median absolute deviation."""

_SAMPLE_MIN = 3
"""A smaller sample has no usual value."""

_SHARES = f"""
    SELECT 'unreliable share' AS kind, source, host, release, share AS value, 'share' AS unit,
        median, (share - median) / spread AS score,
        unreliable || ' of ' || judged || ' judged tasks are unreliable' AS detail
    FROM (
        -- The spread is never less than one task.
        SELECT *, greatest(
            {_MAD_TO_SIGMA} * median(abs(share - median)) OVER (PARTITION BY release, arch, unwinder),
            1 / judged
        ) AS spread
        FROM (
            SELECT *, median(share) OVER alike AS median, count(*) OVER alike AS sample
            FROM (
                SELECT source, host, release, arch, unwinder, unreliable, reliable + unreliable AS judged,
                    unreliable / (reliable + unreliable) AS share
                FROM audits WHERE reliable + unreliable > 0
            )
            WINDOW alike AS (PARTITION BY release, arch, unwinder)
        )
        WHERE sample >= {_SAMPLE_MIN}
    )
    WHERE abs(share - median) > {_FAR} * spread
"""

_DEEPEST_MAX = 5
"""Number of deepest stacks: there is always a deepest one, and no rule says which depth is unusual."""

_DEEPEST = f"""
    SELECT 'deepest stack' AS kind, source, host, release, deepest.depth AS value, 'frames' AS unit,
        (SELECT median(depth) FROM tasks) AS median, NULL AS score,
        'pid ' || deepest.pid || ' ' || deepest.comm || coalesce(' in ' || deepest.function, '') AS detail
    FROM (
        SELECT source, any_value(host) AS host, any_value(release) AS release, min({{
            'rank': -depth, 'pid': pid, 'depth': depth, 'comm': comm, 'function': function
        }}) AS deepest
        FROM tasks WHERE depth > 0 GROUP BY source
    )
    ORDER BY value DESC, source LIMIT {_DEEPEST_MAX}
"""

_COST_SPREAD_MIN = 0.1
"""Smallest spread of a cost, as a part of the median: if all audits cost the same, a slightly higher cost is
not an outlier."""


def _costliest(kind: str, column: str, unit: str) -> str:
    return f"""
        SELECT '{kind}' AS kind, source, host, release, value, '{unit}' AS unit,
            median, (value - median) / spread AS score, tasks || if(tasks = 1, ' task', ' tasks') AS detail
        FROM (
            SELECT *, greatest(
                {_MAD_TO_SIGMA} * median(abs(value - median)) OVER (),
                {_COST_SPREAD_MIN} * median
            ) AS spread
            FROM (
                -- A failure may have ended at once, or at its limit: its cost says nothing.
                SELECT source, host, release, tasks, {column} AS value,
                    median({column}) OVER () AS median, count(*) OVER () AS sample
                FROM audits WHERE {column} > 0 AND status <> 'failed'
            )
            WHERE sample >= {_SAMPLE_MIN}
        )
        WHERE value - median > {_FAR} * spread
    """


_SLOWEST = _costliest("slowest audit", "seconds", "seconds")
_MOST_MEMORY = _costliest("most memory", "peak_memory_bytes", "bytes")

OUTLIERS = Section(
    "outliers",
    f"Outliers: unusual shares and costs, the {_DEEPEST_MAX} deepest stacks, one a source",
    f"""
    SELECT kind, source, host, release, value::DOUBLE AS value, unit, median::DOUBLE AS median,
        score::DOUBLE AS score, detail, _number, _rank
    FROM (
        SELECT *, row_number() OVER (
            PARTITION BY kind ORDER BY abs(coalesce(score, value)) DESC, source, detail
        ) AS _rank
        FROM (
            SELECT 1 AS _number, * FROM ({_SHARES})
            UNION ALL SELECT 2, * FROM ({_DEEPEST})
            UNION ALL SELECT 3, * FROM ({_SLOWEST})
            UNION ALL SELECT 4, * FROM ({_MOST_MEMORY})
        )
    )
    """,
    order="_rank, _number",
    together="kind",
    table=(
        column("kind"),
        column("source"),
        column("host", optional=2),
        column("release", optional=1),
        measure_column("value"),
        measure_column("median", optional=3),
        Column(
            "SCORE", lambda row: "-" if row["score"] is None else f"{row['score']:+.1f}", right=True
        ),
        sentence_column("detail", 24),
    ),
)
