# SPDX-License-Identifier: LGPL-2.1-or-later
"""Our walks are those of the kernel's own source, on random stacks."""

from __future__ import annotations

import msgspec
import pytest

from drgn_tools.arch.x86.orc_entry import FRAME_POINTER_ENTRY
from drgn_tools.unwind import orc
from drgn_tools.unwind.base import End, Fault

from .differential.command import Result, compare_version, find_dump
from .differential.source import VERSIONS, has_unwinder
from .errors import LabError

pytestmark = pytest.mark.lab

STACKS = 20_000
SEED = 1


def compare(version: str, count: int = STACKS) -> Result:
    """Compare by the rules of a kernel that is in the lab's cache, or skip."""
    if find_dump(version) is None:
        pytest.skip(f"the lab's cache has no dump of a {version} kernel with ORC")
    try:
        there = has_unwinder(version)
    except LabError as e:
        pytest.skip(str(e))
    if not there:
        pytest.skip(f"not fetched yet: python -m tests.lab differential {version}")
    return compare_version(version, count, SEED)


@pytest.mark.parametrize("version", VERSIONS)
def test_walks_are_those_of_the_kernels_source(version: str) -> None:
    what, figures, _ = compare(version)
    print(f"\n{what}, seed {SEED}", *figures.lines(), sep="\n")
    repeat = f"python -m tests.lab differential {version} --stacks {STACKS} --seed {SEED}"
    assert not figures.differences, "\n".join((repeat, *map(str, figures.differences)))
    # Stacks come to every end, and the fast path has told of some.
    faults = {fault.value for fault in Fault}
    ends = {end.value for end in (End.USER_REGS, End.LAST_FRAME, End.EMPTY)}
    assert set(figures.ends) == faults | ends
    assert figures.signatures > STACKS // 20
    assert figures.verdicts["reliable"] > STACKS // 10
    assert figures.verdicts["too_many_entries"] > 10
    assert sum(figures.departures.values()) < STACKS // 50


def test_a_difference_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    version = next((v for v in VERSIONS if find_dump(v) is not None), VERSIONS[0])
    wrong = msgspec.structs.replace(FRAME_POINTER_ENTRY, offset=24)
    monkeypatch.setattr(orc, "FRAME_POINTER_ENTRY", wrong)
    found = compare(version, 2000).figures
    assert found.difference_count > 10
    assert "kernel: " in str(found.differences[0])
