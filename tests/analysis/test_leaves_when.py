# SPDX-License-Identifier: LGPL-2.1-or-later
"""What would let a task switch: for each state of user tasks and of kernel threads."""

from __future__ import annotations

from typing import Optional

import pytest

from drgn_tools.analysis.leaves_when import leaves_when
from drgn_tools.analysis.patch_question import Answer

from ..support.fabricated import task

NO_SIGNAL = "its wait ends; no fake signal ends it"


def when(
    answer: str,
    state: str = "S",
    kthread: bool = False,
    sent: Optional[int] = 0,
    flags: tuple[str, ...] = (),
) -> Optional[str]:
    stack = task(7, state=state, kthread=kthread, flags=flags)
    return leaves_when(stack, answer, "f" if answer == "in_function" else None, sent)


@pytest.mark.parametrize("answer", ["done", "no_transition", "unknown"])
@pytest.mark.parametrize("state", list("RSDTtXZPI?"))
def test_who_does_not_wait_has_nothing_to_wait_for(answer: str, state: str) -> None:
    assert when(answer, state) is None


@pytest.mark.parametrize(
    ("state", "kthread", "expected"),
    [
        ("D", False, NO_SIGNAL),
        ("D", True, NO_SIGNAL),
        ("I", True, NO_SIGNAL),
        ("T", False, "SIGCONT continues it"),
        ("t", False, "its tracer continues it"),
        ("S", False, "a fake signal ends its wait (within 15 s)"),
        ("S", True, "it leaves f by itself"),
        ("R", False, "it runs on to user mode"),
        ("R", True, "it leaves f by itself"),
    ],
)
def test_in_a_function_the_state_decides(state: str, kthread: bool, expected: str) -> None:
    assert when("in_function", state, kthread) == expected


@pytest.mark.parametrize(
    ("state", "kthread", "expected"),
    [
        ("D", False, NO_SIGNAL),
        ("S", False, "it returns to user mode; a fake signal may help (within 15 s)"),
        ("S", True, "it sleeps with a reliable stack by itself"),
        ("R", False, "it runs on to user mode"),
        ("R", True, "it sleeps with a reliable stack by itself"),
    ],
)
def test_with_an_unreliable_stack_the_state_decides(
    state: str, kthread: bool, expected: str
) -> None:
    assert when("unreliable", state, kthread) == expected


def test_a_fake_signal_that_was_sent_is_not_promised() -> None:
    for answer in ("in_function", "unreliable"):
        assert when(answer, sent=1) == "its wait ends; a fake signal did not end it"
        assert when(answer, sent=3) == "its wait ends; 3 fake signals did not end it"
    assert when("in_function", kthread=True, sent=1) == (
        "it leaves f by itself; a fake signal did not help"
    )
    # No signal is said to have failed that was never sent to such a task.
    assert when("in_function", "D", sent=3) == NO_SIGNAL
    assert when("in_function", sent=None) == "a fake signal ends its wait (within 15 s)"


def test_on_a_cpu() -> None:
    assert when("running", "R") == "it returns to user mode"
    assert when("running", "R", kthread=True) == "it leaves its CPU"
    assert when("running", "R", kthread=True, flags=("idle",)) == "its idle loop runs once more"


def test_the_kernel_asks_a_free_task_by_itself() -> None:
    assert when("free", "D") == "the kernel tries next (each second)"


def test_without_reliable_stack_traces_only_the_task_itself_switches() -> None:
    assert when("no_reliable_stacktrace") == "it returns to user mode"
    assert when("no_reliable_stacktrace", kthread=True) == "it switches by itself, if ever"


@pytest.mark.parametrize("answer", list(Answer))
@pytest.mark.parametrize("state", list("RSDTtXZPI?"))
@pytest.mark.parametrize("kthread", [False, True])
def test_it_ends_a_sentence(answer: Answer, state: str, kthread: bool) -> None:
    words = when(answer.value, state, kthread)
    assert words is None or (words[0].islower() or words.startswith("SIGCONT"))
    assert words is None or not words.endswith(".")
