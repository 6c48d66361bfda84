# SPDX-License-Identifier: LGPL-2.1-or-later
"""Dumps of hosts with memory encryption (SME): the answers are those of the same memory without."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import cache
from pathlib import Path

import drgn
import pytest
from drgn import FaultError

from drgn_tools import InputError, TypesError, audit_kernel, open_program
from drgn_tools.arch.x86.kernel_page_tables import kernel_page_tables
from drgn_tools.debuginfo.vmcoreinfo import vmcoreinfo, vmcoreinfo_lines
from drgn_tools.program.builtin_types import use_builtin_types

from ..conftest import lab_dump
from ..lab.variants import Variant, variant_named, variants_of
from ..support.kdump import QEMU_NAMES, flatten, write_kdump
from ..support.sme_core import SME_MASK, write_sme_core
from ..support.vmcore_layout import write_vmcore_layout

FORMATS = ("elf", "vmcore", "kdump", "kdump-of-vmcore", "kdump-by-qemu", "kdump-flattened")
"""Of the dumps with the bit; "elf" is in QEMU's layout, "vmcore" in that of /proc/vmcore."""

COMMANDS = (
    ("tasks", "--frames", "--format", "json"),
    ("stack", "--all", "--format", "json"),
    ("regs", "--format", "json"),
)


@pytest.fixture(scope="module")
def sme_core(demo_core: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sme") / "core"
    assert write_sme_core(demo_core, path) > 1000
    return path


def test_answers_are_those_without_encryption(sme_core: Path, demo_program: drgn.Program) -> None:
    prog = open_program(core=sme_core)
    assert vmcoreinfo(prog)["NUMBER(sme_mask)"] == str(SME_MASK)
    assert audit_kernel(prog).tasks == audit_kernel(demo_program).tasks


@pytest.fixture(scope="module")
def in_formats(sme_core: Path, demo_program: drgn.Program) -> dict[str, Path]:
    """The memory with the bit, in each of FORMATS."""
    paths = {name: sme_core.with_name(name) for name in FORMATS}
    paths["elf"] = sme_core
    write_vmcore_layout(sme_core, paths["vmcore"], demo_program)
    write_kdump(str(sme_core), paths["kdump"])
    write_kdump(str(paths["vmcore"]), paths["kdump-of-vmcore"])
    write_kdump(str(sme_core), paths["kdump-by-qemu"], names=QEMU_NAMES)
    flatten(paths["kdump"], paths["kdump-flattened"])
    return paths


@cache
def answers(core: str) -> tuple[str, ...]:
    """What the commands say of a core, without where it is."""
    texts = []
    for command in COMMANDS:
        done = subprocess.run(
            [sys.executable, "-m", "drgn_tools", *command, "-c", core],
            capture_output=True,
            text=True,
            check=True,
        )
        source = json.dumps(core)
        assert done.stdout.count(source) == 1
        texts.append(done.stdout.replace(source, "source"))
    return tuple(texts)


@pytest.mark.parametrize("name", FORMATS)
def test_the_same_answers_from_every_format(
    in_formats: dict[str, Path], name: str, demo_core: str, demo_program: drgn.Program
) -> None:
    expected = audit_kernel(demo_program)
    audit = audit_kernel(open_program(core=in_formats[name]))
    assert audit.problems == ()
    assert audit.tasks == expected.tasks
    assert len(answers(demo_core)[0]) > 10_000
    assert answers(str(in_formats[name])) == answers(demo_core)


@pytest.mark.parametrize("name", FORMATS[:4])
def test_without_the_name_of_the_bit_the_answers_differ(
    in_formats: dict[str, Path], name: str, demo_program: drgn.Program, tmp_path: Path
) -> None:
    # So it is the bit in the tables that the answers above did without.
    path = tmp_path / name
    named = b"NUMBER(sme_mask)=%d\n" % SME_MASK
    content = in_formats[name].read_bytes()
    assert content.count(named) >= 1
    path.write_bytes(content.replace(named, b"NUMBER(sme_mask)=0\n".ljust(len(named), b"\n")))
    try:
        found = audit_kernel(open_program(core=path))
    except (InputError, TypesError):
        assert name != "vmcore"  # it has virtual addresses, so most is read without page tables
        return
    assert found.problems
    assert found.tasks != audit_kernel(demo_program).tasks


@pytest.mark.lab
@pytest.mark.parametrize(
    "variant",
    [*variants_of("formats"), *variants_of("formats-stock"), variant_named("fp-no5lvl")],
    ids=lambda variant: variant.name,
)
def test_dumps_of_the_lab(variant: Variant, tmp_path: Path) -> None:
    """QEMU's dumps and a real /proc/vmcore; frame pointers and ORC; five levels and four."""
    core = str(lab_dump(variant).core)
    elf, kdump = tmp_path / "elf", tmp_path / "kdump"
    changed = write_sme_core(core, elf)
    write_kdump(str(elf), kdump)
    print(f"\n{variant.name}: {changed} entries have the bit")
    assert changed > 1000
    assert answers(str(elf)) == answers(str(kdump)) == answers(core)


def test_program_that_drgn_opened(sme_core: Path, demo_program: drgn.Program) -> None:
    prog = drgn.Program()
    prog.set_core_dump(sme_core)
    with pytest.raises(FaultError):
        prog.read(demo_program["init_task"].address_, 8)
    use_builtin_types(prog)  # as our plugin does
    assert audit_kernel(prog).tasks == audit_kernel(demo_program).tasks


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("NUMBER(sme_mask)", "0"),
        ("NUMBER(sme_mask)", "?"),
        ("NUMBER(phys_base)", "-7"),
        ("NUMBER(phys_base)", ""),
        ("NUMBER(pgtable_l5_enabled)", "other"),
        ("SYMBOL(swapper_pg_dir)", "10"),
        ("SYMBOL(swapper_pg_dir)", "ffffffff80000000"),
        ("SYMBOL(swapper_pg_dir)", "ffffffffffffffff0"),
    ],
)
def test_page_tables_that_are_not_there_are_not_used(sme_core: Path, key: str, value: str) -> None:
    prog = drgn.Program()
    prog.set_core_dump(sme_core)
    lines = dict(vmcoreinfo_lines(prog["VMCOREINFO"].string_()))
    if value == "other":
        value = {"1": "0", "0": "1"}[lines.get(key, "0")]
    assert kernel_page_tables(prog, {**lines, key: value}) is None
    assert kernel_page_tables(prog, lines) is not None
