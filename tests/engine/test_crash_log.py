# SPDX-License-Identifier: LGPL-2.1-or-later
"""The headlines of a crash in the kernel log."""

from __future__ import annotations

from typing import NoReturn

import drgn
import pytest

from drgn_tools import kernel_info, open_program
from drgn_tools.engine.crash_log import crash_headlines

from ..conftest import lab_dump
from ..lab.variants import Variant, variants_of


def test_a_kernel_that_did_not_die_said_nothing(demo_program: drgn.Program) -> None:
    assert kernel_info(demo_program).last_words == ()
    assert crash_headlines(demo_program) == ()


def test_a_log_without_bounds_is_left_alone(demo_core: str) -> None:
    prog = open_program(core=demo_core)
    ring = prog["prb"].desc_ring
    # drgn would go through 2^40 records.
    beyond = (ring.tail_id.counter.value_() + (1 << 40)).to_bytes(8, "little")
    prog.add_memory_segment(
        ring.head_id.counter.address_of_().value_(),
        8,
        lambda address, count, offset, physical: beyond[offset : offset + count],
    )
    assert crash_headlines(prog) == ()


def overlay(prog: drgn.Program, address: int, data: bytes) -> None:
    prog.add_memory_segment(
        address, len(data), lambda at, count, offset, physical: data[offset : offset + count]
    )


def test_a_line_that_only_mentions_one_is_no_headline(demo_core: str) -> None:
    prog = open_program(core=demo_core)
    text = prog["prb"].text_data_ring.data.value_()
    start = prog.read(text, 4096)
    at = start.index(b"Linux version ")
    overlay(prog, text + at + 4, b" BUG: no")
    assert crash_headlines(prog) == ()
    overlay(prog, text + at, b"BUG: no line")
    (line,) = crash_headlines(prog)
    assert line.startswith("BUG: no line")


@pytest.mark.parametrize(
    "words",
    [
        b"Unable to handle kernel paging request at virtual address 0000000000001000",
        b"Internal error: Oops: 0000000096000046 [#1] SMP",
        b"Insufficient stack space to handle exception!",
    ],
)
def test_the_headlines_of_arm64(words: bytes, demo_core: str) -> None:
    """As a console of 6.1 had them; of an oops only the line of panic() was shown."""
    prog = open_program(core=demo_core)
    text = prog["prb"].text_data_ring.data.value_()
    overlay(prog, text + prog.read(text, 4096).index(b"Linux version "), words)
    (line,) = crash_headlines(prog)
    assert line.startswith(words.decode())


def test_text_that_is_missing_may_be_what_was_never_written(demo_core: str) -> None:
    prog = open_program(core=demo_core)
    ring = prog["prb"].text_data_ring
    text, size = ring.data.value_(), 1 << ring.size_bits.value_()
    at = prog.read(text, 4096).index(b"Linux version ")
    overlay(prog, text + at, b"BUG: no line")

    def missing(address: int, count: int, offset: int, physical: bool) -> NoReturn:
        raise drgn.FaultError("left out", address)

    unused = prog.read(text, size).rstrip(b"\0")
    assert len(unused) < size - 4096
    prog.add_memory_segment(text + size - 4096, 4096, missing)
    assert len(crash_headlines(prog)) == 1


@pytest.mark.lab
@pytest.mark.parametrize(
    "variant",
    [*variants_of("crashes"), *variants_of("crashes-years"), *variants_of("crashes-stock")],
    ids=lambda v: v.name,
)
def test_the_last_words_are_the_consoles(variant: Variant) -> None:
    dump = lab_dump(variant)
    words = kernel_info(open_program(core=dump.core)).last_words
    printed = dump.said.read_text(errors="replace")
    assert words
    assert all(line in printed for line in words)
    assert variant.crash is not None
    # A crash kernel is started before panic() says its line only after an oops.
    if not (variant.kdump and variant.crash.oops):
        assert words[-1].startswith("Kernel panic - not syncing: ")
    if variant.crash.oops is not None and variant.crash.name != "hardirq-warn":
        assert words[0].startswith(("BUG: ", "kernel BUG at "))
