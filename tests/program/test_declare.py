# SPDX-License-Identifier: LGPL-2.1-or-later
"""declare(): a user tells the type of a variable."""

from __future__ import annotations

import drgn
import pytest
from drgn import Program, Symbol, SymbolBinding, SymbolKind
from drgn.helpers.linux.percpu import per_cpu

import drgn_tools
from drgn_tools import UsageError, declare, open_program


@pytest.fixture
def prog(demo_core: str) -> Program:
    return open_program(core=demo_core, modules=False)


def test_a_variable_without_a_type_gets_one(prog: Program) -> None:
    with pytest.raises(LookupError, match=r"declare\(prog, \"TYPE vmlinux_build_id\"\)"):
        prog["vmlinux_build_id"]
    found = declare(prog, "unsigned char vmlinux_build_id[20]")
    assert found.address_ == prog.symbol("vmlinux_build_id").address
    assert found.type_.type_name() == "unsigned char [20]"
    assert prog["vmlinux_build_id"].value_() == found.value_()
    assert bytes(found.value_()) == prog.main_module().build_id
    assert "vmlinux_build_id" in prog


def test_an_empty_length_is_what_there_is(prog: Program) -> None:
    size = prog.symbol("vmlinux_build_id").size
    assert declare(prog, "char vmlinux_build_id[]").type_.length == size
    assert declare(prog, "struct list_head modules[]").type_.length >= 1


def test_the_last_word_counts_also_against_types_that_are_known(prog: Program) -> None:
    assert prog["modules"].type_.type_name() == "struct list_head"
    declare(prog, "struct hlist_head modules")
    assert prog["modules"].type_.type_name() == "struct hlist_head"
    declare(prog, "struct list_head *modules[2]")
    assert prog["modules"].type_.type_name() == "struct list_head *[2]"
    assert prog.type("struct module").has_member("list")
    assert prog.constant("N_ONLINE")  # all else is found as before
    with pytest.raises(LookupError):
        prog.function("modules")


def test_a_struct_that_is_written_out(prog: Program) -> None:
    found = declare(
        prog, "struct { seqcount_raw_spinlock_t seq; struct timekeeper timekeeper; } tk_core"
    )
    (member,) = [member for member in found.type_.members if member.name == "timekeeper"]
    assert member.offset == 8
    assert found.timekeeper.xtime_sec.value_() > 1_000_000


def test_a_per_cpu_variable(prog: Program) -> None:
    known = per_cpu(prog["runqueues"], 1).address_of_().value_()
    declare(prog, "struct rq runqueues")
    assert per_cpu(prog["runqueues"], 1).address_of_().value_() == known
    assert per_cpu(prog["runqueues"], 1).cpu.value_() == 1


def test_the_program_may_be_left_out(prog: Program) -> None:
    drgn.set_default_prog(prog)
    try:
        assert declare("struct list_head modules").prog_ is prog
    finally:
        drgn.set_default_prog(None)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("struct list_head", "the name of the variable is missing"),
        ("int modules(void)", "'(' is not understood"),
        ("struct nowhere modules", "could not find 'struct nowhere'"),
        ("int no_such_symbol_here", "no symbols of this name"),
        ("struct task_struct modules", "the variable"),
        ("struct list_head modules[NOWHERE]", "NOWHERE"),
        ("struct list_head modules[0]", "an array of 0"),
        ("void modules", "type"),
        ("unsigned list_head modules", "list_head"),
        ("struct task_struct modules[]", "its length is not known"),
    ],
)
def test_what_cannot_be_declared_is_one_line(prog: Program, text: str, words: str) -> None:
    with pytest.raises(UsageError) as raised:
        declare(prog, text)
    assert words in str(raised.value)
    assert len(str(raised.value).splitlines()) == 1
    assert prog["modules"].type_.type_name() == "struct list_head"


def test_two_symbols_of_one_name_are_not_told_apart(prog: Program) -> None:
    def find(prog: Program, name: object, address: object, one: bool) -> list[Symbol]:
        if name != "twins":
            return []
        local, object_ = SymbolBinding.LOCAL, SymbolKind.OBJECT
        return [Symbol("twins", at, 8, local, object_) for at in (0x1000, 0x2000)]

    prog.register_symbol_finder("twins", find, enable_index=0)
    with pytest.raises(UsageError, match="2 symbols of this name, at 0x1000, 0x2000"):
        declare(prog, "int twins")


def test_it_is_exported() -> None:
    assert "declare" in drgn_tools.__all__
    assert isinstance(drgn_tools.declare.__doc__, str)
