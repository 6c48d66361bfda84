# SPDX-License-Identifier: LGPL-2.1-or-later
"""Pages that an ELF dump leaves out, which drgn reads as zeros.

makedumpfile ends a segment in the file before its end in memory (p_filesz <
p_memsz) where it excludes pages: pages of zeros (dump level 1), or pages that the
user did not want (2 to 16). ELF's rule is that these bytes are zero, and drgn follows
it: see drgn_program_set_core_dump_fd_internal() in libdrgn/program.c, v0.3.0.
But the zeros are a guess: an excluded stack, list or page table would look empty. So
here reads of these pages fault. A kdump file does not need this: it contains the
pages of zeros, and libkdumpfile faults on excluded pages.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from heapq import heappop, heappush
from typing import NoReturn

import msgspec
from drgn import FaultError, Program

from .elf import PT_LOAD, Elf, Segment

__all__ = ("fault_on_excluded_pages",)

_ADDRESSES = 1 << 64


class Span(msgspec.Struct, frozen=True):
    """A segment in one address space, virtual or physical."""

    begin: int
    in_file_end: int
    end: int


def fault_on_excluded_pages(prog: Program, elf: Elf) -> None:
    """Make reads of pages that an ELF dump leaves out raise a FaultError, not return zeros.

    :param elf: Headers of the dump that *prog* was opened from
    """
    segments = [segment for segment in elf.segments if segment.type == PT_LOAD]
    if all(segment.file_bytes >= segment.memory_bytes for segment in segments):
        return
    for physical in (False, True):
        spans = [_span(segment, physical) for segment in segments]
        if physical and not any(span.begin for span in spans):
            continue  # drgn's rule: if all physical addresses are 0, there are none
        for begin, end in excluded_ranges(spans):
            prog.add_memory_segment(begin, end - begin, _fault, physical)


def _span(segment: Segment, physical: bool) -> Span:
    begin = segment.physical_address if physical else segment.address
    end = min(begin + segment.memory_bytes, _ADDRESSES)
    return Span(begin, min(begin + segment.file_bytes, end), end)


def excluded_ranges(spans: Sequence[Span]) -> Iterator[tuple[int, int]]:
    """Return [begin, end) of the addresses that have no bytes in the file.

    If an address is in several spans, the last one counts: drgn reads from that segment.
    """
    edges = sorted({edge for span in spans for edge in (span.begin, span.in_file_end, span.end)})
    waiting = sorted(range(len(spans)), key=lambda i: spans[i].begin, reverse=True)
    covering: list[int] = []  # a heap of negated indexes into spans
    for begin, end in zip(edges, edges[1:]):
        while waiting and spans[waiting[-1]].begin <= begin:
            heappush(covering, -waiting.pop())
        while covering and spans[-covering[0]].end <= begin:
            heappop(covering)
        if covering and spans[-covering[0]].in_file_end <= begin:
            yield begin, end


def _fault(address: int, count: int, offset: int, physical: bool) -> NoReturn:
    raise FaultError("left out of the dump", address)
