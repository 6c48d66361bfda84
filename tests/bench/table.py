# SPDX-License-Identifier: LGPL-2.1-or-later
"""The results as a JSON line each, and as a table in a document."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Union

from .figures import FIGURES, Figure, Measured

__all__ = ("line_of", "read_lines", "table_of", "update")

BEGIN = "<!-- begin figures: python -m tests.bench --update writes this -->"
END = "<!-- end figures -->"

Line = Mapping[str, Any]


def line_of(
    figure: Figure, result: Union[Measured, str], run: str, where: Mapping[str, str], quick: bool
) -> Line:
    """What is kept of a figure.

    :param result: what was measured, or why nothing was
    :param run: the same for all figures of a run
    """
    line: dict[str, Any] = {
        "run": run,
        "figure": figure.name,
        "bound": figure.bound,
        "at_least": figure.at_least,
        "quick": quick,
        "where": dict(where),
    }
    if isinstance(result, str):
        return {**line, "not_measured": result}
    return {**line, "holds": figure.holds(result.value.median), **asdict(result)}


def read_lines(path: Path) -> list[Line]:
    """All that was ever appended."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def in_words(line: Line) -> str:
    """What was measured, in a cell: median and quartiles."""
    if "not_measured" in line:
        return f"not measured: {line['not_measured']}"
    value = line["value"]
    unit = next((f.unit for f in FIGURES if f.name == line["figure"]), "")
    if value["low"] == value["high"]:
        return f"{_number(value['median'])}{unit}"
    quartiles = f"{_number(value['low'])} to {_number(value['high'])}"
    return f"{_number(value['median'])}{unit} ({quartiles})"


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def verdict_of(line: Line) -> str:
    """One word."""
    if "not_measured" in line or line["bound"] is None:
        return "-"
    return "yes" if line["holds"] else "missed"


def bound_of(figure: Figure) -> str:
    if figure.bound is None:
        return "none"
    return f"{'at least' if figure.at_least else 'at most'} {figure.bound:g}{figure.unit}"


def table_of(lines: Iterable[Line]) -> str:
    """The newest thorough result of each figure, and where it was had, as Markdown."""
    newest = {line["figure"]: line for line in lines if not line["quick"]}
    rows = [
        "| figure | bound | measured (quartiles) | CPU time | held | on |",
        "|---|---|---|---|---|---|",
    ]
    places: dict[str, None] = {}
    for figure in FIGURES:
        line = newest.get(figure.name)
        if line is None:
            cells = ["not measured", "", "-", ""]
        else:
            cpu = line.get("cpu")
            cells = [
                in_words(line),
                _number(cpu["median"]) if cpu else "",
                verdict_of(line),
                line.get("dump", ""),
            ]
            places[_place(line["where"])] = None
        rows.append("| " + " | ".join([f"{figure.what}", bound_of(figure), *cells]) + " |")
    return "\n".join([*rows, "", *(f"Measured on {place}." for place in places)])


def _place(where: Mapping[str, str]) -> str:
    machine = f"{where['cpu']}, {where['memory']}, Linux {where['kernel']}"
    names = ("python", "drgn", "drgn-tools", "crash")
    versions = ", ".join(f"{name} {where[name]}" for name in names)
    return f"{machine}; {versions}"


def update(document: Path, table: str) -> None:
    """Writes the table where it belongs.

    :raises LookupError: the document has no place for it
    """
    text = document.read_text()
    match = re.search(f"(?<={re.escape(BEGIN)}\n).*?(?={re.escape(END)})", text, re.S)
    if match is None:
        raise LookupError(f"{document}: no place for the table: want {BEGIN!r} and {END!r}")
    document.write_text(f"{text[: match.start()]}{table}\n{text[match.end() :]}")
