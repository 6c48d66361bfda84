# SPDX-License-Identifier: LGPL-2.1-or-later
"""The section ``failures``: sources that could not be audited, or only in part."""

from __future__ import annotations

from ....render.table import Column
from ..cells import cell, column, sentence_column
from ..section import Section

__all__ = ("FAILURES",)


def _number(name: str, optional: int) -> Column:
    return Column(
        name.replace("_", " ").upper(),
        lambda row: cell(name, row[name]),
        right=True,
        optional=optional,
    )


FAILURES = Section(
    "failures",
    "What could not be audited, or not all of it",
    """
    SELECT status, source, host, exit_code, cause, attempts, quarantined, line
    FROM audits WHERE status <> 'audited'
    """,
    order="status, quarantined DESC, source",
    table=(
        column("status"),
        column("source"),
        column("host", optional=4),
        _number("exit_code", optional=3),
        column("cause"),
        _number("attempts", optional=1),
        column("quarantined"),
        sentence_column("line", 28),
    ),
)
