# SPDX-License-Identifier: LGPL-2.1-or-later
"""The lines about live patches, of records made by hand."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from typing import Any, Optional

import pytest
from msgspec.structs import replace

from drgn_tools.analysis.livepatch import ListedPatch
from drgn_tools.analysis.patch_question import Answer, TaskAnswer
from drgn_tools.analysis.plan import Plan
from drgn_tools.analysis.transition_watch import TransitionEvent
from drgn_tools.kernel.livepatch import PatchFunction, PatchObject, PatchRecord
from drgn_tools.records import Frame, Reason, Symbol, Verdict
from drgn_tools.render.columns import LIVEPATCH, PLANNED_LIVEPATCH
from drgn_tools.render.livepatch import event_line, holders_line, patch_lines, plan_lines

from ..support.fabricated import HOSTILE_COMM, task

READ = PatchFunction(1, "vfs_read", 0, 2, 3, 4, 5, False, True)
SECOND = replace(READ, name="same", sympos=2)
NOP = replace(READ, name="vfs_write", nop=True)
FIX = PatchRecord(
    1,
    "fix",
    True,
    False,
    False,
    (PatchObject(None, True, (READ, SECOND)), PatchObject("ext4", False, (NOP,))),
)
FRAMES = tuple(Frame(0x1000 + number, Symbol("f", number, "mod")) for number in range(4))
HELD = TaskAnswer(
    task(42, "reader", frames=FRAMES),
    Answer.IN_FUNCTION,
    "f",
    "mod",
    3,
    "sleeping on f [mod], frame 3",
)


def lines(patch: PatchRecord, transition: Optional[str] = None) -> list[str]:
    return list(patch_lines([ListedPatch(patch, transition)], 80))


def test_a_patch_and_its_objects() -> None:
    assert lines(FIX) == [
        "fix: enabled",
        "  vmlinux: vfs_read, same,2",
        "  ext4 (not loaded; patched once it is): vfs_write (back to the original)",
    ]
    assert lines(replace(FIX, objects=(PatchObject("empty", True, ()),)))[1] == (
        "  empty: none of the functions"
    )


@pytest.mark.parametrize(
    ("fields", "transition", "expected"),
    [
        ({}, "patching", "fix: patching"),
        ({"enabled": False}, "unpatching", "fix: unpatching"),
        ({"enabled": False}, None, "fix: disabled"),
        ({"replace": True}, None, "fix: enabled, replaces all older patches"),
        (
            {"replace": True, "forced": True},
            "unclear",
            "fix: unclear, replaces all older patches, forced",
        ),
    ],
)
def test_what_happens_to_a_patch(
    fields: dict[str, Any], transition: Optional[str], expected: str
) -> None:
    assert lines(replace(FIX, **fields), transition)[0] == expected


def test_names_of_the_dump_are_escaped() -> None:
    evil = "e\x1b[31m\nvil"
    patch = replace(FIX, name=evil, objects=(PatchObject(evil, True, (replace(READ, name=evil),)),))
    for found in (*lines(patch), *plan_lines(Plan(patch, (), (evil,)), 80)):
        assert found.isprintable()


def test_a_plan() -> None:
    # Refusals are warnings: see tests/commands/test_livepatch.py.
    assert list(plan_lines(Plan(replace(FIX, replace=True), (), ("f: no", "g: no")), 80)) == [
        "fix: not loaded, replaces all older patches",
        "  vmlinux: vfs_read, same,2",
        "  ext4 (not loaded; patched once it is): vfs_write (back to the original)",
    ]
    assert list(plan_lines(None, 80)) == []


def test_names_wrap_at_the_width() -> None:
    functions = [replace(READ, name=f"function_{number}") for number in range(5)]
    patch = replace(FIX, objects=(PatchObject(None, True, (*functions, NOP)),))
    expected = [
        "fix: enabled",
        "  vmlinux: function_0,",
        "      function_1, function_2,",
        "      function_3, function_4,",
        "      vfs_write (back to the",
        "      original)",
    ]
    assert list(patch_lines([ListedPatch(patch, None)], 30)) == expected
    assert list(plan_lines(Plan(patch, ()), 30)) == ["fix: not loaded", *expected[1:]]
    # A name stays whole.
    long = replace(FIX, objects=(PatchObject(None, True, (replace(READ, name="f" * 40),)),))
    assert list(patch_lines([ListedPatch(long, None)], 30))[1:] == [
        "  vmlinux:",
        "      " + "f" * 40,
    ]


@pytest.mark.parametrize(
    ("answers", "functions", "planned", "expected"),
    [
        ({}, {}, False, "none of 0 tasks holds fix back"),
        ({Answer.FREE: 1}, {}, False, "none of 1 task holds fix back"),
        ({Answer.DONE: 3, Answer.FREE: 2}, {}, False, "none of 5 tasks holds fix back"),
        ({Answer.FREE: 2}, {}, True, "none of 2 tasks would hold fix back"),
        ({Answer.IN_FUNCTION: 1}, {"f": 1}, False, "1 of 1 task holds fix back: 1 in f"),
        ({Answer.IN_FUNCTION: 1}, {"f": 1}, True, "1 of 1 task would hold fix back: 1 in f"),
        (
            {
                Answer.DONE: 1,
                Answer.IN_FUNCTION: 4,
                Answer.UNRELIABLE: 2,
                Answer.RUNNING: 3,
                Answer.UNKNOWN: 5,
            },
            {"g": 1, "f": 3},
            False,
            "14 of 15 tasks hold fix back: 3 in f, 1 in g, 3 on a CPU, 2 with an unreliable stack,"
            " 5 unknown",
        ),
        (
            {Answer.NO_RELIABLE_STACKTRACE: 2},
            {},
            False,
            "2 of 2 tasks hold fix back: 2 to switch by themselves",
        ),
    ],
)
def test_how_many_hold_it_back(
    answers: Mapping[Answer, int], functions: dict[str, int], planned: bool, expected: str
) -> None:
    asked = Counter(functions)
    if not planned:
        assert holders_line("fix", answers, asked) == expected
        return
    assert holders_line("fix", answers, asked, Plan(FIX, ())) == (
        f"the kernel would take fix; {expected}"
    )
    assert holders_line("fix", answers, asked, Plan(FIX, (), ("f: no",))) == (
        f"the kernel would refuse fix; {expected}"
    )


def test_without_a_transition_nobody_holds_anything_back() -> None:
    assert holders_line(None, {Answer.NO_TRANSITION: 7}, Counter()) == (
        "no live patch is in transition"
    )


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        (TransitionEvent(0, "at rest"), "no live patch is in transition"),
        (TransitionEvent(0, "begins", "fix"), "fix: transition begins"),
        (TransitionEvent(0, "ends", "fix", None, 61.4), "fix: transition ends after 61 s"),
        (
            TransitionEvent(0, "holds", "fix", HELD, 0),
            "fix: 42 reader (S) holds it back: sleeping on f [mod], frame 3",
        ),
        (
            TransitionEvent(0, "left", "fix", HELD, 12.6),
            "fix: 42 reader (S) left after 13 s: sleeping on f [mod], frame 3",
        ),
    ],
)
def test_an_event_is_a_line(event: TransitionEvent, expected: str) -> None:
    at, _, text = event_line(event, "table").partition("  ")
    assert len(at) == len("12:34:56")
    assert text == expected


def test_an_event_of_a_hostile_task_is_one_printable_line() -> None:
    held = TaskAnswer(
        task(1, HOSTILE_COMM, verdict=Verdict.UNRELIABLE), Answer.UNRELIABLE, why=HOSTILE_COMM
    )
    for style in ("table", "jsonl"):
        assert event_line(TransitionEvent(0, "holds", "fix", held, 0), style).isprintable()


def test_an_event_in_json() -> None:
    found = json.loads(event_line(TransitionEvent(5.5, "holds", "fix", HELD, 0.0), "jsonl"))
    assert {key: found[key] for key in ("time", "event", "patch", "for_s")} == {
        "time": 5.5,
        "event": "holds",
        "patch": "fix",
        "for_s": 0.0,
    }
    assert (found["task"]["pid"], found["task"]["object"]) == (42, "mod")
    assert json.loads(event_line(TransitionEvent(5.5, "begins", "fix"), "jsonl"))["task"] is None


def cells(found: TaskAnswer) -> dict[str, Any]:
    return {column.heading: column.cell(found) for column in LIVEPATCH}


def test_a_row() -> None:
    held = replace(HELD, leaves_when="it leaves f", notes=("note",))
    found = cells(replace(held, stack=task(42, "reader", frames=FRAMES, patch_state=0)))
    assert found["PID"] == "42"
    assert found["CODE"] == "old"
    assert found["ANSWER"] == "in function"
    assert found["WHY"] == ["f [mod] (#3)", "note"]
    assert found["LEAVES WHEN"] == "it leaves f"
    for state, code in ((1, "new"), (-1, "-"), (7, "-"), (None, "-")):
        assert cells(replace(held, stack=task(1, frames=FRAMES, patch_state=state)))["CODE"] == code
    image = cells(replace(HELD, module=None))
    assert image["WHY"] == ["f (#3)"]
    assert cells(TaskAnswer(task(1), Answer.FREE))["WHY"] == [""]


def test_a_plan_has_no_column_for_the_code() -> None:
    # No task has moved yet.
    headings = [column.heading for column in LIVEPATCH]
    assert "CODE" in headings
    assert [column.heading for column in PLANNED_LIVEPATCH] == [
        heading for heading in headings if heading != "CODE"
    ]


@pytest.mark.parametrize(
    ("symbol", "expected"),
    [
        (Symbol("f", 3, "mod"), "f [mod] (#3)"),
        (Symbol("klp_f", 3, "fix"), "f [mod] (#3: klp_f [fix])"),
        (Symbol("g", 0, None), "f [mod] (#3: g)"),
        (None, "f [mod] (#3)"),
    ],
)
def test_a_frame_in_another_function_names_that(symbol: Optional[Symbol], expected: str) -> None:
    held = replace(HELD, stack=task(42, frames=(*FRAMES[:3], Frame(0x1234, symbol))))
    assert cells(held)["WHY"] == [expected]
    (brief,) = [column.brief for column in LIVEPATCH if column.heading == "WHY"]
    assert brief is not None
    assert brief(held) == [expected]


def test_what_all_stacks_of_a_kernel_share_is_not_brief() -> None:
    (brief,) = [column.brief for column in LIVEPATCH if column.heading == "WHY"]
    assert brief is not None
    for reason, expected in (
        (Reason.KERNEL_MODE_REGS, "page fault"),
        (Reason.NOT_ENCODED, "a page fault in f"),
    ):
        stack = task(1, reason=reason, why="a page fault in f", brief="page fault")
        found = TaskAnswer(stack, Answer.UNRELIABLE, why=stack.why)
        assert brief(found) == [expected]
