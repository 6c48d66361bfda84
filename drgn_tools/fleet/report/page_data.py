# SPDX-License-Identifier: LGPL-2.1-or-later
"""The data of the HTML page: the counts of each source, and where each stack was found how often.

The page computes the totals itself for any filter, so it gets only the parts.
Their number is limited (:data:`PAGE_LIMITS`). The rest is summed up, and the page says so.
All text is escaped here.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import msgspec

from ... import __version__
from ...render.waits import duration
from ...terminal.escape import escape
from .cells import names
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
    livepatch: int = 200
    hung: int = 200
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
    sections = {
        name: read_section(views, SECTIONS[name], most)
        for name, most in (
            ("livepatch", limits.livepatch),
            ("hung", limits.hung),
            ("outliers", limits.outliers),
            ("failures", limits.failures),
        )
    }
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
        "sections": [_section(name, found, sources) for name, found in sections.items()],
        "left_out": {**sources.left_out, **stacks["left_out"], "sections": _notices(sections)},
    }


# ---- sections of the report that are shown as tables


def _section(name: str, found: Found, sources: Sources) -> dict[str, Any]:
    title, hint = _TITLES[name]
    columns = [column for column in found.columns if column not in _NOT_SHOWN]
    return {
        "name": name,
        "title": title,
        "hint": hint,
        "columns": [
            {
                "name": column,
                "label": _LABELS.get(column, column.replace("_", " ")),
                "kind": _KINDS.get(column, "text"),
            }
            for column in columns
        ],
        "rows": [_row(columns, row, sources) for row in found.rows],
    }


def _row(columns: list[str], row: Row, sources: Sources) -> dict[str, Any]:
    return {
        # A row for several sources has no line.
        "line": sources.of_source.get(row["source"]) if "source" in row else None,
        "unit": row.get("unit"),
        "cells": [_cell(column, row[column]) for column in columns],
    }


def _cell(column: str, value: Any) -> Any:
    if column == "score" and value is not None:
        return round(value, 1)
    if column == "longest_s":
        return None if value is None else duration(value)
    if isinstance(value, list):
        return escape(names(value))
    return escape(value) if isinstance(value, str) else value


def _notices(sections: dict[str, Found]) -> list[str]:
    # Outliers are a ranking: nobody misses its end.
    return [
        f"{_TITLES[name][0]}: {len(found.rows):,} of {found.total:,} are listed. All are in the dataset."
        for name, found in sections.items()
        if name != "outliers" and found.total > len(found.rows)
    ]


_OF_ALL = "Of all sources, whichever are chosen above."

_TITLES = {
    "livepatch": (SECTIONS["livepatch"].title, _OF_ALL),
    "hung": (SECTIONS["hung"].title, f"Deadlocks first. {_OF_ALL}"),
    "outliers": (
        "Outliers",
        "Sources with a share of unreliable stacks unusual for their kernel; then the deepest stacks, "
        "the slowest audits and those that took the most memory. Of each kind the furthest out.",
    ),
    "failures": ("Failures", "Sources that could not be audited, or not all of them."),
}
"""Name of a section -> its title and the hint below it."""

_NOT_SHOWN = {"unit", "hosts", "releases", "first_seen", "last_seen"}

_LABELS = {"hangup": "held up by", "longest_s": "longest", "on_hosts": "host or source"}

_KINDS = {
    "source": "mono",
    **dict.fromkeys(("kind", "status", "cause", "quarantined"), "word"),
    **dict.fromkeys(("exit_code", "attempts", "score", "tasks", "audits"), "number"),
    **dict.fromkeys(("value", "median"), "measure"),
}
"""Kinds of columns in page_parts/table.js, where they are not ``text``."""
