# SPDX-License-Identifier: LGPL-2.1-or-later
"""Lists of live patches that are overwritten: no traceback, and nobody is free who is not."""

from __future__ import annotations

from collections import Counter

import pytest

from drgn_tools.analysis.patch_question import Answer

from ..conftest import lab_livepatch
from ..lab.variants import Variant, variant_named
from ..support.damaged_livepatch import DamagedPatches

RUNS = 1000

_VARIANTS = [variant_named(name) for name in ("klp-replaced", "klp-disabled-stock-6.12")]


@pytest.mark.lab
@pytest.mark.parametrize("variant", _VARIANTS, ids=[variant.name for variant in _VARIANTS])
def test_words_of_the_lists_are_overwritten(variant: Variant) -> None:
    overwrite(str(lab_livepatch(variant).core))


def overwrite(core: str) -> None:
    """Overwrite words of a dump, 1,000 times."""
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
