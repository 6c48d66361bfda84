# SPDX-License-Identifier: LGPL-2.1-or-later
"""drgn's own helpers and crash commands answer with BTF as they do with DWARF.

Every helper of drgn.helpers.linux is called, and every crash command with its options, on one
dump with BTF alone and with its vmlinux. What differs is what BTF cannot have, and nothing fails.
"""

from __future__ import annotations

from contextlib import suppress
from functools import cache

import drgn
import pytest

from drgn_tools import open_program
from drgn_tools.commands import plugin

from ..conftest import lab_dump, lab_file, lab_vmlinux
from ..lab.debuginfo import find_debuginfo
from ..lab.variants import variant_named
from ..support.drgn_calls import (
    Answers,
    answers,
    by_nature,
    commands_of_crash,
    differences,
    helpers,
    with_dwarf,
)

FEWEST_HELPERS = {"fp-lsb": 350, "stock-6.12": 400}
"""That answer with DWARF. A tiny kernel lacks cgroups, block devices, swap and more."""
FEWEST_COMMANDS = {"fp-lsb": 160, "stock-6.12": 175}


def files_of(name: str) -> tuple[str, str]:
    if name == "fp-lsb":
        return str(lab_file("fp-lsb.core").resolve()), lab_vmlinux(name)
    variant = variant_named(name)
    dump = lab_dump(variant)
    vmlinux = find_debuginfo(variant, dump)
    if vmlinux is None:
        pytest.fail(f"python -m tests.lab debuginfo {name}")
    return str(dump.core), str(vmlinux)


@cache
def of_dwarf(core: str, vmlinux: str) -> tuple[list[str], Answers]:
    prog = with_dwarf(core, vmlinux)
    commands = commands_of_crash(prog)
    return commands, answers(prog, commands)


def opened_here(core: str) -> drgn.Program:
    return open_program(core=core)


def opened_by_drgn(core: str) -> drgn.Program:
    """As ``drgn -c`` opens it with the plugin. Debuginfo of this machine is not looked for."""
    prog = drgn.Program()
    prog.set_core_dump(core)
    plugin.drgn_prog_set(prog)
    prog.debug_info_options.directories = ()
    prog.debug_info_options.kernel_directories = ()
    with suppress(drgn.MissingDebugInfoError):
        prog.load_default_debug_info()
    return prog


@pytest.mark.lab
@pytest.mark.parametrize("name", ["fp-lsb", "stock-6.12"])
@pytest.mark.parametrize("opened", [opened_here, opened_by_drgn])
def test_all_answer_alike_but_for_what_btf_cannot_have(name: str, opened: object) -> None:
    core, vmlinux = files_of(name)
    commands, dwarf = of_dwarf(core, vmlinux)
    assert callable(opened)
    btf = answers(opened(core), commands)
    found = differences(btf, dwarf)
    others = [difference.call for difference in found if by_nature(difference) is None]
    answered = [call for call in dwarf.given if call not in dwarf.errors]
    of_crash = sum(call.startswith("%") for call in answered)
    print(
        f"{name}: {len(answered) - of_crash} helpers and {of_crash} crash commands answer with "
        f"DWARF; with BTF {len(answered) - len(found)} alike, {len(found) - len(others)} differ by "
        f"nature, {len(others)} otherwise"
    )
    assert others == []
    assert len(answered) - of_crash >= FEWEST_HELPERS[name]
    assert of_crash >= FEWEST_COMMANDS[name]


def test_every_helper_is_called() -> None:
    found = helpers()
    assert {"timekeeping.uptime", "pid.find_task", "mm.virt_to_page"} <= found.keys()
    assert len(found) > 400
