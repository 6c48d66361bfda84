# SPDX-License-Identifier: LGPL-2.1-or-later
"""A vmlinux is taken if its build ID is that of the kernel, and refused otherwise."""

from __future__ import annotations

from pathlib import Path

import pytest
from drgn import Program

from drgn_tools.debuginfo.vmcoreinfo import build_id
from drgn_tools.errors import TypesError
from drgn_tools.program.build_id import (
    build_id_by_drgn,
    check_build_id,
    check_build_id_in_memory,
)
from drgn_tools.program.elf import ET_EXEC, NT_GNU_BUILD_ID, PT_NOTE

from ..support.drawn_kernel import DrawnKernel
from ..support.elf_writer import elf_file, note

OURS, OTHER = "ab" * 20, "cd" * 20


def gnu_note(build_id: str) -> bytes:
    return note("GNU", NT_GNU_BUILD_ID, bytes.fromhex(build_id))


def vmlinux(folder: Path, notes: bytes = b"") -> str:
    path = folder / "vmlinux"
    path.write_bytes(elf_file(ET_EXEC, 62, [(PT_NOTE, notes)]))
    return str(path)


def test_drgn_and_vmcoreinfo_have_the_same_build_id(demo_program: Program) -> None:
    found = build_id_by_drgn(demo_program)
    assert found is not None
    assert found == build_id(demo_program)


def test_vmlinux_with_the_build_id_of_the_kernel_is_taken(tmp_path: Path) -> None:
    path = vmlinux(tmp_path, gnu_note(OURS))
    check_build_id("vmcore", OURS, path)
    with pytest.raises(TypesError, match=f"^vmcore: kernel build ID {OTHER} but {path} is {OURS};"):
        check_build_id("vmcore", OTHER, path)


def test_vmlinux_without_a_build_id_is_refused(tmp_path: Path) -> None:
    path = vmlinux(tmp_path, note("GNU", 1, b"ABI"))
    with pytest.raises(TypesError, match=f"kernel build ID {OURS} but {path} has none;"):
        check_build_id("vmcore", OURS, path)


def kernel_with_notes(notes: bytes) -> DrawnKernel:
    kernel = DrawnKernel()
    start = kernel.put(kernel.new("char [256]"), notes)
    kernel.symbol("__start_notes", start)
    kernel.symbol("__stop_notes", start + len(notes))
    return kernel


def test_build_id_in_memory_is_what_lies_between_the_symbols_of_the_notes(tmp_path: Path) -> None:
    prog = kernel_with_notes(note("Linux", 0x100, b"x") + gnu_note(OURS)).prog
    check_build_id_in_memory(prog, "vmcore", vmlinux(tmp_path, gnu_note(OURS)))
    with pytest.raises(TypesError, match=f"kernel build ID {OURS} but .* is {OTHER};"):
        check_build_id_in_memory(prog, "vmcore", vmlinux(tmp_path, gnu_note(OTHER)))


@pytest.mark.parametrize("size", [64, -64])
def test_vmlinux_whose_symbols_do_not_lead_to_notes_is_refused(tmp_path: Path, size: int) -> None:
    kernel = DrawnKernel()
    kernel.symbol("__start_notes", kernel.nowhere)
    kernel.symbol("__stop_notes", kernel.nowhere + size)
    with pytest.raises(TypesError, match="kernel build ID unknown but"):
        check_build_id_in_memory(kernel.prog, "vmcore", vmlinux(tmp_path, gnu_note(OURS)))


def test_vmlinux_without_symbols_of_the_notes_cannot_be_checked(tmp_path: Path) -> None:
    # Nothing tells where the kernel has its build ID: the vmlinux is taken.
    check_build_id_in_memory(DrawnKernel().prog, "vmcore", vmlinux(tmp_path, gnu_note(OTHER)))
