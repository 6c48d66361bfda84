# SPDX-License-Identifier: LGPL-2.1-or-later
"""Our walks are those of the kernel's own source, on random stacks."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from drgn_tools.arch.x86.orc_entry import FRAME_POINTER_ENTRY
from drgn_tools.unwind import orc
from drgn_tools.unwind.base import End, Fault

from ..conftest import lab_dump, lab_file
from .differential.command import compare_version
from .differential.source import VERSIONS
from .variants import variant_named

pytestmark = pytest.mark.lab

STACKS = 20_000
SEED = 1


def core_of(version: str) -> Path:
    """A dump whose tables are walked by, or skip or fail as the other tests of the lab do."""
    if version == "6.1":
        return lab_file("debian.core")
    return lab_dump(variant_named(f"stock-{version}")).core


@pytest.mark.parametrize("version", VERSIONS)
def test_walks_are_those_of_the_kernels_source(version: str) -> None:
    what, figures, _ = compare_version(version, STACKS, SEED, core_of(version))
    print(f"\n{what}, seed {SEED}", *figures.lines(), sep="\n")
    repeat = f"python -m tests.lab differential {version} --stacks {STACKS} --seed {SEED}"
    assert not figures.differences, "\n".join((repeat, *map(str, figures.differences)))
    # Stacks come to every end, and the fast path has told of some.
    of_arm64 = {Fault.BAD_FRAME_RECORD, Fault.ADDRESS_NOT_RECOVERED}
    faults = {fault.value for fault in set(Fault) - of_arm64}
    ends = {end.value for end in (End.USER_REGS, End.LAST_FRAME, End.EMPTY)}
    assert set(figures.ends) == faults | ends
    assert figures.signatures > STACKS // 20
    assert figures.verdicts["reliable"] > STACKS // 10
    assert figures.verdicts["too_many_entries"] > 10
    assert sum(figures.departures.values()) < STACKS // 50


def test_a_difference_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    core = core_of("6.1")
    wrong = msgspec.structs.replace(FRAME_POINTER_ENTRY, offset=24)
    monkeypatch.setattr(orc, "FRAME_POINTER_ENTRY", wrong)
    found = compare_version("6.1", 2000, SEED, core).figures
    assert found.difference_count > 10
    assert "kernel: " in str(found.differences[0])
