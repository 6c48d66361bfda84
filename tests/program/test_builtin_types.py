# SPDX-License-Identifier: LGPL-2.1-or-later
"""A program that drgn opened gets the types that its kernel carries inside itself."""

from __future__ import annotations

from typing import Optional

import pytest
from drgn import Program, Type, TypeKind, TypeKindSet

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


# ---- a drgn that reads BTF itself


def with_btf_of_drgn(core: str, answers: Program) -> Program:
    """The core with a finder of the name that drgn's would have, which answers as another program."""
    prog = Program()
    prog.set_core_dump(core)

    def find(
        prog: Program, kinds: TypeKindSet, name: str, filename: Optional[str]
    ) -> Optional[Type]:
        if kinds == TypeKindSet({TypeKind.STRUCT}) and answers.cache.get("finds"):
            return prog.struct_type(name, 8, [])
        return None

    prog.register_type_finder("btf", find, enable_index=-1)
    return prog


@pytest.mark.parametrize("finds", [True, False])
@pytest.mark.parametrize("is_enabled", [True, False])
def test_types_step_aside_where_drgn_reads_btf_itself(
    demo_core: str, finds: bool, is_enabled: bool
) -> None:
    answers = Program()
    answers.cache["finds"] = finds
    prog = with_btf_of_drgn(demo_core, answers)
    if not is_enabled:
        prog.set_enabled_type_finders(["dwarf"])
    use_builtin_types(prog)
    use_builtin_types(prog)
    drgn_reads = finds and is_enabled
    assert (PREFIX in prog.enabled_type_finders()) is not drgn_reads
    assert (prog.type("struct task_struct").size == 8) is drgn_reads
    # What BTF leaves out is ours, with drgn's types.
    assert prog.enabled_object_finders().count(PREFIX) == 1
    assert prog.enabled_symbol_finders().count(PREFIX) == 1
    assert (prog["modules"].type_.size == 8) is drgn_reads
    assert prog.symbol("schedule").name == "schedule"
