# SPDX-License-Identifier: LGPL-2.1-or-later
"""Files of modules that are given as symbols: of another build, of no loaded module, or of the right one."""

from __future__ import annotations

from pathlib import Path
from typing import Optional

import pytest
from drgn import Object, Program, RelocatableModule

from drgn_tools import TypesError, open_program
from drgn_tools.debuginfo.modules import listed_modules, module_name
from drgn_tools.errors import EXIT_TYPES
from drgn_tools.program.elf import NT_GNU_BUILD_ID
from drgn_tools.program.module_files import read_module_file, usable_module_files

from ..conftest import lab_file, lab_vmlinux
from ..support.drawn_kernel import DrawnKernel
from ..support.elf_object_writer import SHT_NOBITS, ElfObjectWriter
from ..support.elf_writer import note
from ..support.overlay import exclude, overlay

SHT_NOTE = 7
OTHER = "cd" * 20


def module_file(
    folder: Path,
    name: Optional[str],
    build_id: Optional[str],
    file_name: str = "file.ko",
    modinfo_type: int = 1,
) -> str:
    """A kernel module that says only who it is."""
    elf = ElfObjectWriter()
    elf.code(".text", 16)
    if name is not None:
        modinfo = b"license=GPL\0name=" + name.encode() + b"\0vermagic=6.12 SMP\0"
        elf.section(".modinfo", modinfo, modinfo_type)
    elf.section(".note.Linux", note("Linux", 0x101, b"x"), SHT_NOTE)
    if build_id is not None:
        data = note("GNU", NT_GNU_BUILD_ID, bytes.fromhex(build_id))
        elf.section(".note.gnu.build-id", data, SHT_NOTE)
    path = folder / file_name
    path.write_bytes(elf.bytes())
    return str(path)


@pytest.fixture
def prog(demo_core: str) -> Program:
    """The vmcore without drgn's modules."""
    return open_program(core=demo_core, modules=False)


@pytest.fixture(scope="module")
def loaded(demo_core: str) -> tuple[str, str]:
    """A module of the vmcore, and its build ID."""
    for module in open_program(core=demo_core).modules():
        if isinstance(module, RelocatableModule) and module.build_id:
            return module.name, module.build_id.hex()
    raise AssertionError("the vmcore has no module")


def warned(caplog: pytest.LogCaptureFixture) -> list[str]:
    found = list(caplog.messages)
    caplog.clear()
    return found


# ---- the file


def test_a_module_file_says_who_it_is(tmp_path: Path) -> None:
    file = read_module_file(module_file(tmp_path, "of_modinfo", OTHER))
    assert (file.module, file.build_id) == ("of_modinfo", OTHER)
    assert read_module_file(module_file(tmp_path, "x" * 999, None)).module == "x" * 64


@pytest.mark.parametrize("modinfo_type", [1, SHT_NOBITS])
def test_without_a_name_in_it_that_of_the_file_counts(tmp_path: Path, modinfo_type: int) -> None:
    # Debugging information alone has room for .modinfo only in memory.
    name = None if modinfo_type == 1 else "not_there"
    path = module_file(tmp_path, name, None, "snd-hda.ko.debug", modinfo_type)
    file = read_module_file(path)
    assert (file.module, file.build_id) == ("snd_hda", None)


# ---- against a kernel


def test_a_file_of_another_build_is_refused(
    demo_core: str, loaded: tuple[str, str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    name, expected = loaded
    for build_id, found in ((OTHER, f"is {OTHER}"), (None, "has none")):
        path = module_file(tmp_path, name, build_id)
        with pytest.raises(TypesError) as raised:
            open_program(core=demo_core, symbols=[path])
        assert raised.value.exit_code == EXIT_TYPES
        assert str(raised.value) == (
            f"{demo_core}: module {name} has build ID {expected} but {path} {found}; "
            "give the file of the module that is loaded with -s, or leave it out"
        )
    assert caplog.messages == []


def test_a_file_of_a_module_that_is_not_loaded_is_named(
    demo_core: str, loaded: tuple[str, str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    right = module_file(tmp_path, *loaded, "right.ko")
    absent = module_file(tmp_path, "not_here\x1b[31m", OTHER)
    assert open_program(core=demo_core, symbols=[absent, right])
    # And nothing by drgn.
    assert warned(caplog) == [f"{absent}: is not used: module 'not_here\\x1b[31m' is not loaded"]
    assert open_program(core=demo_core, symbols=[right])
    assert warned(caplog) == []


def test_the_build_id_tells_whatever_the_file_is_called(
    prog: Program, loaded: tuple[str, str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    paths = [module_file(tmp_path, None, loaded[1], name) for name in ("a.ko", "b.debug")]
    assert usable_module_files(prog, "vmcore", paths) == paths
    assert caplog.messages == []


def struct_module(prog: Program, name: str) -> Object:
    return next(found for found in listed_modules(prog["modules"]) if module_name(found) == name)


def test_a_module_whose_build_id_the_dump_does_not_have(
    prog: Program, loaded: tuple[str, str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    name, build_id = loaded
    attributes = struct_module(prog, name).notes_attrs.address_
    assert attributes is not None
    overlay(prog, attributes, bytes(8))
    path = module_file(tmp_path, name, build_id)
    assert usable_module_files(prog, "vmcore", [path]) == []
    assert warned(caplog) == [
        f"{path}: is not used: the dump does not have the build ID of module {name}, which is loaded"
    ]


def test_a_list_of_modules_that_is_not_in_the_dump(
    prog: Program, loaded: tuple[str, str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    exclude(prog, prog["modules"].address_, 16)
    path = module_file(tmp_path, *loaded)
    assert usable_module_files(prog, "vmcore", [path]) == []
    assert warned(caplog) == [
        f"{path}: is not used: the list of loaded modules is damaged, "
        f"and module {loaded[0]} is not in what is left"
    ]


def test_a_kernel_without_loadable_modules(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = module_file(tmp_path, "any", OTHER)
    assert usable_module_files(DrawnKernel().prog, "vmcore", [path]) == []
    assert warned(caplog) == [f"{path}: is not used: module any is not loaded"]


@pytest.mark.lab
def test_beside_a_vmlinux_they_are_looked_at_as_well(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    core, vmlinux = lab_file("fp-lsb.core"), lab_vmlinux("fp-lsb")
    absent = module_file(tmp_path, "absent", OTHER)
    assert open_program(core=core, symbols=[absent, vmlinux])
    assert warned(caplog) == [f"{absent}: is not used: module absent is not loaded"]
    with pytest.raises(TypesError, match="module lab_helper has build ID"):
        open_program(core=core, symbols=[module_file(tmp_path, "lab_helper", OTHER), vmlinux])
