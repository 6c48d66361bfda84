# SPDX-License-Identifier: LGPL-2.1-or-later
"""The compressed names of kallsyms: from the number of a symbol to its name, and back.

A record is a length and that many codes, each of which stands for a token. The first character
of the expanded record is the type letter, as in nm(1). A name is expanded when it is looked up.

Since Linux kernel commit 60443c88f3a8 ("kallsyms: Improve the performance of
kallsyms_lookup_name()") (in v6.2 and in stable kernels), the kernel looks up a name in
``kallsyms_seqs_of_names``, the numbers in the order of the names. This file does the same. If there
is no such table, it expands all names once.

The bytes come from a dump and may be damaged. Then names are missing or wrong, and nothing is
raised.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from itertools import repeat
from operator import le
from typing import Optional

__all__ = ("MAX_NAMES_BYTES", "MAX_NAME_BYTES", "SEQ_BYTES", "SymbolNames")

MAX_NAME_BYTES = 512
"""KSYM_NAME_LEN, since v6.1."""
MAX_NAMES_BYTES = 64 << 20
"""Limit for all names of a table; those of a distribution's kernel take 5 MB."""
_MAX_EXPANDED_BYTES = 24 << 20
"""Limit for the expanded names: those of 200,000 symbols have 5 MB. Damaged tokens may be long, and all names are in memory twice."""
SEQ_BYTES = 3
"""Size of a number in ``kallsyms_seqs_of_names``."""

_SAMPLE_STEP = 512
"""One number in this many is checked before the table is used: at least two in each page."""


def _split(data: bytes, count: int) -> list[int]:
    # Return where each of *count* records starts, and where the last one ends. A
    # length of 128 or more takes two bytes since Linux kernel commit 73bbb94466fd
    # ("kallsyms: support "big" kernel symbols") (in v6.1). Older kernels have no
    # such long names, so one rule fits both.
    starts: list[int] = []
    append = starts.append
    at = 0
    try:
        for _ in repeat(None, count):
            append(at)
            length = data[at]
            if length & 0x80:
                length = (length & 0x7F | data[at + 1] << 7) + 1
            at += length + 1
        append(at)
    except IndexError:  # cut off, or damaged
        pass
    if at > len(data):
        starts.pop()
    return starts


class _InOrder:
    """Names in the order of ``kallsyms_seqs_of_names``, for bisect."""

    def __init__(self, names: SymbolNames, seqs: bytes) -> None:
        self._names = names
        self._seqs = seqs

    def __len__(self) -> int:
        return len(self._names)

    def number(self, place: int) -> int:
        at = SEQ_BYTES * place
        return min(int.from_bytes(self._seqs[at : at + SEQ_BYTES], "big"), len(self) - 1)

    def numbers(self) -> list[int]:
        """Return all numbers in the order of the table."""
        high, middle, low = (self._seqs[at::SEQ_BYTES] for at in range(SEQ_BYTES))
        return [h << 16 | m << 8 | n for h, m, n in zip(high, middle, low)]

    def __getitem__(self, place: int) -> str:
        return self._names[self.number(place)][1:]


class SymbolNames:
    """Type letter and name of every symbol, by its number.

    :param data: ``kallsyms_names``: for each symbol a length and that many codes
    :param tokens: the token of each of the 256 codes
    :param count: how many symbols there are; fewer are found if *data* ends early
    :param seqs: ``kallsyms_seqs_of_names``, or bytes that may be that table: it is checked
    """

    def __init__(
        self, data: bytes, tokens: Sequence[str], count: int, seqs: Optional[bytes] = None
    ) -> None:
        self._tokens = tokens
        self._starts = _split(data, count)
        self._data = data[: self._starts[-1]] if self._starts else b""
        self._decoded: Optional[list[str]] = None
        self._last: dict[str, int] = {}
        self._twins: dict[str, list[int]] = {}
        self._in_order: Optional[_InOrder] = None
        self._samples: list[str] = []
        self._are_sound: Optional[bool] = None
        self._has_seqs = False
        """Whether the kernel has that table, but it is damaged and not used."""
        if seqs is not None and len(seqs) == SEQ_BYTES * count == SEQ_BYTES * len(self):
            self._use(_InOrder(self, seqs))

    def _use(self, in_order: _InOrder) -> None:
        places = range(0, len(self), _SAMPLE_STEP)
        samples = [(in_order[place], in_order.number(place)) for place in places]
        # Each number is in the table once, so no two samples are equal.
        if all(a < b for a, b in zip(samples, samples[1:])):
            self._in_order = in_order
            self._samples = [name for name, _ in samples]
        else:
            # In the table each number occurs once. Other bytes give few different valid numbers.
            numbers = [number for _, number in samples]
            self._has_seqs = len(set(numbers)) > len(numbers) // 2

    def __len__(self) -> int:
        """Return the number of symbols."""
        return max(len(self._starts) - 1, 0)

    def __getitem__(self, number: int) -> str:
        """Return type letter and name of a symbol, in one string.

        :param number: number of the symbol, in the order of addresses
        """
        start, end = self._starts[number], self._starts[number + 1]
        start += 2 if self._data[start] & 0x80 else 1
        codes = self._data[start : min(end, start + MAX_NAME_BYTES)]
        return "".join(map(self._tokens.__getitem__, codes))[: MAX_NAME_BYTES + 1]

    def all(self) -> list[str]:
        """Return what :meth:`__getitem__` returns, for all symbols.

        :return: nothing if the names take more than 24 MiB
        """
        # Expanding all at once takes half the time: every code becomes its token, every
        # length becomes a separator.
        if self._decoded is None:
            pieces = list(map(self._tokens.__getitem__, self._data))
            data = self._data
            for start in self._starts[:-1]:
                pieces[start] = "\0"
                if data[start] & 0x80:
                    pieces[start + 1] = ""
            if len(max(self._tokens, key=len)) * len(pieces) > _MAX_EXPANDED_BYTES:
                pieces = pieces if sum(map(len, pieces)) <= _MAX_EXPANDED_BYTES else []
            self._decoded = "".join(pieces).split("\0")[1:]
        return self._decoded

    def find(self, name: str) -> list[int]:
        """Return the numbers of all symbols with this name, ascending."""
        # Some versions sort names up to the first period if the kernel is built with
        # clang and LTO. For an identifier the order is the same.
        if self._in_order is None or not (name.isascii() and name.isidentifier()):
            return self._scanned(name)
        in_order = self._in_order
        sample = bisect_left(self._samples, name)
        end = min(sample * _SAMPLE_STEP, len(self))
        place = bisect_left(in_order, name, max(0, sample - 1) * _SAMPLE_STEP, end)
        found = []
        for at in range(place, len(self)):
            following = in_order[at]
            if following == name:
                found.append(in_order.number(at))
            elif following.partition(".")[0] != name:
                break
        return sorted(found)

    def are_sound(self) -> bool:
        """Return whether all names are valid, and sorted as ``kallsyms_seqs_of_names`` says.

        A damaged token or code changes names, and then few names are still in order. Kernels without
        that table have no order to check. The answer is kept, because several dumps may share the
        names.
        """
        if self._are_sound is None:
            self._are_sound = self._check()
        return self._are_sound

    def _check(self) -> bool:
        names = self.all()
        joined = "".join(names)
        if len(names) != len(self) or not (joined.isascii() and joined.isprintable()):
            return False
        if " " in joined:
            return False
        if self._in_order is None:
            return not self._has_seqs
        numbers = self._in_order.numbers()
        if max(numbers, default=-1) >= len(names):
            return False
        # Names with a period are left out: see find().
        ordered = (names[number][1:] for number in numbers)
        in_order = [name for name in ordered if "." not in name]
        return all(map(le, in_order, in_order[1:]))

    def _scanned(self, name: str) -> list[int]:
        if not self._last:
            names = [name[1:] for name in self.all()]
            self._last = dict(zip(names, range(len(names))))
            last = map(self._last.__getitem__, names)
            for number in [number for number, found in enumerate(last) if number != found]:
                # Symbols with the same name, such as static functions.
                self._twins.setdefault(names[number], []).append(number)
        found = self._last.get(name)
        return [] if found is None else [*self._twins.get(name, ()), found]
