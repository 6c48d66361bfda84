# SPDX-License-Identifier: LGPL-2.1-or-later
"""The kernel's rule for which symbol holds an address, for any symbol table."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from typing import Optional

import msgspec
from drgn import Symbol, SymbolBinding, SymbolKind

__all__ = ("MAX_SYMBOLS", "KernelSymbol", "SymbolTable")

MAX_SYMBOLS = 4_000_000
"""Most symbols of one table that are read; a distribution's kernel has 200,000."""


class KernelSymbol(msgspec.Struct, frozen=True):
    """A symbol that holds an address."""

    name: str
    """Name without any offset."""
    start: int
    """Its virtual address."""
    size: int
    """In bytes, up to the next symbol at a higher address: the kernel uses this as its size."""


class SymbolTable:
    """What the tables of the kernel image and of modules have in common."""

    _regions: Sequence[tuple[int, int]]
    """[start, end) of each piece of memory that has symbols, virtual addresses."""
    _addresses: Sequence[int]
    """Virtual address of each symbol, ascending."""

    def __len__(self) -> int:
        """Return the number of symbols."""
        return len(self._addresses)

    def _name(self, index: int) -> str:
        raise NotImplementedError

    def _indexes_of(self, name: str) -> Sequence[int]:
        raise NotImplementedError

    def _binding_and_kind(self, index: int) -> tuple[SymbolBinding, SymbolKind]:
        raise NotImplementedError

    def _first_at(self, address: int) -> int:
        """Return the index of the first symbol at *address*, or the index where it would be."""
        return bisect_left(self._addresses, address)

    def _first_after(self, address: int) -> int:
        """Return the index after the last symbol at *address*, or the index where it would be."""
        return bisect_right(self._addresses, address)

    def _region(self, address: int) -> Optional[tuple[int, int]]:
        for region in self._regions:
            if region[0] <= address < region[1]:
                return region
        return None

    def _aliases(self, address: int) -> range:
        """Return the indexes of the symbols that hold *address*.

        They are those at the closest address before it, in the same region.
        """
        region = self._region(address)
        if region is None:
            return range(0)
        following = self._first_after(address)
        start = self._addresses[following - 1] if following else 0
        if not following or start < region[0]:
            return range(0)
        first = self._first_at(start)
        # A damaged table is not sorted: the first match may be at any address, even a higher one.
        if first >= following or self._addresses[first] != start:
            first = following - 1
        return range(first, following)

    def _symbol(self, index: int) -> KernelSymbol:
        start = self._addresses[index]
        region = self._region(start)
        end = region[1] if region else start
        following = self._first_after(start)
        if following < len(self):
            end = min(end, self._addresses[following])
        return KernelSymbol(self._name(index), start, max(end - start, 0))

    def at(self, address: int) -> Optional[KernelSymbol]:
        """Return the symbol that holds an address.

        :param address: virtual address
        :return: if several symbols are at one address, the first in the table; ``None`` if no symbol holds
            *address*
        """
        aliases = self._aliases(address)
        return self._symbol(aliases[0]) if aliases else None

    def drgn_symbols(self, name: Optional[str], address: Optional[int]) -> Iterator[Symbol]:
        """Return the symbols that drgn asks for, including aliases.

        :param name: only symbols with this name; any if ``None``
        :param address: only symbols that hold this virtual address; any if ``None``
        """
        indexes: Sequence[int]
        if address is not None:
            indexes = self._aliases(address)
        elif name is not None:
            indexes = self._indexes_of(name)
        else:
            indexes = range(len(self))
        for index in indexes:
            symbol = self._symbol(index)
            if name is None or symbol.name == name:
                binding, kind = self._binding_and_kind(index)
                yield Symbol(symbol.name, symbol.start, symbol.size, binding, kind)
