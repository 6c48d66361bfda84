# SPDX-License-Identifier: LGPL-2.1-or-later
"""The report as one HTML file, which needs no network.

The template, the style and the scripts are in page_parts. The data is embedded as JSON, escaped so
that no text of a dump can end it. The Content-Security-Policy of the page allows only its own
script and style, by their hashes.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import re
import secrets
import sys
from collections.abc import Mapping
from contextlib import closing, suppress
from importlib import resources
from pathlib import Path
from typing import Any

from ...program.core_file import shown
from ...terminal.console import OutputError, write_lines
from ..dataset.damage import naming_damaged_files
from ..dataset.database import connect
from ..dataset.dataset import Dataset
from .page_data import PAGE_LIMITS, PageLimits, page_data

__all__ = ("print_page", "write_page")


_SCRIPTS = (
    "elements.js",
    "counts.js",
    "table.js",
    "tables.js",
    "figures.js",
    "time_line.js",
    "flame_graph.js",
    "page.js",
)
"""The parts of the script, in this order."""


def write_page(dataset: Dataset, path: Path, limits: PageLimits = PAGE_LIMITS) -> None:
    """Write the page about *dataset* to a file, whole or not at all.

    :param path: The file. An existing file is replaced.
    :param limits: How many things the page shows one by one.
    :raises OutputError: If the file cannot be written.
    :raises InputError: If a file of the dataset is damaged or missing.
    """
    page = _page(dataset, limits)
    try:
        _write(path, page.encode())
    except OSError as e:
        raise OutputError(f"{shown(str(path))}: cannot be written: {e.strerror or e}") from e


def print_page(dataset: Dataset, limits: PageLimits = PAGE_LIMITS) -> None:
    """Write the page about *dataset* to stdout.

    :param limits: How many things the page shows one by one.
    :raises ReaderGoneError: If the reader of stdout has closed it.
    :raises OutputError: If it cannot be written.
    :raises InputError: If a file of the dataset is damaged or missing.
    """
    page = _page(dataset, limits)
    # UTF-8 in any locale: the page declares it, and the hash of its script is of its bytes in UTF-8.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8")
    write_lines(page.rstrip("\n").split("\n"))


def _page(dataset: Dataset, limits: PageLimits) -> str:
    with closing(connect(dataset)) as views, naming_damaged_files(dataset):
        data = page_data(views, str(dataset.path), limits)
    style, script = _packaged("page.css"), "".join(map(_packaged, _SCRIPTS))
    parts = {
        "style": style,
        "style-hash": _hash(style),
        "script": script,
        "script-hash": _hash(script),
        "data": _inert_json(data),
    }
    # In one pass, so that no part is replaced inside another part.
    return re.sub(r"\{\{([a-z-]+)\}\}", lambda found: parts[found[1]], _packaged("page.html"))


def _packaged(name: str) -> str:
    return (resources.files(__package__) / "page_parts" / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    # The form that a Content-Security-Policy has for an inline script or style.
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _inert_json(data: Mapping[str, Any]) -> str:
    # Without these three characters no text can end the script element or begin a comment in it.
    # json escapes everything beyond ASCII, such as U+2028.
    text = json.dumps(data, ensure_ascii=True, separators=(",", ":"))
    for char in "<>&":
        text = text.replace(char, f"\\u{ord(char):04x}")
    return text


def _write(path: Path, content: bytes) -> None:
    if path.exists() and not path.is_file():
        path.write_bytes(content)  # /dev/stdout, say, which cannot be replaced
        return
    path = path.resolve()
    unfinished = path.with_name(f".{path.name[:200]}.{secrets.token_hex(4)}")
    try:
        unfinished.write_bytes(content)
        os.replace(unfinished, path)
    except OSError:
        with suppress(OSError):
            unfinished.unlink()
        raise
