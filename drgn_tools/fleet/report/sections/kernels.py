# SPDX-License-Identifier: LGPL-2.1-or-later
"""The section ``kernels``: counts by release, architecture and unwinder."""

from __future__ import annotations

from ..section import Section
from .sql import COUNTS, SEEN, SHARE

__all__ = ("KERNELS",)

KERNELS = Section(
    "kernels",
    "Kernels, those with the largest share of unreliable stacks first",
    f"""
    SELECT release, arch, unwinder, count(DISTINCT build_id) AS builds, count(*) AS audits,
        count(DISTINCT host) AS hosts, {COUNTS}, {SHARE} AS unreliable_share, {SEEN}
    FROM audits WHERE status <> 'failed'
    GROUP BY release, arch, unwinder
    """,
    order="unreliable_share DESC NULLS LAST, release, arch, unwinder",
)
