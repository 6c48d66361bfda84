# SPDX-License-Identifier: LGPL-2.1-or-later
"""drgn's modules, and its own unwinder, on kernels without debuginfo."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Optional

import drgn
import pytest
from drgn import Program
from drgn.helpers.linux import for_each_task
from drgn.helpers.linux.list import list_for_each_entry

from drgn_tools import open_program
from drgn_tools.commands import plugin
from drgn_tools.debuginfo import global_types
from drgn_tools.kernel.tasks import PF_KTHREAD
from drgn_tools.program import drgn_modules
from drgn_tools.program.builtin_types import use_builtin_types
from drgn_tools.program.drgn_modules import create_modules, set_image_addresses

from ..conftest import lab_file
from ..support.drawn_kernel import DrawnKernel
from ..support.overlay import exclude, overlay


@pytest.fixture
def prog(demo_core: str) -> Program:
    """The vmcore without drgn's modules."""
    return open_program(core=demo_core, modules=False)


def image_of(prog: Program) -> tuple[int, int]:
    return prog.symbol("_text").address, prog.symbol("_end").address


def loaded_in(prog: Program) -> list[drgn.Object]:
    modules = list_for_each_entry("struct module", prog["modules"].address_of_(), "list")
    return list(modules)


def names(prog: Program) -> list[str]:
    return [module.name for module in prog.modules()]


def test_opened_program_has_the_image_and_every_module(demo_core: str) -> None:
    prog = open_program(core=demo_core)
    assert prog.main_module().address_ranges == (image_of(prog),)
    assert prog.main_module().build_id is not None  # by which drgn looks for debuginfo
    loaded = {module.name.string_().decode(): module for module in loaded_in(prog)}
    assert loaded and names(prog) == ["kernel", *loaded]
    for name, module in loaded.items():
        created = prog.linux_kernel_loadable_module(module)
        assert created.name == name
        assert created.build_id is not None and created.address_ranges
        assert created.section_addresses[".text"] == created.address


def test_without_modules_there_is_the_image_alone(prog: Program) -> None:
    assert names(prog) == ["kernel"]
    assert prog.main_module().address_ranges == (image_of(prog),)
    create_modules(prog)
    assert len(names(prog)) > 1


def test_drgn_makes_the_modules_itself_where_the_plugin_gives_types(demo_core: str) -> None:
    prog = Program()
    prog.set_core_dump(demo_core)
    plugin.drgn_prog_set(prog)
    prog.debug_info_options.directories = ()
    prog.debug_info_options.kernel_directories = ()
    with pytest.raises(drgn.MissingDebugInfoError):
        prog.load_default_debug_info()
    opened = open_program(core=demo_core)
    assert names(prog) == names(opened)
    for name in names(prog)[1:]:
        (theirs,) = (module for module in prog.modules() if module.name == name)
        (ours,) = (module for module in opened.modules() if module.name == name)
        assert theirs.address_ranges == ours.address_ranges
        assert theirs.build_id == ours.build_id
        assert dict(theirs.section_addresses) == dict(ours.section_addresses)
    assert prog.main_module().address_ranges == (image_of(prog),)


def test_symbols_are_the_same(prog: Program, demo_core: str) -> None:
    with_modules = open_program(core=demo_core)
    module = loaded_in(prog)[0].mem[0].base.value_()
    for what in (None, "schedule", prog.symbol("schedule").address + 4, module, module + 0x100):
        assert prog.symbols(what) == with_modules.symbols(what)
    assert with_modules.symbols(module)


def test_debuginfo_is_not_looked_for(demo_core: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def find(modules: Sequence[drgn.Module]) -> None:
        asked.extend(module.name for module in modules)

    def new_program(*args: object) -> Program:
        prog = Program()
        prog.register_debug_info_finder("asked", find, enable_index=0)
        return prog

    monkeypatch.setattr("drgn_tools.program.open._new_program", new_program)
    prog = open_program(core=demo_core)
    assert list(prog.stack_trace(1)) and list(prog.modules())
    # A kernel without loadable modules: drgn itself would look for its vmlinux.
    without = {name: type for name, type in global_types.GLOBALS.items() if name != "modules"}
    monkeypatch.setattr("drgn_tools.debuginfo.btf_finder.GLOBALS", without)
    prog = open_program(core=demo_core)
    assert names(prog) == ["kernel"]
    assert asked == []
    prog.create_loaded_modules()
    assert asked == ["kernel"]


def test_it_is_done_once(prog: Program) -> None:
    prog.main_module().address_ranges = [(1, 2)]
    create_modules(prog)
    assert prog.main_module().address_ranges == ((1, 2),)  # what drgn knows stays
    before = names(prog)
    exclude(prog, prog["modules"].address_, 16)
    create_modules(prog)
    assert names(prog) == before


@pytest.mark.parametrize(
    ("start", "end"), [(None, 2 << 20), (1 << 20, None), (2 << 20, 1 << 20), (1 << 20, 1 << 20)]
)
def test_image_whose_bounds_make_no_sense_is_not_told(
    demo_core: str, start: Optional[int], end: Optional[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    bounds = {"_text": start, "_end": end}
    monkeypatch.setattr(drgn_modules, "symbol_address", lambda prog, name: bounds[name])
    prog = Program()
    prog.set_core_dump(demo_core)
    use_builtin_types(prog)
    set_image_addresses(prog)
    with pytest.raises(LookupError):
        prog.main_module()


# ---- damage


def test_list_that_is_not_in_the_dump_leaves_the_image(prog: Program) -> None:
    exclude(prog, prog["modules"].address_, 16)
    create_modules(prog)
    assert names(prog) == ["kernel"]


def test_list_that_leads_out_of_the_dump_or_in_circles_keeps_what_came_before(
    demo_core: str,
) -> None:
    for following in (8, None):
        prog = open_program(core=demo_core, modules=False)
        first = loaded_in(prog)[0]
        entry = first.list.address_
        overlay(prog, entry, (following or entry).to_bytes(8, "little"))
        create_modules(prog)
        assert names(prog) == ["kernel", first.name.string_().decode()]


def test_list_longer_than_any_is_cut(prog: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drgn_modules, "MAX_MODULES", 0)
    create_modules(prog)
    assert names(prog) == ["kernel"]


@pytest.mark.parametrize("damage", ["sections", "notes", "gone", "size", "note", "name"])
def test_damaged_module_is_left_out(prog: Program, damage: str) -> None:
    module = loaded_in(prog)[0]
    most = b"\xff" * 4
    if damage == "sections":
        overlay(prog, module.sect_attrs.nsections.address_, most)
    elif damage == "notes":
        overlay(prog, module.notes_attrs.notes.address_, most)
    elif damage == "gone":
        exclude(prog, module.sect_attrs.nsections.address_, 4)
    elif damage == "note":  # drgn would read it
        overlay(prog, module.notes_attrs.attrs[0].size.address_, (1 << 30).to_bytes(8, "little"))
    elif damage == "name":
        # Fuzz: crash-fgraph, seed 700736. Through a damaged page table it had no end for a gigabyte.
        overlay(prog, module.sect_attrs.attrs[2].battr.attr.name.value_(), b"\xcc" * 1024)
    else:  # more than there can be room for
        overlay(prog, module.notes_attrs.attrs[0].size.address_, b"\xff" * 7 + b"\x7f")
    create_modules(prog)
    assert names(prog) == ["kernel", *(m.name.string_().decode() for m in loaded_in(prog)[1:])]


def test_pointers_to_attributes_end_with_null() -> None:
    k = DrawnKernel()
    k.struct("attribute_group", "unsigned long *bin_attrs")
    k.struct("module_sect_attrs", "struct attribute_group grp")
    attributes = k.new("unsigned long [5000]")
    holder = k.new("struct module_sect_attrs", {"grp": {"bin_attrs": attributes}})
    sections = drgn.Object(k.prog, "struct module_sect_attrs *", holder)
    for count, is_bounded in ((0, True), (3, True), (4096, True), (4097, False), (5000, False)):
        k.put(attributes, (b"\1" * 8 * count).ljust(8 * 5000, b"\0"))
        assert drgn_modules._is_bounded(sections, "nsections") is is_bounded


@pytest.mark.parametrize(
    ("section", "bounded"),
    [("battr", True), ("battr", False), ("name", True), ("name", False), ("", True), ("", False)],
)
def test_names_of_sections_have_an_end_wherever_they_are_kept(section: str, bounded: bool) -> None:
    k = DrawnKernel()
    name = k.put(k.new("char [2048]"), b".text" + bytes([not bounded]) * 1100)
    k.struct("attribute", "char *name")
    k.struct("bin_attribute", "struct attribute attr; unsigned long size")
    k.struct("attribute_group", "struct bin_attribute **bin_attrs")
    if section:
        member = "struct bin_attribute battr" if section == "battr" else "char *name"
        k.struct("module_sect_attr", f"unsigned long pad; {member}; unsigned long address")
        k.struct("module_sect_attrs", "unsigned int nsections; struct module_sect_attr attrs[2]")
        value = {"battr": {"attr": {"name": name}}} if section == "battr" else {"name": name}
        sections = k.new("struct module_sect_attrs", {"nsections": 2, "attrs": [value, value]})
    else:
        attribute = k.new("struct bin_attribute", {"attr": {"name": name}})
        pointers = k.new("struct bin_attribute *[3]", [attribute, attribute, 0])
        k.struct("module_sect_attrs", "struct attribute_group grp")
        sections = k.new("struct module_sect_attrs", {"grp": {"bin_attrs": pointers}})
    attributes = drgn.Object(k.prog, "struct module_sect_attrs *", sections)
    found = list(drgn_modules._attributes(attributes, "nsections"))
    assert len(found) == 2
    for each in found:
        assert drgn_modules._has_an_end(drgn_modules._name_of(each)) is bounded


# ---- drgn's unwinder


@pytest.mark.lab
def test_drgn_unwinds_an_orc_kernel_at_once() -> None:
    prog = open_program(core=str(lab_file("debian.core")))
    unwound = 0
    for task in for_each_task(prog):
        if not task.flags & PF_KTHREAD or task.on_cpu:
            continue
        functions = [frame.name for frame in prog.stack_trace(task)]
        if functions[0] == "__schedule":  # else it never ran
            assert functions[-2:] == ["kthread", "ret_from_fork"] or functions[2] == "kthreadd"
            unwound += 1
    assert unwound > 30
