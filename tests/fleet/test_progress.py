# SPDX-License-Identifier: LGPL-2.1-or-later
"""The figures of a run, in plain English for one thing and for many."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("tqdm", reason="needs the extra drgn-tools[fleet]")

from drgn_tools.fleet.run.job import Outcome
from drgn_tools.fleet.run.progress import Progress
from drgn_tools.terminal.console import Console


def _record(tasks: int) -> dict[str, Any]:
    return {"status": "audited", "quarantined": False, "tasks": tasks, "seconds": 1.0}


@pytest.mark.parametrize(
    ("tasks", "first", "second"),
    [
        ([1], "1 of 1 source: 1 audited", "; 1 task; "),
        ([2], "1 of 1 source: 1 audited", "; 2 tasks; "),
        ([0, 1], "2 of 2 sources: 2 audited", "; 1 task; "),
        ([0, 0], "2 of 2 sources: 2 audited", "; 0 tasks; "),
    ],
)
def test_figures_of_one_and_of_many(tasks: list[int], first: str, second: str) -> None:
    progress = Progress(len(tasks), Console(quiet=True), quiet=True)
    for number in tasks:
        progress.add(Outcome(_record(number)))
    progress.close()
    counts, costs = progress.figures()
    assert counts.startswith(first)
    assert second in costs
