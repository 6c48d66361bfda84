# SPDX-License-Identifier: LGPL-2.1-or-later
"""Locks and waiter structs that are overwritten: no traceback, and nothing is claimed that was not so before."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping

import pytest

from drgn_tools import audit_kernel, open_program
from drgn_tools.analysis.hangups import Blocked
from drgn_tools.analysis.hung import HungReport, hung_report
from drgn_tools.kernel.waiting.records import LOCKS, Wait

from ..conftest import lab_hung
from ..lab.variants import Variant, variant_named
from ..support.damaged_livepatch import Span

RUNS = 120

_WORD_BYTES = 8
_WAITER_TYPES = {
    "mutex": "struct mutex_waiter",
    "rwsem": "struct rwsem_waiter",
    "semaphore": "struct semaphore_waiter",
    "rt_mutex": "struct rt_mutex_waiter",
}
_LOCK_TYPES = {
    "mutex": "struct mutex",
    "rwsem": "struct rw_semaphore",
    "semaphore": "struct semaphore",
    "rt_mutex": "struct rt_mutex_base",
}
_VARIANTS = [variant_named(name) for name in ("hung", "hung-stock-7.2")]


def waits_of(report: HungReport) -> Mapping[int, Blocked]:
    return {each.stack.task: each for each in report.blocked}


def same_lock(now: Wait, before: Wait) -> bool:
    return (now.kind, now.address, now.mode) == (before.kind, before.address, before.mode)


@pytest.mark.lab
@pytest.mark.parametrize("variant", _VARIANTS, ids=[variant.name for variant in _VARIANTS])
def test_words_of_locks_are_overwritten(variant: Variant) -> None:
    prog = open_program(core=str(lab_hung(variant).core))
    audit = audit_kernel(prog)
    whole = waits_of(hung_report(prog, audit))
    spans: dict[tuple[str, int], Span] = {}
    for each in whole.values():
        wait = each.wait
        if wait is None or wait.kind.value not in _LOCK_TYPES:
            continue
        for kind, address, type_name in (
            ("waiter", wait.waiter, _WAITER_TYPES[wait.kind.value]),
            ("lock", wait.address, _LOCK_TYPES[wait.kind.value]),
        ):
            if (kind, address) not in spans:
                spans[kind, address] = Span(prog, kind, address, type_name)
    assert len(spans) >= 40
    places = list(spans.values())
    words = [
        int.from_bytes(span.original[at : at + _WORD_BYTES], "little")
        for span in places
        for at in range(0, len(span.original) - _WORD_BYTES + 1, _WORD_BYTES)
    ]
    dice = random.Random(variant.name)
    outcomes: Counter[str] = Counter()
    for _ in range(RUNS):
        span = dice.choice(places)
        at = dice.randrange(0, len(span.data) - _WORD_BYTES + 1, _WORD_BYTES)
        word = dice.choice((0, (1 << 64) - 1, dice.getrandbits(64), *dice.sample(words, 4)))
        span.data[at : at + _WORD_BYTES] = word.to_bytes(_WORD_BYTES, "little")
        what = f"{span.name} {span.address:#x}+{at} = {word:#x}"
        now = waits_of(hung_report(prog, audit))
        assert now.keys() == whole.keys()
        lost = 0
        for task, before in whole.items():
            after, found = before.wait, now[task].wait
            if found is None or found.kind not in LOCKS:
                lost += after is not None and after.kind in LOCKS
                continue
            assert after is not None, what
            assert same_lock(found, after) or span.name == "lock", what
            # A lock says itself who holds it, and a waiter does not.
            if span.name == "waiter":
                assert found.holder == after.holder, what
            # Who holds it is a task of this kernel, or there is memory that may have been one.
            holder = now[task].holder
            assert holder is None or holder.task is not None or holder.address % 64 == 0, what
        outcomes["lost" if lost else "same"] += 1
        span.mend()
    assert waits_of(hung_report(prog, audit)) == whole
    print(f"\n{variant.name}: {RUNS} runs: {dict(outcomes)}")
    assert min(outcomes["lost"], outcomes["same"]) > RUNS // 10
