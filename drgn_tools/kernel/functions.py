# SPDX-License-Identifier: LGPL-2.1-or-later
"""Functions of the kernel image and of modules by name, as live patching and kallsyms find them."""

from __future__ import annotations

from functools import cached_property
from typing import Optional, Union

from drgn import Object, Program

from ..debuginfo.kallsyms import Kallsyms, kallsyms_of
from ..debuginfo.module_kallsyms import ModuleKallsyms
from ..debuginfo.modules import listed_modules, module_memory, module_name
from ..memory import UNUSABLE
from .probing import symbol_address

__all__ = ("Functions", "NoSuchFunctionError")


class NoSuchFunctionError(LookupError):
    """The kernel would not find a function. ``str()`` says why, in a few words."""


_MAX_POSITIONS = 4


def _positions(module: Optional[str], name: str, addresses: list[int]) -> str:
    """Return how to name each of several symbols, and where it is."""
    prefix = "" if module is None else f"{module}:"
    each = [
        f"{prefix}{name},{number} at {address:#x}"
        for number, address in enumerate(addresses[:_MAX_POSITIONS], 1)
    ]
    return ", ".join(each) + (" ..." if len(addresses) > _MAX_POSITIONS else "")


class Functions:
    """Looks up functions in the symbol tables that are in the dump itself.

    :param prog: A kernel.
    """

    def __init__(self, prog: Program) -> None:
        self._prog = prog
        self.problems: list[str] = []
        """Sentences that say what could not be read."""
        self._module_tables: dict[str, Optional[ModuleKallsyms]] = {}

    def is_loaded(self, module: str) -> bool:
        """Return whether a module is loaded."""
        return module in self._modules

    def find(self, module: Optional[str], name: str, sympos: int) -> int:
        """Return the address of a function, as klp_find_object_symbol() finds it.

        Follows kernel/livepatch/core.c, v6.12. Data symbols of that name count, too. The image's
        table is in the order of addresses, a module's is not.

        :param module: Name of the module; ``None`` for the kernel image
        :param sympos: Which symbol of that name, from 1; 0 if the name must be unique
        :raises NoSuchFunctionError: if the kernel would refuse
        """
        table = self._table(module)
        if table is None:
            raise NoSuchFunctionError(f"the symbols of {module or 'the kernel'} cannot be read")
        found = table.find(name) if isinstance(table, Kallsyms) else table.find_in_table_order(name)
        if not found:
            raise NoSuchFunctionError("there is no such symbol")
        if not sympos and len(found) > 1:
            raise NoSuchFunctionError(
                f"{len(found)} symbols have this name: choose one of {_positions(module, name, found)}"
            )
        if sympos > len(found):
            raise NoSuchFunctionError(
                f"there is no symbol number {sympos}: {len(found)} have this name"
            )
        return found[max(sympos - 1, 0)]

    def is_named(self, address: int, module: Optional[str], name: str) -> Optional[bool]:
        """Return whether a symbol with a name starts at an address.

        The symbol may have a suffix of link-time optimization, which v6.1 ignores (cleanup_symbol_name() in
        kernel/kallsyms.c).

        :param module: Name of the module; ``None`` for the kernel image
        :return: ``None`` if the symbols cannot be read
        """
        table = self._table(module)
        if table is None:
            return None
        symbol = table.at(address)
        return address in table.find(name) or (
            symbol is not None
            and symbol.start == address
            and symbol.name.startswith(f"{name}.llvm.")
        )

    def has_symbols(self, module: Optional[str]) -> bool:
        """Return whether the symbols of a module can be read.

        :param module: Name of the module; ``None`` for the kernel image
        """
        return self._table(module) is not None

    def size(self, address: int, module: Optional[str]) -> Optional[int]:
        """Return the size of a function, as kallsyms_lookup_size_offset() returns it.

        It is the distance to the next symbol or to the end of the text (get_symbol_pos(),
        find_kallsyms_symbol()), so it includes padding.

        :param address: Address of its symbol
        :param module: Name of its module; ``None`` for the kernel image
        :return: In bytes; ``None`` if no symbol holds the address
        """
        table = self._table(module)
        symbol = table.at(address) if table is not None else None
        if symbol is None:
            return None
        end = symbol.start + symbol.size
        if module is not None:
            for start, text_end in module_memory(self._modules[module], text_only=True):
                if start <= address < text_end:
                    end = min(end, text_end)
        return end - symbol.start

    def _table(self, module: Optional[str]) -> Union[Kallsyms, ModuleKallsyms, None]:
        if module is None:
            return kallsyms_of(self._prog)
        if module not in self._module_tables:
            found = self._modules.get(module)
            self._module_tables[module] = None if found is None else ModuleKallsyms.of(found)
        return self._module_tables[module]

    @cached_property
    def _modules(self) -> dict[str, Object]:
        """All modules except unformed ones, by name, as find_module() finds them."""
        modules: dict[str, Object] = {}
        if symbol_address(self._prog, "modules") is None:
            return modules  # CONFIG_MODULES=n
        try:
            unformed = self._prog["MODULE_STATE_UNFORMED"].value_()
            for module in listed_modules(self._prog["modules"]):
                if module.state.value_() != unformed:
                    modules[module_name(module)] = module
        except UNUSABLE as e:
            self.problems.append(
                f"the list of modules is damaged after {len(modules)} entries: {e}"
            )
        return modules
