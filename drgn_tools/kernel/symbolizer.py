# SPDX-License-Identifier: LGPL-2.1-or-later
"""The name of an address of kernel text, as the kernel's own ``%pS`` and ``%pB`` print it."""

from __future__ import annotations

from typing import Optional

from drgn import Program

from ..bounded_cache import BoundedCache
from ..debuginfo.kallsyms import kallsyms_of
from ..debuginfo.module_kallsyms import ModuleKallsyms
from ..records import Symbol
from .text import KernelText, TextKind

__all__ = ("Symbolizer",)

_MAX_NAMES = 100_000
"""How many names are cached; the garbage on stacks may have any number of addresses."""


class Symbolizer:
    """Names of the addresses of one kernel.

    :param text: kernel text of the same program
    """

    def __init__(self, prog: Program, text: KernelText) -> None:
        self._prog = prog
        self._text = text
        self._kallsyms = kallsyms_of(prog)
        self._module_kallsyms: dict[str, Optional[ModuleKallsyms]] = {}
        self._names: BoundedCache[int, Optional[Symbol]] = BoundedCache(_MAX_NAMES)

    def name_exact(self, addr: int) -> Optional[Symbol]:
        """Return the name of the instruction at a virtual address, as ``%pS`` prints it.

        :return: ``None`` if the kernel has no name for it
        """
        try:
            return self._names[addr]
        except KeyError:
            name = self._names[addr] = self._look_up(addr)
            return name

    def name_return_address(self, addr: int) -> Optional[Symbol]:
        """Return the name of the ``call`` that returns to a virtual address, as ``%pB`` prints it.

        Follows sprint_backtrace() in kernel/kallsyms.c: the symbol is that of the byte before,
        because a call that never returns may be the last instruction of its function; the offset
        is that of *addr*.

        :return: ``None`` if the kernel has no name for it
        """
        before = self.name_exact(addr - 1)
        return before and Symbol(before.name, before.offset + 1, before.module)

    def _look_up(self, addr: int) -> Optional[Symbol]:
        # As kallsyms_lookup() in kernel/kallsyms.c, v6.12, does: is_ksym_addr() comes first.
        if self._text.is_in_image(addr):
            return self._look_up_in_image(addr)
        where = self._text.find(addr)
        if where is not None and where.kind is TextKind.MODULE and where.name is not None:
            return self._look_up_in_module(addr, where.name)
        if where is not None and where.kind is TextKind.BPF and where.name is not None:
            return Symbol(where.name, addr - where.start, None)
        if where is None:
            return self._look_up_in_image(addr)
        return None  # the kernel has no name for a trampoline or a slot

    def _look_up_in_image(self, addr: int) -> Optional[Symbol]:
        if self._kallsyms is not None:
            found = self._kallsyms.at(addr)
            return Symbol(found.name, addr - found.start, None) if found else None
        try:
            symbol = self._prog.symbol(addr)
        except (LookupError, OverflowError):
            return None
        return Symbol(symbol.name, addr - symbol.address, None)

    def _look_up_in_module(self, addr: int, module: str) -> Optional[Symbol]:
        if module not in self._module_kallsyms:
            # For a damaged module only a part of its text was found, and not the struct module.
            sound = self._text.modules.get(module)
            self._module_kallsyms[module] = None if sound is None else ModuleKallsyms.of(sound)
        table = self._module_kallsyms[module]
        found = table.at(addr) if table is not None else None
        return Symbol(found.name, addr - found.start, module) if found else None
