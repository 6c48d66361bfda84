# SPDX-License-Identifier: LGPL-2.1-or-later
"""Tasks whose verdict changes from one look at a running kernel to the next."""

from __future__ import annotations

import msgspec

from drgn_tools.analysis.changes import Change, Watch
from drgn_tools.records import Reason, TaskStack, Verdict

from ..support.fabricated import FAULTING, PREEMPTED, RUNNING, SLEEPER, UNREADABLE

NOW_RELIABLE = msgspec.structs.replace(
    FAULTING, verdict=Verdict.RELIABLE, reason=None, why=None, brief=None
)
ON_CPU = msgspec.structs.replace(
    FAULTING, verdict=Verdict.UNKNOWN, reason=Reason.RUNNING, on_cpu=True
)


def said(changes: list[Change]) -> list[tuple[int, object, object, float]]:
    return [(c.task.pid, c.verdict, c.before, c.seconds) for c in changes]


def looks(*tasks: list[TaskStack]) -> tuple[Watch, list[list[tuple[int, object, object, float]]]]:
    watch = Watch()
    return watch, [said(watch.look(some, 10.0 * i)) for i, some in enumerate(tasks)]


def test_first_all_that_is_not_reliable_then_nothing_that_stays() -> None:
    tasks = [SLEEPER, FAULTING, RUNNING, UNREADABLE]
    watch, found = looks(tasks, tasks)
    assert found == [
        [
            (FAULTING.pid, Verdict.UNRELIABLE, None, 0),
            (UNREADABLE.pid, Verdict.UNKNOWN, None, 0),
        ],
        [],
    ]
    assert watch.waiting == 3  # the one that runs was never seen at rest


def test_a_verdict_that_flips_is_said_with_how_long_it_was_what_it_was() -> None:
    watch, found = looks([FAULTING], [FAULTING], [NOW_RELIABLE], [FAULTING])
    pid = FAULTING.pid
    assert found[1:] == [
        [],
        [(pid, Verdict.RELIABLE, Verdict.UNRELIABLE, 20.0)],
        [(pid, Verdict.UNRELIABLE, Verdict.RELIABLE, 10.0)],
    ]
    assert watch.waiting == 0  # once is enough


def test_a_task_on_a_cpu_is_what_it_was() -> None:
    _watch, found = looks([FAULTING], [ON_CPU], [FAULTING], [ON_CPU], [NOW_RELIABLE])
    assert found[1:] == [[], [], [], [(FAULTING.pid, Verdict.RELIABLE, Verdict.UNRELIABLE, 40.0)]]


def test_who_exits_is_said_if_it_was_waited_for() -> None:
    watch, found = looks([SLEEPER, FAULTING, PREEMPTED], [PREEMPTED])
    assert found[1] == [(FAULTING.pid, None, Verdict.UNRELIABLE, 10.0)]
    assert watch.waiting == 1


def test_a_task_that_is_new_is_said_but_not_waited_for() -> None:
    watch, found = looks([SLEEPER], [SLEEPER, FAULTING])
    assert found == [[], [(FAULTING.pid, Verdict.UNRELIABLE, None, 0)]]
    assert watch.waiting == 0


def test_another_task_at_the_same_address_is_another() -> None:
    other = msgspec.structs.replace(NOW_RELIABLE, pid=999)
    watch, found = looks([FAULTING], [other])
    assert found[1] == [(FAULTING.pid, None, Verdict.UNRELIABLE, 10.0)]
    assert watch.waiting == 0
