# SPDX-License-Identifier: LGPL-2.1-or-later
"""The section ``hosts``: counts by host."""

from __future__ import annotations

from ..section import Section
from .sql import COUNTS, SEEN, SHARE, distinct

__all__ = ("HOSTS",)

HOSTS = Section(
    "hosts",
    "Hosts, those with the largest share of unreliable stacks first",
    f"""
    SELECT host, count(*) AS sources, count(*) FILTER (status = 'failed') AS failed,
        {distinct("release")} AS releases,
        {COUNTS}, {SHARE} AS unreliable_share, {SEEN}
    FROM audits
    GROUP BY host
    """,
    order="unreliable_share DESC NULLS LAST, failed DESC, host",
)
