# SPDX-License-Identifier: LGPL-2.1-or-later
"""What each command shows, in each format."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Callable, Optional

import msgspec
from msgspec.structs import replace

from .. import __version__
from ..analysis import flatten
from ..analysis import record_fields as fields
from ..analysis.record_fields import Fields, as_object
from ..arch.machines import ARCHES
from ..records import KernelInfo
from . import columns
from .structured import csv_lines, csv_text, json_lines, jsonl_lines
from .table import Column, table_lines

__all__ = (
    "DIFF",
    "FRAMES",
    "GROUPS",
    "HUNG",
    "LIVEPATCH",
    "PLANNED_LIVEPATCH",
    "RAW",
    "TASKS",
    "TASKS_WITH_FRAMES",
    "View",
    "column_names",
    "regs_view",
    "render",
    "shown_names",
    "sort_fields",
    "with_columns",
)


class View(msgspec.Struct, frozen=True):
    """How one kind of record is shown in every format."""

    schema: str
    """Name and number of the JSON schema."""
    key: str
    """Name of the list in the JSON document."""
    objects: Fields
    """Fields of a JSON object."""
    csv: Fields
    """Fields of a csv row."""
    columns: Sequence[Column]
    """Columns of a table."""
    rows: Callable[[Iterable[Any]], Iterable[Any]] = iter
    """Function from the records of JSON to those of the rows, if a JSON object has several rows."""


TASKS = View("drgn-tools.tasks/1", "tasks", fields.TASK, fields.TASK, columns.TASKS)
"""A row for each task."""

TASKS_WITH_FRAMES = View(
    "drgn-tools.tasks/1",
    "tasks",
    fields.TASK_WITH_FRAMES,
    fields.TASK_WITH_FRAMES_CSV,
    columns.TASKS_WITH_FRAMES,
)
"""A row for each task, with its stack."""

FRAMES = View(
    "drgn-tools.stack/1",
    "tasks",
    fields.TASK_WITH_SOURCE,
    fields.FRAME_CSV,
    columns.FRAMES,
    rows=flatten.each_frame,
)
"""A row for each frame."""

RAW = View("drgn-tools.raw/1", "words", fields.RAW_WORD, fields.RAW_WORD, columns.RAW)
"""A row for each word of a stack."""

GROUPS = View("drgn-tools.groups/1", "groups", fields.GROUP, fields.GROUP_CSV, columns.GROUPS)
"""A row for each group of identical stacks."""

DIFF = View("drgn-tools.diff/1", "tasks", fields.CHANGE, fields.CHANGE_CSV, columns.DIFF)
"""A row for each task of two snapshots."""

LIVEPATCH = View(
    "drgn-tools.livepatch/1",
    "tasks",
    fields.PATCH_ANSWER,
    fields.PATCH_ANSWER,
    columns.LIVEPATCH,
)
"""A row for each task that a live patch has to wait for."""

PLANNED_LIVEPATCH = replace(LIVEPATCH, columns=columns.PLANNED_LIVEPATCH)
"""The same about a patch that is not loaded."""

HUNG = View("drgn-tools.hung/1", "tasks", fields.HUNG_TASK, fields.HUNG_TASK, columns.HUNG)
"""A row for each task that hangs."""


def regs_view(arch: Optional[str]) -> View:
    """Return the view with a row for each ``pt_regs``.

    :param arch: Architecture of the kernel (:attr:`KernelInfo.arch`), which decides the registers. If it
        is not known yet: ``None`` for those of all architectures.
    """
    return View(
        "drgn-tools.regs/1",
        "regs",
        fields.REGS_OF_TASK,
        fields.regs_csv(arch),
        # Whatever the machine is, the names of the columns are those of the fields.
        columns.regs_columns(arch or ARCHES[0]),
    )


def column_names(view: View, style: str) -> list[str]:
    """Return the names that :func:`with_columns` accepts, first those that the view shows by default."""
    return list(dict.fromkeys((*shown_names(view, style), *_others(view, style))))


def shown_names(view: View, style: str) -> list[str]:
    """Return the names of the columns or fields that a view shows by default."""
    if style in ("json", "jsonl"):
        return list(view.objects)
    return list(view.csv) if style == "csv" else [column.name for column in view.columns]


def _others(view: View, style: str) -> Fields:
    return {} if style in ("json", "jsonl", "csv") else view.csv


def with_columns(view: View, names: Sequence[str], style: str) -> View:
    """Return a view with some of its columns or fields, in the order of the names.

    :param names: Some of :func:`column_names`. A table may also have csv fields as columns.
    :param style: As for :func:`render`.
    """
    if style in ("json", "jsonl"):
        return replace(view, objects={name: view.objects[name] for name in names})
    if style == "csv":
        return replace(view, csv={name: view.csv[name] for name in names})
    columns = {column.name: column for column in view.columns}
    return replace(
        view,
        # The user asked for these columns, so none is left out.
        columns=[
            replace(columns[name], optional=0) if name in columns else _column(name, view.csv[name])
            for name in names
        ],
    )


def _column(name: str, get: Callable[[Any], Any]) -> Column:
    return Column(
        name.upper(),
        lambda record: csv_text(get(record)) or "-",
        right=name in _COUNTS,
        floor=12 if name in _TEXT else 0,
        field=name,
    )


_COUNTS = frozenset(("kernel_regs", "reason_frame", "tgid", "user_regs"))
"""Fields that are numbers, and are not columns of a table by default."""
_TEXT = frozenset(("caller", "flags", "frames", "function", "notes", "pids", "symbol", "why"))
"""Fields that may be shortened."""


def sort_fields(view: View) -> Fields:
    """Return the fields by which the records of a view can be sorted.

    If each record has one row, columns that are not fields are included, with their text.
    """
    columns = {column.name: _text_of(column) for column in view.columns}
    return {**columns, **view.csv, **view.objects} if view.rows is iter else view.objects


def _text_of(column: Column) -> Callable[[Any], str]:
    def text(record: Any) -> str:
        cell = column.cell(record)
        return cell if isinstance(cell, str) else " ".join(cell)

    return text


def render(
    view: View,
    style: str,
    kernel: KernelInfo,
    records: Iterable[Any],
    problems: Sequence[str] = (),
    width: Optional[int] = None,
    before: Mapping[str, Any] = {},
    colour: bool = False,
) -> Iterator[str]:
    """Return the lines of records in one format.

    :param view: Which fields and columns to show.
    :param style: ``json``, ``jsonl``, ``csv``, ``table``, or the name of a tabulate format.
    :param kernel: Kernel that the records are from.
    :param records: Read one at a time by ``json``, ``jsonl`` and ``csv``.
    :param problems: What could not be read, for ``json``; may be filled while *records* is read.
    :param width: Largest number of characters in a line of ``table``; ``None`` for any.
    :param before: Members of a ``json`` document before the records.
    :param colour: Whether ``table`` has colours.
    :return: Lines without newlines, safe for a terminal.
    """
    if style == "csv":
        return csv_lines(view.csv, view.rows(records))
    if style not in ("json", "jsonl"):
        return table_lines(
            view.columns,
            view.rows(records),
            None if style == "table" else style,
            width,
            colour=colour,
        )
    objects = (as_object(view.objects, record) for record in records)
    if style == "jsonl":
        return jsonl_lines(objects)
    return json_lines(view.schema, __version__, kernel, view.key, objects, problems, before)
