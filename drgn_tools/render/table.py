# SPDX-License-Identifier: LGPL-2.1-or-later
"""Tables, drawn by tabulate and fitted to a width.

If a table is too wide, its least important columns are left out, and then columns of text are
shortened. Numbers, addresses and verdicts are never shortened; the table is wider instead.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Callable, Optional, Union

import msgspec
from tabulate import multiline_formats, tabulate

from ..terminal.colour import painted
from ..terminal.escape import escape_cell

__all__ = ("Cell", "Column", "row_lines", "shorten", "table_lines", "wrap_line", "wrapped_text")

_GAP = 2
"""Spaces between two columns of tabulate's ``plain`` format."""

_ELLIPSIS = "…"
_FLOOR_MIN = 8
"""Shorter text would not be recognisable."""

_WRAP_MIN = 16
"""In narrower lines most function names would be broken in two."""

_HEAD_MIN = 4
"""A shorter beginning would not be recognisable."""

Cell = Union[str, Sequence[str]]
"""Text, or lines of text."""


class Column(msgspec.Struct, frozen=True):
    """A column of a table."""

    heading: str
    """Heading of the column."""
    cell: Callable[[Any], Cell]
    """Function from a record to its cell; the text is not escaped."""
    right: bool = False
    """Align to the right, as for numbers."""
    floor: int = 0
    """If the table is too wide, the column may be shortened to this many characters. If that is not enough, it
    may be shortened further, but not below its heading. 0: never shortened."""
    brief: Optional[Callable[[Any], Cell]] = None
    """As :attr:`cell`, for a table that would otherwise be too wide."""
    optional: int = 0
    """If the table is too wide, columns with 1 are left out first, then 2 ...; 0: never."""
    wrap: bool = False
    """If the column is too wide, continue in the next line instead of shortening."""
    distinct: bool = False
    """As :attr:`wrap`, but only in a row in which different lines would be equal if shortened."""
    field: str = ""
    """JSON field with the same content, if its name is not the heading."""
    colours: Mapping[str, str] = {}
    """Line of a cell -> its colour, if the table has colours."""

    @property
    def name(self) -> str:
        """Name of the column for ``--columns`` and ``--sort``."""
        return self.field or self.heading.lower()


def table_lines(
    columns: Sequence[Column],
    records: Iterable[Any],
    style: Optional[str] = None,
    width: Optional[int] = None,
    complete: Optional[str] = None,
    colour: bool = False,
) -> Iterator[str]:
    """Yield the lines of a table, with a row for each record.

    :param style: Name of a tabulate format; ``None`` for our own plain one.
    :param width: Largest number of characters in a line of the plain format; ``None`` for any.
    :param complete: How to see all columns, such as ``--format csv has them``. If given, a last line
        names the columns that were left out.
    :param colour: Whether the plain format has colours.
    """
    records = list(records)
    rows = _rows(columns, records)
    if style is not None:
        rows = [[[_no_markup(line) for line in cell] for cell in row] for row in rows]
        headings = [_no_markup(column.heading) for column in columns]
        yield from _tabulate(columns, rows, headings, style)
        return
    all_columns = columns
    if width is not None and sum(_widths(columns, rows)) > _room(columns, width):
        columns, rows = _fitted(columns, records, rows, width)
    if colour:
        rows = [[_coloured(cell, column) for cell, column in zip(row, columns)] for row in rows]
    # The headings are a row, because tabulate pads its own headers by two more spaces.
    first = [[column.heading] for column in columns]
    yield from _tabulate(columns, [first, *rows], (), "plain")
    left_out = [column.heading.lower() for column in all_columns if column not in columns]
    if left_out and complete is not None:
        yield ""
        yield from wrapped_text(f"left out, too wide: {', '.join(left_out)} ({complete})", width)


def row_lines(
    columns: Sequence[Column], records: Sequence[Any], width: Optional[int]
) -> Iterator[list[str]]:
    """Yield the lines of the heading, then the lines of each record's row, in our own plain format.

    :param width: As for :func:`table_lines`.
    """
    rows = _rows(columns, records)
    if width is not None and sum(_widths(columns, rows)) > _room(columns, width):
        columns, rows = _fitted(columns, records, rows, width)
    rows = [[[column.heading] for column in columns], *rows]
    lines = _tabulate(columns, rows, (), "plain")
    for row in rows:
        yield list(islice(lines, max(map(len, row))))


def _rows(columns: Sequence[Column], records: Iterable[Any]) -> list[list[list[str]]]:
    return [[_lines(column.cell(record)) for column in columns] for record in records]


def _tabulate(
    columns: Sequence[Column], rows: list[list[list[str]]], headings: Sequence[str], style: str
) -> Iterator[str]:
    newline = "\n" if style in multiline_formats else "; "
    text = tabulate(
        [[newline.join(cell) for cell in row] for row in rows],
        headers=headings,
        tablefmt=style,
        # Otherwise "0x10" and "1e5" would become numbers.
        disable_numparse=True,
        # tabulate cannot align the columns of a table without rows.
        colalign=["right" if column.right else "left" for column in columns] if rows else None,
    )
    return (line.rstrip(" ") for line in text.split("\n"))


def _lines(cell: Cell) -> list[str]:
    return [escape_cell(line) for line in ([cell] if isinstance(cell, str) else cell)]


def _coloured(cell: list[str], column: Column) -> list[str]:
    # tabulate does not count the escape sequences of a colour.
    return [painted(line, column.colours.get(line)) for line in cell]


def _no_markup(text: str) -> str:
    # "|" would end a cell of a Markdown table, "<" would begin a tag.
    return text.replace("|", "\\x7c").replace("<", "\\x3c")


def _widths(columns: Sequence[Column], rows: list[list[list[str]]]) -> list[int]:
    return [
        max([len(column.heading), *(len(line) for row in rows for line in row[i])])
        for i, column in enumerate(columns)
    ]


def _room(columns: Sequence[Column], width: int) -> int:
    return width - _GAP * (len(columns) - 1)


def _fitted(
    columns: Sequence[Column], records: Sequence[Any], rows: list[list[list[str]]], width: int
) -> tuple[Sequence[Column], list[list[list[str]]]]:
    columns = list(columns)
    cells = [
        [row[i] for row in rows]
        if column.brief is None
        else [_lines(column.brief(record)) for record in records]
        for i, column in enumerate(columns)
    ]
    for column in sorted(filter(_is_optional, columns), key=lambda column: column.optional):
        rows = [list(row) for row in zip(*cells)]
        if sum(_least_widths(columns, rows)) <= _room(columns, width):
            break
        del cells[columns.index(column)]
        columns.remove(column)
    rows = [list(row) for row in zip(*cells)]
    _fit(columns, rows, width)
    return columns, rows


def _is_optional(column: Column) -> bool:
    return column.optional > 0


def _least_widths(columns: Sequence[Column], rows: list[list[list[str]]]) -> list[int]:
    return [
        min(width, _floor(column) or width)
        for column, width in zip(columns, _widths(columns, rows))
    ]


def _fit(columns: Sequence[Column], rows: list[list[list[str]]], width: int) -> None:
    widths = _widths(columns, rows)
    floors = {i: _floor(column) for i, column in enumerate(columns) if column.floor}
    room = _room(columns, width)
    _give_way(widths, floors, room)
    # If it is still too wide (80 columns, say), shorten to the minimum, words before sentences.
    least = {i: _least_width(columns[i]) for i in floors}
    _give_way(widths, {i: width for i, width in least.items() if not columns[i].wrap}, room)
    _give_way(widths, least, room)
    for row in rows:
        for i in floors:
            row[i] = _fitted_cell(columns[i], row[i], widths[i])


def _floor(column: Column) -> int:
    # The heading is never cut, so narrower cells would save nothing.
    return max(len(column.heading), column.floor) if column.floor else 0


def _least_width(column: Column) -> int:
    return max(len(column.heading), _WRAP_MIN if column.wrap else _FLOOR_MIN)


def _fitted_cell(column: Column, lines: list[str], width: int) -> list[str]:
    if column.wrap:
        return _wrapped(lines, width)
    shortened = _shortened(lines, width)
    if column.distinct and len(set(shortened)) < len(set(lines)):
        return _wrapped(lines, width)
    return shortened


def _shortened(lines: list[str], width: int) -> list[str]:
    return [shorten(line, width) for line in lines]


def _wrapped(lines: list[str], width: int) -> list[str]:
    return [part for line in lines for part in wrap_line(line, width) or [""]]


_BEFORE_PID = re.compile(r" (?=\(\d+\))")


def wrap_line(text: str, width: int, indent: str = "") -> list[str]:
    """Return the lines of a text that is too long for one. A name and its PID stay together: ``init (1)``.

    :param text: Escaped text.
    :param indent: What all lines but the first begin with.
    """
    # Escaped text has no NUL, and textwrap does not treat NUL as a space.
    glued = _BEFORE_PID.sub("\0", text)
    lines = textwrap.wrap(glued, width, subsequent_indent=indent, break_on_hyphens=False)
    return [line.replace("\0", " ") for line in lines]


def wrapped_text(text: str, width: Optional[int]) -> list[str]:
    """Return the lines of a sentence above or below a table.

    :param text: Escaped text.
    :param width: As for :func:`table_lines`.
    """
    return [text] if width is None else wrap_line(text, width, indent="    ")


def _give_way(widths: list[int], floors: Mapping[int, int], room: int) -> None:
    # Shorten the column that is furthest above its floor, until the table fits or no column can be
    # shortened.
    if not floors:
        return
    for _ in range(sum(widths) - room):
        i = max(floors, key=lambda i: widths[i] - floors[i])
        if widths[i] <= floors[i]:
            break
        widths[i] -= 1


_NUMBER = re.compile(r"\b(?:0x[0-9a-f]+|[0-9a-f]{8,})\b", re.IGNORECASE)

_PLACE = re.compile(r"(?<= in )\S+(?: \[\S+\])?$")
"""The function in ``page fault in vfs_read+0x8f``, ``preempted in f [module]``."""


def shorten(text: str, width: int) -> str:
    """Return text shortened to a width, with an ellipsis in place of the omitted part.

    A sentence about a function keeps the function: ``preempted by…vfs_read+0x8f``,
    ``…rep_stos_alternative``. A function with an offset keeps the offset, other text its
    beginning. A number is kept whole or omitted whole.

    :param width: Largest number of characters, at least 1.
    """
    if len(text) <= width:
        return text
    tail = _tail(text, width)
    if len(tail) == width:
        return tail
    end = width - len(_ELLIPSIS) - len(tail)
    if tail and end < _HEAD_MIN:
        end = 0
    for number in _NUMBER.finditer(text):
        if number.start() < end < number.end():
            end = number.start()
    # Do not show part of a module's name.
    head = text[:end].partition(" [")[0]
    return head.rstrip(" ") + _ELLIPSIS + tail


def _tail(text: str, width: int) -> str:
    """Return the end of a text that is kept when the text is shortened."""
    place = _PLACE.search(text)
    if place is None:
        # A single word keeps its offset.
        function, plus, offset = text.rpartition("+")
        fits = " " not in text and len(offset) < width // 2
        return plus + offset if fits else ""
    # The function. If it is too long: without its module, then without its offset, then shortened.
    function = place[0].partition(" ")[0]
    bare = function.rpartition("+")[0] or function
    tails = (place[0], function, bare)
    return next((tail for tail in tails if len(tail) <= width), shorten(bare, width))
