# SPDX-License-Identifier: LGPL-2.1-or-later
"""json, jsonl and csv, for programs to read. They are streamed, one record at a time."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from ..analysis.record_fields import KERNEL, Fields, as_object
from ..records import KernelInfo
from ..terminal.escape import escape

__all__ = ("csv_lines", "csv_text", "json_lines", "jsonl_lines")

_FORMULA_STARTS = tuple("=+-@＝＋－＠")
"""A spreadsheet evaluates a cell that begins with one of these, and a program can choose its comm (OWASP,
"CSV Injection"; tab and carriage return, which are also listed there, are escaped)."""


def json_lines(
    schema: str,
    tool: str,
    kernel: KernelInfo,
    key: str,
    objects: Iterable[dict[str, Any]],
    problems: Sequence[str],
    before: Mapping[str, Any] = {},
) -> Iterator[str]:
    """Yield the lines of one JSON document, with one object of its list on each line.

    :param schema: Name and number of the schema: ``drgn-tools.tasks/1``.
    :param tool: Version of drgn-tools.
    :param kernel: Kernel that the objects are from.
    :param key: Name of the list.
    :param objects: Objects of the list; read one at a time.
    :param problems: Read after *objects*, so that the caller may append to it meanwhile.
    :param before: Further members of the document, before the list.
    """
    yield f'{{"schema": {_json(schema)}, "tool": {_json(tool)},'
    yield f' "kernel": {_json(as_object(KERNEL, kernel))},'
    for name, value in before.items():
        yield f" {_json(name)}: {_json(value)},"
    yield f' "{key}": ['
    # Yield each object one step late: JSON has a comma between objects, but not after the last.
    last = None
    for object_ in objects:
        if last is not None:
            yield f"  {last},"
        last = _json(object_)
    if last is not None:
        yield f"  {last}"
    yield " ],"
    yield f' "problems": {_json(list(problems))}}}'


def jsonl_lines(objects: Iterable[dict[str, Any]]) -> Iterator[str]:
    """Return one line of JSON for each object."""
    return (_json(object_) for object_ in objects)


def _json(value: Any) -> str:
    # Pure ASCII: json escapes control characters, and with ensure_ascii also everything
    # else that could confuse a terminal.
    return json.dumps(value, ensure_ascii=True)


def csv_lines(fields: Fields, records: Iterable[Any]) -> Iterator[str]:
    """Yield a header, and a row for each record, as in RFC 4180 but with Unix line ends.

    ``None`` is an empty cell, a bool is ``true`` or ``false``, and the items of a
    list are separated by ``;``. Text is escaped, so a record is always one line.
    Text that a spreadsheet would treat as a formula gets an apostrophe at the beginning.

    :param fields: Names of the columns, each with the function from a record to its value.
    """
    yield _csv_line(map(_csv_cell, fields))
    for record in records:
        yield _csv_line(_csv_cell(get(record)) for get in fields.values())


def _csv_line(cells: Iterable[str]) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(cells)
    return line.getvalue()


def _csv_cell(value: Any) -> str:
    if not isinstance(value, str):
        return csv_text(value)
    text = escape(value)
    return f"'{text}" if text.startswith(_FORMULA_STARTS) else text


def csv_text(value: Any) -> str:
    """Return a field as text: ``true``, the items of a list with ``;`` between them, the empty text for ``None``."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return ";".join(_csv_cell(item).replace(";", "\\x3b") for item in value)
    return str(value)
