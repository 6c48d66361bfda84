# SPDX-License-Identifier: LGPL-2.1-or-later
"""The tables of global variables against the DWARF of real kernels, and what they do not have."""

from __future__ import annotations

import re
import struct
from collections.abc import Sequence
from typing import Optional

import pytest
from drgn import FindObjectFlags, Object, Program, Type, TypeKind
from drgn.helpers.linux import page_to_virt, virt_to_page

from drgn_tools import open_program
from drgn_tools.debuginfo.btf import Kind
from drgn_tools.debuginfo.global_types import GLOBALS
from drgn_tools.debuginfo.kernel_params import PARAMETERS
from drgn_tools.debuginfo.per_cpu_types import PER_CPU

from ..conftest import lab_dump, lab_file, lab_vmlinux
from ..lab.debuginfo import find_debuginfo
from ..lab.dump import cached_dump, kernel_if_cached
from ..lab.variants import Variant, variant_named, variants_of
from ..support.btf_encoder import BtfEncoder
from .test_btf import MEMORY, SIGNED, program

SYMBOLS = {"Tschedule": 0x1000, "dtk_core": MEMORY, "dnext_one": MEMORY + 512}


def time_keeping(is_named: bool) -> BtfEncoder:
    b = BtfEncoder()
    b.int("int", 4, SIGNED)
    word = b.int("long unsigned int", 8)
    seq = b.compound("seqcount_raw_spinlock", 4, [("seqcount", 1, 0)])
    seq = b.ref(Kind.TYPEDEF, seq, "seqcount_raw_spinlock_t")
    keeper = b.compound("timekeeper", 16, [("xtime_sec", word, 0), ("x", word, 64)])
    if is_named:
        b.compound("tk_data", 32, [("seq", seq, 0), ("timekeeper", keeper, 64)])
    return b


@pytest.mark.parametrize("is_named", [True, False])
def test_tk_core_is_found_whether_its_struct_has_a_name_or_not(is_named: bool) -> None:
    prog = program(time_keeping(is_named), struct.pack("<4Q", 4, 1234, 0, 0), SYMBOLS)
    found = prog["tk_core"]
    assert found.seq.seqcount.value_() == 4
    assert found.timekeeper.xtime_sec.value_() == 1234
    assert (found.type_.tag == "tk_data") is is_named


def test_a_variable_that_is_too_small_for_all_of_its_types_has_none() -> None:
    prog = program(time_keeping(False), bytes(32), {**SYMBOLS, "dnext_one": MEMORY + 16})
    with pytest.raises(LookupError):
        prog["tk_core"]


@pytest.mark.parametrize(
    ("member", "found"), [("list", "hlist_head"), ("next", "file_system_type *")]
)
def test_a_member_tells_which_of_two_types_it_is(member: str, found: str) -> None:
    b = BtfEncoder()
    word = b.int("long unsigned int", 8)
    b.compound("hlist_head", 8, [("first", word, 0)])
    b.compound("file_system_type", 16, [("name", word, 0), (member, word, 64)])
    symbols = {"Tschedule": 0x1000, "bfile_systems": MEMORY, "bnext_one": MEMORY + 8}
    prog = program(b, bytes(8), symbols)
    assert prog["file_systems"].type_.type_name() == f"struct {found}"


def test_a_string_ends_with_its_zero_and_other_arrays_before_theirs() -> None:
    b = BtfEncoder()
    b.int("char", 1, SIGNED)
    b.ref(Kind.PTR, 0)
    symbols = {
        "Tschedule": 0x1000,
        "Rlinux_banner": MEMORY,
        "bstack_pools": MEMORY + 32,
        "bnext_one": MEMORY + 64,
    }
    text = b"Linux version 6\n\0\0garbage".ljust(32, b"\0")
    prog = program(b, text + struct.pack("<4Q", 1, 2, 0, 0), symbols)
    assert prog["linux_banner"].string_() == b"Linux version 6\n"
    assert prog["linux_banner"].type_.length == 17
    assert prog["stack_pools"].type_.length == 2


@pytest.mark.parametrize(("zeros", "length"), [(0, 2), (56, 2), (64, 10), (128, 18)])
def test_more_zeros_than_padding_has_are_elements(zeros: int, length: int) -> None:
    # x86_cap_flags: each word of capabilities has 32, the last of them without names.
    b = BtfEncoder()
    b.ref(Kind.PTR, b.ref(Kind.CONST, b.int("char", 1, SIGNED)))
    memory = struct.pack("<2Q", 1, 2) + bytes(zeros)
    symbols = {
        "Tschedule": 0x1000,
        "Rx86_cap_flags": MEMORY,
        "Rnext_one": MEMORY + len(memory),
    }
    assert program(b, memory, symbols)["x86_cap_flags"].type_.length == length


# ---- static variables of one name


TABLE, NAMES = MEMORY + 0x100, MEMORY + 0x200


def with_parameters(names: Sequence[bytes], size: int = 16) -> Program:
    """Two variables max_cstate, 9 and 8, each with a parameter."""
    b = BtfEncoder()
    b.int("unsigned int", 4)
    word = b.int("long unsigned int", 8)
    text = b.ref(Kind.PTR, b.ref(Kind.CONST, b.int("char", 1, SIGNED)))
    either = b.compound(None, 8, [("arg", word, 0), ("str", word, 0)], kind=Kind.UNION)
    b.compound("kernel_param", size, [("name", text, 0), (None, either, 64)])
    memory = bytearray(0x300)
    memory[:8] = struct.pack("<2I", 9, 8)
    for number, name in enumerate(names):
        at, place = 0x100 + 16 * number, 0x200 + 64 * number
        memory[at : at + 16] = struct.pack("<2Q", MEMORY + place, MEMORY + 4 * number)
        memory[place : place + len(name)] = name
    symbols = {
        "Tschedule": 0x1000,
        "dmax_cstate": MEMORY,
        "bmax_cstate": MEMORY + 4,
        "Dnext_one": MEMORY + 8,
        "R__start___param": TABLE,
        "R__stop___param": TABLE + 16 * len(names),
    }
    return program(b, bytes(memory), symbols)


def test_the_variable_of_a_parameter_is_told_from_another_of_its_name() -> None:
    prog = with_parameters([b"intel_idle.max_cstate", b"processor.max_cstate"])
    assert prog["max_cstate"].value_() == 8
    assert prog["max_cstate"].address_ == MEMORY + 4


@pytest.mark.parametrize(
    "names",
    [
        [],
        [b"intel_idle.max_cstate"],
        [b"intel_idle.max_cstate", b"processor.max_cstate_of_all"],
        [b"intel_idle.max_cstate", b"x"],
    ],
)
def test_without_its_parameter_it_is_unclear_which_is_meant(names: list[bytes]) -> None:
    with pytest.raises(LookupError):
        with_parameters(names)["max_cstate"]


@pytest.mark.parametrize("size", [0, 4, 1 << 31])
def test_a_damaged_type_of_parameters_tells_nothing(size: int) -> None:
    """It is smaller than its members, or larger than all memory."""
    with pytest.raises(LookupError):
        with_parameters([b"intel_idle.max_cstate", b"processor.max_cstate"], size)["max_cstate"]


@pytest.mark.parametrize("stop", [0, 1, TABLE - 16, TABLE + 15, 1 << 62, (1 << 64) - 1])
def test_a_damaged_table_of_parameters_tells_nothing(stop: int) -> None:
    b = BtfEncoder()
    b.int("unsigned int", 4)
    b.compound("kernel_param", 16, [("name", b.int("long unsigned int", 8), 0)])
    symbols = {
        "Tschedule": 0x1000,
        "dmax_cstate": MEMORY,
        "bmax_cstate": MEMORY + 4,
        "R__start___param": TABLE,
        "R__stop___param": stop,
    }
    with pytest.raises(LookupError):
        program(b, bytes(8), symbols)["max_cstate"]


# ---- functions


@pytest.mark.parametrize("has_types", [True, False])
def test_a_function_that_drgn_asks_for_has_a_type_without_btf_for_it(has_types: bool) -> None:
    b = BtfEncoder()
    b.int("int", 4, SIGNED)
    b.int("long unsigned int", 8)
    if has_types:
        b.compound("vmem_altmap", 8, [])
    prog = program(b, b"", {"Tvmemmap_populate": 0x1000, "Tnext_one": 0x1100})
    if not has_types:
        with pytest.raises(LookupError):
            prog.function("vmemmap_populate")
        return
    found = prog.function("vmemmap_populate")
    assert found.address_ == 0x1000
    assert found.type_.type_name() == (
        "int (unsigned long start, unsigned long end, int node, struct vmem_altmap *altmap)"
    )


def test_variables_of_global_var_need_no_table() -> None:
    # pahole --btf_features=global_var: a VAR each, in the DATASEC of its section.
    b = BtfEncoder()
    i = b.int("int", 4, SIGNED)
    word = b.int("long unsigned int", 8)
    only = b.compound("only_here", 8, [("x", i, 0)])
    sections: dict[str, list[tuple[int, int, int]]] = {".data": [], ".bss": []}
    for section, name, type, offset, size in (
        (".data", "of_table_otherwise", only, 0, 8),
        (".data", "modules", word, 8, 8),  # not what the table says
        (".bss", "counters", b.array(i, 3), 0, 12),
    ):
        sections[section].append((b.add(Kind.VAR, name, type, [1]), offset, size))
    for section, variables in sections.items():
        words = [word for variable in variables for word in variable]
        b.add(Kind.DATASEC, section, 64, words, vlen=len(variables))
    symbols = {
        "Tschedule": 0x1000,
        "Dof_table_otherwise": MEMORY,
        "Dmodules": MEMORY + 8,
        "Bcounters": MEMORY + 16,
    }
    prog = program(b, struct.pack("<iiQ3i", 7, 0, 9, 1, 2, 3), symbols)
    assert prog["of_table_otherwise"].x.value_() == 7
    assert prog["modules"].value_() == 9
    assert prog["counters"].value_() == [1, 2, 3]


# ---- what a name leads to


def explaining() -> Program:
    b = BtfEncoder()
    b.int("int", 4, SIGNED)
    symbols = {"Tschedule": 0x1000, "Dno_type": MEMORY, "dtwins": 0x300, "btwins": 0x400}
    prog = program(b, bytes(8), symbols)
    prog.set_enabled_object_finders(["btf"])  # the last, as in a program that we opened
    return prog


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (
            "no_type",
            r"at 0x10000, but its BTF has no type for it; .*declare\(prog, \"TYPE no_type\"\)",
        ),
        ("twins", r"the kernel has 2 symbols 'twins'"),
        ("schedule", r"'schedule' is a symbol of the kernel, at 0x1000"),
        ("nowhere", r"could not find 'nowhere'"),
    ],
)
def test_what_cannot_be_found_is_a_lookup_error_that_says_why(name: str, words: str) -> None:
    prog = explaining()
    with pytest.raises(LookupError, match=words):
        prog[name]
    assert name not in prog
    with pytest.raises(LookupError, match=f"could not find .*'{name}'"):
        prog.constant(name)  # no symbol was asked for


def test_a_finder_behind_ours_is_still_asked() -> None:
    prog = explaining()

    def find(prog: Program, name: str, flags: FindObjectFlags, file: Optional[str]) -> Object:
        return Object(prog, "int", 4)

    prog.register_object_finder("later", find, enable_index=-1)
    assert prog["no_type"].value_() == 4


# ---- real kernels


def spelling(type: Type) -> str:
    """Of a type, without what BTF does not tell or the table need not: const, lengths, typedefs."""
    if type.kind is TypeKind.ARRAY:
        return f"{spelling(type.type)}[]"
    if type.kind is TypeKind.POINTER:
        return f"{spelling(type.type)}*"
    while type.kind is TypeKind.TYPEDEF:
        type = type.type
    if type.kind in (TypeKind.STRUCT, TypeKind.UNION) and type.tag is None:
        return f"{type.size} {[member.name for member in type.members or ()]}"
    return re.sub(r"\b(const|volatile) ", "", type.type_name())


def check(dwarf: Program, btf: Program) -> int:
    checked = 0
    # Of two static variables of one name drgn takes any, not the same each time.
    for name in {**GLOBALS, **PER_CPU}.keys() - PARAMETERS.keys():
        try:
            expected, found = dwarf.variable(name), btf.variable(name)
        except LookupError:
            continue
        checked += 1
        assert spelling(found.type_) == spelling(expected.type_), name
        assert found.address_ == expected.address_, name
    return checked


@pytest.mark.lab
@pytest.mark.parametrize("variant", ["fp-lsb", "fp-v3"])
def test_types_are_those_of_dwarf(variant: str) -> None:
    core = lab_file(f"{variant}.core")
    assert (
        check(open_program(core=core, symbols=[lab_vmlinux(variant)]), open_program(core=core))
        > 250
    )


@pytest.mark.lab
@pytest.mark.parametrize("variant", variants_of("kernels"), ids=lambda variant: variant.name)
def test_types_are_those_of_dwarf_in_other_years(variant: Variant) -> None:
    lab_dump(variant)
    dump, kernel = cached_dump(variant), kernel_if_cached(variant)
    assert dump is not None and kernel is not None
    dwarf = open_program(core=dump.core, symbols=[kernel.vmlinux])
    assert check(dwarf, open_program(core=dump.core)) > 250


@pytest.mark.lab
def test_types_are_those_of_dwarf_of_a_stock_kernel() -> None:
    variant = variant_named("stock-6.12")
    dump = lab_dump(variant)
    vmlinux = find_debuginfo(variant, dump)
    if vmlinux is None:
        pytest.fail(f"python -m tests.lab debuginfo {variant.name}")
    dwarf, btf = open_program(core=dump.core, symbols=[vmlinux]), open_program(core=dump.core)
    assert check(dwarf, btf) > 400
    for name in ("x86_bug_flags", "x86_cap_flags", "preferred_node_policy", "vmstat_text"):
        assert btf[name].type_.length == dwarf[name].type_.length, name


@pytest.mark.lab
def test_struct_page_is_found_where_btf_lacks_the_function_that_drgn_asks_for() -> None:
    prog = open_program(core=lab_dump(variant_named("stock-5.10")).core)
    assert prog["vmemmap"].value_() == prog["vmemmap_base"].value_()
    page = virt_to_page(prog, prog["init_task"].tasks.next)
    assert page_to_virt(page).value_() == prog["init_task"].tasks.next.value_() & ~0xFFF
