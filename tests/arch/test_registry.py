# SPDX-License-Identifier: LGPL-2.1-or-later
"""Architectures by the names that files, drgn and records have for them."""

from __future__ import annotations

import pytest
from drgn import Architecture

from drgn_tools.arch import machines, registry


def test_the_table_of_machines_and_the_architectures_are_the_same() -> None:
    assert tuple(arch.name for arch in registry.ARCHES) == machines.ARCHES
    assert {arch.name.upper() for arch in registry.ARCHES} <= set(Architecture.__members__)


@pytest.mark.parametrize(
    ("machine", "arch"), [("x86_64", "x86_64"), ("i686", "i386"), ("i386", "i386"), ("ia64", None)]
)
def test_utsname_names_a_machine(machine: str, arch: str | None) -> None:
    assert machines.arch_of_utsname(machine) == arch


@pytest.mark.parametrize(
    ("machine", "arch", "name"),
    [
        (62, "x86_64", "x86_64"),
        (3, "i386", "i386"),
        (183, "aarch64", "aarch64"),
        (243, None, "riscv"),
        (258, None, "loongarch"),
        (999, None, "ELF machine 999"),
    ],
)
def test_an_elf_header_names_a_machine(machine: int, arch: str | None, name: str) -> None:
    assert machines.arch_of_elf(machine) == arch
    assert machines.elf_machine_name(machine) == name


def test_every_arch_draws_all_of_its_registers() -> None:
    for arch in registry.ARCHES:
        drawn = [part for row in arch.register_rows for name in row for part in name.split(":")]
        assert sorted(drawn) == sorted(set(arch.regs.names) & set(drawn))
        assert {arch.regs.ip_name, arch.regs.syscall_name, "sp"} <= set(drawn)
        assert arch.digits == 2 * arch.regs.word_bytes


@pytest.mark.parametrize(
    ("arch", "name", "title"),
    [
        ("x86_64", "ax", "RAX"),
        ("i386", "ax", "EAX"),
        ("x86_64", "r8", "R08"),
        ("x86_64", "orig_ax", "ORIG_RAX"),
        ("i386", "flags", "EFLAGS"),
        ("x86_64", "cs", "CS"),
        ("aarch64", "x0", "x0"),
        ("aarch64", "x30", "lr"),
    ],
)
def test_registers_have_the_titles_of_an_oops(arch: str, name: str, title: str) -> None:
    assert registry.arch_named(arch).register_title(name) == title
