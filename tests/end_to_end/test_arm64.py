# SPDX-License-Identifier: LGPL-2.1-or-later
"""arm64: our answers are the kernel's own, for every task of a dump that carries them."""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Callable, Optional

import pytest
from drgn import FaultError, Program
from drgn.helpers.linux.mm import follow_phys
from drgn.helpers.linux.printk import get_dmesg

from drgn_tools import InputError, Reason, TypesError, Verdict, audit_kernel, open_program
from drgn_tools.analysis.raw_stack import raw_stack
from drgn_tools.arch.arm64.pt_regs import probe_pt_regs
from drgn_tools.arch.kernel_page_tables import kernel_page_tables
from drgn_tools.debuginfo.kallsyms import kallsyms_of
from drgn_tools.debuginfo.modules import listed_modules
from drgn_tools.debuginfo.vmcoreinfo import number_among, vmcoreinfo
from drgn_tools.unwind.recovery import probe_recovery

from ..conftest import lab_dump
from ..lab.dump import Dump
from ..lab.sheet import read_sheet
from ..lab.variants import Variant, variant_named, variants_of
from ..support import kdump as kdump_writer
from ..support import translations
from ..support.answers_arm64 import compare_arm64, marks_in
from ..support.arm64_paging import arm64_paging
from ..support.kdump import ARM64_NAMES, QEMU_NAMES, write_kdump
from ..support.wrong_answers import wrong

pytestmark = pytest.mark.lab

_BUILT = [variant for variant in variants_of("arm64-built") if not variant.livepatch]
_VARIANTS = (*variants_of("arm64"), *_BUILT)
_HAVE_NONE = ("arm64-6.1", "arm64-6.12", "arm64-built-6.1", "arm64-built-6.12")
"""Kernels that give no verdicts."""
_LOSE_NOTHING = ("arm64-7.2", "arm64-6.12", "arm64-built-6.12", "arm64-built-6.1")
"""The last page of their memory is a table of the linear map, or of the kernel image. Of others it maps modules, too."""


@pytest.fixture(params=_VARIANTS, ids=lambda variant: variant.name)
def variant(request: pytest.FixtureRequest) -> Variant:
    given: Variant = request.param
    return given


@pytest.fixture
def dump(variant: Variant) -> Dump:
    return lab_dump(variant)


@pytest.fixture(params=_BUILT, ids=lambda variant: variant.name)
def built(request: pytest.FixtureRequest) -> Dump:
    """Of a kernel whose DWARF is there."""
    return lab_dump(request.param)


def vmlinux_of(dump: Dump) -> str:
    return str(dump.read_about()["vmlinux"])


def needed_symbols(dump: Dump) -> list[str]:
    """The vmlinux of a kernel whose own symbols are functions only."""
    return [vmlinux_of(dump)] if dump.read_about()["variant"] == "arm64-6.1" else []


def opened(dump: Dump) -> Program:
    return open_program(core=dump.core, symbols=needed_symbols(dump))


def log_of(prog: Program) -> str:
    return get_dmesg(prog).decode("utf-8", "replace")


def test_answers_are_the_kernels(variant: Variant, dump: Dump) -> None:
    types = "dwarf" if needed_symbols(dump) else "btf"
    answers_are_the_kernels(variant, opened(dump), types)


def test_symbols_of_functions_only_are_not_enough() -> None:
    dump = lab_dump(variant_named("arm64-6.1"))
    with pytest.raises(TypesError, match=r"without CONFIG_KALLSYMS_ALL.*give the vmlinux.*with -s"):
        audit_kernel(open_program(core=dump.core))


def test_answers_with_dwarf_are_the_kernels(built: Dump) -> None:
    prog = open_program(core=built.core, symbols=[vmlinux_of(built)])
    answers_are_the_kernels(variant_named(built.read_about()["variant"]), prog, "dwarf")


def test_btf_and_dwarf_give_the_same_records(built: Dump) -> None:
    by_dwarf = open_program(core=built.core, symbols=[vmlinux_of(built)])
    assert audit_kernel(open_program(core=built.core)).tasks == audit_kernel(by_dwarf).tasks


def answers_are_the_kernels(variant: Variant, prog: Program, types: str) -> None:
    audit = audit_kernel(prog)
    kernel = audit.kernel
    assert (kernel.arch, kernel.types, kernel.unwinder) == ("aarch64", types, "arm64")
    assert audit.problems == ()
    has_verdicts = variant.name not in _HAVE_NONE
    assert kernel.reliable_stacktrace == has_verdicts
    marks = marks_in(log_of(prog))
    result = compare_arm64(audit, read_sheet(prog), marks, has_verdicts)
    reasons = Counter(str(s.reason or s.verdict) for s in audit)
    print(f"\n{variant.name} ({kernel.release}) with {types}: {result}; {dict(reasons)}")
    assert result.differences == ()
    assert result.compared > 100
    assert result.user_regs > 50
    # Five in page faults; those that were preempted only where the kernel preempts itself.
    assert result.regs >= (5 if "preempted-kernel" in variant.cannot else 7)
    if has_verdicts:
        assert result.unreliable >= 10
        assert result.recovered >= 3
        assert len(marks) > 100
    else:
        assert {(s.verdict, s.reason) for s in audit} == {
            (Verdict.UNKNOWN, Reason.NO_RELIABLE_STACKTRACE),
            (Verdict.UNKNOWN, Reason.RUNNING),
        }


def test_registers_are_those_that_the_kernel_saved(dump: Dump) -> None:
    prog = opened(dump)
    layout = probe_pt_regs(prog)
    of_task = {s.task: s for s in audit_kernel(prog)}
    compared = 0
    for task in read_sheet(prog):
        for regs in of_task[task.task].regs if task.comparable else ():
            raw = prog.read(regs.address, layout.size_bytes)
            assert dict(layout.read(raw)) == dict(regs.registers)
            if regs.user_mode:
                # The sheet has the first of them, as they were when the machine was frozen.
                assert regs.address == task.entry_regs
                assert raw.startswith(task.entry_regs_bytes)
                compared += 1
            else:
                pt_regs = regs.object(prog)
                assert pt_regs.pc.value_() == regs["pc"]
                assert pt_regs.regs[29].value_() == regs["x29"]
    assert compared > 50


def test_every_register_holds_its_own_name(dump: Dump) -> None:
    # registers_in_syscall() and registers_in_fault() of the workload.
    of_comm = {s.comm: s for s in audit_kernel(opened(dump))}
    for comm, first in (("w-regs-syscall", 9), ("w-regs-fault", 2)):
        registers = of_comm[comm].regs[-1].registers
        for number in range(first, 29):
            assert registers[f"x{number}"] == int(f"{number:02}" * 8, 16), (comm, number)


def test_what_entered_the_kernel_has_a_name(dump: Dump) -> None:
    audit = audit_kernel(opened(dump))
    entries = Counter((r.entry, r.user_mode) for s in audit for r in s.regs)
    print(f"\n{dump.entry.name}: {dict(entries)}")
    assert None not in {entry for entry, _ in entries}
    assert entries["memory abort", False] >= 5
    assert entries["data abort", True] >= 2
    assert entries["syscall", True] > 50
    assert entries["interrupt", True] >= 1
    # The number of a system call is there only if it was one; a signal may have taken it away.
    for stack in audit:
        for regs in stack.regs:
            if regs.user_mode and regs["syscallno"] < 1 << 31:
                assert regs.entry in ("syscall", "fork")


def json_of(core: Path, symbols: list[str]) -> str:
    command = ["tasks", "--frames", "--format", "json", "-c", str(core)]
    command += [word for path in symbols for word in ("-s", path)]
    done = subprocess.run(
        [sys.executable, "-m", "drgn_tools", *command], capture_output=True, text=True, check=True
    )
    return done.stdout.replace(json.dumps(str(core)), "source")


def test_the_same_json_from_every_format(variant: Variant, dump: Dump, tmp_path: Path) -> None:
    # libkdumpfile walks the page tables of a kdump file, drgn those of an ELF file.
    symbols = needed_symbols(dump)
    expected = json_of(dump.core, symbols)
    assert len(expected) > 10_000
    page_bytes = opened(dump)["PAGE_SIZE"].value_()
    for names in (ARM64_NAMES, (*QEMU_NAMES[:4], b"aarch64", b"")):
        kdump = tmp_path / "kdump"
        write_kdump(str(dump.core), kdump, names=names, page_bytes=page_bytes)
        assert json_of(kdump, symbols) == expected


def written_kdump(dump: Dump, folder: Path, page_bytes: int = 0) -> Path:
    """A kdump file as makedumpfile writes it; by default its blocks are the kernel's pages."""
    kdump = folder / "kdump"
    page_bytes = page_bytes or opened(dump)["PAGE_SIZE"].value_()
    write_kdump(str(dump.core), kdump, names=ARM64_NAMES, page_bytes=page_bytes)
    return kdump


def test_kdump_that_lacks_its_last_page(
    variant: Variant, dump: Dump, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole, kdump = audit_kernel(opened(dump)), written_kdump(dump, tmp_path)
    os.truncate(kdump, kdump.stat().st_size - 10)
    audit = audit_kernel(open_program(core=kdump, symbols=needed_symbols(dump)))
    assert "the file is cut short" in caplog.text
    differ = sum(found != expected for found, expected in zip(audit, whole))
    print(
        f"\n{variant.name}: {len(audit)} of {len(whole)} tasks, {differ} differ; {audit.problems}"
    )
    assert list(wrong(whole, audit)) == []
    assert len(audit) == len(whole)
    if variant.name in _LOSE_NOTHING:
        assert (audit.tasks, audit.problems) == (whole.tasks, ())


def test_kdump_that_lacks_more(variant: Variant, dump: Dump, tmp_path: Path) -> None:
    """What is said of it is right, or it is refused."""
    whole, kdump = audit_kernel(opened(dump)), written_kdump(dump, tmp_path)
    size, counts = kdump.stat().st_size, []
    for part in (0.999, 0.97, 0.9, 0.6, 0.2):
        os.truncate(kdump, int(part * size))
        try:
            audit = audit_kernel(open_program(core=kdump, symbols=needed_symbols(dump)))
        except (InputError, TypesError) as e:
            assert "the file is cut short" in str(e)
            continue
        assert list(wrong(whole, audit)) == []
        assert len(audit) == len(whole) or audit.problems
        counts.append(len(audit))
    print(f"\n{variant.name}: {len(whole)} tasks, of what is left {counts}")
    assert counts


def test_blocks_need_not_be_pages(variant: Variant, dump: Dump, tmp_path: Path) -> None:
    # QEMU makes blocks of 64 KiB whatever the kernel's pages are, and names the machine "Unknown".
    symbols = needed_symbols(dump)
    expected = json_of(dump.core, symbols)
    assert json_of(Path(f"{dump.core}.kdump-zlib"), symbols) == expected
    for page_bytes in (4096, 16384):
        assert json_of(written_kdump(dump, tmp_path, page_bytes), symbols) == expected


@pytest.mark.parametrize("block_bytes", [4096, 65536])
def test_vmcoreinfo_of_kdump_is_found_in_its_memory(
    dump: Dump, block_bytes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kdump_writer, "_notes", lambda core: b"")
    kdump, symbols = written_kdump(dump, tmp_path, block_bytes), needed_symbols(dump)
    audit = audit_kernel(open_program(core=kdump, symbols=symbols, vmcoreinfo="auto"))
    whole = {s.task: s for s in audit_kernel(opened(dump))}
    # The registers of CPUs were in the notes, too.
    assert len(audit) == len(whole)
    assert all(s == whole[s.task] for s in audit if s.reason is not Reason.RUNNING)


def read_or_fault(read: Callable[[int, int], bytes], address: int, count: int) -> Optional[bytes]:
    try:
        return read(address, count)
    except FaultError:  # a device
        return None


def test_our_page_tables_are_those_of_drgn(variant: Variant, dump: Dump) -> None:
    prog, dice = opened(dump), random.Random(variant.name)
    lines = vmcoreinfo(prog)
    found = kernel_page_tables(prog, lines, always=True)
    assert found is not None
    begin, tables = found
    page_bytes = int(prog["PAGE_SIZE"])

    by_drgn = translations.by_drgn(prog)

    def by_us(address: int) -> Optional[int]:
        page = tables.find(address)
        return None if page is None else page.physical_of(address)

    image = prog.symbol("_stext").address
    stacks = [task.stack for task in read_sheet(prog) if task.stack]
    linear_map = -(1 << 64 - (number_among(lines, "TCR_EL1_T1SZ") or 16)) & (1 << 64) - 1
    linear_map += int(by_us(image) or 0) - (number_among(lines, "PHYS_OFFSET") or 0) & -(1 << 21)
    near = (image, linear_map, *stacks, *(m.value_() for m in listed_modules(prog["modules"])))
    addresses = [dice.choice(near) + dice.randrange(-(1 << 16), 1 << 22) for _ in range(4000)]
    addresses += [stack + at for stack in stacks for at in (0, page_bytes, 3 * page_bytes)]
    addresses += [begin | dice.getrandbits(48) for _ in range(500)]
    mapped = 0
    for address in addresses:
        assert by_us(address) == by_drgn(address), hex(address)
        if by_us(address) is not None:
            count = min(64, page_bytes - address % page_bytes)
            assert read_or_fault(tables.read, address, count) == read_or_fault(
                prog.read, address, count
            )
            mapped += 1
    print(f"\n{variant.name}: {mapped} of {len(addresses)} addresses are mapped, the same ones")
    assert 1000 < mapped < len(addresses)


def test_drgn_translates_addresses_as_the_page_tables_say(dump: Dump) -> None:
    prog = opened(dump)
    paging = arm64_paging(vmcoreinfo(prog))
    sheet = read_sheet(prog)

    def read(address: int, size: int) -> bytes:
        return bytes(prog.read(address, size, True))

    addresses = [prog.symbol(name).address for name in ("_stext", "init_task", "swapper_pg_dir")]
    for task in sheet:
        addresses += [task.task, *range(task.stack, task.entry_regs if task.stack else 0, 4096)]
    for address in addresses:
        where = paging.translate(read, address).physical
        assert follow_phys(prog["init_mm"].address_of_(), address).value_() == where
        assert prog.read(address, 64) == read(where, 64)
    assert len(addresses) > 500
    with pytest.raises(LookupError):
        paging.translate(read, sheet[0].stack - 1 if sheet[0].stack else 0)


@pytest.mark.parametrize("bits", ["0x0", "0x38", "0x7f", "-1", ""])
def test_vmcoreinfo_with_an_impossible_number_of_address_bits_is_refused(
    dump: Dump, tmp_path: Path, bits: str
) -> None:
    prog = opened(dump)
    text = re.sub(
        rb"NUMBER\(TCR_EL1_T1SZ\)=.*",
        b"NUMBER(TCR_EL1_T1SZ)=%s" % bits.encode(),
        prog["VMCOREINFO"].string_(),
    )
    text = re.sub(rb"NUMBER\(VA_BITS\)=.*", b"NUMBER(VA_BITS)=0", text)
    info = tmp_path / "vmcoreinfo"
    info.write_bytes(text)
    with pytest.raises(InputError) as refused:
        open_program(core=dump.core, vmcoreinfo=info)
    print(f"\n{refused.value}")
    assert "\n" not in str(refused.value)


def test_words_of_a_stack_are_code_whatever_signs_them(dump: Dump) -> None:
    prog = opened(dump)
    stack = next(s for s in audit_kernel(prog) if s.comm == "w-eventfd")
    words = raw_stack(prog, stack.pid)
    frames = {word.frame: word for word in words if word.kind == "frame"}
    assert len(frames) > 5
    signed = [word for word in frames.values() if word.value != stack.frames[word.frame].ip]
    assert signed
    # Only what a tracer has rewritten is said to be replaced.
    replaced = [word.label for word in words if word.label and "replaced by" in word.label]
    assert 1 <= len(replaced) <= 2
    assert all("(replaced by return_to_handler+0x0)" in label for label in replaced)
    assert any(word.kind == "text" for word in words)


def test_trampolines_are_known_by_their_code(dump: Dump, monkeypatch: pytest.MonkeyPatch) -> None:
    # A damaged name of a symbol elsewhere made them unknown: the kernel was refused as a whole.
    prog = opened(dump)
    kallsyms, right = kallsyms_of(prog), probe_recovery(prog)
    assert kallsyms is not None and len(right.trampolines) == 2
    monkeypatch.setattr(kallsyms, "is_sound", lambda: False)
    assert probe_recovery(prog) == right
    find = kallsyms.find
    moved: dict[str, list[int]] = {}
    monkeypatch.setattr(kallsyms, "find", lambda wanted: moved.get(wanted) or find(wanted))
    for name in ("return_to_handler", "__kretprobe_trampoline"):
        (address,) = find(name)
        assert address in right.trampolines
        moved.clear()
        moved[name] = [address + 64]
        with pytest.raises(TypesError, match=f"{name} is not at {address + 64:#x}"):
            probe_recovery(prog)
