# SPDX-License-Identifier: LGPL-2.1-or-later
"""drgn's symbol finder."""

from __future__ import annotations

import pytest
from drgn import SymbolBinding, SymbolKind

from drgn_tools.debuginfo import symbol_finder
from drgn_tools.debuginfo.symbol_finder import find_symbols

from ..support.drawn_kernel import DrawnKernel
from ..support.drawn_text import LOADED, mem, module_kallsyms, modules, with_mem
from .test_kallsyms import SHORT, TEXT, program_with_table


def test_find_symbols_for_drgn() -> None:
    prog, _ = program_with_table(SHORT, "percpu")
    prog.register_symbol_finder("ours", find_symbols, enable_index=0)
    symbol = prog.symbol(TEXT + 0x12)
    assert (symbol.name, symbol.address, symbol.size) == ("read", TEXT + 0x10, 0x20)
    assert (symbol.binding, symbol.kind) == (SymbolBinding.LOCAL, SymbolKind.FUNC)
    assert prog.symbol("init_task").kind is SymbolKind.OBJECT
    assert prog.symbol("init_task").binding is SymbolBinding.GLOBAL
    assert {s.name for s in prog.symbols(TEXT + 0x30)} == {"sys_read", "__x64_sys_read"}
    assert [s.address for s in prog.symbols("read")] == [TEXT + 0x10, TEXT + 0x50]
    assert len(prog.symbols()) == len(SHORT)
    assert len(find_symbols(prog, "read", None, True)) == 1
    assert find_symbols(prog, "sys_read", TEXT + 0x12, False) == []
    with pytest.raises(LookupError):
        prog.symbol(TEXT + 0x200)


# ---- modules


def program_with_modules() -> tuple[DrawnKernel, list[int]]:
    """Two modules with a symbol each; gives the addresses of what links them into their list."""
    kernel = DrawnKernel()
    with_mem(kernel)
    values = [
        {"kallsyms": module_kallsyms(kernel, (f"in_{i}", at)), **mem((at, 0x100))}
        for i, at in enumerate((LOADED, LOADED + 0x1000))
    ]
    return kernel, [module + 8 for module in modules(kernel, *values)]


def names(kernel: DrawnKernel) -> list[str]:
    return [symbol.name for symbol in find_symbols(kernel.prog, None, None, False)]


def test_symbols_of_modules_are_found() -> None:
    kernel, _ = program_with_modules()
    assert names(kernel) == ["in_0", "in_1"]
    (symbol,) = find_symbols(kernel.prog, None, LOADED + 0x1010, True)
    assert (symbol.name, symbol.address, symbol.size) == ("in_1", LOADED + 0x1000, 0x100)


def test_list_of_modules_bent_into_a_loop_keeps_what_came_before() -> None:
    kernel, links = program_with_modules()
    kernel.put_word(links[1], links[0])
    assert names(kernel) == ["in_0", "in_1"]


def test_list_of_modules_that_leads_out_of_the_dump_keeps_what_came_before() -> None:
    kernel, links = program_with_modules()
    kernel.put_word(links[0], kernel.nowhere)
    assert names(kernel) == ["in_0"]


def test_list_of_modules_longer_than_any_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel, _ = program_with_modules()
    monkeypatch.setattr(symbol_finder, "_MAX_MODULES", 1)
    assert names(kernel) == ["in_0"]


def test_kernel_without_modules_has_no_symbols_of_modules() -> None:
    assert names(DrawnKernel()) == []
