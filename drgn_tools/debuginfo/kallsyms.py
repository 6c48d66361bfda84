# SPDX-License-Identifier: LGPL-2.1-or-later
"""The symbol table of the kernel image (kallsyms), read from the kernel's memory.

scripts/kallsyms.c writes it: names compressed with a table of 256 tokens, addresses as 32-bit
offsets in ascending order. VMCOREINFO has the addresses of its parts since Linux kernel commit
5fd8fea935a1 ("vmcoreinfo: include kallsyms symbols") (in v6.0). For older kernels
:mod:`.find_kallsyms` looks for them.

Lookups follow kernel/kallsyms.c, so they find the names that an oops of that kernel would
print. The table comes from a dump and may be damaged. Then symbols are missing or have a wrong
name, and nothing is raised.
"""

from __future__ import annotations

import sys
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from operator import add, le
from typing import Optional, Union, overload

from drgn import FaultError, Program, SymbolBinding, SymbolKind

from ..cache_key import cache_key
from ..memory import NOT_THERE, read_or_none, read_up_to
from .find_kallsyms import find_kallsyms
from .shared_tables import SharedTables
from .symbol_names import MAX_NAME_BYTES, MAX_NAMES_BYTES, SEQ_BYTES, SymbolNames
from .symbol_table import MAX_SYMBOLS, SymbolTable
from .vmcoreinfo import vmcoreinfo_symbol

__all__ = ("Kallsyms", "kallsyms_of")

_CACHE_KEY = cache_key(__name__)

_COMPLEMENTS = bytes(range(255, -1, -1))

_PARTS = (
    "addresses",
    "names",
    "num_syms",
    "offsets",
    "relative_base",
    "token_index",
    "token_table",
)
"""Names of the parts of the table, without ``kallsyms_``; no kernel has both of *addresses* and
*offsets*."""

_NAMES: SharedTables[SymbolNames] = SharedTables()


class _Offsets(Sequence[int]):
    """Addresses that are kept as ascending offsets from a base.

    Negative offsets, if any, come first; each is the complement of an address.

    :param base: virtual address
    :param mask: the bits of an address; sums wrap around
    """

    def __init__(self, offsets: array[int], base: int, mask: int) -> None:
        self._offsets = offsets
        self._base = base
        self._mask = mask
        numbers = (number for number, offset in enumerate(offsets) if offset >= 0)
        self._first = next(numbers, len(offsets))

    def __len__(self) -> int:
        return len(self._offsets)

    @overload
    def __getitem__(self, index: int) -> int: ...

    @overload
    def __getitem__(self, index: slice) -> list[int]: ...

    def __getitem__(self, index: Union[int, slice]) -> Union[int, list[int]]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        offset = self._offsets[index]
        return ~offset if offset < 0 else self._base + offset & self._mask

    def are_ascending(self) -> bool:
        """Return whether the addresses after the negative offsets never decrease."""
        offsets = self._offsets[self._first :]
        return all(map(le, offsets, offsets[1:]))

    def first_at(self, address: int) -> int:
        """Return the same as bisect_left(), many times as fast."""
        return bisect_left(self._offsets, address - self._base, self._first)

    def first_after(self, address: int) -> int:
        """Return the same as bisect_right(), many times as fast."""
        return bisect_right(self._offsets, address - self._base, self._first)


_VARIABLES = ("init_task", "init_uts_ns", "jiffies", "runqueues")
"""Every kernel has these. A damaged symbol table may lack one of them, but hardly all."""


class Kallsyms(SymbolTable):
    """Symbols of the kernel image.

    :meth:`at` follows get_symbol_pos() in kernel/kallsyms.c, v6.12. Unlike the kernel, it gives
    no address to the last symbol (normally ``_end``): the table does not say where that symbol ends.

    :param names: ``kallsyms_names``: for each symbol a length and that many token numbers
    :param tokens: the 256 tokens; the first character of an expanded name is its type, as in nm(1)
    :param addresses: virtual address of each symbol, ascending
    :param text_start: lowest virtual address of the kernel image; addresses below are offsets of
        per-CPU variables
    :param seqs: ``kallsyms_seqs_of_names``, ``None`` if the kernel does not have it
    """

    def __init__(
        self,
        names: bytes,
        tokens: Sequence[str],
        addresses: Sequence[int],
        text_start: int = 0,
        seqs: Optional[bytes] = None,
    ) -> None:
        parts = (names, tuple(tokens), len(addresses), seqs)
        self._names = _NAMES.get(parts, lambda: SymbolNames(*parts))
        whole = len(self._names) == len(addresses)
        self._addresses = addresses if whole else addresses[: len(self._names)]
        self._regions = [(text_start, self._addresses[-1])] if self._addresses else []

    def _first_at(self, address: int) -> int:
        if isinstance(self._addresses, _Offsets):
            return self._addresses.first_at(address)
        return super()._first_at(address)

    def _first_after(self, address: int) -> int:
        if isinstance(self._addresses, _Offsets):
            return self._addresses.first_after(address)
        return super()._first_after(address)

    def _name(self, index: int) -> str:
        return self._names[index][1:]

    def _indexes_of(self, name: str) -> Sequence[int]:
        return self._names.find(name)

    def find(self, name: str, types: str = "") -> list[int]:
        """Return the virtual addresses of all symbols with this name, in the order of the table.

        :param types: only symbols whose type letter is one of these, as in nm(1); any if empty
        """
        return [
            self._addresses[index]
            for index in self._names.find(name)
            if not types or self._names[index][:1] in types
        ]

    def is_sound(self) -> bool:
        """Return whether the whole table looks as scripts/kallsyms.c writes it.

        Only then does a missing symbol mean that the kernel does not have it. This takes some 0.1 s.
        """
        addresses = self._addresses
        if isinstance(addresses, _Offsets):
            return addresses.are_ascending() and self._names.are_sound()
        return all(map(le, addresses, addresses[1:])) and self._names.are_sound()

    def has_variables(self) -> bool:
        """Return whether there are symbols of variables; without CONFIG_KALLSYMS_ALL there are only functions."""
        return any(map(self.find, _VARIABLES))

    def room_at(self, address: int) -> int:
        """Return how many bytes a variable has at most: up to the next symbol.

        Unlike :meth:`at`, this also accepts the offset of a per-CPU variable.

        :param address: virtual address or offset of a symbol
        :return: 0 if no symbol comes after it
        """
        following = super()._first_after(address)  # all symbols, not only those of the image
        return self._addresses[following] - address if following < len(self) else 0

    def symbols(self) -> Iterator[tuple[str, str, int]]:
        """Return (name, type letter, virtual address) of every symbol, in the order of the table."""
        for name, address in zip(self._names.all(), self._addresses):
            yield name[1:], name[:1], address

    def _binding_and_kind(self, index: int) -> tuple[SymbolBinding, SymbolKind]:
        letter = self._names[index][:1]
        lower = letter.lower()
        if lower in ("v", "w"):
            binding = SymbolBinding.WEAK
        else:
            binding = SymbolBinding.GLOBAL if letter.isupper() else SymbolBinding.LOCAL
        if lower == "t":
            return binding, SymbolKind.FUNC
        if lower in ("b", "c", "d", "g", "r", "s", "v"):
            return binding, SymbolKind.OBJECT
        return binding, SymbolKind.UNKNOWN


def kallsyms_of(prog: Program) -> Optional[Kallsyms]:
    """Return the symbols of the kernel image; the result is kept in ``prog.cache``.

    They are read from memory even if there is debuginfo, so that names are the same with and
    without it.

    :return: ``None`` if the table is not in the dump, or cannot be found there
    :raises KeyError: if the program is not a Linux kernel (drgn's ObjectNotFoundError)
    """
    try:
        found: Optional[Kallsyms] = prog.cache[_CACHE_KEY]
    except KeyError:
        found = prog.cache[_CACHE_KEY] = _read_kallsyms(prog)
    return found


def _read_kallsyms(prog: Program) -> Optional[Kallsyms]:
    parts = _find_parts(prog)
    if not {"names", "num_syms", "token_table", "token_index"} <= parts.keys():
        return None
    names, token_table = parts["names"], parts["token_table"]
    try:
        count = prog.read_u32(parts["num_syms"])
        if count > MAX_SYMBOLS:
            return None
        addresses = _read_addresses(prog, count, parts)
        if addresses is None:
            return None
        # scripts/kallsyms.c writes the token table after the names.
        names_bytes = token_table - names
        if not 0 < names_bytes <= MAX_NAMES_BYTES:
            return None
        found = Kallsyms(
            read_up_to(prog, names, names_bytes),
            _read_tokens(prog, token_table, parts["token_index"]),
            addresses,
            vmcoreinfo_symbol(prog, "_stext") or 0,
            _read_seqs(prog, parts, count),
        )
    except NOT_THERE:
        return None
    # A part of the table is no use: the kernel may have symbols that are not in it.
    return found if len(found) == count else None


def _find_parts(prog: Program) -> Mapping[str, int]:
    """Return the virtual address of each part of the table, by its name in :data:`_PARTS`."""
    # Since Linux kernel commit f09bddbd8661 ("vmcoreinfo: add kallsyms_num_syms
    # symbol") (in v6.0), VMCOREINFO has all of them.
    said = {part: vmcoreinfo_symbol(prog, f"kallsyms_{part}") for part in _PARTS}
    parts = {part: address for part, address in said.items() if address is not None}
    stext = vmcoreinfo_symbol(prog, "_stext")
    if "names" in parts or stext is None:
        return parts
    for parts in find_kallsyms(partial(read_up_to, prog), stext, prog.address_size()):
        try:
            addresses = _read_addresses(prog, prog.read_u32(parts["num_syms"]), parts)
        except NOT_THERE:
            continue
        if addresses is not None and _has(addresses, stext):
            return parts
    return {}


def _has(addresses: Sequence[int], address: int) -> bool:
    index = bisect_left(addresses, address)
    return index < len(addresses) and addresses[index] == address


def _read_addresses(prog: Program, count: int, parts: Mapping[str, int]) -> Optional[Sequence[int]]:
    # drgn's kallsyms.c explains at length how to distinguish the forms of the table of
    # addresses. The last symbol is in the image. A negative offset for it can mean only one
    # thing, because a kernel image is far smaller than 2 GiB.
    absolute = parts.get("addresses")
    if absolute is not None:
        word = "Q" if prog.address_size() == 8 else "I"
        return _read_array(prog, word, absolute, count)
    table = parts.get("offsets")
    if table is None:
        return None
    mask = (1 << 8 * prog.address_size()) - 1
    offsets = _read_array(prog, "i", table, count)
    base_address = parts.get("relative_base")
    if base_address is None:
        # Since Linux kernel commit a081b5789255 ("kallsyms: Get rid of kallsyms
        # relative base") (in v7.0), an offset is relative to its own address.
        first = offsets[0] if offsets else 0
        from_first = map(add, offsets, range(-first, 4 * count - first, 4))
        return _Offsets(array("q", from_first), table + first, mask)
    base = prog.read_word(base_address)
    if offsets and offsets[-1] < 0:
        # CONFIG_KALLSYMS_ABSOLUTE_PERCPU, until Linux kernel commit 01157ddc58dc
        # ("kallsyms: Remove KALLSYMS_ABSOLUTE_PERCPU") (in v6.15): an address is
        # base - 1 - offset, so the complement of the offset is an offset from base.
        offsets = array("i", offsets.tobytes().translate(_COMPLEMENTS))
    return _Offsets(offsets, base, mask)


def _read_array(prog: Program, typecode: str, address: int, count: int) -> array[int]:
    values = array(typecode)
    values.frombytes(prog.read(address, values.itemsize * count))
    if sys.byteorder == "big":
        values.byteswap()
    return values


def _read_tokens(prog: Program, table_address: int, index_address: int) -> list[str]:
    index = _read_array(prog, "H", index_address, 256)
    table = read_up_to(prog, table_address, max(index) + MAX_NAME_BYTES)
    if b"\0" not in table[max(index) :]:
        raise FaultError("the tokens of kallsyms are not in the dump", table_address)
    tokens = (table[at : at + MAX_NAME_BYTES].partition(b"\0")[0] for at in index)
    return [token.decode("ascii", "backslashreplace") for token in tokens]


def _read_seqs(prog: Program, parts: Mapping[str, int], count: int) -> Optional[bytes]:
    """Return the bytes at the place of ``kallsyms_seqs_of_names``, which this kernel may not have.

    VMCOREINFO does not have its address. scripts/kallsyms.c writes it between the markers and the
    token table (v6.2), or, since Linux kernel commit 404bad70fcf7 ("scripts/kallsyms: change the
    output order") (in v6.4), last. :class:`.symbol_names.SymbolNames` checks what is in it.
    """
    word = prog.address_size()
    if parts["token_table"] < parts.get("offsets", 0):
        before = parts.get("relative_base", 0)
        at = before + word if before else parts["offsets"] + 4 * count
        at += -at % word
    else:
        at = parts["token_table"] - SEQ_BYTES * count
        at -= at % word
    return read_or_none(prog, at, SEQ_BYTES * count)
