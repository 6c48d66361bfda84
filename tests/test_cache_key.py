# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is kept with a program has keys that nobody else uses."""

from __future__ import annotations

import re
from pathlib import Path

import drgn
import pytest
from drgn.commands import run_command

import drgn_tools
from drgn_tools import audit_kernel, open_program
from drgn_tools.cache_key import PREFIX, cache_key

PACKAGE = Path(drgn_tools.__file__).parent
USERS = sorted(
    path.relative_to(PACKAGE).with_suffix("")
    for path in PACKAGE.rglob("*.py")
    if re.search(r"prog\.cache\b[^`]", path.read_text())
)


def test_each_module_has_a_key_of_its_own() -> None:
    assert cache_key("a.b") == f"{PREFIX}.a.b"
    assert len(USERS) >= 8
    for user in USERS:
        source = PACKAGE.joinpath(user).with_suffix(".py").read_text()
        keys = re.findall(r"prog\.cache(?:\[|\.\w+\()(\w+)", source)
        keys += re.findall(r"(\w+) (?:not )?in prog\.cache\b", source)
        assert {"_CACHE_KEY"} <= set(keys) <= {"_CACHE_KEY", "_HELD_KEY"}, user
        assert "_HELD_KEY" not in keys or '\n_HELD_KEY = f"{_CACHE_KEY}.held"\n' in source, user
        assert "\n_CACHE_KEY = cache_key(__name__)\n" in source, user


def test_a_program_has_no_other_keys_of_ours(
    demo_core: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from drgn_tools.commands import plugin

    opened, by_drgn = open_program(core=demo_core), drgn.Program()
    by_drgn.set_core_dump(demo_core)
    plugin.drgn_prog_set(by_drgn)
    run_command(by_drgn, "tasks")
    for prog in (opened, by_drgn):
        audit_kernel(prog)
        prog.symbols("schedule")
        assert len(prog.cache) > 5
        assert [key for key in prog.cache if not key.startswith(f"{PREFIX}.drgn_tools.")] == []
