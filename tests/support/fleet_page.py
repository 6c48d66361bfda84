# SPDX-License-Identifier: LGPL-2.1-or-later
"""Read the HTML page of a fleet in a browser.

Needs the extra ``drgn-tools[fleet]``: import it below ``pytest.importorskip``.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from typing import Any, Callable

from drgn_tools.records import TaskStack

from .fleet_dataset import FLEET

IMAGE = "</script><img src=x onerror=alert(1)>"
TASKS = tuple((source, task) for source in FLEET for task in source.tasks or ())

Open = Callable[..., Any]
"""Opens a page: the fixture ``open_page``."""


def rows(page: Any, table: str) -> list[dict[str, str]]:
    """Return the rows of a table, by the words of its header."""
    names, cells = page.eval_on_selector(
        f"#{table} table",
        """table => [
            [...table.querySelectorAll('th')].map(cell => cell.textContent),
            [...table.querySelectorAll('tr[data-row]')].map(row => [...row.cells].map(cell => cell.textContent)),
        ]""",
    )
    return [dict(zip(names, line)) for line in cells]


def number(text: str) -> int:
    return int(text.replace(",", ""))


def column(page: Any, table: str, name: str) -> list[int]:
    return [number(row[name]) for row in rows(page, table)]


def figure(page: Any, name: str) -> int:
    text = page.eval_on_selector(f'[data-figure="{name}"]', "e => e.firstChild.textContent")
    return number(text)


def header(page: Any, table: str, name: str) -> Any:
    return page.locator(f"#{table} th", has_text=re.compile(f"^{name}$"))


def sort_by(page: Any, table: str, name: str) -> str:
    header(page, table, name).locator("button").click()
    return str(header(page, table, name).get_attribute("aria-sort"))


def frame(page: Any, name: str) -> Any:
    return page.locator(".frame", has_text=re.compile(f"^{re.escape(name)}$")).first


def share_of_width(page: Any, name: str) -> float:
    graph = page.locator("#flame-graph").bounding_box()["width"]
    return float(frame(page, name).bounding_box()["width"] / graph)


def reason_of(task: TaskStack) -> str:
    return task.reason.value if task.reason else "–"


def verdicts(tasks: Iterable[TaskStack]) -> Counter[str]:
    return Counter(task.verdict.value for task in tasks)
