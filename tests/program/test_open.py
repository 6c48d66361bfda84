# SPDX-License-Identifier: LGPL-2.1-or-later
"""Opening a kernel: drgn's own helpers work on it, whatever it was opened with."""

from __future__ import annotations

import logging
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, cast
from unittest import mock

import drgn
import pytest
from drgn import Program
from drgn.helpers.linux.cpumask import for_each_online_cpu, for_each_possible_cpu
from drgn.helpers.linux.fs import for_each_file, for_each_mount, mount_dst
from drgn.helpers.linux.irq import for_each_irq_desc
from drgn.helpers.linux.mm import cmdline, for_each_vma
from drgn.helpers.linux.module import for_each_module
from drgn.helpers.linux.panic import tainted
from drgn.helpers.linux.percpu import per_cpu
from drgn.helpers.linux.pid import find_task, for_each_pid, for_each_task
from drgn.helpers.linux.printk import get_dmesg
from drgn.helpers.linux.sched import cpu_curr, get_task_state, idle_task, task_state_to_char
from drgn.helpers.linux.slab import for_each_slab_cache

from drgn_tools import open_program
from drgn_tools.debuginfo.kallsyms import kallsyms_of
from drgn_tools.debuginfo.vmcoreinfo import build_id, vmcoreinfo
from drgn_tools.errors import InputError, UsageError
from drgn_tools.kernel.probing import has_dwarf
from drgn_tools.program.dwarf import types_source
from drgn_tools.program.elf import ET_REL
from drgn_tools.program.open import input_error_if_vanished, opened_here

from ..conftest import lab_file
from ..support.elf_writer import elf_file
from ..support.kdump import write_kdump


@pytest.mark.parametrize(
    "which", [{}, {"core": "a", "kernel": True}, {"core": "a", "qemu": "b"}, {"kernel": False}]
)
def test_exactly_one_kernel_must_be_named(which: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="which kernel"):
        open_program(**which)


def test_a_path_alone_is_that_of_a_core(demo_core: str) -> None:
    prog = open_program(demo_core)
    assert prog["UTS_RELEASE"].string_() == open_program(core=demo_core)["UTS_RELEASE"].string_()


@pytest.mark.parametrize("no_path", [b"vmcore", 5, ["vmcore"]])
def test_what_is_no_path_is_a_usage_error(demo_core: str, no_path: Any) -> None:
    for parameter in ("core", "qemu"):
        with pytest.raises(UsageError, match=f"^{parameter} is a path"):
            open_program(**{parameter: no_path})
    with pytest.raises(UsageError, match=r"^vmcoreinfo is a path"):
        open_program(core=demo_core, vmcoreinfo=no_path)
    with pytest.raises(UsageError, match=r"^symbols is a path"):
        open_program(core=demo_core, symbols=[no_path])


def test_symbols_are_a_list(demo_core: str) -> None:
    # A text is a list of its letters.
    with pytest.raises(UsageError, match=r"^symbols is a list of paths: \['vmlinux'\]$"):
        open_program(core=demo_core, symbols="vmlinux")


def facts(prog: Program) -> dict[str, object]:
    """What drgn's helpers say of a kernel, helper by helper."""
    tasks = list(for_each_task(prog))
    users = [task for task in tasks if task.mm]
    cpus = list(for_each_online_cpu(prog))
    return {
        "for_each_task": [(t.pid.value_(), t.comm.string_(), t.value_()) for t in tasks],
        "find_task": find_task(prog, 1).value_(),
        "for_each_pid": [pid.value_() for pid in for_each_pid(prog)],
        "cpus": (cpus, list(for_each_possible_cpu(prog))),
        "cpu_curr": [cpu_curr(prog, cpu).value_() for cpu in cpus],
        "idle_task": [idle_task(prog, cpu).value_() for cpu in cpus],
        "per_cpu": [per_cpu(prog["runqueues"], cpu).nr_running.value_() for cpu in cpus],
        "task_state_to_char": [task_state_to_char(task) for task in tasks],
        "get_task_state": [get_task_state(task) for task in tasks],
        "for_each_module": [module.name.string_() for module in for_each_module(prog)],
        "for_each_file": [[fd for fd, _ in for_each_file(task)] for task in users],
        "cmdline": [cmdline(task) for task in users],
        "for_each_vma": [[vma.vm_start.value_() for vma in for_each_vma(t.mm)] for t in users],
        "mounts": [mount_dst(mount) for mount in for_each_mount(prog)],
        "dmesg": get_dmesg(prog),
        "tainted": tainted(prog),
        "for_each_irq_desc": [irq for irq, _ in for_each_irq_desc(prog)],
        "for_each_slab_cache": [cache.name.string_() for cache in for_each_slab_cache(prog)],
        "constants": [prog[name].value_() for name in ("PIDTYPE_PID", "THREAD_SIZE", "PAGE_SIZE")],
        "jiffies": prog["jiffies"].value_(),
        "vmemmap": prog["vmemmap"].value_(),
        "symbol": prog.symbol(prog["schedule"].address_ + 4).name,
        "char": prog.type("char").is_signed,
        "threads": [thread.tid for thread in prog.threads()],
    }


def test_drgns_helpers_work_with_nothing_beside_the_core(demo_program: Program) -> None:
    found = facts(demo_program)
    assert len(found["for_each_task"]) > 20  # type: ignore[arg-type]
    assert found["symbol"] == "schedule"
    assert b"Linux version" in found["dmesg"]  # type: ignore[operator]
    assert set(found["task_state_to_char"]) <= set("RSDTtXZPI")  # type: ignore[call-overload]
    assert types_source(demo_program) == "btf"
    assert not has_dwarf(demo_program)
    assert opened_here(demo_program)


@pytest.mark.lab
def test_dwarf_says_the_same_as_btf() -> None:
    core, vmlinux = str(lab_file("fp-lsb.core")), str(lab_file("fp-lsb.vmlinux"))
    by_btf, by_dwarf = open_program(core=core), open_program(core=core, symbols=[vmlinux])
    assert types_source(by_dwarf) == "dwarf"
    btf_facts, dwarf_facts = facts(by_btf), facts(by_dwarf)
    for name, expected in dwarf_facts.items():
        assert btf_facts[name] == expected, name
    ours, theirs = kallsyms_of(by_btf), kallsyms_of(by_dwarf)
    assert ours is not None
    assert theirs is not None
    assert list(ours.symbols()) == list(theirs.symbols())


def test_kdump_says_the_same_as_elf(demo_core: str, demo_program: Program, tmp_path: Path) -> None:
    kdump = tmp_path / "vmcore.kdump"
    write_kdump(demo_core, kdump)
    assert facts(open_program(core=kdump)) == facts(demo_program)


def test_vmcoreinfo_and_build_id(demo_program: Program) -> None:
    lines = vmcoreinfo(demo_program)
    assert lines["OSRELEASE"] == demo_program["UTS_RELEASE"].string_().decode()
    assert lines["PAGESIZE"] == "4096"
    found = build_id(demo_program)
    assert found is not None
    assert len(found) == 40


def test_two_programs_share_nothing(demo_core: str) -> None:
    first, second = open_program(core=demo_core), open_program(core=demo_core)
    assert kallsyms_of(first) is not kallsyms_of(second)
    assert first.type("struct pid").prog is first
    assert second.type("struct pid").prog is second


def test_nothing_heavy_is_imported() -> None:
    # msgspec brings its own: uuid of Python 3.9 imports subprocess.
    code = (
        "import sys, drgn, msgspec; before = set(sys.modules); import drgn_tools.program.open;"
        "print(*sorted(set(sys.modules) - before))"
    )
    imported = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    ).stdout.split()
    assert not {"argparse", "gzip", "lzma", "subprocess", "tabulate", "tempfile"} & {*imported}


def test_drgns_own_warnings_are_not_printed(
    demo_core: str, capfd: pytest.CaptureFixture[str]
) -> None:
    code = (
        "import sys, drgn_tools;"
        "prog = drgn_tools.open_program(core=sys.argv[1]);"
        "import logging; logging.getLogger('drgn').warning('from drgn')"
    )
    subprocess.run([sys.executable, "-c", code, demo_core], check=True)
    assert capfd.readouterr() == ("", "")


def test_a_core_cut_short_is_warned_of_once(
    demo_core: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # The last segment is not memory that matters; all but its end is there.
    cut = tmp_path / "vmcore"
    size = Path(demo_core).stat().st_size
    subprocess.run(["cp", "--sparse=always", demo_core, cut], check=True)
    cut.chmod(0o600)
    with open(cut, "r+b") as file:
        file.truncate(size - 4096)
    with caplog.at_level(logging.WARNING):
        prog = open_program(core=cut)
    assert find_task(prog, 1)
    warnings = [record.getMessage() for record in caplog.records if record.name == "drgn_tools"]
    assert len(warnings) == 1
    assert warnings[0].startswith(f"{cut}: the file is cut short: ")


def test_a_module_among_the_symbols_does_not_replace_btf(demo_core: str, tmp_path: Path) -> None:
    module = tmp_path / "loop.ko"
    module.write_bytes(elf_file(ET_REL, 62, []))
    prog = open_program(core=demo_core, symbols=[module])
    assert types_source(prog) == "btf"
    assert find_task(prog, 1)


def test_drgn_platform_is_the_dumps(demo_program: Program) -> None:
    assert demo_program.platform is not None
    assert demo_program.platform.arch is drgn.Architecture.X86_64


def live(prog: drgn.Program) -> drgn.Program:
    """A program that says of itself that it runs, as far as Python sees."""
    stand_in = mock.Mock(spec_set=("flags", "cache"), cache={})
    stand_in.flags = prog.flags | drgn.ProgramFlags.IS_LIVE
    return cast(drgn.Program, stand_in)


@pytest.mark.parametrize("error", [ProcessLookupError(3, "No such process"), Exception("closed")])
def test_a_guest_that_goes_away_is_an_input_error(
    demo_program: drgn.Program, error: Exception
) -> None:
    message = r"^qemu: went away while it was read: "
    with pytest.raises(InputError, match=message), input_error_if_vanished(live(demo_program)):
        raise error
    # All else of a guest is a bug of ours.
    with pytest.raises(KeyError), input_error_if_vanished(live(demo_program)):
        raise KeyError("x")


def test_a_dump_that_cannot_be_read_any_more_is_an_input_error(
    demo_core: str, demo_program: drgn.Program
) -> None:
    message = f"^{re.escape(demo_core)}: cannot be read: Input/output error$"
    with pytest.raises(InputError, match=message), input_error_if_vanished(demo_program):
        raise OSError(5, "Input/output error")
    # All else of a dump is a bug of ours.
    for error in (KeyError("x"), Exception("closed")):
        with pytest.raises(type(error)), input_error_if_vanished(demo_program):
            raise error
