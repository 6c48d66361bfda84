# SPDX-License-Identifier: LGPL-2.1-or-later
"""Lists of live patches that are overwritten: no traceback, and nobody is free who is not."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest

from drgn_tools.analysis.livepatch import Answer

from ..conftest import need_group
from ..support.damaged_livepatch import DamagedPatches

RUNS = 1000

CORES_VARIABLE = "DRGN_TOOLS_LIVEPATCH_CORES"
"""Dumps with a live patch in transition, separated as in PATH."""
_CORES = [path for path in os.environ.get(CORES_VARIABLE, "").split(os.pathsep) if path]


@pytest.mark.lab
@pytest.mark.parametrize(
    "core", _CORES or [None], ids=[Path(c).parent.name for c in _CORES] or ["none"]
)
def test_words_of_the_lists_are_overwritten(core: str | None) -> None:
    if core is None:
        need_group("livepatch")
        pytest.fail(f"the lab was meant to run, but {CORES_VARIABLE} names no dump")
    damaged = DamagedPatches(core, RUNS)
    assert damaged.question.problems == ()
    assert {Answer.IN_FUNCTION, Answer.UNRELIABLE} <= {found.answer for found in damaged.whole}
    outcomes: Counter[str] = Counter()
    for _ in range(RUNS):
        words = damaged.damage()
        question, answers = damaged.look()
        outcomes["problems" if question.problems else "none"] += 1
        freed = [
            f"{before.stack.comm}: {before.answer} -> {now.answer}"
            for before, now in zip(damaged.whole, answers)
            if before.holds and not now.holds
        ]
        assert question.problems or not freed, (words, freed)
        # Nor is anybody blamed for another function.
        blamed = [
            (before.function, now.function)
            for before, now in zip(damaged.whole, answers)
            if now.answer is Answer.IN_FUNCTION and now.function != before.function
        ]
        assert question.problems or not blamed, (words, blamed)
        damaged.mend()
    assert damaged.look()[1] == damaged.whole
    print(f"\n{RUNS} runs: {dict(outcomes)}")
    assert min(outcomes.values()) > RUNS // 10
