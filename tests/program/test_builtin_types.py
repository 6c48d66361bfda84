# SPDX-License-Identifier: LGPL-2.1-or-later
"""A program that drgn opened gets the types that its kernel carries inside itself."""

from __future__ import annotations

from typing import Optional

import pytest
from drgn import Program

from drgn_tools.cache_key import PREFIX
from drgn_tools.debuginfo.kallsyms import kallsyms_of
from drgn_tools.errors import TypesError
from drgn_tools.program.builtin_types import use_builtin_types
from drgn_tools.program.open import opened_here


def test_a_program_that_drgn_opened_gets_the_types(demo_core: str) -> None:
    prog = Program()
    prog.set_core_dump(demo_core)
    assert not opened_here(prog)
    with pytest.raises(LookupError):
        prog.type("struct task_struct")
    use_builtin_types(prog)
    use_builtin_types(prog)
    assert prog.type("struct task_struct").size > 1000
    assert len(prog.enabled_type_finders()) == len(set(prog.enabled_type_finders()))


def test_types_of_debuginfo_go_first(demo_core: str) -> None:
    prog = Program()
    prog.set_core_dump(demo_core)
    use_builtin_types(prog)
    for finders in (
        prog.enabled_type_finders(),
        prog.enabled_object_finders(),
        prog.enabled_symbol_finders(),
    ):
        assert finders[-1] == PREFIX
        assert len(finders) > 1


def overlaid(core: str, name: str, length: Optional[int] = None) -> Program:
    """The core with zeros over the BTF from a symbol on, not yet given any types."""
    prog = Program()
    prog.set_core_dump(core)
    kallsyms = kallsyms_of(prog)
    assert kallsyms is not None
    (start,), (stop,) = kallsyms.find(name), kallsyms.find("__stop_BTF")
    prog.add_memory_segment(
        start, length or stop - start, lambda address, count, offset, physical: bytes(count)
    )
    return prog


def test_a_failure_leaves_the_program_as_it_was(demo_core: str) -> None:
    prog = overlaid(demo_core, "__start_BTF")
    finders = prog.enabled_type_finders()
    for _ in range(2):
        with pytest.raises(TypesError, match="give the vmlinux"):
            use_builtin_types(prog)
        assert prog.enabled_type_finders() == finders
    with pytest.raises(LookupError):
        prog.type("struct task_struct")
