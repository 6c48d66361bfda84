# SPDX-License-Identifier: LGPL-2.1-or-later
"""BTF on types written by hand: every kind, and every way to be damaged."""

from __future__ import annotations

import random
import struct
from typing import Any

import drgn
import pytest
from drgn import Object, Program, Qualifiers, TypeKind, offsetof, sizeof

from drgn_tools.debuginfo.btf import MAX_CHAIN, Btf, Kind, header_bytes
from drgn_tools.debuginfo.btf_finder import BtfFinder
from drgn_tools.debuginfo.btf_types import BtfTypes
from drgn_tools.debuginfo.global_types import GLOBALS
from drgn_tools.debuginfo.kallsyms import Kallsyms, kallsyms_of
from drgn_tools.errors import TypesError
from drgn_tools.program.open import open_program

from ..conftest import lab_file
from ..support.btf_encoder import BtfEncoder

SIGNED, BOOL = 1, 4
MEMORY = 0x10000


def program(
    encoder: BtfEncoder, memory: bytes = b"", symbols: dict[str, int] | None = None
) -> Program:
    """A little-endian 64-bit program with these types and nothing else, memory at MEMORY."""
    flags = drgn.PlatformFlags.IS_64_BIT | drgn.PlatformFlags.IS_LITTLE_ENDIAN
    prog = Program(drgn.Platform(drgn.Architecture.X86_64, flags))
    if memory:
        prog.add_memory_segment(
            MEMORY, len(memory), lambda address, count, offset, physical: memory[offset:][:count]
        )
    kallsyms = table(symbols) if symbols else None
    finder = BtfFinder(prog, Btf(encoder.encode()), kallsyms, "btf")
    prog.register_type_finder("btf", finder.find_type, enable_index=0)
    prog.register_object_finder("btf", finder.find_object, enable_index=0)
    return prog


def table(symbols: dict[str, int]) -> Kallsyms:
    """kallsyms of symbols whose first letter is their type: ``{"Tschedule": 0x1000}``."""
    tokens = [chr(code) for code in range(256)]
    ordered = sorted([*symbols.items(), ("B_end", 1 << 40)], key=lambda symbol: symbol[1])
    names = b"".join(bytes([len(name)]) + name.encode() for name, _ in ordered)
    return Kallsyms(names, tokens, [address for _, address in ordered])


def same(a: drgn.Type, b: drgn.Type) -> bool:
    """Types of drgn do not compare."""
    return bool(description(a) == description(b))


# ---- kinds


def test_int_char_bool_float() -> None:
    b = BtfEncoder()
    b.int("long unsigned int", 8)
    b.int("int", 4, SIGNED)
    b.int("char", 1, SIGNED)
    b.int("_Bool", 1, BOOL)
    b.int("__int128", 16, SIGNED)
    b.add(Kind.FLOAT, "double", 8)
    b.ref(Kind.TYPEDEF, 1, "u64")
    prog = program(b)
    # drgn's canonical spelling, as with DWARF; it asks for all the others.
    assert prog.type("unsigned long").name == "unsigned long"
    assert (prog.type("unsigned long").size, prog.type("unsigned long").is_signed) == (8, False)
    assert same(prog.type("long unsigned int"), prog.type("unsigned long"))
    assert prog.type("int").is_signed
    assert prog.type("char").is_signed
    assert prog.type("_Bool").kind is TypeKind.BOOL
    assert prog.type("double").kind is TypeKind.FLOAT
    assert same(prog.type("u64").type, prog.type("unsigned long"))


def test_qualifiers_and_tags() -> None:
    b = BtfEncoder()
    i = b.int("int", 4, SIGNED)
    const = b.ref(Kind.CONST, i)
    both = b.ref(Kind.VOLATILE, const)
    b.ref(Kind.TYPEDEF, both, "cv_int")
    tagged = b.ref(Kind.TYPE_TAG, i, "user")
    pointer = b.ref(Kind.PTR, tagged)
    b.ref(Kind.TYPEDEF, b.ref(Kind.RESTRICT, pointer), "user_int_ptr")
    b.add(Kind.DECL_TAG, "a tag", i, [0xFFFFFFFF])
    b.ref(Kind.TYPEDEF, 0, "nothing")
    prog = program(b)
    assert prog.type("cv_int").type.qualifiers == Qualifiers.CONST | Qualifiers.VOLATILE
    assert prog.type("user_int_ptr").type.qualifiers == Qualifiers.RESTRICT
    assert same(prog.type("user_int_ptr").type.type, prog.type("int"))
    assert prog.type("nothing").type.kind is TypeKind.VOID


def test_struct_with_anonymous_members_and_itself() -> None:
    b = BtfEncoder()
    i = b.int("int", 4, SIGNED)
    inner = b.compound(None, 4, [("a", i, 0), ("b", i, 0)], Kind.UNION)
    # IDs are known before they are written: the pointer refers to the struct after it.
    pointer = b.ref(Kind.PTR, b.count + 2)
    b.compound("node", 16, [("value", i, 0), (None, inner, 32), ("next", pointer, 64)])
    memory = struct.pack("<iiQiiQ", 1, 2, MEMORY + 16, 3, 4, 0)
    prog = program(b, memory)
    node = Object(prog, "struct node", address=MEMORY)
    assert node.value.value_() == 1
    assert node.b.value_() == 2
    assert node.next.value.value_() == 3
    assert node.next.a.value_() == 4
    assert offsetof(prog.type("struct node"), "b") == 4
    assert same(prog.type("struct node").member("next").type.type, prog.type("struct node"))


def test_bit_fields_of_both_kinds_read_right() -> None:
    b = BtfEncoder()
    u32 = b.int("unsigned int", 4)
    b.compound("by_flag", 4, [("low", u32, 5 << 24), ("high", u32, 7 << 24 | 20)], flag=True)
    narrow = b.int("unsigned int", 4, bits=3)
    shifted = b.int("unsigned int", 4, offset=2, bits=4)
    b.compound("by_int", 4, [("three", narrow, 5), ("four", shifted, 8), ("all", u32, 0)])
    word = 0x12345678
    prog = program(b, struct.pack("<I", word))
    by_flag = Object(prog, "struct by_flag", address=MEMORY)
    assert by_flag.low.value_() == word & 0x1F
    assert by_flag.high.value_() == word >> 20 & 0x7F
    by_int = Object(prog, "struct by_int", address=MEMORY)
    assert by_int.three.value_() == word >> 5 & 7
    assert by_int.four.value_() == word >> 10 & 15
    assert by_int.all.value_() == word
    assert prog.type("struct by_int").member("three").bit_field_size == 3


def test_arrays() -> None:
    b = BtfEncoder()
    c = b.int("char", 1, SIGNED)
    name, tail = b.array(c, 16), b.array(c, 0)
    rows = b.array(name, 2)
    b.compound("s", 48, [("name", name, 0), ("rows", rows, 128), ("tail", tail, 384)])
    prog = program(b, b"init".ljust(16, b"\0"))
    type_ = prog.type("struct s")
    assert Object(prog, type_, address=MEMORY).name.string_() == b"init"
    assert type_.member("rows").type.length == 2
    assert type_.member("rows").type.type.length == 16
    assert type_.member("tail").type.length is None


def test_enums() -> None:
    b = BtfEncoder()
    b.enum("plain", {"A": 0, "B": 0xFFFFFFFF})
    b.enum("with_sign", {"MINUS": -1, "C": 7}, flag=True)
    b.enum64("wide", {"BIG": 1 << 40, "BIGGER": (1 << 64) - 1})
    b.enum64("wide_with_sign", {"SMALL": -(1 << 40)}, flag=True)
    b.enum("packed", {"P": 200}, size=1)
    prog = program(b)
    assert prog.constant("B").value_() == 0xFFFFFFFF
    assert prog.constant("MINUS").value_() == -1
    assert prog.constant("BIG").value_() == 1 << 40
    assert prog.constant("BIGGER").value_() == (1 << 64) - 1
    assert prog.constant("SMALL").value_() == -(1 << 40)
    assert prog.constant("P").value_() == 200
    assert sizeof(prog.type("enum packed")) == 1
    assert prog.type("enum with_sign").type.is_signed
    assert [tuple(e) for e in prog.type("enum plain").enumerators] == [("A", 0), ("B", 0xFFFFFFFF)]
    assert same(prog["C"].type_, prog.type("enum with_sign"))


def test_enum_of_before_kind_flag_is_signed_if_a_value_is_negative() -> None:
    b = BtfEncoder()
    b.enum("old", {"NEGATIVE": -2, "POSITIVE": 2})
    b.enum("unsigned_old", {"ZERO": 0})
    prog = program(b)
    assert prog.constant("NEGATIVE").value_() == -2
    assert not prog.type("enum unsigned_old").type.is_signed


def test_enum64_alone_has_all_its_values() -> None:
    # struct btf_enum64 has 12 bytes, struct btf_enum 8. No kind_flag is set in all of this BTF.
    b = BtfEncoder()
    b.enum64("wide", {"LOW": 1, "TOP": 1 << 63, "ALL": (1 << 64) - 1, "LAST": 5})
    b.enum("plain", {"ONES": 0xFFFFFFFF, "TWO": 2})
    prog = program(b)
    values = {"LOW": 1, "TOP": 1 << 63, "ALL": (1 << 64) - 1, "LAST": 5}
    assert dict(map(tuple, prog.type("enum wide").enumerators)) == values
    assert {name: prog.constant(name).value_() for name in values} == values
    assert not prog.type("enum wide").type.is_signed
    # Who writes ENUM64 sets the flag of an ENUM, too: without it these are unsigned.
    assert not prog.type("enum plain").type.is_signed
    assert prog.constant("ONES").value_() == 0xFFFFFFFF


@pytest.mark.parametrize("count", range(1, 6))
@pytest.mark.parametrize("sign", [False, True])
def test_enum64_of_any_length_is_signed_as_its_flag_says(count: int, sign: bool) -> None:
    b = BtfEncoder()
    values = {f"V{i}": (-1 if sign else 1) << 63 | i for i in range(count)}
    b.enum64("wide", values, flag=sign)
    prog = program(b)
    assert dict(map(tuple, prog.type("enum wide").enumerators)) == values
    assert prog.type("enum wide").type.is_signed is sign
    assert {name: prog.constant(name).value_() for name in values} == values


def test_forward_declaration_is_resolved_where_it_can_be() -> None:
    b = BtfEncoder()
    i = b.int("int", 4, SIGNED)
    known, unknown = b.add(Kind.FWD, "known"), b.add(Kind.FWD, "unknown", flag=True)
    known, unknown = b.ref(Kind.PTR, known), b.ref(Kind.PTR, unknown)
    b.compound("user", 16, [("known", known, 0), ("unknown", unknown, 64)])
    b.compound("known", 4, [("value", i, 0)])
    prog = program(b)
    user = prog.type("struct user")
    assert same(user.member("known").type.type, prog.type("struct known"))
    assert user.member("unknown").type.type.kind is TypeKind.UNION
    assert not user.member("unknown").type.type.is_complete()


def test_functions_and_variables() -> None:
    b = BtfEncoder()
    i = b.int("int", 4, SIGNED)
    proto = b.prototype(i, [("fmt", b.ref(Kind.PTR, i)), (None, 0)])
    b.add(Kind.FUNC, "printk", proto, vlen=1)
    var = b.add(Kind.VAR, "counter", i, [1])
    b.add(Kind.DATASEC, ".data..percpu", 4, [var, 0, 4], vlen=1)
    b.add(Kind.VAR, "twins", i, [0])
    symbols = {"Tprintk": 0x100, "Acounter": MEMORY, "dtwins": 0x300, "btwins": 0x400}
    symbols["tcounter"] = 0x500  # a function of the same name is not meant
    prog = program(b, struct.pack("<i", -5), symbols)
    assert prog["counter"].value_() == -5
    printk = prog.function("printk")
    assert printk.address_ == 0x100
    assert printk.type_.is_variadic
    assert [p.name for p in printk.type_.parameters] == ["fmt"]
    with pytest.raises(LookupError):
        prog["twins"]  # nothing tells which of the two
    with pytest.raises(LookupError):
        prog.variable("printk")
    with pytest.raises(LookupError):
        prog.object("counter", drgn.FindObjectFlags.ANY, "kernel/counter.c")


def test_globals_from_the_table() -> None:
    b = BtfEncoder()
    word = b.int("long unsigned int", 8)
    pointer = b.ref(Kind.PTR, b.int("char", 1, SIGNED))
    b.compound("list_head", 16, [("next", b.ref(Kind.PTR, b.count + 2), 0), ("prev", word, 64)])
    b.compound("softirq_action", 8, [("action", pointer, 0)])
    b.compound("swap_info_struct", 8, [("flags", word, 0)])
    b.enum(None, {"NR_SOFTIRQS": 3})
    memory = struct.pack("<8Q", 11, 22, 33, 0, 0, 0, 0, 0)
    symbols = {
        "Dmodules": 0x100,
        "Dklp_ops": 0x110,  # but the next symbol is only 8 bytes on
        "Dsoftirq_vec": 0x118,
        "D__per_cpu_offset": MEMORY,
        "Dswap_info": MEMORY + 40,
        "Dafter": MEMORY + 64,
        "Dinit_task": 0x30000,  # there, but its type is not
    }
    prog = program(b, memory, symbols)
    assert same(prog["modules"].type_, prog.type("struct list_head"))
    assert prog["softirq_vec"].type_.length == 3
    # As many as fit, without the padding.
    assert [word.value_() for word in prog["__per_cpu_offset"]] == [11, 22, 33]
    assert len(prog["swap_info"]) == 3  # all zeros: nothing tells padding from elements
    for name in ("klp_ops", "init_task", "nr_cpu_ids"):
        with pytest.raises(LookupError):
            prog[name]


PER_CPU_SYMBOLS = {
    "A__per_cpu_start": 0,
    "Aprocess_counts": 0,
    "Acpu_worker_pools": 8,
    "Acpu_number": 0x38,  # but the next symbol is only 2 bytes on
    "Atimer_bases": 0x3A,
    "Acurrent_task": 0x50,  # there, but its type is not
    "Athis_cpu_off": 0x58,
    "A__per_cpu_end": 0x60,
    "D__per_cpu_offset": MEMORY,
    "Dnuma_node": MEMORY + 16,  # no per-CPU variable
    "Dafter": MEMORY + 24,
}


def per_cpu_types() -> BtfEncoder:
    b = BtfEncoder()
    b.int("int", 4, SIGNED)
    word = b.int("long unsigned int", 8)
    b.compound("worker_pool", 16, [("nr_running", word, 0)])
    b.compound("timer_base", 8, [("clk", word, 0)])
    b.enum(None, {"NR_STD_WORKER_POOLS": 2})
    return b


def test_per_cpu_variables_from_the_table() -> None:
    prog = program(per_cpu_types(), struct.pack("<3Q", 0x1000, 0x2000, 0), PER_CPU_SYMBOLS)
    counts = prog["process_counts"]
    # Where the copies of the CPUs are is an offset away.
    assert (counts.address_, counts.type_.type_name()) == (0, "unsigned long")
    assert prog["this_cpu_off"].address_ == 0x58
    assert prog["cpu_worker_pools"].type_.length == 2
    assert prog["timer_bases"].type_.length == 2  # as many as fit
    for name in ("cpu_number", "current_task", "numa_node", "rcu_data"):
        with pytest.raises(LookupError):
            prog[name]


def test_per_cpu_variables_of_a_kernel_for_one_cpu_are_global_ones() -> None:
    symbols = {"Dcpu_number": MEMORY, "Dnuma_node": MEMORY + 4, "Dafter": MEMORY + 8}
    prog = program(per_cpu_types(), struct.pack("<2i", 0, -1), symbols)
    assert prog["numa_node"].value_() == -1


def test_per_cpu_variable_in_btf_has_the_type_that_it_has_there() -> None:
    b = per_cpu_types()
    b.add(Kind.VAR, "process_counts", b.int("short int", 2, SIGNED), [1])
    assert program(b, b"", PER_CPU_SYMBOLS)["process_counts"].type_.type_name() == "short"


# ---- the format


def test_a_longer_header_is_understood() -> None:
    b = BtfEncoder()
    b.int("int", 4, SIGNED)
    assert Btf(b.encode(32)).find(Kind.INT, "int") == 1


def test_types_before_a_kind_of_the_future_are_seen() -> None:
    b = BtfEncoder()
    b.int("int", 4, SIGNED)
    b.add(25, "new")
    b.int("long int", 8, SIGNED)
    btf = Btf(b.encode())
    assert btf.find(Kind.INT, "int") == 1
    assert btf.find(Kind.INT, "long int") is None


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x9f\xeb\x01",
        bytes(24),
        struct.pack("<HBBIIIII", 0xEB9F, 2, 0, 24, 0, 12, 12, 1) + bytes(16),  # version
        struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 20, 0, 12, 12, 1) + bytes(16),  # short header
        struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, 0, 0, 0, 1) + bytes(16),  # no types
        struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, 0, 12, 12, 100) + bytes(16),  # cut short
        struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, 0, 0xFFFFFFFC, 0, 1) + bytes(16),
        struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, 2, 12, 14, 1) + bytes(16),  # not aligned
    ],
)
def test_a_damaged_header_is_a_types_error(data: bytes) -> None:
    with pytest.raises(TypesError, match="damaged"):
        Btf(data)


def test_header_bytes_says_how_much_to_read() -> None:
    encoded = BtfEncoder().encode()
    assert header_bytes(encoded) is None  # no types at all
    b = BtfEncoder()
    b.int("int", 4)
    assert header_bytes(b.encode()) == len(b.encode())


# ---- damage


def expect_damage(b: BtfEncoder, name: str, *member: str) -> None:
    prog = program(b)
    with pytest.raises(TypesError, match="damaged"):
        type_ = prog.type(name)
        for m in member:
            type_ = type_.member(m).type
        sizeof(type_)


def test_reference_out_of_range() -> None:
    b = BtfEncoder()
    b.ref(Kind.TYPEDEF, 1000, "lost")
    expect_damage(b, "lost")


def test_reference_to_itself() -> None:
    b = BtfEncoder()
    b.ref(Kind.TYPEDEF, 1, "self")
    expect_damage(b, "self")


def test_endless_pointers() -> None:
    b = BtfEncoder()
    for _ in range(3 * MAX_CHAIN):
        b.ref(Kind.PTR, b.count + 2)
    b.ref(Kind.TYPEDEF, 1, "deep")
    expect_damage(b, "deep")


def test_struct_inside_itself_by_way_of_an_array() -> None:
    b = BtfEncoder()
    b.compound("outer", 8, [("inner", 2, 0)])
    b.compound("inner", 8, [("outers", 3, 0)])
    b.array(1, 0)
    expect_damage(b, "struct outer")


def test_struct_with_exponentially_many_members() -> None:
    b = BtfEncoder()
    b.compound("leaf", 4, [("i", b.int("int", 4), 0)])
    for depth in range(40):
        b.compound(f"u{depth}", 4, [(None, b.count, 0), (None, b.count, 0)], Kind.UNION)
    expect_damage(b, "union u39")


@pytest.mark.parametrize("offset", [8, 64, 0xFFFFFFFF])
def test_member_outside_its_struct(offset: int) -> None:
    b = BtfEncoder()
    b.compound("s", 4, [("m", b.int("int", 4), offset)])
    expect_damage(b, "struct s", "m")


def test_bit_field_of_what_is_no_integer() -> None:
    b = BtfEncoder()
    pointer = b.ref(Kind.PTR, 0)
    b.compound("s", 8, [("m", pointer, 3 << 24)], flag=True)
    expect_damage(b, "struct s", "m")


def test_member_that_can_have_no_size() -> None:
    b = BtfEncoder()
    b.compound("s", 8, [("m", b.prototype(0, []), 0)])
    b.compound("t", 8, [("m", 0, 0)])
    expect_damage(b, "struct s", "m")
    expect_damage(b, "struct t", "m")


@pytest.mark.parametrize("length", [1 << 24, 0xFFFFFFFF])
def test_huge_array(length: int) -> None:
    b = BtfEncoder()
    array = b.array(b.array(b.int("long int", 8), length), length)
    b.ref(Kind.TYPEDEF, array, "huge")
    expect_damage(b, "huge")


@pytest.mark.parametrize("size", [0, 3, 5, 0xFFFFFFFF])
def test_odd_scalars(size: int) -> None:
    b = BtfEncoder()
    b.ref(Kind.TYPEDEF, b.int("odd", size, bits=8), "i")
    b.ref(Kind.TYPEDEF, b.add(Kind.FLOAT, "odd_float", size), "f")
    b.ref(Kind.TYPEDEF, b.enum("odd_enum", {}, size), "e")
    for name in ("i", "f", "e"):
        expect_damage(b, name)


def test_a_variable_is_no_type() -> None:
    b = BtfEncoder()
    b.ref(Kind.TYPEDEF, 2, "wrong")
    b.add(Kind.VAR, "v", 0, [0])
    expect_damage(b, "wrong")


def test_name_outside_the_strings() -> None:
    b = BtfEncoder()
    b.compound("s", 4, [("m", b.int("int", 4), 0)])
    at = len(b.types) - 12
    b.types[at : at + 4] = struct.pack("<I", 1 << 20)
    expect_damage(b, "struct s")


def test_other_types_survive_damage() -> None:
    b = BtfEncoder()
    i = b.int("int", 4)
    b.compound("s", 8, [("good", i, 0), ("bad", 1000, 32)])
    prog = program(b, struct.pack("<i", 7))
    assert Object(prog, "struct s", address=MEMORY).good.value_() == 7


def test_random_damage_raises_nothing_else(demo_program: Program) -> None:
    """The BTF of a real kernel, 60 times damaged; tests/support/fuzz_types.py does it end to end."""
    kallsyms = kallsyms_of(demo_program)
    assert kallsyms is not None
    (start,), (stop,) = kallsyms.find("__start_BTF"), kallsyms.find("__stop_BTF")
    whole = demo_program.read(start, stop - start)
    refused = 0
    for seed in range(60):
        rng = random.Random(seed)
        data = bytearray(whole)
        for _ in range(rng.choice((1, 10, 1000, 100_000))):
            data[rng.randrange(24 if rng.random() < 0.001 else len(data))] = rng.randrange(256)
        try:
            finder = BtfFinder(demo_program, Btf(bytes(data)), kallsyms)
        except TypesError:
            refused += 1
            continue
        exercise(finder)
    print(f"60 runs, {refused} refused at once")


def exercise(finder: BtfFinder) -> None:
    """Look everything up that this project needs, and walk into it."""
    prog = finder._prog
    for name in ("task_struct", "module", "pt_regs", "list_head", "rq", "mm_struct"):
        for kinds in (drgn.TypeKindSet({TypeKind.STRUCT}), drgn.TypeKindSet({TypeKind.TYPEDEF})):
            try:
                type_ = finder.find_type(prog, kinds, name, None)
                for member in (type_.members or ()) if type_ and kinds == {TypeKind.STRUCT} else ():
                    try:
                        sizeof(member.type)
                    except (TypesError, TypeError):  # TypeError: a flexible array
                        continue
                if type_ is not None and kinds == {TypeKind.STRUCT}:
                    drgn.alignof(type_)
            except (TypesError, TypeError):
                continue
    for name in ("runqueues", "schedule", "PIDTYPE_PID", "init_task"):
        try:
            finder.find_object(prog, name, drgn.FindObjectFlags.ANY, None)
        except TypesError:
            continue


# ---- real kernels


def test_every_type_of_a_real_kernel_can_be_built(demo_program: Program) -> None:
    kallsyms = kallsyms_of(demo_program)
    assert kallsyms is not None
    (start,), (stop,) = kallsyms.find("__start_BTF"), kallsyms.find("__stop_BTF")
    btf = Btf(demo_program.read(start, stop - start))
    types = BtfTypes(demo_program, btf)
    no_types = (Kind.FUNC, Kind.VAR, Kind.DATASEC, Kind.DECL_TAG)
    built = 0
    for type_id in range(len(btf)):
        if btf.kind(type_id) in no_types:
            continue
        type_ = types.type(type_id)
        built += 1
        if type_.kind in (TypeKind.STRUCT, TypeKind.UNION) and type_.members:
            for member in type_.members:
                assert member.type is not None
    assert built > 10_000


def description(type_: drgn.Type, inside: bool = False) -> Any:
    """All that matters of a type, comparable between programs. Named types inside are names."""
    qualifiers, kind = type_.qualifiers.value, type_.kind.name
    if type_.kind in (TypeKind.STRUCT, TypeKind.UNION):
        if inside and type_.tag is not None:
            return qualifiers, kind, type_.tag
        members = [
            (m.name, m.bit_offset, m.bit_field_size, description(m.type, True))
            for m in type_.members or ()
        ]
        return qualifiers, kind, type_.tag, type_.size, members
    if type_.kind is TypeKind.ENUM:
        if inside and type_.tag is not None:
            return qualifiers, kind, type_.tag
        return qualifiers, kind, type_.tag, type_.type.is_signed, [*map(tuple, type_.enumerators)]
    if type_.kind is TypeKind.ARRAY:
        # pahole makes one dimension of several, and of [] and [0] the same.
        length, element = type_.length or 0, type_.type
        while element.kind is TypeKind.ARRAY and element.length is not None:
            length, element = length * element.length, element.type
        return qualifiers, kind, length, description(element, True)
    if type_.kind is TypeKind.POINTER:
        return qualifiers, kind, description(type_.type, True)
    if type_.kind is TypeKind.TYPEDEF:
        return qualifiers, kind, type_.name, None if inside else description(type_.type, True)
    if type_.kind is TypeKind.FUNCTION:
        parameters = [description(p.type, True) for p in type_.parameters]
        return qualifiers, kind, description(type_.type, True), parameters, type_.is_variadic
    if type_.kind is TypeKind.VOID:
        return qualifiers, kind
    signed = type_.is_signed if type_.kind is TypeKind.INT else None
    return qualifiers, kind, type_.name, type_.size, signed


@pytest.mark.lab
def test_btf_equals_dwarf() -> None:
    """Every named type of the kernel: size, members, bit offsets, bit fields, enumerators."""
    core, vmlinux = str(lab_file("fp-lsb.core")), str(lab_file("fp-lsb.vmlinux"))
    by_btf, by_dwarf = open_program(core=core), open_program(core=core, symbols=[vmlinux])
    kallsyms = kallsyms_of(by_btf)
    assert kallsyms is not None
    (start,), (stop,) = kallsyms.find("__start_BTF"), kallsyms.find("__stop_BTF")
    btf = Btf(by_btf.read(start, stop - start))
    prefixes = {
        Kind.STRUCT: "struct ",
        Kind.UNION: "union ",
        Kind.ENUM: "enum ",
        Kind.ENUM64: "enum ",
        Kind.TYPEDEF: "",
    }
    times: dict[str, int] = {}
    for type_id in btf.ids(*prefixes):
        name = btf.name(type_id)
        if name is not None:
            spelled = prefixes[btf.kind(type_id)] + name
            times[spelled] = times.get(spelled, 0) + 1
    compared, differences, missing = 0, [], []
    for spelled, count in times.items():
        if count > 1:
            continue  # several types of one name: which one is found is up to the finder
        try:
            expected = by_dwarf.type(spelled)
        except LookupError:
            missing.append(spelled)  # drgn does not see types declared inside functions
            continue
        compared += 1
        if description(by_btf.type(spelled)) != description(expected):
            differences.append(spelled)
    print(f"{compared} types compared, {len(differences)} differ, {len(missing)} not in DWARF")
    assert differences == []
    assert compared > 5000
    assert len(missing) < 20


def spelled(type: drgn.Type) -> str:
    """The name of a type. Whether a variable is const is another thing from year to year."""
    return type.unqualified().type_name()


@pytest.mark.lab
def test_variables_equal_dwarf() -> None:
    """Every per-CPU variable, and every entry of the table that the kernel has."""
    core, vmlinux = str(lab_file("fp-lsb.core")), str(lab_file("fp-lsb.vmlinux"))
    by_btf, by_dwarf = open_program(core=core), open_program(core=core, symbols=[vmlinux])
    kallsyms = kallsyms_of(by_btf)
    assert kallsyms is not None
    (start,), (stop,) = kallsyms.find("__start_BTF"), kallsyms.find("__stop_BTF")
    btf = Btf(by_btf.read(start, stop - start))
    compared = 0
    for name in [*map(btf.name, btf.ids(Kind.VAR)), *GLOBALS]:
        assert name is not None
        try:
            found, expected = by_btf.variable(name), by_dwarf.variable(name)
        except LookupError:
            continue  # not in this kernel, or (phys_base) defined in assembly
        compared += 1
        assert found.address_ == expected.address_, name
        if str(GLOBALS.get(name, "")).endswith("[]"):
            # Its length is told by the dump. Zeros at its end count as padding, even if the
            # last element is one; and DWARF does not know how long linux_banner is.
            assert spelled(found.type_.type) == spelled(expected.type_.type), name
            length = expected.type_.length or len(found)
            assert len(found) <= length, name
            rest = (length - len(found)) * sizeof(found.type_.type)
            assert not any(by_btf.read(found.address_ + sizeof(found), rest)), name
            continue
        assert spelled(found.type_) == spelled(expected.type_), name
        assert sizeof(found) == sizeof(expected), name
    print(f"{compared} variables compared")
    assert compared > 250
