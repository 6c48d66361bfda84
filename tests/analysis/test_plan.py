# SPDX-License-Identifier: LGPL-2.1-or-later
"""What if a patch were loaded now: what the kernel finds, refuses, and asks of each task."""

from __future__ import annotations

from typing import Any, Optional

import pytest
from msgspec.structs import replace

from drgn_tools.analysis.livepatch import transition_question
from drgn_tools.analysis.patch_question import Answer, CodeRange
from drgn_tools.analysis.plan import Plan, plan_patch
from drgn_tools.analysis.planned_patch import PlannedPatch, parse_function
from drgn_tools.kernel.functions import Functions
from drgn_tools.kernel.livepatch import KLP_PATCHED, read_livepatches
from drgn_tools.records import Frame

from ..support.drawn_livepatch import (
    ABSENT,
    IMAGE,
    NEW_BYTES,
    PATCH1,
    PATCH2,
    SECOND_SAME,
    TARGET,
    TGT_READ,
    VFS_READ,
    VFS_WRITE,
    DrawnPatches,
    Func,
)
from ..support.drawn_text import UNFORMED
from ..support.fabricated import task

HOOKED = [address + 4 for name, address in IMAGE.items() if name != "no_hook"]
HOOKED += [SECOND_SAME + 4, *(TARGET + offset for offset in (0x100, 0x200, 0x300, 0x400))]


def drawn_kernel(target: int = -1) -> DrawnPatches:
    drawn = DrawnPatches(target)
    # ftrace sorts them within a page, and pages lie anywhere.
    drawn.hooks(*sorted(HOOKED, key=lambda address: address % 7))
    return drawn


def plan(drawn: DrawnPatches, *functions: str, **fields: Any) -> Plan:
    planned = PlannedPatch("fix", tuple(map(parse_function, functions)), **fields)
    prog = drawn.kernel.prog
    return plan_patch(prog, planned, read_livepatches(prog))


def starts(found: Plan) -> list[tuple[str, int]]:
    return [(code.name, code.start) for code in found.ranges]


def later(found: Plan) -> tuple[Optional[str], ...]:
    """The modules that are not loaded."""
    return tuple(obj.name for obj in found.patch.objects if not obj.patched)


def refused(found: Plan) -> tuple[str, ...]:
    assert found.problems == ()
    return found.refusals


# ---- what the kernel finds


def test_originals_in_the_order_of_the_patch() -> None:
    found = plan(drawn_kernel(), "vfs_write", "target:tgt_read", "vfs_read")
    assert (found.refusals, found.problems, later(found)) == ((), (), ())
    # Functions of one object are together, as klp_for_each_object() finds them.
    assert found.ranges == (
        CodeRange("vfs_write", None, VFS_WRITE.old, VFS_WRITE.old + 0x80),
        CodeRange("vfs_read", None, VFS_READ.old, VFS_READ.old + 0x100),
        CodeRange("tgt_read", "target", TARGET + 0x100, TARGET + 0x200),
    )
    assert [(obj.name, obj.patched) for obj in found.patch.objects] == [
        (None, True),
        ("target", True),
    ]
    assert (found.patch.name, found.patch.enabled, found.patch.address) == ("fix", False, 0)


@pytest.mark.parametrize(
    ("function", "start"),
    [
        ("same,1", IMAGE["same"]),
        ("same,2", SECOND_SAME),
        # A module's symbols count in the order of its ELF table, not of their addresses.
        ("target:tgt_same,1", TARGET + 0x300),
        ("target:tgt_same,2", TARGET + 0x200),
        ("vfs_read,1", VFS_READ.old),
    ],
)
def test_one_of_several_symbols(function: str, start: int) -> None:
    found = plan(drawn_kernel(), function)
    assert refused(found) == ()
    assert [code.start for code in found.ranges] == [start]


@pytest.mark.parametrize(
    ("function", "says"),
    [
        (
            "same",
            "same: 2 symbols have this name: choose one of"
            f" same,1 at {IMAGE['same']:#x}, same,2 at {SECOND_SAME:#x}",
        ),
        ("same,3", "same,3: there is no symbol number 3: 2 have this name"),
        ("vfs_read,2", "vfs_read,2: there is no symbol number 2: 1 have this name"),
        ("vfs_reat", "vfs_reat: there is no such symbol"),
        ("target:vfs_read", "target:vfs_read: there is no such symbol"),
        (
            "target:tgt_same",
            "target:tgt_same: 2 symbols have this name: choose one of"
            f" target:tgt_same,1 at {TARGET + 0x300:#x}, target:tgt_same,2 at {TARGET + 0x200:#x}",
        ),
        ("no_hook", "no_hook: ftrace cannot hook it (it is notrace, or not a function)"),
    ],
)
def test_what_the_kernel_would_refuse(function: str, says: str) -> None:
    assert refused(plan(drawn_kernel(), function)) == (says,)


def test_what_is_refused_does_not_hide_the_rest() -> None:
    found = plan(drawn_kernel(), "same", "vfs_read")
    assert len(found.refusals) == 1
    assert starts(found) == [("vfs_read", VFS_READ.old)]


def test_the_last_function_of_a_module_ends_with_its_text() -> None:
    (code,) = plan(drawn_kernel(), "target:tgt_last").ranges
    assert (code.start, code.end) == (TARGET + 0x400, TARGET + 0x1000)


def test_a_module_that_is_not_loaded_is_patched_later() -> None:
    found = plan(drawn_kernel(), "absent:f", "vfs_read")
    assert refused(found) == ()
    assert later(found) == ("absent",)
    assert starts(found) == [("vfs_read", VFS_READ.old)]
    (func,) = found.patch.objects[0].functions
    assert (func.name, func.old_addr, found.patch.objects[0].patched) == ("f", 0, False)


def test_a_module_that_is_only_being_read_in_is_not_loaded() -> None:
    drawn = drawn_kernel()
    drawn.load(target=UNFORMED)
    assert later(plan(drawn, "target:tgt_read")) == ("target",)


def test_a_hook_counts_up_to_the_end_of_the_function() -> None:
    drawn = DrawnPatches()
    drawn.hooks(VFS_READ.old + 0xFF, VFS_WRITE.old - 1, VFS_WRITE.old + 0x80)
    assert refused(plan(drawn, "vfs_read")) == ()
    assert refused(plan(drawn, "vfs_write")) == (
        "vfs_write: ftrace cannot hook it (it is notrace, or not a function)",
    )


def test_of_many_symbols_only_the_first_are_named() -> None:
    drawn = drawn_kernel()
    drawn.image(*(("many", SECOND_SAME + 8 * number) for number in range(1, 6)))
    each = ", ".join(f"many,{number} at {SECOND_SAME + 8 * number:#x}" for number in range(1, 5))
    assert refused(plan(drawn, "many")) == (
        f"many: 5 symbols have this name: choose one of {each} ...",
    )


# ---- the kernel that a module file was built for


REST = " SMP preempt mod_unload "
WITH_CRCS = " SMP preempt mod_unload modversions "


@pytest.mark.parametrize(
    ("kernel", "given", "has_crcs", "is_taken"),
    [
        ("6.12.0" + REST, "6.12.0" + REST, False, True),
        ("6.12.0" + REST, "6.13.0" + REST, False, False),
        ("6.12.0" + REST, "6.12.0 SMP mod_unload ", False, False),
        ("6.12.0" + REST, "6.12.0", False, False),
        # CRCs mean nothing to a kernel without CONFIG_MODVERSIONS.
        ("6.12.0" + REST, "6.12.0" + REST, True, True),
        ("6.12.0" + REST, "6.13.0" + REST, True, False),
        ("6.12.0" + REST, "6.12.0" + WITH_CRCS, True, False),
        # With it, the release does not count if the file has CRCs.
        ("6.12.0" + WITH_CRCS, "6.13.0" + WITH_CRCS, True, True),
        ("6.12.0" + WITH_CRCS, "6.12.0" + REST, True, False),
        ("6.12.0" + WITH_CRCS, "6.13.0" + REST, True, False),
        ("6.12.0" + WITH_CRCS, "6.13.0" + WITH_CRCS, False, False),
        ("6.12.0" + WITH_CRCS, "6.12.0" + WITH_CRCS, False, True),
        # A release is no option.
        ("6.12.0-modversions" + REST, "6.13.0" + REST, True, False),
    ],
)
def test_vermagic_as_the_kernel_compares_it(
    kernel: str, given: str, has_crcs: bool, is_taken: bool
) -> None:
    drawn = drawn_kernel()
    drawn.vermagic(kernel)
    found = plan(drawn, "vfs_read", vermagic=given, has_crcs=has_crcs)
    assert refused(found) == (
        () if is_taken else (f"it was built for {given.strip()}, this is {kernel.strip()}",)
    )
    assert starts(found) == [("vfs_read", VFS_READ.old)]


@pytest.mark.parametrize("is_damaged", [False, True])
def test_without_the_vermagic_of_the_kernel_its_release_counts(is_damaged: bool) -> None:
    drawn = drawn_kernel()
    if is_damaged:
        drawn.kernel.symbol("vermagic", drawn.kernel.nowhere)
        drawn.image()
    assert refused(plan(drawn, "vfs_read", vermagic="6.12.0" + REST)) == ()
    assert refused(plan(drawn, "vfs_read", vermagic="6.13.0" + REST)) == (
        "it was built for 6.13.0, this is 6.12.0",
    )
    # Whether CRCs replace it, the release does not tell.
    assert refused(plan(drawn, "vfs_read", vermagic="6.13.0" + REST, has_crcs=True)) == ()


def test_a_file_without_vermagic_is_refused() -> None:
    drawn = drawn_kernel()
    drawn.vermagic("6.12.0" + REST)
    assert refused(plan(drawn, "vfs_read", vermagic="")) == (
        "its file has no vermagic, this is 6.12.0 SMP preempt mod_unload",
    )


def test_a_patch_without_a_file_fits_each_kernel() -> None:
    drawn = drawn_kernel()
    drawn.vermagic("6.12.0" + REST)
    assert refused(plan(drawn, "vfs_read")) == ()


# ---- on top of other patches


def test_on_a_patched_function_the_newest_version_is_to_be_left() -> None:
    drawn = drawn_kernel()
    drawn.patch("patch1", (None, [VFS_READ]))
    drawn.patch("patch2", (None, [replace(VFS_READ, new=PATCH2)]))
    (code,) = plan(drawn, "vfs_read").ranges
    assert (code.start, code.end) == (PATCH2, PATCH2 + NEW_BYTES)
    assert code.older == ((PATCH1, PATCH1 + NEW_BYTES), (VFS_READ.old, VFS_READ.old + 0x100))


def test_what_is_patched_already_can_be_hooked() -> None:
    drawn = drawn_kernel()
    at = IMAGE["no_hook"]
    drawn.patch("patch1", (None, [Func("no_hook", at, 0x40, PATCH1)]))
    assert refused(plan(drawn, "no_hook")) == ()


def test_while_another_patch_is_in_transition_none_is_taken() -> None:
    drawn = drawn_kernel(KLP_PATCHED)
    drawn.patch("patch1", (None, [VFS_READ]), transition=True)
    assert refused(plan(drawn, "vfs_write")) == (
        "patch1 is in transition: the kernel accepts no other patch until this transition has ended",
    )


def test_a_replacing_patch_takes_back_what_it_does_not_have() -> None:
    drawn = drawn_kernel()
    same = Func("same", SECOND_SAME, 0x80, PATCH1 + 4 * NEW_BYTES, sympos=2)
    drawn.patch("patch1", (None, [VFS_READ, same]), ("target", [TGT_READ]), ("absent", [ABSENT]))
    drawn.patch("patch2", (None, [replace(VFS_READ, new=PATCH2)]))
    without = plan(drawn, "vfs_read", "vfs_write")
    assert starts(without) == [("vfs_read", PATCH2), ("vfs_write", VFS_WRITE.old)]
    found = plan(drawn, "vfs_read", "vfs_write", replace=True)
    assert refused(found) == ()
    assert starts(found) == [
        ("vfs_read", PATCH2),
        ("vfs_write", VFS_WRITE.old),
        ("same", PATCH1 + 4 * NEW_BYTES),
        ("tgt_read", PATCH1 + 2 * NEW_BYTES),
    ]
    assert later(found) == ("absent",)
    nops = [func for obj in found.patch.objects for func in obj.functions if func.nop]
    assert [func.name for func in nops] == ["same", "tgt_read", "absent_fn"]
    assert all(func.new_addr == func.old_addr for func in nops)


@pytest.mark.parametrize(
    ("function", "is_same"), [("vfs_read", True), ("vfs_read,1", True), ("same,1", False)]
)
def test_positions_0_and_1_are_the_same_function(function: str, is_same: bool) -> None:
    drawn = drawn_kernel()
    same = Func("same", SECOND_SAME, 0x80, PATCH1 + NEW_BYTES, sympos=2)
    drawn.patch("patch1", (None, [VFS_READ if is_same else same]))
    found = plan(drawn, function, replace=True)
    nops = [func for func in found.patch.objects[0].functions if func.nop]
    assert bool(nops) != is_same


def test_the_plan_asks_what_the_kernel_then_asks() -> None:
    drawn = drawn_kernel()
    drawn.patch("patch1", (None, [VFS_READ, VFS_WRITE]))
    found = plan(drawn, "vfs_read", "target:tgt_read", replace=True)
    # Then it is loaded.
    drawn.kernel.put(drawn.target, (1).to_bytes(4, "little"))
    nop = Func("vfs_write", VFS_WRITE.old, 0x80, VFS_WRITE.old, 0x80, nop=True)
    drawn.patch(
        "patch2",
        (None, [replace(VFS_READ, new=PATCH2), nop]),
        ("target", [replace(TGT_READ, new=PATCH2 + NEW_BYTES)]),
        replace=True,
        transition=True,
    )
    prog = drawn.kernel.prog
    asked = transition_question(read_livepatches(prog), True, Functions(prog))
    assert asked.problems == ()
    assert found.ranges == asked.ranges


# ---- what cannot be told


def test_without_ftrace_records_it_cannot_be_told() -> None:
    found = plan(DrawnPatches(), "vfs_read")
    assert found.refusals == ()
    assert found.problems == ("the addresses that ftrace can hook cannot be read",)
    sleeping = task(7, frames=(Frame(VFS_READ.old),))
    asked = found.question(True)
    assert asked.answer(task(7)).answer is Answer.UNKNOWN
    assert asked.answer(sleeping).answer is Answer.IN_FUNCTION


@pytest.mark.parametrize("member", ["next", "records", "index"])
def test_damaged_ftrace_records_are_none(member: str) -> None:
    drawn = drawn_kernel()
    page = drawn.kernel.prog.read_word(drawn.kernel.prog.symbol("ftrace_pages_start").address)
    drawn.kernel.put_word(drawn.at(page, f"ftrace_page.{member}"), 0x7FFF_FFFF)
    assert plan(drawn, "vfs_read").problems == (
        "the addresses that ftrace can hook cannot be read",
    )


def test_pages_of_ftrace_that_loop_end() -> None:
    drawn = drawn_kernel()
    page = drawn.kernel.prog.read_word(drawn.kernel.prog.symbol("ftrace_pages_start").address)
    drawn.kernel.put_word(page, page)
    assert plan(drawn, "vfs_read").problems == (
        "the addresses that ftrace can hook cannot be read",
    )


def test_without_symbols_nothing_is_found() -> None:
    drawn = drawn_kernel()
    drawn.no_image()
    found = plan(drawn, "vfs_read")
    assert "vfs_read: the symbols of the kernel cannot be read" in found.refusals


def test_problems_of_the_patches_and_of_the_modules_are_told() -> None:
    drawn = drawn_kernel()
    drawn.kernel.put_word(drawn.patches, drawn.kernel.nowhere)
    drawn.kernel.put_word(drawn.modules["target"] + 8, drawn.kernel.nowhere)
    found = plan(drawn, "vfs_read", "patch1:patch1_1")
    assert any(problem.startswith("the list klp_patches is damaged") for problem in found.problems)
    assert any(problem.startswith("the list of modules is damaged") for problem in found.problems)
    # Whether it is loaded cannot be told.
    assert found.question(True).answer(task(7)).answer is Answer.UNKNOWN


def test_a_kernel_without_reliable_stack_traces_waits_for_each_task() -> None:
    asked = plan(drawn_kernel(), "vfs_read").question(False)
    assert asked.answer(task(7)).answer is Answer.NO_RELIABLE_STACKTRACE
