# SPDX-License-Identifier: LGPL-2.1-or-later
"""The report on a dataset: its sections in every format.

docs/fleet-report.md describes the sections. Within one :data:`SCHEMA`, sections and their columns
are only added.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Optional

from ... import __version__
from ...errors import UsageError
from ...render.structured import csv_lines, jsonl_lines
from ...render.table import wrapped_text
from ..dataset.damage import naming_damaged_files
from ..dataset.database import connect
from ..dataset.dataset import Dataset
from .section import Found, Section, read_section
from .sections import SECTIONS
from .tables import section_table
from .values import as_json, csv_fields, json_items

__all__ = ("SCHEMA", "report_lines")

SCHEMA = "drgn-tools.fleet-report/1"
"""Name and number of the JSON schema of a report."""

_Sections = Sequence[tuple[Section, Found]]


def report_lines(
    dataset: Dataset,
    sections: Sequence[str],
    top: Optional[int],
    format: str,
    width: Optional[int],
) -> Iterator[str]:
    """Return the lines of a report.

    :param sections: Names of the sections, in order; empty for all.
    :param top: Maximum number of rows of a section; ``None`` for the default of each section.
    :param format: ``table``, ``json``, ``jsonl``, ``csv``, or the name of a tabulate format.
    :param width: Maximum number of characters in a line of ``table``; ``None`` for any number.
    :raises UsageError: If a section does not exist, or ``csv`` is given several sections.
    :raises InputError: If a file of the dataset is damaged.
    """
    chosen = [_section(name) for name in sections or SECTIONS]
    if format == "csv" and len(chosen) != 1:
        raise UsageError("csv has room for one table: choose one with --section, or use --sql")
    # Read everything before the first line is written: half a report is useless.
    with naming_damaged_files(dataset), connect(dataset) as connection:
        found = [
            (section, read_section(connection, section, top or section.usual)) for section in chosen
        ]
    if format == "json":
        return _json_lines(dataset, found)
    if format == "jsonl":
        return _jsonl_lines(found)
    if format == "csv":
        return _csv_lines(found)
    return _table_lines(found, format, width)


def _section(name: str) -> Section:
    if name not in SECTIONS:
        raise UsageError(
            f"the report has no section {name!r}: the sections are {', '.join(SECTIONS)}"
        )
    return SECTIONS[name]


def _json_lines(dataset: Dataset, sections: _Sections) -> Iterator[str]:
    yield f'{{"schema": {as_json(SCHEMA)}, "tool": {as_json(__version__)},'
    yield f' "dataset": {as_json(str(dataset.path))},'
    yield ' "sections": {'
    for number, (section, found) in enumerate(sections, 1):
        yield f'  {as_json(section.name)}: {{"total": {found.total}, "rows": ['
        yield from json_items("   ", found.rows)
        yield "  ]}" if number == len(sections) else "  ]},"
    yield " }}"


def _jsonl_lines(sections: _Sections) -> Iterator[str]:
    return jsonl_lines(
        {"section": section.name, **row} for section, found in sections for row in found.rows
    )


def _csv_lines(sections: _Sections) -> Iterator[str]:
    [(_section, found)] = sections
    return csv_lines(csv_fields(found.columns, found.columns), found.rows)


def _table_lines(sections: _Sections, format: str, width: Optional[int]) -> Iterator[str]:
    for number, (section, found) in enumerate(sections):
        if number:
            yield ""
        yield from wrapped_text(_heading(section, found), width if format == "table" else None)
        if found.rows:
            yield ""
            yield from section_table(section, found, format, width)


def _heading(section: Section, found: Found) -> str:
    if not found.rows:
        return f"{section.title}: none"
    if len(found.rows) < found.total:
        return f"{section.title} (the first {len(found.rows)} of {found.total}: see --top)"
    return section.title
