# SPDX-License-Identifier: LGPL-2.1-or-later
"""BTF of modules: types that continue those of the kernel image, and the list of them in memory."""

from __future__ import annotations

import random
import struct
from contextlib import suppress
from typing import Callable, Optional

import drgn
import pytest
from drgn import Program, TypeKind, sizeof

from drgn_tools.debuginfo.btf import Btf, Kind
from drgn_tools.debuginfo.btf_finder import BtfFinder
from drgn_tools.debuginfo.btf_types import BtfTypes
from drgn_tools.errors import TypesError

from ..conftest import lab_file
from ..support.btf_encoder import BtfEncoder
from .test_btf import SIGNED, table

LIST, MODULES, DATA = 0x10000, 0x20000, 0x30000
STRUCT_BYTES = 0x100


def image(btf_is_function: bool = False) -> BtfEncoder:
    """What a kernel has: types that modules use, and those that lead to the BTF of modules."""
    b = BtfEncoder()
    b.int("int", 4, SIGNED)
    b.int("char", 1, SIGNED)
    u32 = b.int("unsigned int", 4)
    word = b.int("long unsigned int", 8)
    pointer = b.ref(Kind.PTR, 0)
    links = b.compound(
        "list_head", 16, [("next", b.ref(Kind.PTR, b.count + 2), 0), ("prev", word, 64)]
    )
    btf = b.compound(
        "btf", 32, [("data", pointer, 0), ("data_size", u32, 64), ("start_id", u32, 96),
                    ("start_str_off", u32, 128)],
    )  # fmt: skip
    if btf_is_function:  # one that takes itself
        btf = b.prototype(0, [("itself", b.count + 1)])
    module = b.compound("module", 16, [("name", b.array(2, 16), 0)])
    b.compound(
        "btf_module", 32,
        [("list", links, 0), ("module", b.ref(Kind.PTR, module), 128), ("btf", b.ref(Kind.PTR, btf), 192)],
    )  # fmt: skip
    b.compound("shared", 4, [("of_image", 1, 0)])
    b.enum("colors", {"RED": 1})
    b.add(Kind.FWD, "only_in_module")
    return b


def module(base: BtfEncoder, struct_name: str = "only_in_module") -> BtfEncoder:
    b = BtfEncoder(base)
    integer, shared = 1, Btf(base.encode()).find(Kind.STRUCT, "shared")
    assert shared is not None
    b.compound(
        struct_name, 12, [("count", integer, 0), ("shared", shared, 32), ("list_head", integer, 64)]
    )
    b.compound("shared", 8, [("of_module", integer, 0)])
    b.enum("module_colors", {"GREEN": 2, "RED": 7})
    b.ref(Kind.TYPEDEF, b.count, "color_t")
    return b


def split(base: BtfEncoder, of_module: BtfEncoder) -> tuple[Btf, Btf]:
    kernel = Btf(base.encode())
    return kernel, Btf(of_module.encode(), base=kernel)


def program() -> Program:
    flags = drgn.PlatformFlags.IS_64_BIT | drgn.PlatformFlags.IS_LITTLE_ENDIAN
    return Program(drgn.Platform(drgn.Architecture.X86_64, flags))


# ---- the format


def test_types_of_a_module_continue_those_of_the_image() -> None:
    base = image()
    kernel, of_module = split(base, module(base))
    found = of_module.find(Kind.STRUCT, "only_in_module")
    assert found == len(kernel)
    assert kernel.find(Kind.STRUCT, "only_in_module") is None
    names = [member.name for member in of_module.members(found)]
    assert names == ["count", "shared", "list_head"]  # the last is a string of the image
    assert of_module.name(1) == "int"
    assert of_module.byte_size(found) == 12
    assert of_module.expanded_members(found) == 4
    assert list(of_module.ids(Kind.STRUCT)) == [found, found + 1]
    assert of_module.find(Kind.STRUCT, "list_head") is None  # the base's do not count
    enum = of_module.find(Kind.ENUM, "module_colors")
    assert of_module.find_enumerator("GREEN") == (enum, 2)
    assert of_module.find_enumerator("RED") == (enum, 7)


def test_forward_declaration_of_the_image_is_resolved_in_a_module_too() -> None:
    base = image()
    kernel, of_module = split(base, module(base))
    forward = kernel.find(Kind.FWD, "only_in_module")
    assert forward is not None
    assert kernel.resolve_forward(forward) is None
    assert of_module.resolve_forward(forward) == of_module.find(Kind.STRUCT, "only_in_module")


def test_variables_of_a_module() -> None:
    base = image()
    encoder = module(base)
    b = encoder.add(Kind.VAR, "counter", 1, [1])
    encoder.add(Kind.DATASEC, ".data", 4, [b, 0, 4], vlen=1)
    _, of_module = split(base, encoder)
    assert of_module.find(Kind.VAR, "counter") == b
    assert of_module.find(Kind.VAR, "") is None


def test_drgns_types_are_those_of_the_image_where_they_are_meant() -> None:
    base = image()
    kernel, of_module = split(base, module(base))
    prog = program()
    types = BtfTypes(prog, kernel)
    found = BtfTypes(prog, of_module, types)
    only = found.find(drgn.TypeKindSet({TypeKind.STRUCT}), "only_in_module")
    assert only is not None
    assert sizeof(only) == 12
    assert [member.name for member in only.member("shared").type.members] == ["of_image"]
    assert found.type(1) is types.type(1)


def test_a_module_without_types_of_its_own_is_empty() -> None:
    base = Btf(image().encode())
    with pytest.raises(TypesError):
        Btf(BtfEncoder(image()).encode(), base=base)


@pytest.mark.parametrize("seed", range(20))
def test_damaged_bytes_are_an_error_or_another_type(seed: int) -> None:
    base = image()
    kernel, good = Btf(base.encode()), module(base).encode()
    random_bytes = random.Random(seed)
    for _ in range(100):
        data = bytearray(good)
        for _ in range(random_bytes.randrange(1, 6)):
            data[random_bytes.randrange(24, len(data))] = random_bytes.randrange(256)
        try:
            btf = Btf(bytes(data), base=kernel)
        except TypesError:
            continue
        prog = program()
        types = BtfTypes(prog, btf, BtfTypes(prog, kernel))
        for type_id in range(len(kernel), len(btf)):
            with suppress(TypesError):
                types.type(type_id)
        for name in ("only_in_module", "shared", "list_head", "RED"):
            with suppress(TypesError):
                btf.find_enumerator(name)
            btf.find(Kind.STRUCT, name)
            btf.find(Kind.VAR, name)


# ---- in memory


class Memory:
    """A kernel with modules, drawn."""

    def __init__(self, *encoders: BtfEncoder, base: Optional[BtfEncoder] = None) -> None:
        self.base = base or image()
        self.memory = bytearray(0x40000)
        count = len(encoders)
        nodes = [LIST, *(MODULES + i * STRUCT_BYTES for i in range(count))]
        self.nodes = nodes
        data = DATA
        for i, encoder in enumerate(encoders):
            at, encoded = nodes[i + 1], encoder.encode()
            self.write(at + 16, "<QQ", at + 0x40, at + 0x60)
            self.memory[at + 0x40 : at + 0x44] = b"mod%d" % i
            first = len(Btf(self.base.encode())), len(self.base.strings)
            self.write(at + 0x60, "<QIII", data, len(encoded), *first)
            self.memory[data : data + len(encoded)] = encoded
            data += -(-len(encoded) // 16) * 16
        for before, node, following in zip([nodes[-1], *nodes], nodes, [*nodes[1:], nodes[0]]):
            self.write(node, "<QQ", following, before)

    def write(self, at: int, format: str, *values: int) -> None:
        struct.pack_into(format, self.memory, at, *values)

    def program(self) -> Program:
        prog = program()
        memory = bytes(self.memory)
        prog.add_memory_segment(
            0, len(memory), lambda address, size, offset, physical: memory[address:][:size]
        )
        symbols = {"Tschedule": 0x1000, "dbtf_modules": LIST}
        finder = BtfFinder(prog, Btf(self.base.encode()), table(symbols), "ours")
        prog.register_type_finder("ours", finder.find_type, enable_index=0)
        prog.register_object_finder("ours", finder.find_object, enable_index=0)
        return prog


def test_types_of_all_modules_are_found_and_the_image_goes_first() -> None:
    base = image()
    second = BtfEncoder(base)
    second.compound("second", 4, [("x", 1, 0)])
    second.compound("only_in_module", 8, [("other", 1, 0)])
    prog = Memory(module(base), second, base=base).program()
    assert sizeof(prog.type("struct only_in_module")) == 12  # of the first that has it
    assert prog.type("struct second").has_member("x")
    assert prog.type("struct shared").has_member("of_image")
    assert prog.constant("RED").value_() == 1
    assert prog.constant("GREEN").value_() == 2
    assert prog["GREEN"].type_.type_name() == "enum module_colors"
    with pytest.raises(LookupError, match="could not find 'struct none'"):
        prog.type("struct none")


def other_base(m: Memory) -> None:
    m.write(m.nodes[1] + 0x60 + 12, "<I", 5)


def too_large(m: Memory) -> None:
    m.write(m.nodes[1] + 0x60 + 8, "<I", 0xFFFFFFFF)


def not_in_the_dump(m: Memory) -> None:
    m.write(m.nodes[1] + 0x60, "<Q", 1 << 40)


def no_header(m: Memory) -> None:
    m.memory[DATA] = 0


def sections_outside(m: Memory) -> None:
    m.write(DATA + 12, "<I", 1 << 20)


@pytest.mark.parametrize(
    "damage", [other_base, too_large, not_in_the_dump, no_header, sections_outside]
)
def test_a_damaged_module_is_left_out_alone(damage: Callable[[Memory], None]) -> None:
    base = image()
    second = BtfEncoder(base)
    second.compound("second", 4, [("x", 1, 0)])
    memory = Memory(module(base), second, base=base)
    damage(memory)
    prog = memory.program()
    assert prog.type("struct second").has_member("x")
    with pytest.raises(LookupError):
        prog.type("struct only_in_module")


def test_a_function_that_takes_itself_for_a_struct_leaves_out_the_modules() -> None:
    base = image(btf_is_function=True)
    prog = Memory(module(base), base=base).program()
    assert sizeof(prog.type("struct shared")) == 4
    with pytest.raises(LookupError):
        prog.type("struct only_in_module")


def test_a_list_that_loops_ends() -> None:
    base = image()
    memory = Memory(module(base), module(base, "other"), base=base)
    memory.write(memory.nodes[2], "<Q", memory.nodes[1])
    prog = memory.program()
    assert prog.type("struct only_in_module").has_member("count")
    assert prog.type("struct other").has_member("count")


def test_a_list_that_leads_nowhere_ends() -> None:
    memory = Memory(module(image()))
    memory.write(memory.nodes[1], "<Q", 1 << 40)
    assert memory.program().type("struct only_in_module").has_member("count")


@pytest.mark.lab
@pytest.mark.parametrize("variant", ["debian", "fp-lsb"])
def test_a_real_kernel_has_types_of_its_modules(variant: str) -> None:
    from drgn_tools import open_program

    prog = open_program(core=lab_file(f"{variant}.core"))
    entry = prog.type("struct fw_cfg_sysfs_entry")
    assert [member.name for member in entry.members][:3] == ["kobj", "size", "select"]
    assert prog.function("fw_cfg_read_blob").address_ == prog.symbol("fw_cfg_read_blob").address
    assert prog.type("struct kobject").size == entry.member("kobj").type.size
