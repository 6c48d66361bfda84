# SPDX-License-Identifier: LGPL-2.1-or-later
"""What happens from one look at a transition to the next."""

from __future__ import annotations

from typing import Any, Optional

from msgspec.structs import replace

from drgn_tools.analysis.patch_question import Answer, TaskAnswer
from drgn_tools.analysis.transition_watch import TransitionEvent, TransitionWatch
from drgn_tools.kernel.livepatch import KLP_IDLE, KLP_PATCHED, Livepatches, PatchRecord

from ..support.fabricated import task

FIX = PatchRecord(0x1000, "fix", True, False, False, ())
OTHER = replace(FIX, address=0x2000, name="other")
AT_REST = Livepatches(target=KLP_IDLE)
PATCHING = Livepatches((FIX,), FIX, KLP_PATCHED)
UNCLEAR = Livepatches(problems=("the list klp_patches is damaged",))

Said = tuple[str, Optional[str], Optional[int], Optional[float]]


def answers(**given: Any) -> list[TaskAnswer]:
    """``answers(p5="in f")``: task 5 is in function f."""
    found = []
    for name, value in given.items():
        function = value[3:] if value.startswith("in ") else None
        answer = Answer.IN_FUNCTION if function else Answer(value)
        found.append(TaskAnswer(task(int(name[1:])), answer, function))
    return found


class Watched:
    """A watch that looks every 10 s."""

    def __init__(self) -> None:
        self.watch = TransitionWatch()
        self.now = 0.0
        self.events: list[TransitionEvent] = []

    def look(self, patches: Livepatches, **given: Any) -> list[Said]:
        self.events = list(self.watch.look(patches, answers(**given), self.now))
        assert {event.time for event in self.events} <= {self.now}
        self.now += 10
        return [(e.event, e.patch, e.task and e.task.stack.pid, e.for_s) for e in self.events]


def test_at_rest_is_said_once() -> None:
    watched = Watched()
    assert watched.look(AT_REST, p5="no_transition") == [("at rest", None, None, None)]
    assert watched.look(AT_REST, p5="no_transition") == []


def test_from_begin_to_end() -> None:
    watched = Watched()
    assert watched.look(PATCHING, p5="in f", p6="done", p7="free") == [
        ("begins", "fix", None, None),
        ("holds", "fix", 5, 0),
    ]
    assert watched.look(PATCHING, p5="in f", p6="done", p7="done") == []
    assert watched.look(PATCHING, p5="in g", p6="done") == [("holds", "fix", 5, 20)]
    assert watched.look(PATCHING, p5="done", p6="done") == [("left", "fix", 5, 30)]
    assert watched.look(AT_REST, p5="no_transition") == [("ends", "fix", None, 40)]


def test_the_end_frees_who_held_it_back_to_the_last() -> None:
    watched = Watched()
    watched.look(PATCHING, p5="in f", p6="free")
    assert watched.look(AT_REST, p5="no_transition", p6="no_transition") == [
        ("left", "fix", 5, 10),
        ("ends", "fix", None, 10),
    ]


def test_who_was_free_in_between_has_left_all_the_same() -> None:
    watched = Watched()
    watched.look(PATCHING, p5="in f")
    assert watched.look(PATCHING, p5="free") == []
    assert watched.look(PATCHING, p5="done") == [("left", "fix", 5, 20)]
    (event,) = watched.events
    assert event.task is not None
    assert event.task.function == "f"  # as it was when it held the patch back


def test_who_was_free_and_never_held_it_back_does_not_leave() -> None:
    watched = Watched()
    assert watched.look(PATCHING, p5="free") == [("begins", "fix", None, None)]
    assert watched.look(PATCHING, p5="done") == []


def test_who_was_free_first_holds_it_back_from_when_it_was_seen() -> None:
    watched = Watched()
    watched.look(PATCHING, p5="free")
    assert watched.look(PATCHING, p5="in f") == [("holds", "fix", 5, 0)]
    assert watched.look(PATCHING, p5="done") == [("left", "fix", 5, 10)]


def test_who_exits_has_left() -> None:
    watched = Watched()
    watched.look(PATCHING, p5="running", p6="unreliable")
    assert watched.look(PATCHING, p6="unreliable") == [("left", "fix", 5, 10)]


def test_another_reason_is_said() -> None:
    watched = Watched()
    watched.look(PATCHING, p5="in f")
    for value in ("running", "unreliable", "unknown", "in f"):
        assert [said[:3] for said in watched.look(PATCHING, p5=value)] == [("holds", "fix", 5)]
        assert watched.look(PATCHING, p5=value) == []


def test_one_pid_in_two_tasks_is_two() -> None:
    # A process was gone and its number given away between two looks.
    watch = TransitionWatch()
    first = TaskAnswer(task(5), Answer.RUNNING)
    second = TaskAnswer(task(5, task=0x5000), Answer.RUNNING)
    list(watch.look(PATCHING, [first], 0))
    events = list(watch.look(PATCHING, [second], 10))
    assert [event.event for event in events] == ["left", "holds"]


def test_another_patch_and_a_reversal_begin_anew() -> None:
    watched = Watched()
    watched.look(PATCHING, p5="in f")
    reversed_ = Livepatches((replace(FIX, enabled=False),), replace(FIX, enabled=False), 0)
    assert watched.look(reversed_, p5="done") == [
        ("left", "fix", 5, 10),
        ("ends", "fix", None, 10),
        ("begins", "fix", None, None),
    ]
    assert watched.look(Livepatches((OTHER,), OTHER, KLP_PATCHED), p5="running") == [
        ("ends", "fix", None, 10),
        ("begins", "other", None, None),
        ("holds", "other", 5, 0),
    ]


def test_a_look_that_is_unclear_tells_nothing() -> None:
    watched = Watched()
    assert watched.look(UNCLEAR, p5="unknown") == []
    assert watched.look(PATCHING, p5="in f")[0] == ("begins", "fix", None, None)
    assert watched.look(UNCLEAR, p5="unknown") == []
    assert watched.look(PATCHING, p5="done") == [("left", "fix", 5, 20)]
