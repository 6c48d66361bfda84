# SPDX-License-Identifier: LGPL-2.1-or-later
"""The kernel's lists of live patches, drawn whole and damaged."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drgn_tools.errors import TypesError
from drgn_tools.kernel import livepatch as livepatch_module
from drgn_tools.kernel.livepatch import (
    KLP_IDLE,
    KLP_PATCHED,
    KLP_UNPATCHED,
    Livepatches,
    has_livepatching,
    read_livepatches,
)

from ..support.drawn_livepatch import (
    ABSENT,
    KLP_TYPES,
    NEW_BYTES,
    PATCH1,
    PATCH2,
    PATCH3,
    TARGET,
    TGT_READ,
    VFS_READ,
    VFS_WRITE,
    Drawn,
    DrawnPatches,
    Func,
)


def read(drawn: DrawnPatches) -> Livepatches:
    return read_livepatches(drawn.kernel.prog)


def patching(target: int = KLP_PATCHED) -> tuple[DrawnPatches, Drawn]:
    """One patch, of the image, of a module, and of a module that is not loaded, in transition."""
    drawn = DrawnPatches(target)
    patch = drawn.patch(
        "patch1",
        (None, [VFS_READ, VFS_WRITE]),
        ("target", [TGT_READ]),
        ("absent", [ABSENT]),
        enabled=target == KLP_PATCHED,
        transition=True,
    )
    return drawn, patch


# ---- whole


def test_nothing_is_loaded() -> None:
    found = read(DrawnPatches())
    assert found == Livepatches((), None, KLP_IDLE, {}, 31, ())


def test_a_kernel_without_live_patching_is_told_by_its_symbols() -> None:
    drawn = DrawnPatches()
    assert has_livepatching(drawn.kernel.prog)
    drawn.kernel.forget_symbol("klp_enable_patch")
    drawn.image()
    assert not has_livepatching(drawn.kernel.prog)


@pytest.mark.parametrize("name", KLP_TYPES)
def test_types_that_are_missing_are_an_error(name: str) -> None:
    drawn, _ = patching()
    drawn.kernel.forget_type(name)
    with pytest.raises(TypesError, match=name):
        read(drawn)


def test_a_patch_on_its_way_in() -> None:
    drawn, addresses = patching()
    found = read(drawn)
    assert found.problems == ()
    assert found.target == KLP_PATCHED
    assert found.transition is found.patches[0]
    (patch,) = found.patches
    assert (patch.address, patch.name) == (addresses.patch, "patch1")
    assert (patch.enabled, patch.replace, patch.forced) == (True, False, False)
    assert [(obj.name, obj.patched) for obj in patch.objects] == [
        (None, True),
        ("target", True),
        ("absent", False),
    ]
    read_, write = patch.objects[0].functions
    assert (read_.address, read_.name, read_.sympos) == (addresses.functions[0], "vfs_read", 0)
    assert (read_.old_addr, read_.old_size) == (VFS_READ.old, 0x100)
    assert (read_.new_addr, read_.new_size) == (PATCH1, NEW_BYTES)
    assert (read_.nop, read_.patched) == (False, True)
    assert write.name == "vfs_write"
    (absent,) = patch.objects[2].functions
    assert (absent.old_addr, absent.old_size, absent.patched) == (0, 0, False)
    assert found.versions == {
        VFS_READ.old: (read_,),
        VFS_WRITE.old: (write,),
        TARGET + 0x100: patch.objects[1].functions,
    }


def test_a_patch_on_its_way_out_is_disabled_already() -> None:
    drawn, _ = patching(KLP_UNPATCHED)
    found = read(drawn)
    assert found.problems == ()
    assert found.target == KLP_UNPATCHED
    assert found.transition is not None
    assert not found.transition.enabled


def test_versions_are_newest_first_and_patches_oldest_first() -> None:
    drawn = DrawnPatches(KLP_PATCHED)
    drawn.patch("patch1", (None, [VFS_READ]))
    drawn.patch("patch2", (None, [Func("vfs_read", VFS_READ.old, 0x100, PATCH2)]), forced=True)
    drawn.patch("patch3", (None, [Func("vfs_read", VFS_READ.old, 0x100, PATCH3)]), transition=True)
    found = read(drawn)
    assert found.problems == ()
    assert [patch.name for patch in found.patches] == ["patch1", "patch2", "patch3"]
    assert [patch.forced for patch in found.patches] == [False, True, False]
    assert [func.new_addr for func in found.versions[VFS_READ.old]] == [PATCH3, PATCH2, PATCH1]
    assert found.transition is found.patches[2]


def test_a_replacing_patch_has_nops_for_what_it_takes_back() -> None:
    drawn = DrawnPatches(KLP_PATCHED)
    drawn.patch("patch1", (None, [VFS_READ, VFS_WRITE]))
    nop = Func("vfs_write", VFS_WRITE.old, 0x80, VFS_WRITE.old, 0x80, nop=True)
    mine = Func("vfs_read", VFS_READ.old, 0x100, PATCH2)
    drawn.patch("patch2", (None, [mine, nop]), replace=True, transition=True)
    found = read(drawn)
    assert found.problems == ()
    assert found.transition is not None
    assert found.transition.replace
    first, second = found.transition.objects[0].functions
    assert (first.nop, second.nop) == (False, True)
    assert second.new_addr == second.old_addr
    assert [func.nop for func in found.versions[VFS_WRITE.old]] == [True, False]


def test_at_rest_the_patches_are_still_there() -> None:
    drawn = DrawnPatches()
    drawn.patch("patch1", (None, [VFS_READ]))
    found = read(drawn)
    assert (found.transition, found.target, found.problems) == (None, KLP_IDLE, ())
    assert len(found.patches) == 1


def test_the_first_klp_ops_of_a_function_counts_as_for_the_kernel() -> None:
    drawn = DrawnPatches()
    drawn.patch("patch1", (None, [VFS_READ, VFS_WRITE]))
    # The second klp_ops claims the function of the first.
    twice = next(iter(read(drawn).versions[VFS_WRITE.old]))
    drawn.kernel.put_word(drawn.at(twice.address, "klp_func.old_func"), VFS_READ.old)
    found = read(drawn)
    assert [func.name for func in found.versions[VFS_READ.old]] == ["vfs_read"]
    assert any("vfs_write" in problem for problem in found.problems)


def test_names_that_are_not_ascii_stay_one_line() -> None:
    drawn, addresses = patching()
    drawn.kernel.put_word(
        drawn.at(addresses.functions[0], "klp_func.old_name"), drawn.text("a\u00e9\u202eb")
    )
    found = read(drawn)
    assert found.patches[0].objects[0].functions[0].name == "a\\xc3\\xa9\\xe2\\x80\\xaeb"


# ---- damaged: each must be told


Damage = Callable[[DrawnPatches, Drawn], None]


def member(designator: str, which: int, value: int, size: int = 8) -> Damage:
    """Overwrite a member of the patch, or of its object or function of this number."""

    def damage(drawn: DrawnPatches, addresses: Drawn) -> None:
        places = {
            "klp_patch": [addresses.patch],
            "klp_object": addresses.objects,
            "klp_func": addresses.functions,
        }
        address = places[designator.partition(".")[0]][which]
        drawn.kernel.put(drawn.at(address, designator), value.to_bytes(size, "little"))

    return damage


def byte(designator: str, which: int, value: int) -> Damage:
    return member(designator, which, value, 1)


def variable(name: str, value: int, size: int = 8) -> Damage:
    def damage(drawn: DrawnPatches, addresses: Drawn) -> None:
        address = drawn.kernel.prog.symbol(name).address
        drawn.kernel.put(address, value.to_bytes(size, "little", signed=value < 0))

    return damage


def no_symbol(name: str) -> Damage:
    def damage(drawn: DrawnPatches, addresses: Drawn) -> None:
        drawn.kernel.forget_symbol(name)
        drawn.image()

    return damage


def loop(drawn: DrawnPatches, addresses: Drawn) -> None:
    """The second function leads back to the first."""
    nodes = [drawn.at(func, "klp_func.node") for func in addresses.functions[:2]]
    drawn.kernel.put_word(nodes[1], nodes[0])
    drawn.kernel.put_word(nodes[0] + 8, nodes[1])


def short_list(drawn: DrawnPatches, addresses: Drawn) -> None:
    """The first object leads to the third, which still points back to the second."""
    nodes = [drawn.at(obj, "klp_object.node") for obj in addresses.objects]
    drawn.kernel.put_word(nodes[0], nodes[2])


def off_the_stack(drawn: DrawnPatches, addresses: Drawn) -> None:
    """The klp_ops of a function is taken out of the list, as if it never was."""
    first = drawn.kernel.prog.read_word(drawn.ops_list)
    following = drawn.kernel.prog.read_word(first)
    drawn.kernel.put_word(drawn.ops_list, following)
    drawn.kernel.put_word(following + 8, drawn.ops_list)


def off_the_patch(drawn: DrawnPatches, addresses: Drawn) -> None:
    """A function is taken out of the list of its object, as if it never was."""
    head = drawn.at(addresses.objects[0], "klp_object.func_list")
    drawn.kernel.ring(head, drawn.at(addresses.functions[1], "klp_func.node"))


NOWHERE = 0xFFFF_8880_0004_0000
WILD = 0x6B6B_6B6B_6B6B_6B6B


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (variable("klp_patches", NOWHERE), "the list klp_patches is damaged after 0 entries"),
        (variable("klp_patches", WILD), "the list klp_patches is damaged"),
        (variable("klp_patches", 0), "the list klp_patches is damaged"),
        (variable("klp_ops", NOWHERE), "the list klp_ops is damaged after 0 entries"),
        (variable("klp_transition_patch", 0), "klp_target_state is 1, but no patch"),
        (
            variable("klp_transition_patch", NOWHERE),
            "the patch in transition is not on the list of patches",
        ),
        (variable("klp_target_state", 0, 4), "klp_target_state is 0, but patch1 is enabled"),
        (variable("klp_target_state", -1, 4), "klp_target_state is -1, but patch1 is enabled"),
        (variable("klp_target_state", 7, 4), "klp_target_state is 7, but patch1 is enabled"),
        (no_symbol("klp_patches"), "no symbol klp_patches"),
        (no_symbol("klp_ops"), "no symbol klp_ops"),
        (no_symbol("klp_transition_patch"), "klp_transition_patch is not in the dump"),
        (no_symbol("klp_target_state"), "klp_target_state is not in the dump"),
        (member("klp_patch.list", 0, 8), "the list klp_patches is damaged"),
        (member("klp_patch.mod", 0, NOWHERE), "cannot be read"),
        (member("klp_patch.mod", 0, 0), "cannot be read"),
        (member("klp_patch.obj_list", 0, NOWHERE), "the list obj_list is damaged after 0 entries"),
        (byte("klp_patch.enabled", 0, 0), "klp_target_state is 1, but patch1 is disabled"),
        (byte("klp_patch.enabled", 0, 7), "0x7 is not a bool"),
        (byte("klp_patch.replace", 0, 7), "0x7 is not a bool"),
        (byte("klp_patch.forced", 0, 255), "0xff is not a bool"),
        (member("klp_object.name", 0, NOWHERE), "cannot be read"),
        (member("klp_object.func_list", 0, NOWHERE), "the list func_list is damaged"),
        (member("klp_object.node", 2, 0), "the list obj_list is damaged after 3 entries"),
        (byte("klp_object.patched", 0, 0), "contradicts itself on whether vfs_read is patched"),
        (byte("klp_object.patched", 2, 1), "contradicts itself on whether absent_fn is patched"),
        (byte("klp_object.patched", 2, 7), "0x7 is not a bool"),
        (member("klp_func.old_name", 0, 0), "cannot be read"),
        (member("klp_func.old_name", 0, WILD), "cannot be read"),
        (member("klp_func.node", 0, NOWHERE), "the list func_list is damaged after 1 entries"),
        (member("klp_func.stack_node", 0, WILD), "the list func_stack is damaged after 1 entries"),
        (member("klp_func.old_func", 0, VFS_WRITE.old), "on whether vfs_write is patched"),
        (byte("klp_func.patched", 0, 0), "contradicts itself on whether vfs_read is patched"),
        (byte("klp_func.patched", 3, 1), "contradicts itself on whether absent_fn is patched"),
        (byte("klp_func.patched", 0, 7), "0x7 is not a bool"),
        (byte("klp_func.nop", 0, 2), "0x2 is not a bool"),
        (loop, "the list func_list is damaged"),
        (short_list, "does not point back"),
        (off_the_stack, "contradicts itself on whether vfs_read is patched"),
        (off_the_patch, "a version of vfs_read belongs to no patch on the list"),
    ],
)
def test_damage_is_a_problem_and_no_exception(damage: Damage, says: str) -> None:
    drawn, addresses = patching()
    assert read(drawn).problems == ()
    damage(drawn, addresses)
    problems = read(drawn).problems
    assert any(says in problem for problem in problems), problems


def test_versions_of_two_functions_on_one_stack() -> None:
    drawn = DrawnPatches()
    drawn.patch("patch1", (None, [VFS_READ]))
    second = drawn.patch("patch2", (None, [Func("vfs_read", VFS_READ.old, 0x100, PATCH2)]))
    oldest = read(drawn).versions[VFS_READ.old][1].address
    assert oldest != second.functions[0]
    drawn.kernel.put_word(drawn.at(oldest, "klp_func.old_func"), VFS_WRITE.old)
    assert read(drawn).problems == ("the versions of vfs_read belong to several functions",)


def test_without_a_list_of_its_own_the_patch_in_transition_has_no_target() -> None:
    drawn, _ = patching()
    drawn.kernel.ring(drawn.patches)
    found = read(drawn)
    assert (found.patches, found.transition, found.target) == ((), None, None)
    assert "the patch in transition is not on the list of patches" in found.problems


def test_the_rounds_are_no_reason_to_doubt_the_rest() -> None:
    drawn, _ = patching()
    drawn.kernel.forget_symbol("klp_signals_cnt")
    drawn.image()
    found = read(drawn)
    assert (found.signals_count, found.problems) == (None, ())


@pytest.mark.parametrize(
    ("limit", "most"), [("_MAX_FUNCTIONS", 1), ("_MAX_OBJECTS", 2), ("_MAX_PATCHES", 0)]
)
def test_a_list_that_is_too_long_is_damaged(
    limit: str, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn, _ = patching()
    monkeypatch.setattr(livepatch_module, limit, most)
    problems = read(drawn).problems
    assert any(problem.endswith("it does not end") for problem in problems)


def lists_of(drawn: DrawnPatches, addresses: Drawn) -> Sequence[int]:
    """Address of each pointer of each list."""
    heads = [drawn.patches, drawn.ops_list]
    heads += [drawn.at(addresses.patch, f"klp_patch.{name}") for name in ("list", "obj_list")]
    for obj in addresses.objects:
        heads += [drawn.at(obj, f"klp_object.{name}") for name in ("func_list", "node")]
    for func in addresses.functions:
        heads += [drawn.at(func, "klp_func.node")]
        if drawn.kernel.prog.read_word(drawn.at(func, "klp_func.stack_node")):
            heads += [drawn.at(func, "klp_func.stack_node")]
    return [head + offset for head in heads for offset in (0, 8)]


@given(st.data())
def test_no_pointer_of_a_list_can_be_bent_unnoticed(data: st.DataObject) -> None:
    drawn, addresses = patching()
    pointers = lists_of(drawn, addresses)
    at = data.draw(st.sampled_from(pointers))
    before = drawn.kernel.prog.read_word(at)
    to = data.draw(st.one_of(st.sampled_from(pointers), st.integers(0, (1 << 64) - 1)))
    drawn.kernel.put_word(at, to)
    found = read(drawn)
    assert bool(found.problems) == (to != before)


def test_a_further_round_is_no_change() -> None:
    some = Livepatches(target=KLP_PATCHED, signals_count=3)
    assert some.is_as(Livepatches(target=KLP_PATCHED, signals_count=4))
    assert not some.is_as(Livepatches(target=KLP_UNPATCHED, signals_count=3))
