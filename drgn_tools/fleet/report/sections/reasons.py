# SPDX-License-Identifier: LGPL-2.1-or-later
"""The section ``reasons``: counts by verdict and reason."""

from __future__ import annotations

from ..section import Section
from .sql import SEEN, SPREAD, VERDICT_RANK

__all__ = ("REASONS",)

REASONS = Section(
    "reasons",
    "Verdicts and reasons",
    f"""
    SELECT verdict, reason, count(*) AS tasks, {SPREAD}, {SEEN}
    FROM tasks
    GROUP BY verdict, reason
    """,
    order=f"{VERDICT_RANK}, tasks DESC, reason",
)
