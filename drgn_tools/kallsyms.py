# SPDX-License-Identifier: LGPL-2.1-or-later
"""The kernel's own symbol table, read out of its memory.

The table is what scripts/kallsyms.c wrote: names compressed with a table of
256 tokens, addresses as 32-bit offsets, sorted by address. VMCOREINFO says
where the parts lie (since v6.0, commit 5fd8fea935a1, "vmcoreinfo: include
kallsyms symbols"). Lookups follow kernel/kallsyms.c, so names are the ones an
oops of that kernel would print.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Sequence
from typing import Optional

from drgn import FaultError, Program, Symbol, SymbolBinding, SymbolKind

from .vmcoreinfo import vmcoreinfo_symbol

__all__ = ("Kallsyms", "find_symbols", "kallsyms_of")

_CACHE_KEY = "drgn_tools.kallsyms"
MAX_SYMBOLS = 4_000_000
MAX_NAME_TOKENS = 1024
_READ_BYTES = 1 << 18


class Kallsyms:
    """Symbols of the core kernel.

    :param names: ``kallsyms_names``: per symbol a length and that many token numbers
    :param tokens: The 256 tokens
    :param addresses: Address of each symbol, ascending
    """

    def __init__(self, names: bytes, tokens: Sequence[bytes], addresses: Sequence[int]) -> None:
        self._names = names
        self._tokens = tokens
        self._addresses = addresses
        self._ends: Optional[tuple[list[int], list[int]]] = None
        self._by_name: Optional[dict[str, list[int]]] = None

    def _bounds(self) -> tuple[list[int], list[int]]:
        # Where each compressed name starts and ends. A length of 128 and more
        # takes two bytes: since Linux kernel commit 73bbb94466fd ("kallsyms:
        # support "big" kernel symbols") (in v6.1). Before that no name was
        # that long, so the rule serves both.
        if self._ends is None:
            starts: list[int] = []
            ends: list[int] = []
            names, at = self._names, 0
            try:
                for _ in range(len(self._addresses)):
                    length = names[at]
                    at += 1
                    if length & 0x80:
                        length = length & 0x7F | names[at] << 7
                        at += 1
                    starts.append(at)
                    at += length
                    ends.append(at)
            except IndexError:  # cut off, or damaged
                pass
            self._ends = starts, ends
        return self._ends

    def _name(self, index: int) -> str:
        starts, ends = self._bounds()
        codes = self._names[starts[index] : min(ends[index], starts[index] + MAX_NAME_TOKENS)]
        return b"".join(map(self._tokens.__getitem__, codes)).decode("ascii", "backslashreplace")

    def _indexes(self, name: str) -> list[int]:
        if self._by_name is None:
            by_name: dict[str, list[int]] = {}
            for index in range(len(self._bounds()[0])):
                by_name.setdefault(self._name(index)[1:], []).append(index)
            self._by_name = by_name
        return self._by_name.get(name, [])

    def find(self, name: str) -> list[int]:
        """Return the addresses of all symbols of a name."""
        return [self._addresses[index] for index in self._indexes(name)]

    def _position(self, address: int) -> Optional[tuple[int, int]]:
        # get_symbol_pos() in kernel/kallsyms.c (v6.12): index and size.
        low, high = 0, len(self._bounds()[0])
        addresses = self._addresses
        if not high or address < addresses[0]:
            return None
        while high - low > 1:
            middle = (low + high) // 2
            if addresses[middle] <= address:
                low = middle
            else:
                high = middle
        start = addresses[low]
        while low and addresses[low - 1] == start:
            low -= 1
        for following in range(low + 1, len(addresses)):
            if addresses[following] > start:
                return low, addresses[following] - start
        return None

    def at(self, address: int) -> Optional[tuple[str, int, int]]:
        """Return (name, start, size) of the symbol that holds an address, ``None`` if none does."""
        position = self._position(address)
        if position is None:
            return None
        index, size = position
        return self._name(index)[1:], self._addresses[index], size


def _read_table(prog: Program) -> Kallsyms:
    symbol = {
        name: vmcoreinfo_symbol(prog, f"kallsyms_{name}")
        for name in ("names", "num_syms", "token_table", "token_index", "offsets", "relative_base")
    }
    count = min(prog.read_u32(symbol["num_syms"]), MAX_SYMBOLS)
    base = prog.read_word(symbol["relative_base"])
    offsets = array("i", prog.read(symbol["offsets"], 4 * count))
    addresses = [base - 1 - offset if offset < 0 else offset for offset in offsets]
    names = prog.read(symbol["names"], symbol["token_table"] - symbol["names"])
    token_index = array("H", prog.read(symbol["token_index"], 512))
    table = prog.read(symbol["token_table"], max(token_index) + 64)
    tokens = [table[at : table.index(b"\0", at)] for at in token_index]
    return Kallsyms(names, tokens, addresses)


def kallsyms_of(prog: Program) -> Optional[Kallsyms]:
    """Return the symbols of the core kernel, ``None`` if the dump does not say where they are."""
    try:
        found: Optional[Kallsyms] = prog.cache[_CACHE_KEY]
    except KeyError:
        try:
            found = _read_table(prog)
        except (FaultError, TypeError):
            found = None
        prog.cache[_CACHE_KEY] = found
    return found


def find_symbols(
    prog: Program, name: Optional[str], address: Optional[int], one: bool
) -> Sequence[Symbol]:
    """Find symbols for drgn: a symbol finder (see Program.register_symbol_finder())."""
    kallsyms = kallsyms_of(prog)
    if kallsyms is None:
        return []
    if address is not None:
        found = kallsyms.at(address)
        if found is None or name not in (None, found[0]):
            return []
        return [Symbol(*found, SymbolBinding.GLOBAL, SymbolKind.UNKNOWN)]
    if name is None:
        return []
    places = kallsyms.find(name)
    return [
        Symbol(name, at, 0, SymbolBinding.GLOBAL, SymbolKind.UNKNOWN)
        for at in (places[:1] if one else places)
    ]
