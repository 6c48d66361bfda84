# SPDX-License-Identifier: LGPL-2.1-or-later
"""The symbol table of a loaded module, read from the kernel's memory: an ELF symbol table.

It comes from a dump and may be damaged. Then there is no table, or symbols have wrong names.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from typing import Optional

from drgn import FaultError, Object, SymbolBinding, SymbolKind

from ..memory import UNUSABLE, read_up_to
from .modules import module_memory
from .symbol_names import MAX_NAME_BYTES, MAX_NAMES_BYTES
from .symbol_table import SymbolTable

__all__ = ("ModuleKallsyms",)

_ELF_BINDINGS = {0: SymbolBinding.LOCAL, 1: SymbolBinding.GLOBAL, 2: SymbolBinding.WEAK}
_ELF_KINDS = {1: SymbolKind.OBJECT, 2: SymbolKind.FUNC}
_SHN_UNDEF = 0
_MAX_SYMBOLS = 200_000
"""Limit for one module: amdgpu has some 50,000. The most that a damaged module may claim takes 100 MB."""


class ModuleKallsyms(SymbolTable):
    """Symbols of one module.

    :meth:`at` follows find_kallsyms_symbol() in kernel/module/kallsyms.c, v6.12, which looks for
    the closest symbol before an address in the same piece of the module's memory. (Older kernels also
    accepted a symbol of another piece.)

    :param regions: [start, end) of each piece of the module's memory, virtual addresses
    :param symbols: (virtual address, name, ELF st_info) in the order of the symbol table
    """

    def __init__(
        self, regions: Iterable[tuple[int, int]], symbols: Iterable[tuple[int, str, int]]
    ) -> None:
        self._regions = tuple(regions)
        self._table = list(symbols)
        self._symbols = sorted(
            self._table, key=lambda symbol: symbol[0]
        )  # stable: aliases keep order
        self._addresses = [address for address, _, _ in self._symbols]
        self._index: dict[str, list[int]] = {}
        for index, (_, name, _) in enumerate(self._symbols):
            self._index.setdefault(name, []).append(index)

    @classmethod
    def of(cls, module: Object) -> Optional[ModuleKallsyms]:
        """Read the symbols of a module.

        :param module: ``struct module *``
        :return: ``None`` if the symbols are not in the dump or are damaged, or the kernel has
            CONFIG_KALLSYMS=n
        """
        try:
            regions = [
                (start, end) for start, end in module_memory(module) if start and end > start
            ]
            return cls(regions, _read_symbols(module))
        except UNUSABLE:
            return None

    def _name(self, index: int) -> str:
        return self._symbols[index][1]

    def _indexes_of(self, name: str) -> Sequence[int]:
        return self._index.get(name, ())

    def find(self, name: str) -> list[int]:
        """Return the virtual addresses of all symbols with this name."""
        return [self._addresses[index] for index in self._indexes_of(name)]

    def find_in_table_order(self, name: str) -> list[int]:
        """Do as :meth:`find`, in the order of module_kallsyms_on_each_symbol(): the ELF table's."""
        return [address for address, other, _ in self._table if other == name]

    def symbols(self) -> Iterator[tuple[str, int]]:
        """Return (name, virtual address) of every symbol, by address."""
        for address, name, _ in self._symbols:
            yield name, address

    def _binding_and_kind(self, index: int) -> tuple[SymbolBinding, SymbolKind]:
        info = self._symbols[index][2]
        return (
            _ELF_BINDINGS.get(info >> 4, SymbolBinding.UNKNOWN),
            _ELF_KINDS.get(info & 0xF, SymbolKind.UNKNOWN),
        )


def _is_mapping_symbol(name: bytes) -> bool:
    # is_mapping_symbol() in include/linux/module_symbol.h, v6.12.
    return name.startswith((b".L", b"L0", b"$"))


def _read_symbols(module: Object) -> Iterator[tuple[int, str, int]]:
    prog = module.prog_
    # Since Linux kernel commit 8244062ef1e5 ("modules: fix longstanding
    # /proc/kallsyms vs module insertion race.") (in v4.5), the table has a
    # struct of its own; before that plain members.
    table = module.kallsyms if module.type_.type.has_member("kallsyms") else module
    count = table.num_symtab.value_()
    if count > _MAX_SYMBOLS:
        raise FaultError(f"no module has {count} symbols", table.symtab.value_())
    if prog.address_size() == 8:
        symbol = struct.Struct("<IBBHQQ")  # Elf64_Sym: name, info, other, shndx, value, size
        fields = (0, 1, 3, 4)
    else:
        symbol = struct.Struct("<IIIBBH")  # Elf32_Sym: name, value, size, info, other, shndx
        fields = (0, 3, 5, 1)
    # Read the whole table or nothing: in a part of it, the closest symbol may be the wrong one.
    data = prog.read(table.symtab.value_(), count * symbol.size)
    entries = [tuple(entry[field] for field in fields) for entry in symbol.iter_unpack(data)]
    last_name = max((name for name, _, _, _ in entries), default=0)
    if last_name > min(len(entries) * MAX_NAME_BYTES, MAX_NAMES_BYTES):
        # The table of a module that is being unloaded may have been freed and written over.
        raise FaultError("no table of symbols has names so far apart", table.strtab.value_())
    strings = read_up_to(prog, table.strtab.value_(), last_name + MAX_NAME_BYTES)
    if entries and b"\0" not in strings[last_name:]:
        raise FaultError("names of symbols are not in the dump", table.strtab.value_())
    for name_offset, info, section, address in entries[1:]:  # the first of an ELF table is empty
        if section == _SHN_UNDEF:
            continue
        name = strings[name_offset : name_offset + MAX_NAME_BYTES].partition(b"\0")[0]
        if name and not _is_mapping_symbol(name):
            yield address, name.decode("ascii", "backslashreplace"), info
