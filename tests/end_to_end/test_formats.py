# SPDX-License-Identifier: LGPL-2.1-or-later
"""The same memory in every format that dumps are made in: the same answers."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import drgn
import pytest
from drgn import FaultError

from drgn_tools import audit_kernel, open_program
from drgn_tools.errors import EXIT_INPUT, EXIT_PARTIAL
from drgn_tools.program.elf import PT_LOAD, read_elf
from drgn_tools.program.kdump import read_kdump

from ..conftest import lab_dump
from ..lab.dump import Dump
from ..lab.sheet import read_sheet
from ..lab.variants import Variant, variant_named, variants_of
from ..support.answers import compare
from ..support.kdump import PAGE, QEMU_NAMES, QEMU_NAMES_32, unflatten, write_kdump
from ..support.wrong_answers import wrong

pytestmark = pytest.mark.lab

BY_MAKEDUMPFILE = {"zlib", "lzo", "zstd", "flat", "elf", "split", "whole"}
"""What the lab's makedumpfile can write (snappy needs one that is built with it)."""


@pytest.fixture(
    params=[
        *variants_of("formats"),
        *variants_of("formats-stock"),
        *variants_of("formats-i386"),
    ],
    ids=lambda variant: variant.name,
)
def dump(request: pytest.FixtureRequest) -> Dump:
    """One memory in all formats."""
    variant: Variant = request.param
    return lab_dump(variant)


@pytest.fixture(
    params=[*variants_of("formats"), *variants_of("formats-i386")],
    ids=lambda variant: variant.name,
)
def with_dwarf(request: pytest.FixtureRequest) -> Dump:
    """The same of a kernel that was built here."""
    variant: Variant = request.param
    return lab_dump(variant)


def variant_of(dump: Dump) -> Variant:
    return variant_named(dump.read_about()["variant"])


def files_of(dump: Dump) -> Iterator[tuple[str, Path]]:
    """Every file with that memory beside the core that QEMU or /proc/vmcore gave, by its format."""
    made = set(dump.read_about()["formats"])
    wanted = set(BY_MAKEDUMPFILE)
    if not variant_of(dump).kdump:
        wanted.add("kdump-zlib")  # every QEMU can write that
    assert wanted <= made, f"the lab did not make {wanted - made}"
    for name in sorted(made):
        parts = ("1", "2") if name == "split" else ("",)
        for part in parts:
            path = Path(f"{dump.core}.{name}{part}")
            assert path.exists(), f"the lab was meant to make {path.name}"
            yield f"{name}{part}", path


def run(path: Path, *arguments: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of the command line on a core."""
    done = subprocess.run(
        [sys.executable, "-m", "drgn_tools", *arguments, "--core", str(path)],
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


COMMANDS = (("tasks", "--frames", "--format", "json"), ("regs", "--format", "json"))


@cache
def answers(path: Path) -> list[str]:
    """What the commands say of a core, without where it is."""
    texts = []
    for command in COMMANDS:
        code, text, _ = run(path, *command)
        assert code == 0, f"{path.name}: {command[0]} exits with {code}"
        source = json.loads(text)["kernel"]["source"]
        assert source == str(path)
        assert text.count(json.dumps(source)) == 1
        texts.append(text.replace(json.dumps(source), "source"))
    return texts


def test_the_same_json_from_every_format(dump: Dump) -> None:
    expected = answers(dump.core)
    assert all(len(text) > 10_000 for text in expected)
    refused = []
    for name, path in files_of(dump):
        with open(path, "rb") as file:
            header = read_kdump(file)
        if header is not None and header.part not in (None, (0, header.max_pfn)):
            refused.append(name)
            code, _, error = run(path, *COMMANDS[0])
            assert code == EXIT_INPUT
            assert error.count("\n") == 1
            assert "is one part of a split dump" in error
            continue
        assert answers(path) == expected, name
    assert refused, "no part of the split dump is a part"


def test_the_answers_are_the_kernels(dump: Dump) -> None:
    prog = open_program(core=dump.core)
    audit = audit_kernel(prog)
    result = compare(audit, read_sheet(prog), verdicts=audit.kernel.arch != "i386")
    print(f"\n{dump.core}: {result}")
    assert result.differences == ()
    assert result.compared > 100
    assert result.unreliable > 3


def test_dwarf_makes_no_difference(with_dwarf: Dump) -> None:
    vmlinux = with_dwarf.read_about()["vmlinux"]
    expected = audit_kernel(open_program(core=with_dwarf.core))
    found = audit_kernel(open_program(core=f"{with_dwarf.core}.zlib", symbols=[vmlinux]))
    assert found.kernel.types == "dwarf"
    assert found.tasks == expected.tasks


@pytest.mark.parametrize("compression", ["none", "snappy"])
def test_formats_that_debians_tools_do_not_write(
    dump: Dump, compression: str, tmp_path: Path
) -> None:
    path = tmp_path / "vmcore"
    is_32_bit = variant_of(dump).kernel.arch == "i386"
    names = QEMU_NAMES_32 if is_32_bit else QEMU_NAMES
    write_kdump(str(dump.core), path, names=names, compression=compression)
    assert answers(path) == answers(dump.core)


@pytest.mark.parametrize("name", ["formats", "formats-i386"])
def test_kdump_raw_of_qemu(name: str, tmp_path: Path) -> None:
    # QEMU 8.2 and later writes it: the same, not flattened.
    dump = lab_dump(variant_named(name))
    unflatten(Path(f"{dump.core}.kdump-zlib"), tmp_path / "vmcore")
    assert answers(tmp_path / "vmcore") == answers(dump.core)


# ---- what is left out


@pytest.mark.parametrize("name", [variant.name for variant in variants_of("formats")])
def test_a_program_that_drgn_opened(name: str) -> None:
    # drgn reads zeros where makedumpfile's ELF leaves something out; not under our eyes.
    # (It cannot open a dump of x86-32 by itself.)
    dump = lab_dump(variant_named(name))
    path = f"{dump.core}.elf"
    prog = drgn.Program()
    prog.set_core_dump(path)
    prog.load_debug_info([dump.read_about()["vmlinux"]])
    with open(path, "rb") as file:
        elf = read_elf(file)
    assert elf is not None
    hole = next(
        segment.physical_address + segment.file_bytes
        for segment in elf.segments
        if segment.type == PT_LOAD and segment.file_bytes < segment.memory_bytes
    )
    assert prog.read(hole, 8, True) == bytes(8)
    assert audit_kernel(prog).tasks == audit_kernel(open_program(core=dump.core)).tasks
    with pytest.raises(FaultError):
        prog.read(hole, 8, True)


def test_a_page_is_right_or_missing(dump: Dump) -> None:
    """makedumpfile -d 31: pages of zeros, cache, user data and free ones are left out."""
    whole = drgn.Program()
    whole.set_core_dump(dump.core)
    for name, path in files_of(dump):
        if name.startswith("split"):
            continue
        prog = open_program(core=path)
        same = missing = zero = 0
        for pfn in range((64 << 20) // PAGE):
            try:
                expected = whole.read(pfn * PAGE, PAGE, True)
            except FaultError:
                continue  # beyond the memory, or the crash kernel's
            try:
                found = prog.read(pfn * PAGE, PAGE, True)
            except FaultError:
                missing += 1
                continue
            assert found == expected, f"{name}: page frame {pfn:#x}"
            same += 1
            zero += not any(found)
        print(f"\n{name}: {same} pages as they were ({zero} of them zero), {missing} missing")
        assert same > 1000
        assert zero > 500
        assert (missing > 0) == (name not in ("kdump-zlib", "kdump-lzo", "kdump-snappy"))


@pytest.mark.parametrize("options", [("-c",), ("-E",)], ids=["zlib", "elf"])
def test_a_makedumpfile_that_is_older_than_the_kernel(
    options: tuple[str, ...], tmp_path: Path
) -> None:
    # 1.7.2 takes slab pages of 6.12 for user data: task structs may be missing.
    said = b""
    if shutil.which("makedumpfile"):
        said = subprocess.run(["makedumpfile", "-v"], capture_output=True, check=False).stdout
    if b"version 1.7.2 " not in said:
        pytest.skip("needs makedumpfile 1.7.2 (Debian 12's)")
    dump = lab_dump(variant_named("kdump"))
    path = tmp_path / "vmcore"
    subprocess.run(
        ["makedumpfile", *options, "-d", "31", str(dump.core), str(path)],
        capture_output=True,
        check=True,
    )
    whole = audit_kernel(open_program(core=dump.core))
    found = audit_kernel(open_program(core=path))
    assert list(wrong(whole, found)) == []
    if found.problems:
        assert run(path, *COMMANDS[0])[0] == EXIT_PARTIAL
