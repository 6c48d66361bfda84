# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the HTML page holds: of each source its counts, of each stack where it was how often.

The page counts by itself whatever is filtered for, so it gets the parts and no totals. They
are bounded (:data:`MOST`); what is beyond goes in taken together, and the page says so.
All text is escaped here.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ... import __version__
from ...terminal.escape import escape
from .page_sources import Sources, read_audits, shown_text, totals
from .page_stacks import page_stacks
from .report import SECTIONS, read_section

if TYPE_CHECKING:
    import duckdb

__all__ = ("MOST", "Most", "page_data")


@dataclass(frozen=True)
class Most:
    """How much goes into a page one by one."""

    sources: int = 5_000
    stacks: int = 2_000
    counts: int = 300_000
    """Of one stack at one source."""
    outliers: int = 200
    failures: int = 1_000


MOST = Most()


def page_data(views: duckdb.DuckDBPyConnection, dataset: str, most: Most = MOST) -> dict[str, Any]:
    """What is put into the page: JSON values only.

    :param views: of :func:`~drgn_tools.fleet.dataset.database.connect`; gets temporary tables.
    :param dataset: its name, as shown.
    """
    audits = read_audits(views)
    sources = Sources(audits, most.sources)
    stacks = page_stacks(views, sources, most.stacks, most.counts)
    sections, cut = _sections(views, sources, most)
    return {
        "tool": __version__,
        "dataset": escape(dataset),
        "written": int(time.time()),
        "totals": totals(audits),
        "kernels": [
            {"release": shown_text(release), "unwinder": shown_text(unwinder)}
            for release, unwinder in sources.kernels
        ],
        "hosts": [escape(host) for host in sources.hosts],
        "other_hosts": sources.other_hosts,
        "buckets": [{"from": start, "to": end} for start, end in sources.time_line.buckets],
        "bucket_seconds": sources.time_line.seconds,
        "audits": sources.columns(),
        **stacks,
        "sections": sections,
        "left_out": {**sources.left_out, **stacks["left_out"], "sections": cut},
    }


# ---- tables of the report that are shown as they are


def _sections(
    views: duckdb.DuckDBPyConnection, sources: Sources, most: Most
) -> tuple[list[dict[str, Any]], list[str]]:
    sections, notices = [], []
    for name, (title, hint) in _SHOWN.items():
        found = read_section(views, SECTIONS[name], getattr(most, name))
        # That of outliers ranks everything: its end is nobody's loss.
        if name == "failures" and found.total > len(found.rows):
            notices.append(
                f"{title}: {len(found.rows):,} of {found.total:,} are listed. All are in the dataset."
            )
        columns = [column for column in found.columns if column != "unit"]
        sections.append(
            {
                "name": name,
                "title": title,
                "hint": hint,
                "columns": [
                    {
                        "name": column,
                        "label": column.replace("_", " "),
                        "kind": _KINDS.get(column, "text"),
                    }
                    for column in columns
                ],
                "rows": [
                    {
                        "line": sources.of_source.get(row["source"]),
                        "unit": row.get("unit"),
                        "cells": [_cell(column, row[column]) for column in columns],
                    }
                    for row in found.rows
                ],
            }
        )
    return sections, notices


def _cell(column: str, value: Any) -> Any:
    if column == "score" and value is not None:
        return round(value, 1)
    return escape(value) if isinstance(value, str) else value


_SHOWN = {
    "outliers": (
        "Outliers",
        "Sources with a share of unreliable stacks unusual for their kernel; then the deepest stacks, "
        "the slowest audits and those that took the most memory. Of each kind the furthest out.",
    ),
    "failures": ("Failures", "Sources that could not be audited, or not all of them."),
}
_KINDS = {
    "source": "mono",
    **dict.fromkeys(("kind", "status", "cause", "quarantined"), "word"),
    **dict.fromkeys(("exit_code", "attempts", "score"), "number"),
    **dict.fromkeys(("value", "median"), "measure"),
}
"""Of columns that are not simply text, as in page_parts/table.js."""
