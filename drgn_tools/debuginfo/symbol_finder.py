# SPDX-License-Identifier: LGPL-2.1-or-later
"""drgn's symbol finder: the symbols of the kernel image and its modules, from the dump."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import islice
from typing import Optional

from drgn import Program, Symbol

from ..cache_key import cache_key
from ..memory import UNUSABLE
from .kallsyms import kallsyms_of
from .module_kallsyms import ModuleKallsyms
from .modules import listed_modules

__all__ = ("find_symbols", "module_addresses")

_MAX_MODULES = 10_000
"""More modules than any kernel has loaded."""

_CACHE_KEY = cache_key(__name__)


def find_symbols(
    prog: Program, name: Optional[str], address: Optional[int], one: bool
) -> Sequence[Symbol]:
    """Find symbols of the kernel and its modules (see Program.register_symbol_finder()).

    :param name: only symbols with this name; any if ``None``
    :param address: only symbols that hold this virtual address; any if ``None``
    :param one: return only the first one
    """
    return list(islice(_matching(prog, name, address), 1 if one else None))


def _matching(prog: Program, name: Optional[str], address: Optional[int]) -> Iterator[Symbol]:
    kallsyms = kallsyms_of(prog)
    if kallsyms is not None:
        yield from kallsyms.drgn_symbols(name, address)
    for table in _module_tables(prog):
        yield from table.drgn_symbols(name, address)


def module_addresses(prog: Program, name: str) -> list[int]:
    """Return the virtual addresses of all symbols of modules with this name."""
    return [address for table in _module_tables(prog) for address in table.find(name)]


def _module_tables(prog: Program) -> list[ModuleKallsyms]:
    try:
        tables: list[ModuleKallsyms] = prog.cache[_CACHE_KEY]
    except KeyError:
        tables = prog.cache[_CACHE_KEY] = list(_read_module_tables(prog))
    return tables


def _read_module_tables(prog: Program) -> Iterator[ModuleKallsyms]:
    # Without CONFIG_MODULES there is no list; a damaged list ends early.
    with suppress(*UNUSABLE):
        for module in islice(listed_modules(prog["modules"]), _MAX_MODULES):
            table = ModuleKallsyms.of(module)
            if table is not None:
                yield table
