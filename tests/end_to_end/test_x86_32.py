# SPDX-License-Identifier: LGPL-2.1-or-later
"""x86-32: our answers are the kernel's own, whatever the dump is like and wherever types come from."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from collections import Counter
from functools import partial
from pathlib import Path

import pytest
from drgn import Program
from drgn.helpers.linux.cpumask import for_each_online_cpu
from drgn.helpers.linux.fs import path_lookup
from drgn.helpers.linux.mm import cmdline, virt_to_page
from drgn.helpers.linux.module import for_each_module
from drgn.helpers.linux.percpu import per_cpu
from drgn.helpers.linux.pid import find_task, for_each_task
from drgn.helpers.linux.printk import get_dmesg
from drgn.helpers.linux.sched import cpu_curr, task_state_to_char
from drgn.helpers.linux.slab import for_each_slab_cache

from drgn_tools import Reason, TypesError, Verdict, audit_kernel, open_program

from ..conftest import lab_dump
from ..lab.dump import Dump
from ..lab.sheet import read_sheet
from ..lab.variants import Variant, variants_of
from ..support.answers import compare
from ..support.elf32 import write_elf32
from ..support.kdump import QEMU_NAMES_32, write_kdump

pytestmark = pytest.mark.lab


@pytest.fixture(params=variants_of("i386"), ids=lambda variant: variant.name)
def dump(request: pytest.FixtureRequest) -> Dump:
    variant: Variant = request.param
    return lab_dump(variant)


def vmlinux_of(dump: Dump) -> str:
    return str(dump.read_about()["vmlinux"])


def needed_symbols(dump: Dump) -> list[str]:
    """Debian's kernel has no BTF."""
    return [vmlinux_of(dump)] if dump.entry.name.startswith("i386-stock-") else []


def opened(dump: Dump) -> Program:
    return open_program(core=dump.core, symbols=needed_symbols(dump))


@pytest.mark.parametrize("types", ["btf", "dwarf"])
def test_answers_are_the_kernels(dump: Dump, types: str) -> None:
    if types == "btf" and needed_symbols(dump):
        with pytest.raises(TypesError, match="has no BTF"):
            open_program(core=dump.core)
        return
    prog = open_program(core=dump.core, symbols=[vmlinux_of(dump)] if types == "dwarf" else [])
    audit = audit_kernel(prog)
    kernel = audit.kernel
    assert (kernel.arch, kernel.types, kernel.unwinder) == ("i386", types, "frame_pointer")
    assert kernel.encoding == ("lsb" if dump.entry.name.startswith("i386-lsb-") else "msb")
    assert kernel.notes == ("no verdicts: x86-32 kernels have no reliable stack traces",)
    assert audit.problems == ()
    assert {(s.verdict, s.reason) for s in audit} <= {
        (Verdict.UNKNOWN, Reason.NO_RELIABLE_STACKTRACE),
        (Verdict.UNKNOWN, Reason.RUNNING),
    }
    result = compare(audit, read_sheet(prog), verdicts=False)
    print(f"\n{dump.entry.name} ({kernel.release}) with {types}: {result}")
    assert result.differences == ()
    assert result.compared > 100
    assert result.regs > 50


def test_btf_and_dwarf_give_the_same_records(dump: Dump) -> None:
    by_dwarf = open_program(core=dump.core, symbols=[vmlinux_of(dump)])
    assert audit_kernel(opened(dump)).tasks == audit_kernel(by_dwarf).tasks


def test_user_registers_are_those_that_the_kernel_saved(dump: Dump) -> None:
    prog = opened(dump)
    of_task = {s.task: s for s in audit_kernel(prog)}
    compared = 0
    for task in read_sheet(prog):
        if not task.comparable:
            continue
        for regs in of_task[task.task].regs:
            if regs.user_mode:
                words = list(struct.unpack("<17I", task.entry_regs_bytes))
                del words[10]  # gs
                assert regs.address == task.entry_regs
                assert [
                    w & 0xFFFF if i in (7, 8, 9, 12, 15) else w for i, w in enumerate(words)
                ] == list(regs.registers.values())
                compared += 1
    assert compared > 50


def test_what_entered_the_kernel_has_a_name(dump: Dump) -> None:
    audit = audit_kernel(opened(dump))
    entries = Counter((r.entry, r.user_mode) for s in audit for r in s.regs)
    print(f"\n{dump.entry.name}: {dict(entries)}")
    assert None not in {entry for entry, _ in entries}
    assert entries["page fault", False] >= 5
    assert entries["page fault", True] >= 2
    assert entries["timer interrupt", False] + entries["reschedule interrupt", False] >= 2
    assert entries["syscall", True] > 50


def test_running_tasks_are_walked_from_the_registers_of_their_cpu(dump: Dump) -> None:
    running = [s for s in audit_kernel(opened(dump)) if s.on_cpu]
    assert len(running) == 2
    for task in running:
        assert task.cpu_registers is not None
        names = [frame.symbol.name for frame in task.frames if frame.symbol]
        assert "cpu_stopper_thread" in names
        assert any(name.startswith("ret_from_fork") for name in names)


def json_of(core: Path, symbols: list[str]) -> str:
    options = [word for path in symbols for word in ("-s", path)]
    command = ["tasks", "--frames", "--format", "json", "-c", str(core), *options]
    done = subprocess.run(
        [sys.executable, "-m", "drgn_tools", *command],
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.replace(json.dumps(str(core)), "source")


def test_the_same_json_from_every_format(dump: Dump, tmp_path: Path) -> None:
    symbols = needed_symbols(dump)
    expected = json_of(dump.core, symbols)
    assert len(expected) > 10_000
    kdump, elf32 = tmp_path / "kdump", tmp_path / "elf32"
    write_kdump(str(dump.core), kdump, names=QEMU_NAMES_32)
    write_elf32(dump.core, elf32)
    assert json_of(kdump, symbols) == expected
    assert json_of(elf32, symbols) == expected


def test_drgns_helpers_that_docs_repl_md_names(dump: Dump) -> None:
    prog = opened(dump)
    init = find_task(prog, 1)
    assert len(list(for_each_task(prog))) > 100
    assert task_state_to_char(init) == "S"
    assert list(for_each_online_cpu(prog)) == [0, 1]
    assert per_cpu(prog["runqueues"], 1).cpu.value_() == 1
    assert cpu_curr(prog, 0).pid.value_() >= 0
    assert get_dmesg(prog).startswith(b"[    0.000000] Linux version")
    assert list(for_each_module(prog))
    assert list(for_each_slab_cache(prog))
    assert path_lookup(prog, "/proc").dentry
    for helper in (prog.stack_trace, cmdline, partial(virt_to_page, prog)):
        with pytest.raises(NotImplementedError):
            helper(init)
