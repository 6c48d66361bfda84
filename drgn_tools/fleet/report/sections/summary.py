# SPDX-License-Identifier: LGPL-2.1-or-later
"""The section ``summary``: figures of the whole dataset."""

from __future__ import annotations

from ..section import Section
from .sql import COUNTS, SEEN, SHARE, distinct

__all__ = ("SUMMARY",)

SUMMARY = Section(
    "summary",
    "Summary",
    f"""
    SELECT count(*) AS sources,
        count(*) FILTER (status = 'audited') AS audited,
        count(*) FILTER (status = 'partly unknown') AS partly_unknown,
        count(*) FILTER (status = 'failed') AS failed,
        count(*) FILTER (quarantined) AS quarantined,
        count(DISTINCT host) AS hosts, count(DISTINCT release) AS releases,
        count(DISTINCT build_id) AS builds, {SEEN}, {COUNTS},
        {SHARE} AS unreliable_share, round(coalesce(sum(seconds), 0), 3) AS seconds,
        max(peak_memory_bytes) AS peak_memory_bytes,
        {distinct("tool")} AS tools
    FROM audits
    """,
    vertical=True,
)
