# SPDX-License-Identifier: LGPL-2.1-or-later
"""The answers of klp_try_switch_task(), of records made by hand and of drawn patches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Optional

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from drgn_tools.analysis.livepatch import listed_patches, livepatches, transition_question
from drgn_tools.analysis.patch_question import (
    HOLDING,
    Answer,
    CodeRange,
    Question,
    TaskAnswer,
    code_range,
)
from drgn_tools.errors import InputError
from drgn_tools.kernel.functions import Functions
from drgn_tools.kernel.livepatch import (
    KLP_IDLE,
    KLP_PATCHED,
    KLP_UNPATCHED,
    Livepatches,
    PatchFunction,
    read_livepatches,
)
from drgn_tools.records import Frame, Reason, TaskStack, Verdict

from ..support.drawn_livepatch import (
    ABSENT,
    NEW_BYTES,
    PATCH1,
    PATCH2,
    PATCH3,
    SECOND_SAME,
    TARGET,
    TGT_READ,
    VFS_READ,
    VFS_WRITE,
    DrawnPatches,
    Func,
)
from ..support.fabricated import task

F = CodeRange("f", None, 0x1000, 0x1100)
G = CodeRange("g", "mod", 0x2000, 0x2100)


def sleeper(*ips: int, state: Optional[int] = KLP_UNPATCHED, **fields: Any) -> TaskStack:
    frames = (Frame(0x9000), *map(Frame, ips))
    return task(7, frames=frames, patch_state=state, **fields)


UNRELIABLE = {
    "verdict": Verdict.UNRELIABLE,
    "reason": Reason.KERNEL_MODE_REGS,
    "why": "page fault in vfs_read",
}
RUNNING = {
    "on_cpu": True,
    "verdict": Verdict.UNKNOWN,
    "reason": Reason.RUNNING,
    "why": "running on CPU 1",
}
UNREADABLE = {
    "verdict": Verdict.UNKNOWN,
    "reason": Reason.UNREADABLE,
    "why": "stack memory is not in the dump",
}


def question(
    *ranges: CodeRange, target: Optional[int] = KLP_PATCHED, reliable: bool = True, **more: Any
) -> Question:
    return Question(ranges, target, reliable, **more)


def answer(stack: TaskStack, asked: Optional[Question] = None) -> Answer:
    return (asked or question(F, G)).answer(stack).answer


# ---- in the kernel's order


def test_done_comes_before_all_else() -> None:
    stack = sleeper(0x1010, state=KLP_PATCHED, **{**UNRELIABLE, "on_cpu": True})
    assert answer(stack, question(F, reliable=False)) is Answer.DONE


def test_no_reliable_stack_traces_come_before_running() -> None:
    stack = sleeper(0x1010, **RUNNING)
    assert answer(stack, question(F, reliable=False)) is Answer.NO_RELIABLE_STACKTRACE


def test_running_comes_before_unreliable() -> None:
    stack = sleeper(0x1010, **{**UNRELIABLE, "on_cpu": True})
    assert answer(stack) is Answer.RUNNING


def test_unreliable_comes_before_in_function() -> None:
    found = question(F).answer(sleeper(0x1010, **UNRELIABLE))
    assert (found.answer, found.why) == (Answer.UNRELIABLE, "page fault in vfs_read")
    assert (found.function, found.frame) == (None, None)


def test_a_stack_that_cannot_be_read_is_unknown_and_not_free() -> None:
    assert answer(sleeper(**UNREADABLE)) is Answer.UNKNOWN
    assert answer(sleeper(0x1010, **UNREADABLE)) is Answer.UNKNOWN


def test_who_is_nowhere_in_the_patch_is_free() -> None:
    found = question(F, G).answer(sleeper(0x3000))
    assert (found.answer, found.why, found.function) == (Answer.FREE, None, None)
    assert not found.holds


def test_a_task_without_a_stack_is_free() -> None:
    # stack_trace_save_tsk_reliable() of a zombie: no entries, no error
    assert answer(task(7, state="Z", flags=("no_stack",), patch_state=0)) is Answer.FREE


@pytest.mark.parametrize("value", list(Answer))
def test_what_holds_a_patch_back(value: Answer) -> None:
    free = (Answer.DONE, Answer.FREE, Answer.NO_TRANSITION)
    assert (value in HOLDING) == (value not in free)
    assert TaskAnswer(sleeper(), value).holds == (value in HOLDING)


# ---- ranges


@pytest.mark.parametrize(
    ("ip", "expected"),
    [
        (0x0FFF, Answer.FREE),
        (0x1000, Answer.IN_FUNCTION),
        (0x10FF, Answer.IN_FUNCTION),
        (0x1100, Answer.FREE),
    ],
)
def test_ranges_are_half_open_and_return_addresses_are_taken_as_they_are(
    ip: int, expected: Answer
) -> None:
    assert answer(sleeper(ip), question(F)) is expected


def test_the_first_function_of_the_list_is_named_and_not_the_innermost() -> None:
    found = question(F, G).answer(sleeper(0x2010, 0x1010, 0x1020))
    assert (found.function, found.module, found.frame) == ("f", None, 2)
    found = question(G, F).answer(sleeper(0x1010, 0x2010))
    assert (found.function, found.module, found.frame) == ("g", "mod", 2)
    assert found.why == "sleeping on g [mod], frame 2"


def test_user_mode_registers_are_no_entry_of_the_kernels_trace() -> None:
    stack = replace(sleeper(), frames=(Frame(0x9000), Frame(0x1010, regs=1, user_mode=True)))
    assert answer(stack) is Answer.FREE


def test_the_first_byte_is_blamed_on_a_call_that_does_not_return() -> None:
    (note,) = question(F).answer(sleeper(0x1000)).notes
    assert note.startswith("f is not on the stack itself")
    assert question(F).answer(sleeper(0x1001)).notes == ()


def test_a_version_before_the_last_is_told_but_holds_nothing() -> None:
    code = code_range("f", None, [(0x5000, 0x40), (0x1000, 0x100)])
    assert (code.start, code.end, code.older) == (0x5000, 0x5040, ((0x1000, 0x1100),))
    found = question(code).answer(sleeper(0x10FF))
    assert found.answer is Answer.FREE
    assert found.notes == (
        "it is in an older version of f than the last, which the kernel does not check",
    )
    assert question(code).answer(sleeper(0x1100)).notes == ()
    # Also where something else holds the task.
    found = question(code, G).answer(sleeper(0x2010, 0x1000))
    assert (found.answer, found.function, len(found.notes)) == (Answer.IN_FUNCTION, "g", 1)
    # Where the stack cannot be trusted nothing is said about it.
    assert question(code).answer(sleeper(0x10FF, **UNRELIABLE)).notes == ()


def test_an_older_version_that_is_the_same_code_is_no_older_version() -> None:
    # A nop on top of a nop: both are the original.
    assert code_range("f", None, [(0x1000, 0x100), (0x1000, 0x100)]).older == ()


ranges_drawn = st.lists(
    st.tuples(st.integers(0, 60), st.integers(0, 12)).map(
        lambda at: CodeRange(f"f{at}", None, at[0], at[0] + at[1])
    ),
    max_size=6,
)


@given(ranges_drawn, st.lists(st.integers(0, 80), max_size=8))
def test_the_answer_is_that_of_klp_check_stack(
    ranges: Sequence[CodeRange], entries: Sequence[int]
) -> None:
    def klp_check_stack() -> Optional[CodeRange]:
        for func in ranges:
            for address in entries:
                if func.start <= address < func.end:
                    return func
        return None

    stack = task(7, frames=tuple(map(Frame, entries)), patch_state=0)
    found = question(*ranges).answer(stack)
    blamed = klp_check_stack()
    assert found.answer is (Answer.FREE if blamed is None else Answer.IN_FUNCTION)
    assert found.function == (None if blamed is None else blamed.name)
    if blamed is not None:
        inside = [blamed.start <= address < blamed.end for address in entries]
        assert found.frame == inside.index(True)


# ---- what cannot be told


def test_a_problem_makes_free_unknown_but_leaves_what_is_certain() -> None:
    asked = question(F, problems=("the list klp_ops is damaged",))
    found = asked.answer(sleeper())
    assert (found.answer, found.why) == (
        Answer.UNKNOWN,
        "the patch is unclear: the list klp_ops is damaged",
    )
    assert answer(sleeper(0x1010), asked) is Answer.IN_FUNCTION
    assert answer(sleeper(**RUNNING), asked) is Answer.RUNNING
    assert answer(sleeper(**UNRELIABLE), asked) is Answer.UNRELIABLE
    assert answer(sleeper(state=KLP_PATCHED), asked) is Answer.DONE


def test_without_a_target_nothing_can_be_told() -> None:
    asked = question(F, target=None, problems=("klp_target_state is not in the dump",))
    for state in (KLP_IDLE, KLP_UNPATCHED, KLP_PATCHED, None):
        found = asked.answer(sleeper(0x1010, state=state))
        assert found.answer is Answer.UNKNOWN
        assert found.why == "the patch is unclear: klp_target_state is not in the dump"
    assert answer(sleeper(), question(F, target=None)) is Answer.UNKNOWN


@pytest.mark.parametrize("state", [None, 2, -2, 7])
def test_a_patch_state_that_cannot_be_is_unknown(state: Optional[int]) -> None:
    assert answer(sleeper(0x1010, state=state)) is Answer.UNKNOWN


def test_without_a_transition_a_task_has_no_patch_state() -> None:
    asked = question(target=KLP_IDLE)
    assert answer(sleeper(state=KLP_IDLE), asked) is Answer.NO_TRANSITION
    found = asked.answer(sleeper(state=KLP_UNPATCHED))
    assert (found.answer, found.why) == (
        Answer.UNKNOWN,
        "its patch_state is 0, but nothing is in transition",
    )


def test_idle_state_in_a_transition_is_not_the_wanted_version() -> None:
    # A task that klp_init_transition() has not seen; the kernel compares with the target alone.
    assert answer(sleeper(0x1010, state=KLP_IDLE)) is Answer.IN_FUNCTION


def test_a_patch_that_is_not_loaded_does_not_look_at_the_state() -> None:
    asked = question(F, is_planned=True)
    for state in (None, KLP_IDLE, KLP_UNPATCHED, KLP_PATCHED):
        assert answer(sleeper(0x1010, state=state), asked) is Answer.IN_FUNCTION
        assert answer(sleeper(state=state), asked) is Answer.FREE


# ---- the question of drawn patches


def asked_of(drawn: DrawnPatches) -> Question:
    prog = drawn.kernel.prog
    return transition_question(read_livepatches(prog), True, Functions(prog))


def test_patching_asks_for_the_original_of_what_is_loaded() -> None:
    drawn = DrawnPatches(KLP_PATCHED)
    drawn.patch(
        "patch1",
        ("absent", [ABSENT]),
        ("target", [TGT_READ]),
        (None, [VFS_WRITE, VFS_READ]),
        transition=True,
    )
    asked = asked_of(drawn)
    assert asked.problems == ()
    assert asked.target == KLP_PATCHED
    assert asked.ranges == (
        CodeRange("tgt_read", "target", TARGET + 0x100, TARGET + 0x200),
        CodeRange("vfs_write", None, VFS_WRITE.old, VFS_WRITE.old + 0x80),
        CodeRange("vfs_read", None, VFS_READ.old, VFS_READ.old + 0x100),
    )


def test_unpatching_asks_for_the_replacement() -> None:
    drawn = DrawnPatches(KLP_UNPATCHED)
    drawn.patch("patch1", (None, [VFS_READ]), enabled=False, transition=True)
    assert asked_of(drawn).ranges == (CodeRange("vfs_read", None, PATCH1, PATCH1 + NEW_BYTES),)


def test_a_second_patch_asks_for_the_version_before_alone() -> None:
    drawn = DrawnPatches(KLP_PATCHED)
    drawn.patch("patch1", (None, [VFS_READ]))
    drawn.patch("patch2", (None, [replace_new(VFS_READ, PATCH2)]))
    drawn.patch("patch3", (None, [replace_new(VFS_READ, PATCH3), VFS_WRITE_3]), transition=True)
    asked = asked_of(drawn)
    assert asked.problems == ()
    first, second = asked.ranges
    assert (first.start, first.end) == (PATCH2, PATCH2 + NEW_BYTES)
    assert first.older == (
        (PATCH1, PATCH1 + NEW_BYTES),
        (VFS_READ.old, VFS_READ.old + 0x100),
    )
    assert (second.start, second.older) == (VFS_WRITE.old, ())


def replace_new(func: Func, new: int) -> Func:
    return replace(func, new=new)


VFS_WRITE_3 = replace_new(VFS_WRITE, PATCH3 + NEW_BYTES)


def test_a_nop_asks_for_what_it_takes_back() -> None:
    drawn = DrawnPatches(KLP_PATCHED)
    drawn.patch("patch1", (None, [VFS_READ, VFS_WRITE]))
    nop = Func("vfs_write", VFS_WRITE.old, 0x80, VFS_WRITE.old, 0x80, nop=True)
    drawn.patch(
        "patch2", (None, [replace_new(VFS_READ, PATCH2), nop]), replace=True, transition=True
    )
    asked = asked_of(drawn)
    assert asked.problems == ()
    assert [(code.start, code.end) for code in asked.ranges] == [
        (PATCH1, PATCH1 + NEW_BYTES),
        (PATCH1 + NEW_BYTES, PATCH1 + 2 * NEW_BYTES),
    ]


def test_unpatching_a_nop_asks_for_the_original() -> None:
    # A replacing patch that is reversed on its way in.
    drawn = DrawnPatches(KLP_UNPATCHED)
    drawn.patch("patch1", (None, [VFS_WRITE]))
    nop = Func("vfs_write", VFS_WRITE.old, 0x80, VFS_WRITE.old, 0x80, nop=True)
    drawn.patch("patch2", (None, [nop]), replace=True, enabled=False, transition=True)
    asked = asked_of(drawn)
    assert asked.problems == ()
    assert asked.ranges == (CodeRange("vfs_write", None, VFS_WRITE.old, VFS_WRITE.old + 0x80),)


def test_nothing_is_asked_at_rest() -> None:
    drawn = DrawnPatches()
    drawn.patch("patch1", (None, [VFS_READ]))
    asked = asked_of(drawn)
    assert (asked.ranges, asked.target, asked.problems) == ((), KLP_IDLE, ())


@pytest.mark.parametrize(
    ("func", "says"),
    [
        (replace(VFS_READ, old_size=0x80), "old_size of vfs_read of patch1 is 0x80"),
        (replace(VFS_READ, new_size=0), "new_size of vfs_read of patch1 is 0x0"),
        (replace(VFS_READ, old=VFS_READ.old + 8), "where no symbol has this name"),
        (replace(VFS_READ, old=0), "where no symbol has this name"),
        (replace(VFS_READ, old=0x6B6B_6B6B_6B6B_6B6B), "where no symbol has this name"),
        (replace(VFS_READ, new=0), "new_func of vfs_read of patch1 is 0x0, where no symbol is"),
        (replace(VFS_READ, new=TARGET + 0x100), "where no symbol is"),
        (replace(VFS_READ, name="vfs_reat"), "where no symbol has this name"),
        (replace(VFS_READ, nop=True), "new_func of vfs_read of patch1"),
        (Func("same", SECOND_SAME, 0x80, PATCH1, sympos=2), None),
        (VFS_READ, None),
    ],
)
def test_what_contradicts_the_symbols_is_a_problem(func: Func, says: Optional[str]) -> None:
    drawn = DrawnPatches(KLP_PATCHED)
    drawn.patch("patch1", (None, [func]), transition=True)
    problems = asked_of(drawn).problems
    assert any(says in problem for problem in problems) if says else problems == ()


def test_versions_of_other_patches_are_held_against_the_symbols_too() -> None:
    drawn = DrawnPatches(KLP_PATCHED)
    drawn.patch("patch1", (None, [replace(VFS_READ, new_size=8), replace(VFS_WRITE, new_size=8)]))
    drawn.patch("patch2", (None, [replace_new(VFS_READ, PATCH2)]), transition=True)
    # vfs_write is not in question.
    assert asked_of(drawn).problems == (
        "new_size of vfs_read of patch1 is 0x8, but its symbol has 0x40 bytes",
    )


def test_a_stripped_patch_has_the_size_of_the_symbol_before() -> None:
    drawn = DrawnPatches(KLP_UNPATCHED)
    drawn.patch(
        "patch1",
        (None, [replace(VFS_READ, new=PATCH1 + 0x10)]),
        enabled=False,
        transition=True,
    )
    assert asked_of(drawn).problems == ()


def test_a_name_that_link_time_optimization_made_longer() -> None:
    drawn = DrawnPatches(KLP_PATCHED)
    at = VFS_READ.old + 0x40
    drawn.image(("promoted.llvm.123", at))
    drawn.patch("patch1", (None, [Func("promoted", at, 0xC0, PATCH1)]), transition=True)
    assert asked_of(drawn).problems == ()


def test_a_function_of_a_module_that_is_not_there() -> None:
    drawn = DrawnPatches(KLP_PATCHED)
    drawn.patch("patch1", ("target", [TGT_READ]), transition=True)
    drawn.load(without="target")
    assert asked_of(drawn).problems == (
        "tgt_read of patch1 is patched, but its module target is not loaded",
    )


def test_a_patch_whose_module_is_not_there() -> None:
    # Its functions would be held against the symbols of no module.
    drawn = DrawnPatches(KLP_PATCHED)
    drawn.patch("patch1", (None, [replace(VFS_READ, new=0)]))
    drawn.patch("patch2", (None, [replace_new(VFS_READ, PATCH2)]), transition=True)
    drawn.load(without="patch1")
    assert asked_of(drawn).problems == ("the module of the patch patch1 is not loaded",)


def test_what_cannot_be_compared_is_no_problem() -> None:
    drawn = DrawnPatches(KLP_PATCHED)
    drawn.patch("patch1", (None, [replace(VFS_READ, old_size=0x80)]), transition=True)
    drawn.no_image()
    assert asked_of(drawn).problems == ()


def test_the_oldest_of_several_versions_has_none_before_it() -> None:
    # The kernel would take the head of the list for a klp_func.
    drawn = DrawnPatches(KLP_PATCHED)
    drawn.patch("patch1", (None, [VFS_READ]), transition=True)
    drawn.patch("patch2", (None, [replace_new(VFS_READ, PATCH2)]))
    assert asked_of(drawn).problems == ("vfs_read is not on the stack of versions of its function",)


def test_a_damaged_list_of_modules_is_a_problem() -> None:
    drawn = DrawnPatches(KLP_PATCHED)
    drawn.patch("patch1", ("target", [TGT_READ]), transition=True)
    drawn.kernel.put_word(drawn.modules["patch1"] + 8, drawn.kernel.nowhere)
    assert any("list of modules is damaged" in p for p in asked_of(drawn).problems)


PLACES = (VFS_READ, VFS_WRITE)


@given(
    st.lists(st.sets(st.sampled_from((0, 1)), min_size=1), min_size=1, max_size=3),
    st.booleans(),
    st.data(),
)
def test_the_ranges_are_those_of_klp_check_stack_func(
    patches: Sequence[set[int]], is_patching: bool, data: st.DataObject
) -> None:
    target = KLP_PATCHED if is_patching else KLP_UNPATCHED
    drawn = DrawnPatches(target)
    for i, functions in enumerate(patches):
        new = (PATCH1, PATCH2, PATCH3)[i]
        last = i == len(patches) - 1
        drawn.patch(
            f"patch{i + 1}",
            (None, [replace(PLACES[at], new=new + at * NEW_BYTES) for at in sorted(functions)]),
            enabled=is_patching or not last,
            transition=last,
        )
    found = read_livepatches(drawn.kernel.prog)
    asked = transition_question(found, True, Functions(drawn.kernel.prog))
    assert asked.problems == ()
    edges = [at for code in asked.ranges for at in (code.start - 1, code.start, code.end)]
    edges += [func.old + offset for func in PLACES for offset in (0, func.old_size - 1)]
    entries = data.draw(st.lists(st.sampled_from(edges), max_size=4))
    stack = task(7, frames=tuple(map(Frame, entries)), patch_state=1 - target)
    assert asked.answer(stack).function == klp_check_stack(found, target, entries)


def klp_check_stack(found: Livepatches, target: int, entries: Sequence[int]) -> Optional[str]:
    """kernel/livepatch/transition.c, v6.12, line by line."""
    assert found.transition is not None
    for obj in found.transition.objects:
        if not obj.patched:
            continue
        for func in obj.functions:
            if klp_check_stack_func(found, target, func, entries):
                return func.name
    return None


def klp_check_stack_func(
    found: Livepatches, target: int, func: PatchFunction, entries: Sequence[int]
) -> bool:
    for address in entries:
        if target == KLP_UNPATCHED:
            func_addr, func_size = func.new_addr, func.new_size
        else:
            func_stack = found.versions[func.old_addr]
            if len(func_stack) == 1:
                func_addr, func_size = func.old_addr, func.old_size
            else:
                previous = func_stack[func_stack.index(func) + 1]
                func_addr, func_size = previous.new_addr, previous.new_size
        if func_addr <= address < func_addr + func_size:
            return True
    return False


# ---- the patches


def test_a_kernel_without_live_patching_is_an_input_error() -> None:
    drawn = DrawnPatches()
    drawn.kernel.forget_symbol("klp_enable_patch")
    drawn.image()
    with pytest.raises(InputError, match=r"no live patching \(CONFIG_LIVEPATCH is off\)"):
        livepatches(drawn.kernel.prog)


def test_what_happens_to_each_patch() -> None:
    for target, expected in ((KLP_PATCHED, "patching"), (KLP_UNPATCHED, "unpatching")):
        drawn = DrawnPatches(target)
        drawn.patch("patch1", (None, [VFS_READ]))
        drawn.patch("patch2", (None, [VFS_WRITE]), enabled=target == KLP_PATCHED, transition=True)
        patches = livepatches(drawn.kernel.prog)
        assert [listed.transition for listed in listed_patches(patches)] == [None, expected]


def test_a_patch_whose_direction_is_contradicted_is_unclear() -> None:
    drawn = DrawnPatches(KLP_UNPATCHED)
    drawn.patch("patch1", (None, [VFS_READ]), transition=True)
    (listed,) = listed_patches(livepatches(drawn.kernel.prog))
    assert listed.transition == "unclear"
