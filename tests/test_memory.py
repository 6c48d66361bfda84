# SPDX-License-Identifier: LGPL-2.1-or-later
"""Memory with holes, and lists that are whole, bent into a loop, or lead out of the dump."""

from __future__ import annotations

import drgn
import pytest
from drgn import FaultError

from drgn_tools.memory import list_entries, read_or_none, read_up_to, read_word_or_none

from .support.drawn_kernel import DrawnKernel


def test_what_is_there_of_a_range_is_read_up_to_the_first_page_that_is_not() -> None:
    memory = bytes(range(256)) * 64
    prog = drgn.Program(drgn.Platform(drgn.Architecture.X86_64))

    def read(address: int, count: int, offset: int, physical: bool) -> bytes:
        if address <= 0x13000 < address + count or address >= 0x13000:
            raise drgn.FaultError("a page is missing", address)  # not: which, as of a kdump file
        return memory[offset : offset + count]

    prog.add_memory_segment(0x10000, len(memory), read)
    assert read_up_to(prog, 0x10010, 0x100) == memory[0x10:0x110]
    assert read_up_to(prog, 0x10010, 0x3800) == memory[0x10:0x3000]
    assert read_up_to(prog, 0x12FFF, 1 << 30) == memory[0x2FFF:0x3000]
    for address in (0x13000, 0x13100, 0x20000):
        assert read_up_to(prog, address, 0x2000) == b""


def test_all_of_a_range_is_read_or_nothing() -> None:
    kernel = DrawnKernel()
    kernel.put_word(kernel.base, 0x1234)
    assert read_or_none(kernel.prog, kernel.base, 2) == b"\x34\x12"
    for address in (kernel.nowhere - 1, kernel.nowhere, 1 << 64, -8):
        assert read_or_none(kernel.prog, address, 2) is None


@pytest.mark.parametrize("wrapped", [0, 1 << 64, -1 << 64])
def test_address_of_a_word_wraps_around(wrapped: int) -> None:
    kernel = DrawnKernel()
    kernel.put_word(kernel.base, 0x1234)
    assert read_word_or_none(kernel.prog, kernel.base + wrapped) == 0x1234
    assert read_word_or_none(kernel.prog, kernel.nowhere + wrapped) is None


def drawn_list() -> tuple[DrawnKernel, list[int], drgn.Object]:
    """A list of three entries: their addresses, and its head."""
    kernel = DrawnKernel()
    kernel.struct("entry", "unsigned long first; struct list_head list")
    head = kernel.variable("heads", "struct list_head")
    entries = [kernel.new("struct entry") for _ in range(3)]
    kernel.ring(head, *(entry + 8 for entry in entries))
    return kernel, entries, kernel.prog["heads"]


def found(head: drgn.Object, until: type[Exception]) -> list[int]:
    """The addresses of the entries up to the one where the walk fails."""
    addresses = []
    with pytest.raises(until):
        for entry in list_entries(head, "struct entry", "list"):
            addresses.append(entry.value_())
    return addresses


def test_list_has_its_entries_in_order() -> None:
    _, entries, head = drawn_list()
    found = list_entries(head, "struct entry", "list")
    assert [entry.value_() for entry in found] == entries


def test_empty_list_has_no_entries() -> None:
    kernel, _, head = drawn_list()
    kernel.ring(head.address_)
    assert list(list_entries(head, "struct entry", "list")) == []


@pytest.mark.parametrize("back_to", [0, 1, 2])
def test_list_bent_into_a_loop_ends_there(back_to: int) -> None:
    kernel, entries, head = drawn_list()
    kernel.put_word(entries[2] + 8, entries[back_to] + 8)
    assert found(head, ValueError) == entries


def test_list_that_leads_out_of_the_dump_ends_there() -> None:
    kernel, entries, head = drawn_list()
    kernel.put_word(entries[2] + 8, kernel.nowhere + 8)
    assert found(head, FaultError) == entries


@pytest.mark.parametrize("passed_over", [1, 2, 3])
def test_list_that_leads_past_entries_ends_there(passed_over: int) -> None:
    # A fuzzer made a list of modules empty, and another one shorter: nothing said so.
    kernel, entries, head = drawn_list()
    assert head.address_ is not None
    nodes = [*(entry + 8 for entry in entries), head.address_]
    kernel.put_word(head.address_, nodes[passed_over])
    assert found(head, ValueError) == []


def test_list_that_leads_past_its_last_entries_ends_there() -> None:
    kernel, entries, head = drawn_list()
    assert head.address_ is not None
    kernel.put_word(entries[0] + 8, head.address_)
    assert found(head, ValueError) == entries[:1]
