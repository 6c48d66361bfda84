# SPDX-License-Identifier: LGPL-2.1-or-later
"""docs/crashes.md says what is measured now, and the words of its table mean what they say."""

from __future__ import annotations

from pathlib import Path

import pytest

from ..conftest import lab_dump
from ..lab.dump import cached_dump, kernel_if_cached
from ..lab.variants import Variant, variant_named, variants_of
from ..support.compare_drgn import (
    EQUAL,
    GIVEN_BACK,
    LEFT_SWAPPED,
    MORE_CALLERS,
    OTHER,
    Row,
    crash_table,
    differences,
    measure,
    sleepers,
    table_in,
)
from ..support.console import Entry

DOCUMENT = Path(__file__).parents[2] / "docs" / "crashes.md"

REGS = {"RAX": 1, "RSP": 2}
CONSOLE = [
    Entry("IRQ", "fault+0x1", REGS),
    Entry("IRQ", "handler+0x2"),
    Entry("TASK", "victim+0x3", REGS),
    Entry("TASK", "entry+0x4"),
    Entry("TASK", "0x401000", REGS),
]


def row(variant: Variant) -> Row:
    dump, kernel = lab_dump(variant), kernel_if_cached(variant)
    assert kernel is not None
    return measure(variant.name.partition("crash-")[2], dump, kernel.modules, None)


def lasting(table: str) -> list[list[str]]:
    """The cells of a table that stay when its dumps are made anew.

    The timer interrupts a task wherever it happens to be: the number of frames, and with it what drgn
    has of them, is another one in each dump.
    """
    lines = [line.strip("| ").split(" | ") for line in table.splitlines() if " | " in line]
    return [[*cells[:2], cells[3]] if "`<IRQ>`" in cells[1] else cells for cells in lines]


@pytest.mark.lab
def test_table_of_crashes_is_what_is_measured() -> None:
    rows = [row(variant) for variant in variants_of("crashes")]
    assert lasting(table_in(DOCUMENT.read_text(), "crashes")) == lasting(crash_table(rows))
    # Past a stack that overflowed we go on, and see through a kretprobe: test_crashes.py
    # holds that against the oops.
    others = ("stack-overflow", "hardirq-overflow", "kretprobe-below")
    assert all(r.ours == "equal" or r.crash.startswith(others) for r in rows)


@pytest.mark.lab
def test_drgn_differs_asleep_only_as_documented() -> None:
    lab_dump(variants_of("crashes")[0])  # skips where crashes are not asked for
    variant = variant_named("fp-lsb")
    dump, kernel = cached_dump(variant), kernel_if_cached(variant)
    assert dump is not None and kernel is not None, "make lab"
    found = sleepers(dump, kernel.modules)
    assert found.ours.differences == ()
    kinds = [sleeper.kind for sleeper in found.drgn]
    assert OTHER not in kinds
    # Tracers are on in this dump, and its zombie has given its stack back.
    assert LEFT_SWAPPED in kinds
    assert set(kinds) - {LEFT_SWAPPED, GIVEN_BACK, MORE_CALLERS} == {EQUAL}


@pytest.mark.parametrize(
    ("other", "found"),
    [
        (CONSOLE, []),
        (CONSOLE[:-1], ["no user registers"]),
        ([*CONSOLE[:-1], Entry("", "0xf000ff53f000e2c3")], ["no user registers", "bogus end"]),
        ([*CONSOLE, Entry("", "0xf000ff53f000e2c3")], ["bogus end"]),
        (CONSOLE[:2], ["lacks `victim`, `entry`", "no user registers"]),
        ([*CONSOLE[:1], *CONSOLE[2:]], ["lacks `handler`"]),
        (
            [CONSOLE[0], Entry("", "return_to_handler+0x0"), *CONSOLE[2:]],
            ["`return_to_handler` for `handler`"],
        ),
        (
            [CONSOLE[0], Entry("IRQ", "caller+0x9"), *CONSOLE[1:]],
            ["has `caller` as well"],
        ),
        (
            [*CONSOLE, Entry("", "main+0x9"), Entry("", "start+0x9")],
            ["goes on to `start`"],
        ),
        ([CONSOLE[0]._replace(registers=None), *CONSOLE[1:]], ["no registers of `fault`"]),
        ([CONSOLE[0]._replace(registers={"RAX": 9}), *CONSOLE[1:]], ["other registers of `fault`"]),
        ([CONSOLE[0]._replace(stack="NMI"), *CONSOLE[1:]], ["`fault` on <NMI>"]),
        (
            [CONSOLE[0], CONSOLE[1]._replace(registers=REGS), *CONSOLE[2:]],
            ["`handler` as if interrupted"],
        ),
    ],
)
def test_every_difference_is_said(other: list[Entry], found: list[str]) -> None:
    assert list(differences(CONSOLE, other)) == found


def test_document_has_a_place_for_each_table() -> None:
    document = DOCUMENT.read_text()
    assert table_in(document, "crashes").startswith("| crash |")
    assert table_in(document, "asleep").startswith("| `fp-lsb`")
