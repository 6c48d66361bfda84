# SPDX-License-Identifier: LGPL-2.1-or-later
"""drgn's plugin: types without debuginfo, and what it costs."""

from __future__ import annotations

import importlib.metadata
import json
import logging
import re
import subprocess
import sys
from contextlib import suppress

import drgn
import pytest

from drgn_tools.cache_key import PREFIX
from drgn_tools.commands import plugin

from ..conftest import lab_file
from ..support.repl import ENVIRONMENT, SAID, run_drgn

# ---- types without debuginfo


def test_drgn_says_it_before_its_own_complaint_and_obeys_quiet(demo_core: str) -> None:
    code = "print(prog.type('struct task_struct').type_name(), prog.symbol('schedule').name)"
    loud = run_drgn("-c", demo_core, "-e", code)
    assert loud.stdout == "struct task_struct schedule\n"
    assert loud.stderr.splitlines()[0] == f"warning:drgn.encoded_stacks: {SAID}"
    assert loud.stderr.count("encoded_stacks") == 1
    for quiet in ("-q", "--log-level=error"):
        result = run_drgn(quiet, "-c", demo_core, "-e", code)
        assert result.stdout == loud.stdout
        assert "encoded_stacks" not in result.stderr


def test_drgn_can_be_told_not_to(demo_core: str) -> None:
    # The types, that is; our commands bring their own.
    code = (
        "from drgn.commands import run_command\n"
        "try: prog.type('struct task_struct')\n"
        # Flushed: "head" writes on its own, and stdout may be a pipe.
        "except LookupError: print('no types', flush=True)\n"
        "run_command(prog, 'tasks | head -1')"
    )
    for off in ("--no-symbols-by=encoded_stacks", "--no-default-symbols"):
        result = run_drgn("-c", demo_core, off, "-e", code)
        assert re.match(r"no types\nPID +COMM ", result.stdout)
        assert SAID not in result.stderr


@pytest.fixture
def opened(demo_core: str) -> drgn.Program:
    """The vmcore as drgn opens it, plugin called, debuginfo not yet looked for."""
    prog = drgn.Program()
    prog.set_core_dump(demo_core)
    plugin.drgn_prog_set(prog)
    return prog


def look_for_debuginfo(prog: drgn.Program) -> None:
    # Not on this machine, where there might be some.
    prog.debug_info_options.directories = ()
    prog.debug_info_options.kernel_directories = ()
    with suppress(drgn.MissingDebugInfoError):
        prog.load_default_debug_info()


def test_finder_is_the_last_and_called_twice_is_there_once(opened: drgn.Program) -> None:
    plugin.drgn_prog_set(opened)
    assert opened.enabled_debug_info_finders()[-1] == plugin.BTF_FINDER
    assert opened.enabled_debug_info_finders().count(plugin.BTF_FINDER) == 1
    assert opened.enabled_type_finders() == ["dwarf"]


def test_finder_speaks_once_however_often_debuginfo_is_looked_for(
    opened: drgn.Program, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "drgn.encoded_stacks")
    for _ in range(3):
        look_for_debuginfo(opened)
    said = [r.getMessage() for r in caplog.records if r.name == "drgn.encoded_stacks"]
    assert said == [SAID]
    assert opened.type("struct task_struct").has_member("comm")


def test_finder_does_nothing_where_debuginfo_was_found(
    opened: drgn.Program, caplog: pytest.LogCaptureFixture
) -> None:
    next(opened.loaded_modules())
    # As a finder that found some leaves it.
    opened.main_module().debug_file_status = drgn.ModuleFileStatus.DONT_NEED
    look_for_debuginfo(opened)
    assert opened.enabled_type_finders() == ["dwarf"]
    assert "encoded_stacks" not in caplog.text


def test_finder_without_btf_is_one_warning(
    opened: drgn.Program, demo_program: drgn.Program, caplog: pytest.LogCaptureFixture
) -> None:
    start, stop = (demo_program.symbol(f"__{end}_BTF").address for end in ("start", "stop"))

    def zeros(address: int, count: int, offset: int, physical: bool) -> bytes:
        return bytes(count)

    opened.add_memory_segment(start, stop - start, zeros)
    look_for_debuginfo(opened)
    assert "BTF" in the_one_warning(caplog)


def test_finder_that_cannot_read_is_one_warning(
    opened: drgn.Program, demo_program: drgn.Program, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(address: int, count: int, offset: int, physical: bool) -> bytes:
        raise drgn.FaultError("not in the dump", address)

    names = demo_program.symbol("kallsyms_names").address
    opened.add_memory_segment(names & ~0xFFF, 0x1000, refuse)
    look_for_debuginfo(opened)
    the_one_warning(caplog)


def the_one_warning(caplog: pytest.LogCaptureFixture) -> str:
    said = [r for r in caplog.records if r.name == "drgn.encoded_stacks"]
    assert [r.levelno for r in said] == [logging.WARNING]
    assert said[0].exc_info is None
    assert len(said[0].getMessage().splitlines()) == 1
    return said[0].getMessage()


@pytest.mark.lab
def test_dwarf_wins_and_then_nothing_is_said() -> None:
    core, vmlinux = str(lab_file("fp-lsb.core")), str(lab_file("fp-lsb.vmlinux"))
    code = (
        "from drgn_tools import *\n"
        "print(kernel_info().types, *prog.enabled_type_finders())\n"
        "prog.load_debug_info([{}])\n"
        "print(kernel_info().types, len(audit_kernel()) > 50)"
    )
    given = run_drgn("-c", core, "-s", vmlinux, "-e", code.format(""))
    assert given.stdout == "dwarf dwarf\ndwarf True\n"
    assert "encoded_stacks" not in given.stderr
    later = run_drgn("-c", core, "-e", code.format(repr(vmlinux)))
    assert later.stdout == f"btf dwarf {PREFIX}\ndwarf True\n"
    assert later.stderr.count("encoded_stacks") == 1


def test_userspace_is_left_alone() -> None:
    prog = drgn.Program()
    plugin.drgn_prog_set(prog)
    assert plugin.BTF_FINDER not in prog.registered_debug_info_finders()


# ---- what it costs


def test_entry_point_is_the_plugin() -> None:
    try:
        entry_points = importlib.metadata.distribution("drgn-tools").entry_points
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("drgn-tools is not installed, only on the path")
    ours = [e for e in entry_points if e.group == "drgn.plugins"]
    assert [(e.name, e.value) for e in ours] == [("encoded_stacks", "drgn_tools.commands.plugin")]


def test_plugin_imports_nothing_heavy_and_takes_a_fraction_of_drgns_own_start() -> None:
    code = """if True:
        import json, sys, time
        start = time.perf_counter()
        import drgn.cli, drgn.commands._builtin, drgn.commands._crash
        drgns = time.perf_counter() - start
        before = set(sys.modules)
        start = time.perf_counter()
        import drgn_tools.commands.plugin
        ours = time.perf_counter() - start
        print(json.dumps([drgns, ours, sorted(set(sys.modules) - before)]))
    """
    runs = []
    for _ in range(5):
        result = subprocess.run(
            [sys.executable, "-c", code],
            env=ENVIRONMENT,
            capture_output=True,
            text=True,
            check=True,
        )
        runs.append(json.loads(result.stdout))
    # The best of each, as the machine may be busy.
    drgns, ours = min(run[0] for run in runs), min(run[1] for run in runs)
    print(f"plugin: {ours * 1e3:.1f} ms, drgn itself: {drgns * 1e3:.1f} ms")
    assert runs[0][2] == [
        "drgn_tools",
        "drgn_tools.cache_key",
        "drgn_tools.commands",
        "drgn_tools.commands.plugin",
        "drgn_tools.commands.registry",
        "drgn_tools.drawn",
        "drgn_tools.errors",
    ]
    assert ours < drgns / 3
