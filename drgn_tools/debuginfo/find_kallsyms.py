# SPDX-License-Identifier: LGPL-2.1-or-later
"""Finds kallsyms in the memory of kernels whose VMCOREINFO does not have its address (before v6.0).

scripts/kallsyms.c writes its tables in this order (v5.10, v6.0), each aligned to a word::

    kallsyms_offsets         for each symbol a 32-bit offset
    kallsyms_relative_base   a word
    kallsyms_num_syms        32 bits
    kallsyms_names           for each symbol a length byte and tokens
    kallsyms_markers         32 bits: where each 256th symbol's name begins
    kallsyms_token_table     256 strings, each ending in NUL
    kallsyms_token_index     for each of them 16 bits: where it begins

Since about v6.4 offsets and relative_base come last. The token table can be recognised, because the
token of a digit is that digit.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Callable, Optional

__all__ = ("find_kallsyms",)

_DIGITS = b"".join(bytes((c, 0)) for c in range(ord("0"), ord("9") + 1))
_TOKENS = 256
_MAX_TABLE_BYTES = 64 * 1024
"""A 16-bit index reaches no further."""
_CHUNK_BYTES = 2 << 20
_BLOCK_BYTES = 4096
_MAX_IMAGE_BYTES = 128 << 20
"""Limit of text and read-only data. Read-only data follows the text of the kernel; no image has more of both together."""
_MAX_SYMBOLS = 4_000_000
_SYMBOLS_A_MARKER = 256
_MAX_LAST_STRETCH_BYTES = _SYMBOLS_A_MARKER * 129
"""Limit of the names after the last marker: a length byte and at most 128 tokens each (before v6.1)."""

ReadUpTo = Callable[[int, int], bytes]
"""Virtual address, size in bytes -> the bytes up to the first one that is not in the dump."""


def find_kallsyms(read: ReadUpTo, start: int, word_bytes: int) -> Iterator[dict[str, int]]:
    """Search the kernel image for the tables.

    :param read: reads the memory of the kernel
    :param start: virtual address of the beginning of the kernel's text
    :param word_bytes: size of a word of this kernel
    :return: for each possible arrangement, the virtual addresses of the tables by their names
        without ``kallsyms_``; the caller has to check that the table of addresses makes sense
    """
    for digits in _digit_tokens(read, start):
        token_table = _token_table(read, digits, word_bytes)
        if token_table is not None:
            yield from _around_token_table(read, *token_table, word_bytes)


def _digit_tokens(read: ReadUpTo, start: int) -> Iterator[int]:
    at, end = start, start + _MAX_IMAGE_BYTES
    while at < end:
        chunk = read(at, _CHUNK_BYTES + len(_DIGITS))
        place = chunk.find(_DIGITS)
        while place >= 0:
            yield at + place
            place = chunk.find(_DIGITS, place + 1)
        at += _CHUNK_BYTES


def _token_table(read: ReadUpTo, digits: int, word_bytes: int) -> Optional[tuple[int, int]]:
    """Return (token table, token index) if *digits* is the address of the token "0" in a token table."""
    data = read(digits, _MAX_TABLE_BYTES)
    end = 0
    for _ in range(_TOKENS - ord("0")):
        end = data.find(b"\0", end) + 1
        if not end:
            return None
    token_index = _align(digits + end, word_bytes)
    raw = read(token_index, 2 * _TOKENS)
    if len(raw) < 2 * _TOKENS:
        return None
    index = struct.unpack(f"<{_TOKENS}H", raw)
    token_table = digits - index[ord("0")]
    tokens = read(token_table, index[-1])
    # Each token but the first begins right after a NUL.
    well_formed = index[0] == 0 and all(
        a < b and tokens[b - 1 : b] == b"\0" for a, b in zip(index, index[1:])
    )
    return (token_table, token_index) if well_formed else None


def _around_token_table(
    read: ReadUpTo, token_table: int, token_index: int, word_bytes: int
) -> Iterator[dict[str, int]]:
    markers = _markers(read, token_table)
    start = token_table - 4 * len(markers)
    if markers and markers[-1] == 0:
        markers.pop()  # padding
    if len(markers) < 2:
        return
    names = _names(read, start, markers, word_bytes)
    if names is None:
        return
    num_syms = names - word_bytes
    count = struct.unpack("<I", read(num_syms, 4))[0]
    found = {
        "names": names,
        "num_syms": num_syms,
        "token_table": token_table,
        "token_index": token_index,
    }
    offsets_bytes = _align(4 * count, word_bytes)
    before = num_syms - word_bytes
    yield {**found, "relative_base": before, "offsets": before - offsets_bytes}
    behind = _align(token_index + 2 * _TOKENS, word_bytes)
    yield {**found, "offsets": behind, "relative_base": behind + offsets_bytes}


def _markers(read: ReadUpTo, end: int) -> list[int]:
    """Return the markers, which end at *end* and begin with 0, in ascending order.

    If the last 4 bytes are padding, their 0 is kept as the last number.
    """
    found: list[int] = []
    padding: list[int] = []
    for i, value in enumerate(_words_before(read, end)):
        if i == 0 and value == 0:
            padding = [0]
        elif found and value >= found[-1]:
            return []
        else:
            found.append(value)
            if value == 0:
                return [*reversed(found), *padding]
    return []


def _words_before(read: ReadUpTo, end: int) -> Iterator[int]:
    for at in range(end - _BLOCK_BYTES, end - _MAX_SYMBOLS // _SYMBOLS_A_MARKER * 4, -_BLOCK_BYTES):
        block = read(at, _BLOCK_BYTES)
        if len(block) < _BLOCK_BYTES:
            return
        yield from reversed(struct.unpack(f"<{_BLOCK_BYTES // 4}I", block))


def _names(
    read: ReadUpTo, markers_start: int, markers: list[int], word_bytes: int
) -> Optional[int]:
    """Return the address of the names. *markers* are offsets into them, and they end before *markers_start*."""
    fewest = (len(markers) - 1) * _SYMBOLS_A_MARKER
    nearest = markers_start - markers[-1]
    for names in range(
        nearest - nearest % word_bytes, nearest - _MAX_LAST_STRETCH_BYTES, -word_bytes
    ):
        raw = read(names - word_bytes, 4)
        if len(raw) < 4:
            return None
        count = struct.unpack("<I", raw)[0]
        if fewest < count <= fewest + _SYMBOLS_A_MARKER and _leads_to(read, names, markers[1]):
            return names
    return None


def _leads_to(read: ReadUpTo, names: int, second_marker: int) -> bool:
    data = read(names, second_marker + 1)
    at = 0
    for _ in range(_SYMBOLS_A_MARKER):
        if at >= len(data):
            return False
        at += 1 + data[at]
    return at == second_marker


def _align(value: int, to: int) -> int:
    return -(-value // to) * to
