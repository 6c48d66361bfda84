# SPDX-License-Identifier: LGPL-2.1-or-later
"""Tasks are counted by verdict while their records are used."""

from __future__ import annotations

from collections import Counter

from drgn_tools.analysis.tally import Tally
from drgn_tools.records import Reason

from ..support import fabricated


def test_counts_are_those_of_the_records() -> None:
    tally = Tally(fabricated.TASKS)
    assert tally.verdicts == Counter(task.verdict for task in fabricated.TASKS)
    assert tally.total == len(fabricated.TASKS)
    unreadable = [task for task in fabricated.TASKS if task.reason is Reason.UNREADABLE]
    assert tally.unreadable == len(unreadable) > 0


def test_a_task_counts_when_it_is_taken() -> None:
    tally = Tally()
    tasks = tally.over(fabricated.TASKS)
    assert tally.total == 0
    assert next(tasks) is fabricated.TASKS[0]
    assert tally.total == 1
    assert list(tasks) == list(fabricated.TASKS[1:])
    assert tally.verdicts == Tally(fabricated.TASKS).verdicts
