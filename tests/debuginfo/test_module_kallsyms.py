# SPDX-License-Identifier: LGPL-2.1-or-later
"""The symbol table of a module: the kernel's rule, and the same symbols as drgn reads."""

from __future__ import annotations

import drgn
import pytest
from drgn.helpers.linux.kallsyms import module_kallsyms

from drgn_tools import open_program
from drgn_tools.debuginfo import module_kallsyms as module_kallsyms_file
from drgn_tools.debuginfo.module_kallsyms import ModuleKallsyms
from drgn_tools.debuginfo.modules import listed_modules
from drgn_tools.debuginfo.symbol_table import KernelSymbol

from ..conftest import lab_file

MODULE = 0xFFFFFFFFC0000000


def module_table() -> ModuleKallsyms:
    return ModuleKallsyms(
        [(MODULE, MODULE + 0x1000), (MODULE + 0x2000, MODULE + 0x3000)],
        [
            (MODULE + 0x40, "lo_open", 0x12),
            (MODULE + 0x10, "lo_release", 0x02),
            (MODULE + 0x10, "alias", 0x12),
            (MODULE + 0x2010, "lo_fops", 0x11),
        ],
    )


@pytest.mark.parametrize(
    ("offset", "expected"),
    [
        (0x0F, None),  # before the first symbol
        (0x10, ("lo_release", 0x10, 0x30)),
        (0x3F, ("lo_release", 0x10, 0x30)),
        (0x40, ("lo_open", 0x40, 0xFC0)),  # up to the end of its memory
        (0xFFF, ("lo_open", 0x40, 0xFC0)),
        (0x1000, None),  # between two pieces
        (0x2000, None),  # no symbol of another piece
        (0x2010, ("lo_fops", 0x2010, 0xFF0)),
        (0x3000, None),
    ],
)
def test_module_at(offset: int, expected: tuple[str, int, int] | None) -> None:
    found = module_table().at(MODULE + offset)
    if expected is None:
        assert found is None
    else:
        name, start, size = expected
        assert found == KernelSymbol(name, MODULE + start, size)


def test_module_find_and_symbols() -> None:
    assert module_table().find("lo_open") == [MODULE + 0x40]
    assert module_table().find("nothing") == []
    assert [name for name, _ in module_table().symbols()] == [
        "lo_release",
        "alias",
        "lo_open",
        "lo_fops",
    ]


def test_more_symbols_than_a_module_has_are_none(
    demo_program: drgn.Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A fuzzer let a module have 4,000,000: their tuples took more memory than there was.
    (module,) = listed_modules(demo_program["modules"])
    count = module.kallsyms.num_symtab.value_()
    for limit in (count, count - 1):
        monkeypatch.setattr(module_kallsyms_file, "_MAX_SYMBOLS", limit)
        assert (ModuleKallsyms.of(module) is not None) is (limit == count)


@pytest.mark.lab
@pytest.mark.parametrize("dump", ["fp-lsb.core", "debian.core"])
def test_modules_the_same_as_drgn_reads(dump: str) -> None:
    prog = open_program(core=str(lab_file(dump)))
    count = 0
    for module in listed_modules(prog["modules"]):
        ours = ModuleKallsyms.of(module)
        assert ours is not None
        # drgn's has local labels and undefined symbols, too, which the kernel skips.
        theirs = {
            (s.name, s.address)
            for s in module_kallsyms(module)
            if s.address and not s.name.startswith((".L", "L0", "$"))
        }
        assert set(ours.symbols()) == theirs
        for name, address in ours.symbols():
            found = ours.at(address)
            assert found is not None
            assert found.start == address
            assert (name, address) in theirs
        count += 1
    assert count > 0
