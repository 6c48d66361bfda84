# SPDX-License-Identifier: LGPL-2.1-or-later
"""Records in a notebook: pieces of HTML that need no style sheet, script or file.

Text from a dump is escaped as on a terminal first, and then for HTML.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

from ..analysis.hangups import Blocked
from ..analysis.hung import HungReport
from ..analysis.tally import Tally
from ..analysis.task_diff import ChangeKind, TaskDiff
from ..records import KernelAudit, TaskStack, Verdict
from ..terminal.escape import escape, escape_cell
from .columns import DIFF, TASKS
from .stack import draw_stack
from .summary import diff_line, different_boots_line, kernel_line, verdict_line
from .table import Column

__all__ = ("html_of",)

_MAX_ROWS = 200
"""More rows would make a notebook slow."""
_COLOURS = {Verdict.RELIABLE: "#2e7d32", Verdict.UNRELIABLE: "#c62828", Verdict.UNKNOWN: "#8d6e00"}
"""Dark enough on white, light enough on black. The word says the same as the colour."""


def html_of(record: Any) -> str:
    """Return a record as HTML.

    :param record: A :class:`.InNotebook` record.
    """
    if isinstance(record, TaskStack):
        return _stack(record)
    if isinstance(record, KernelAudit):
        return "".join(_audit(record))
    if isinstance(record, TaskDiff):
        return "".join(_diff(record))
    if isinstance(record, (Blocked, HungReport)):
        return f'<pre style="line-height: 1.2">{html.escape(str(record))}</pre>'
    return f"<pre>{_text(repr(record))}</pre>"


def _text(text: str) -> str:
    return html.escape(escape(text))


def _stack(task: TaskStack) -> str:
    lines = []
    for line in draw_stack(task).split("\n"):
        line = html.escape(line)
        # The verdict, and the frame that decided it.
        if line.startswith(("VERDICT: ", html.escape(" => "))):
            line = f'<b style="color: {_COLOURS[task.verdict]}">{line}</b>'
        lines.append(line)
    return f'<pre style="line-height: 1.2">{chr(10).join(lines)}</pre>'


def _audit(audit: KernelAudit) -> Iterator[str]:
    yield _paragraph(kernel_line(audit.kernel))
    for line in (*audit.kernel.last_words, *audit.kernel.notes):
        yield _paragraph(line)
    yield _paragraph(verdict_line(Tally(audit).verdicts), *audit.problems)
    colours = (_COLOURS[task.verdict] for task in audit)
    yield from _table(TASKS, audit.tasks, colours)


def _diff(diff: TaskDiff) -> Iterator[str]:
    if not diff.same_boot:
        yield _paragraph(different_boots_line(diff))
    yield _paragraph(diff_line(diff))
    changes = [change for change in diff.changes if change.kind is not ChangeKind.STILL]
    yield from _table(DIFF, changes, (_COLOURS[change.last.verdict] for change in changes))


def _paragraph(*lines: str) -> str:
    return f"<p>{'<br>'.join(map(_text, lines))}</p>"


def _table(
    columns: Sequence[Column], records: Sequence[Any], colours: Iterable[str]
) -> Iterator[str]:
    yield "<table><thead><tr>"
    for column in columns:
        yield f'<th style="{_style(column)}">{html.escape(column.heading)}</th>'
    yield "</tr></thead><tbody>"
    for record, colour in islice(zip(records, colours), _MAX_ROWS):
        yield "<tr>"
        for column in columns:
            style = f"{_style(column)}; vertical-align: top"
            if column.heading == "VERDICT":
                style += f"; color: {colour}"
            yield f'<td style="{style}">{_cell(column, record)}</td>'
        yield "</tr>"
    yield "</tbody></table>"
    if len(records) > _MAX_ROWS:
        yield _paragraph(f"{len(records) - _MAX_ROWS} more rows: to_pandas() has all")


def _style(column: Column) -> str:
    return f"padding: 1px 6px; text-align: {'right' if column.right else 'left'}"


def _cell(column: Column, record: Any) -> str:
    cell = column.cell(record)
    lines = [cell] if isinstance(cell, str) else cell
    return "<br>".join(html.escape(escape_cell(line)) for line in lines)
