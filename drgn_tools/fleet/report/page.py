# SPDX-License-Identifier: LGPL-2.1-or-later
"""The report as one HTML file, which opens from a disk with no network.

The template, style and scripts lie in page_parts; the figures go in as JSON that no text in a
dump can end or leave. The page's Content-Security-Policy lets nothing run or load but the
script and style by their hashes.
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
from .page_data import MOST, Most, page_data

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
"""In this order one script."""


def write_page(dataset: Dataset, path: Path, most: Most = MOST) -> None:
    """Write the page about *dataset* to the file *path*, whole or not at all.

    :param most: how much goes in one by one.
    :raises OutputError: it cannot be written.
    :raises InputError: a file of the dataset is damaged, or missing.
    """
    page = _page(dataset, most)
    try:
        _write(path, page.encode())
    except OSError as e:
        raise OutputError(f"{shown(str(path))}: cannot be written: {e.strerror or e}") from e


def print_page(dataset: Dataset, most: Most = MOST) -> None:
    """Write the page about *dataset* to stdout.

    :raises ReaderGoneError: nobody reads any more.
    :raises OutputError: it cannot be written.
    :raises InputError: a file of the dataset is damaged, or missing.
    """
    page = _page(dataset, most)
    # The page says that it is UTF-8, and names its scripts by a hash of that, whatever the locale.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8")
    write_lines(page.rstrip("\n").split("\n"))


def _page(dataset: Dataset, most: Most) -> str:
    with closing(connect(dataset)) as views, naming_damaged_files(dataset):
        data = page_data(views, str(dataset.path), most)
    style, script = _packaged("page.css"), "".join(map(_packaged, _SCRIPTS))
    parts = {
        "style": style,
        "style-hash": _hash(style),
        "script": script,
        "script-hash": _hash(script),
        "data": _inert_json(data),
    }
    # In one pass: what is put in is not looked at again.
    return re.sub(r"\{\{([a-z-]+)\}\}", lambda found: parts[found[1]], _packaged("page.html"))


def _packaged(name: str) -> str:
    return (resources.files(__package__) / "page_parts" / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    # As a Content-Security-Policy names an inline script or style.
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _inert_json(data: Mapping[str, Any]) -> str:
    # With these three gone no text ends the script element or begins a comment in it.
    # U+2028 and everything else beyond ASCII is escaped by json.
    text = json.dumps(data, ensure_ascii=True, separators=(",", ":"))
    for char in "<>&":
        text = text.replace(char, f"\\u{ord(char):04x}")
    return text


def _write(path: Path, content: bytes) -> None:
    if path.exists() and not path.is_file():
        path.write_bytes(content)  # /dev/stdout: nothing can be put in its place
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
