# SPDX-License-Identifier: LGPL-2.1-or-later
"""The kernel's own symbol tables, read out of its memory.

Of the kernel image: what scripts/kallsyms.c wrote, names compressed with a
table of 256 tokens, addresses as 32-bit offsets in ascending order. VMCOREINFO
says where the parts lie, since Linux kernel commit 5fd8fea935a1 ("vmcoreinfo:
include kallsyms symbols") (in v6.0); before, they are looked for. Of a module: its ELF symbol table.

Lookups follow kernel/kallsyms.c and kernel/module/kallsyms.c, so a name is the
one that an oops of that kernel would print. The tables come from a dump and may
be damaged: then symbols are missing or wrongly named, and nothing is raised.
"""

from __future__ import annotations

import struct
import sys
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from itertools import islice
from operator import add
from typing import NamedTuple, Optional, Union, overload

from drgn import FaultError, Object, Program, Symbol, SymbolBinding, SymbolKind, container_of

from .errors import TypesError
from .find_kallsyms import find_kallsyms
from .shared import Shared
from .symbol_names import MAX_NAME_BYTES, MAX_NAMES_BYTES, SEQ_BYTES, SymbolNames
from .vmcoreinfo import vmcoreinfo_symbol

__all__ = (
    "Kallsyms",
    "KernelSymbol",
    "ModuleKallsyms",
    "find_symbols",
    "kallsyms_of",
    "loaded_modules",
)

MAX_SYMBOLS = 4_000_000
"""A distribution's kernel has 200,000."""
MAX_MODULES = 10_000
"""More modules than any kernel has loaded."""

UNUSABLE = (
    AttributeError,
    FaultError,
    LookupError,
    OverflowError,
    TypeError,
    TypesError,
    ValueError,
)
"""What the use of a drgn object raises if memory or types are missing, or the types are damaged
(a member of another name, an integer where a pointer should be)."""

_NOT_THERE = (FaultError, OverflowError)
"""What a read raises if memory is missing, or if a damaged table leads to where no address is."""

_ADDRESSES = 1 << 64
_PAGE_BYTES = 4096
_COMPLEMENTS = bytes(range(255, -1, -1))

_CACHE_KEY = "drgn_tools.kallsyms"
_MODULES_CACHE_KEY = "drgn_tools.module_kallsyms"


_NAMES: Shared[SymbolNames] = Shared()


class KernelSymbol(NamedTuple):
    """A symbol that holds an address."""

    name: str
    """Name without any offset."""
    start: int
    """Its (virtual) address."""
    size: int
    """In bytes, up to the next symbol at a higher address: what the kernel takes for its size."""


class _SymbolTable:
    # What both kinds of table share: the kernel's rule which symbol holds an address.

    _regions: Sequence[tuple[int, int]]  # [start, end) of memory that has symbols
    _addresses: Sequence[int]  # of each symbol, ascending

    def __len__(self) -> int:
        """Number of symbols."""
        return len(self._addresses)

    def _name(self, index: int) -> str:
        raise NotImplementedError

    def _positions(self, name: str) -> Sequence[int]:
        raise NotImplementedError

    def _binding_and_kind(self, index: int) -> tuple[SymbolBinding, SymbolKind]:
        raise NotImplementedError

    def _region(self, address: int) -> Optional[tuple[int, int]]:
        for region in self._regions:
            if region[0] <= address < region[1]:
                return region
        return None

    def _first_at(self, address: int) -> int:
        # Where the symbols at an address begin, or would.
        return bisect_left(self._addresses, address)

    def _first_after(self, address: int) -> int:
        # Where the symbols at an address end, or would.
        return bisect_right(self._addresses, address)

    def _aliases(self, address: int) -> range:
        # Positions of the symbols that hold an address: those at the closest
        # address before it, in the same piece of memory.
        region = self._region(address)
        if region is None:
            return range(0)
        following = self._first_after(address)
        start = self._addresses[following - 1] if following else 0
        if not following or start < region[0]:
            return range(0)
        # A damaged table is not sorted.
        return range(min(self._first_at(start), following - 1), following)

    def _symbol(self, index: int) -> KernelSymbol:
        start = self._addresses[index]
        region = self._region(start)
        end = region[1] if region else start
        following = self._first_after(start)
        if following < len(self):
            end = min(end, self._addresses[following])
        return KernelSymbol(self._name(index), start, max(end - start, 0))

    def at(self, address: int) -> Optional[KernelSymbol]:
        """Return the symbol that holds an address, ``None`` if none does.

        Among aliases at one address, the first of the table.
        """
        aliases = self._aliases(address)
        return self._symbol(aliases[0]) if aliases else None

    def drgn_symbols(self, name: Optional[str], address: Optional[int]) -> Iterator[Symbol]:
        """Return what matches a name, an address, both or (if both are ``None``) anything."""
        positions: Sequence[int]
        if address is not None:
            positions = self._aliases(address)
        elif name is not None:
            positions = self._positions(name)
        else:
            positions = range(len(self))
        for index in positions:
            symbol = self._symbol(index)
            if name is None or symbol.name == name:
                yield Symbol(*symbol, *self._binding_and_kind(index))


class _Offsets(Sequence[int]):
    # Addresses that are kept as ascending offsets from a base. Negative ones, if
    # any, come first, and are addresses themselves, complemented.

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

    def first_at(self, address: int) -> int:
        """What bisect_left() returns, many times as quick."""
        return bisect_left(self._offsets, address - self._base, self._first)

    def first_after(self, address: int) -> int:
        """What bisect_right() returns, many times as quick."""
        return bisect_right(self._offsets, address - self._base, self._first)


class Kallsyms(_SymbolTable):
    """Symbols of the kernel image.

    :meth:`at` follows get_symbol_pos() in kernel/kallsyms.c, v6.12. Unlike the
    kernel, the last symbol (normally ``_end``) holds nothing: how far it reaches
    is not in the table.

    :param names: ``kallsyms_names``: for each symbol a length and so many token numbers
    :param tokens: The 256 tokens; the first character of an expanded name is its type, as in nm(1)
    :param addresses: (Virtual) address of each symbol, ascending
    :param text_start: Lowest address of the kernel image; what lies below are offsets of per-CPU variables
    :param seqs: ``kallsyms_seqs_of_names``, if the kernel has it
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

    def _positions(self, name: str) -> Sequence[int]:
        return self._names.find(name)

    def find(self, name: str, types: str = "") -> list[int]:
        """Return the addresses of all symbols of a name.

        :param types: If given, only symbols whose type letter is one of these
        """
        return [
            self._addresses[index]
            for index in self._names.find(name)
            if not types or self._names[index][:1] in types
        ]

    def symbols(self) -> Iterator[tuple[str, str, int]]:
        """Return (name, type letter, address) of every symbol, in the order of the table."""
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


# ---- where the table lies


_TABLES = (
    "addresses",
    "names",
    "num_syms",
    "offsets",
    "relative_base",
    "token_index",
    "token_table",
)


def _places(prog: Program) -> Mapping[str, int]:
    # Since Linux kernel commit f09bddbd8661 ("vmcoreinfo: add kallsyms_num_syms
    # symbol") (in v6.0), VMCOREINFO says where the tables are. Before that they
    # are looked for.
    said = {part: vmcoreinfo_symbol(prog, f"kallsyms_{part}") for part in _TABLES}
    places = {part: address for part, address in said.items() if address is not None}
    stext = vmcoreinfo_symbol(prog, "_stext")
    if "names" in places or stext is None:
        return places
    for places in find_kallsyms(partial(read_up_to, prog), stext, prog.address_size()):
        try:
            addresses = _addresses(prog, prog.read_u32(places["num_syms"]), places)
        except _NOT_THERE:
            continue
        if addresses is not None and _has(addresses, stext):
            return places
    return {}


def _has(addresses: Sequence[int], address: int) -> bool:
    place = bisect_left(addresses, address)
    return place < len(addresses) and addresses[place] == address


def _addresses(prog: Program, count: int, places: Mapping[str, int]) -> Optional[Sequence[int]]:
    # In which of its forms the table of addresses is, drgn's kallsyms.c tells at
    # length. A negative offset of the last symbol, which is the image's, can mean
    # only one thing: a kernel image is far smaller than 2 GiB.
    absolute = places.get("addresses")
    if absolute is not None:
        word = "Q" if prog.address_size() == 8 else "I"
        return _array(prog, word, absolute, count)
    table = places.get("offsets")
    if table is None:
        return None
    mask = (1 << 8 * prog.address_size()) - 1
    offsets = _array(prog, "i", table, count)
    base_address = places.get("relative_base")
    if base_address is None:
        # Since Linux kernel commit a081b5789255 ("kallsyms: Get rid of kallsyms
        # relative base") (in v7.0), an offset is relative to where it lies.
        first = offsets[0] if offsets else 0
        from_first = map(add, offsets, range(-first, 4 * count - first, 4))
        return _Offsets(array("q", from_first), table + first, mask)
    base = prog.read_word(base_address)
    if offsets and offsets[-1] < 0:
        # CONFIG_KALLSYMS_ABSOLUTE_PERCPU, until Linux kernel commit 01157ddc58dc
        # ("kallsyms: Remove KALLSYMS_ABSOLUTE_PERCPU") (in v6.15): an address is
        # base - 1 - offset, so that the complement of the offset is one from base.
        offsets = array("i", offsets.tobytes().translate(_COMPLEMENTS))
    return _Offsets(offsets, base, mask)


def _array(prog: Program, typecode: str, address: int, count: int) -> array[int]:
    values = array(typecode)
    values.frombytes(prog.read(address, values.itemsize * count))
    if sys.byteorder == "big":
        values.byteswap()
    return values


def read_up_to(prog: Program, address: int, size: int) -> bytes:
    # As much of [address, address + size) as is there.
    if not 0 <= address < _ADDRESSES or size <= 0:
        return b""
    size = min(size, _ADDRESSES - address)
    try:
        return bytes(prog.read(address, size))
    except FaultError as e:
        readable = e.address - address
    if 0 < readable < size:
        with suppress(FaultError):
            return bytes(prog.read(address, readable))
    # Of a kdump file the fault does not tell which page is missing.
    data = bytearray()
    with suppress(FaultError):
        while len(data) < size:
            at = address + len(data)
            data += prog.read(at, min(_PAGE_BYTES - at % _PAGE_BYTES, size - len(data)))
    return bytes(data)


def _read_tokens(prog: Program, table_address: int, index_address: int) -> list[str]:
    index = _array(prog, "H", index_address, 256)
    table = read_up_to(prog, table_address, max(index) + MAX_NAME_BYTES)
    if b"\0" not in table[max(index) :]:
        raise FaultError("the tokens of kallsyms are not in the dump", table_address)
    tokens = (table[at : at + MAX_NAME_BYTES].partition(b"\0")[0] for at in index)
    return [token.decode("ascii", "backslashreplace") for token in tokens]


def _read_seqs(prog: Program, places: Mapping[str, int], count: int) -> Optional[bytes]:
    # kallsyms_seqs_of_names, if there is one. Nothing says where, but
    # scripts/kallsyms.c writes it between the markers and the token table (v6.2),
    # or, since Linux kernel commit 404bad70fcf7 ("scripts/kallsyms: change the
    # output order") (in v6.4), last. What is no such table is seen by what is in it.
    word = prog.address_size()
    if places["token_table"] < places.get("offsets", 0):
        before = places.get("relative_base", 0)
        at = before + word if before else places["offsets"] + 4 * count
        at += -at % word
    else:
        at = places["token_table"] - SEQ_BYTES * count
        at -= at % word
    try:
        return bytes(prog.read(at, SEQ_BYTES * count))
    except _NOT_THERE:
        return None


def _read_kallsyms(prog: Program) -> Optional[Kallsyms]:
    places = _places(prog)
    if not {"names", "num_syms", "token_table", "token_index"} <= places.keys():
        return None
    names, token_table = places["names"], places["token_table"]
    try:
        count = prog.read_u32(places["num_syms"])
        if count > MAX_SYMBOLS:
            return None
        addresses = _addresses(prog, count, places)
        if addresses is None:
            return None
        # scripts/kallsyms.c writes the token table behind the names.
        names_bytes = token_table - names
        if not 0 < names_bytes <= MAX_NAMES_BYTES:
            return None
        found = Kallsyms(
            read_up_to(prog, names, names_bytes),
            _read_tokens(prog, token_table, places["token_index"]),
            addresses,
            vmcoreinfo_symbol(prog, "_stext") or 0,
            _read_seqs(prog, places, count),
        )
    except _NOT_THERE:
        return None
    # A symbol that is not in a part of the table may well be in the kernel.
    return found if len(found) == count else None


def kallsyms_of(prog: Program) -> Optional[Kallsyms]:
    """Return the symbols of the kernel image; the result is kept in ``prog.cache``.

    They are read from memory even if there is debuginfo, so that names are the
    same with and without. ``None`` if the table is not in the dump, or cannot be
    found there.
    """
    try:
        found: Optional[Kallsyms] = prog.cache[_CACHE_KEY]
    except KeyError:
        found = prog.cache[_CACHE_KEY] = _read_kallsyms(prog)
    return found


# ---- modules


_ELF_BINDINGS = {0: SymbolBinding.LOCAL, 1: SymbolBinding.GLOBAL, 2: SymbolBinding.WEAK}
_ELF_KINDS = {1: SymbolKind.OBJECT, 2: SymbolKind.FUNC}


class ModuleKallsyms(_SymbolTable):
    """Symbols of one module.

    :meth:`at` follows find_kallsyms_symbol() in kernel/module/kallsyms.c, v6.12,
    which looks for the closest symbol before in the same piece of the module's
    memory. (Older kernels also took a symbol of another piece.)

    :param regions: [start, end) of each piece of the module's memory
    :param symbols: (address, name, ELF st_info) in the order of the symbol table
    """

    def __init__(
        self,
        name: str,
        regions: Iterable[tuple[int, int]],
        symbols: Iterable[tuple[int, str, int]],
    ) -> None:
        self.name = name
        """Name of the module."""
        self._regions = tuple(regions)
        self._symbols = sorted(symbols, key=lambda symbol: symbol[0])  # stable: aliases keep order
        self._addresses = [address for address, _, _ in self._symbols]
        self._index: dict[str, list[int]] = {}
        for index, (_, symbol_name, _) in enumerate(self._symbols):
            self._index.setdefault(symbol_name, []).append(index)

    @classmethod
    def of(cls, module: Object) -> Optional[ModuleKallsyms]:
        """Read the symbols of a module.

        :param module: ``struct module *``
        :return: ``None`` if they are not in the dump, or the kernel has CONFIG_KALLSYMS=n
        """
        try:
            return cls(_module_name(module), _module_regions(module), _module_symbols(module))
        except UNUSABLE:
            return None

    def _name(self, index: int) -> str:
        return self._symbols[index][1]

    def _positions(self, name: str) -> Sequence[int]:
        return self._index.get(name, ())

    def find(self, name: str) -> list[int]:
        """Return the addresses of all symbols of a name."""
        return [self._addresses[index] for index in self._positions(name)]

    def symbols(self) -> Iterator[tuple[str, int]]:
        """Return (name, address) of every symbol, by address."""
        for address, name, _ in self._symbols:
            yield name, address

    def _binding_and_kind(self, index: int) -> tuple[SymbolBinding, SymbolKind]:
        info = self._symbols[index][2]
        return (
            _ELF_BINDINGS.get(info >> 4, SymbolBinding.UNKNOWN),
            _ELF_KINDS.get(info & 0xF, SymbolKind.UNKNOWN),
        )


def _module_name(module: Object) -> str:
    name: bytes = module.name.string_()[:MAX_NAME_BYTES]
    return name.decode("ascii", "backslashreplace")


def _module_regions(module: Object) -> Iterator[tuple[int, int]]:
    # [start, end) of every piece of its memory.
    type_ = module.type_.type
    if type_.has_member("mem"):
        # Since Linux kernel commit ac3b43283923 ("module: replace module_layout
        # with module_memory") (in v6.4), memory of a module is an array by kind.
        regions = [(memory.base, memory.size) for memory in module.mem]
    elif type_.has_member("core_layout"):
        # Since Linux kernel commit 7523e4dc5057 ("module: use a structure to
        # encapsulate layout.") (in v4.5); before that plain members.
        layouts = (module.core_layout, module.init_layout)
        regions = [(layout.base, layout.size) for layout in layouts]
    else:
        regions = [
            (module.module_core, module.core_size),
            (module.module_init, module.init_size),
        ]
    for base, size in regions:
        if base and size:
            yield base.value_(), base.value_() + size.value_()


def _is_mapping_symbol(name: bytes) -> bool:
    # is_mapping_symbol() in include/linux/module_symbol.h, v6.12.
    return name.startswith((b".L", b"L0", b"$"))


def _module_symbols(module: Object) -> Iterator[tuple[int, str, int]]:
    prog = module.prog_
    # Since Linux kernel commit 8244062ef1e5 ("modules: fix longstanding
    # /proc/kallsyms vs module insertion race.") (in v4.5), the table has a
    # struct of its own; before that plain members.
    table = module.kallsyms if module.type_.type.has_member("kallsyms") else module
    count = min(table.num_symtab.value_(), MAX_SYMBOLS)
    if prog.address_size() == 8:
        symbol = struct.Struct("<IBBHQQ")  # Elf64_Sym: name, info, other, shndx, value, size
        fields = (0, 1, 3, 4)
    else:
        symbol = struct.Struct("<IIIBBH")  # Elf32_Sym: name, value, size, info, other, shndx
        fields = (0, 3, 5, 1)
    # All of the table, or none: of a part of it the closest symbol before may be another.
    data = prog.read(table.symtab.value_(), count * symbol.size)
    entries = [tuple(entry[field] for field in fields) for entry in symbol.iter_unpack(data)]
    last_name = max((name for name, _, _, _ in entries), default=0)
    if last_name > min(len(entries) * MAX_NAME_BYTES, MAX_NAMES_BYTES):
        # Of a module that is being unloaded, the table may be anything.
        raise FaultError("no table of symbols has names so far apart", table.strtab.value_())
    strings = read_up_to(prog, table.strtab.value_(), last_name + MAX_NAME_BYTES)
    if entries and b"\0" not in strings[last_name:]:
        raise FaultError("names of symbols are not in the dump", table.strtab.value_())
    for name_offset, info, section, address in entries[1:]:  # ELF starts real symbols at 1
        if not section:  # SHN_UNDEF
            continue
        name = strings[name_offset : name_offset + MAX_NAME_BYTES].partition(b"\0")[0]
        if name and not _is_mapping_symbol(name):
            yield address, name.decode("ascii", "backslashreplace"), info


def loaded_modules(prog: Program) -> Iterator[Object]:
    """Return every module of the kernel's list, also unformed ones: ``struct module *``.

    Ends, too, where the list is bent into a loop or leads out of the dump.
    """
    try:
        head = prog["modules"]
        end = head.address_of_().value_()
        position = head.next.read_()
        seen: set[int] = set()
        while position.value_() not in (end, *seen) and len(seen) < MAX_MODULES:
            seen.add(position.value_())
            following = position.next.read_()
            yield container_of(position, "struct module", "list")
            position = following
    except UNUSABLE:
        return  # CONFIG_MODULES=n, or damaged


def _module_tables(prog: Program) -> list[ModuleKallsyms]:
    try:
        tables: list[ModuleKallsyms] = prog.cache[_MODULES_CACHE_KEY]
    except KeyError:
        found = map(ModuleKallsyms.of, loaded_modules(prog))
        tables = prog.cache[_MODULES_CACHE_KEY] = [table for table in found if table is not None]
    return tables


# ---- drgn


def _matching(prog: Program, name: Optional[str], address: Optional[int]) -> Iterator[Symbol]:
    kallsyms = kallsyms_of(prog)
    if kallsyms is not None:
        yield from kallsyms.drgn_symbols(name, address)
    for table in _module_tables(prog):
        yield from table.drgn_symbols(name, address)


def find_symbols(
    prog: Program, name: Optional[str], address: Optional[int], one: bool
) -> Sequence[Symbol]:
    """Find symbols of the kernel and its modules for drgn (see Program.register_symbol_finder())."""
    return list(islice(_matching(prog, name, address), 1 if one else None))
