# SPDX-License-Identifier: LGPL-2.1-or-later
"""The data of the HTML page: the counts of each source, and where each stack was found how often.

The page computes totals itself, for whatever the reader filters, so it gets only the parts.
Their number is limited (:data:`PAGE_LIMITS`). The rest goes in summed up, and the page says so.
All text is escaped here.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import msgspec

from ... import __version__
from ...terminal.escape import escape
from .page_sources import Sources, escaped, read_audits, totals
from .page_stacks import page_stacks
from .section import Found, read_section
from .sections import SECTIONS
from .values import Row

if TYPE_CHECKING:
    import duckdb

__all__ = ("PAGE_LIMITS", "PageLimits", "page_data")


class PageLimits(msgspec.Struct, frozen=True):
    """The maximum number of things that a page shows one by one."""

    sources: int = 5_000
    stacks: int = 2_000
    counts: int = 300_000
    """Pairs of a stack and a source."""
    outliers: int = 200
    failures: int = 1_000


PAGE_LIMITS = PageLimits()


def page_data(
    views: duckdb.DuckDBPyConnection, dataset: str, limits: PageLimits = PAGE_LIMITS
) -> dict[str, Any]:
    """Return the data of the page, as JSON values.

    :param views: From :func:`~drgn_tools.fleet.dataset.database.connect`. Temporary tables are
        added to it.
    :param dataset: Path of the dataset, to be shown.
    :raises duckdb.Error: If a file of the dataset cannot be read.
    """
    audits = read_audits(views)
    sources = Sources(audits, limits.sources)
    stacks = page_stacks(views, sources, limits.stacks, limits.counts)
    outliers = read_section(views, SECTIONS["outliers"], limits.outliers)
    failures = read_section(views, SECTIONS["failures"], limits.failures)
    return {
        "tool": __version__,
        "dataset": escape(dataset),
        "written": int(time.time()),
        "totals": totals(audits),
        "kernels": [
            {"release": escaped(release), "arch": escaped(arch), "unwinder": escaped(unwinder)}
            for release, arch, unwinder in sources.kernels
        ],
        "hosts": [escape(host) for host in sources.hosts],
        "other_hosts": sources.other_hosts,
        "buckets": [{"from": start, "to": end} for start, end in sources.time_line.buckets],
        "bucket_seconds": sources.time_line.seconds,
        "audits": sources.columns(),
        **stacks,
        "sections": [
            _section("outliers", outliers, sources),
            _section("failures", failures, sources),
        ],
        "left_out": {**sources.left_out, **stacks["left_out"], "sections": _notices(failures)},
    }


# ---- sections of the report that are shown as tables


def _section(name: str, found: Found, sources: Sources) -> dict[str, Any]:
    title, hint = _TITLES[name]
    columns = [column for column in found.columns if column != "unit"]
    return {
        "name": name,
        "title": title,
        "hint": hint,
        "columns": [
            {"name": column, "label": column.replace("_", " "), "kind": _KINDS.get(column, "text")}
            for column in columns
        ],
        "rows": [_row(columns, row, sources) for row in found.rows],
    }


def _row(columns: list[str], row: Row, sources: Sources) -> dict[str, Any]:
    return {
        "line": sources.of_source.get(row["source"]),
        "unit": row.get("unit"),
        "cells": [_cell(column, row[column]) for column in columns],
    }


def _cell(column: str, value: Any) -> Any:
    if column == "score" and value is not None:
        return round(value, 1)
    return escape(value) if isinstance(value, str) else value


def _notices(failures: Found) -> list[str]:
    # Outliers are a ranking: nobody misses its end.
    if failures.total <= len(failures.rows):
        return []
    title, _ = _TITLES["failures"]
    return [
        f"{title}: {len(failures.rows):,} of {failures.total:,} are listed. All are in the dataset."
    ]


_TITLES = {
    "outliers": (
        "Outliers",
        "Sources with a share of unreliable stacks unusual for their kernel; then the deepest stacks, "
        "the slowest audits and those that took the most memory. Of each kind the furthest out.",
    ),
    "failures": ("Failures", "Sources that could not be audited, or not all of them."),
}
"""Name of a section -> its title and the hint below it."""

_KINDS = {
    "source": "mono",
    **dict.fromkeys(("kind", "status", "cause", "quarantined"), "word"),
    **dict.fromkeys(("exit_code", "attempts", "score"), "number"),
    **dict.fromkeys(("value", "median"), "measure"),
}
"""Kinds of columns in page_parts/table.js, where they are not ``text``."""
