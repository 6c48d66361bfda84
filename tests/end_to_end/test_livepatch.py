# SPDX-License-Identifier: LGPL-2.1-or-later
"""Live patches in transition: what the kernels themselves said about each task."""

from __future__ import annotations

import errno
import re
from collections import Counter

import pytest

from ..conftest import lab_livepatch, lab_run
from ..lab.livepatch import MOMENTS, LivepatchDump
from ..lab.livepatch_check import EXPECTED, in_words
from ..lab.livepatch_sheet import LivepatchSheet, lines_said
from ..lab.variants import Variant, variants_of

pytestmark = pytest.mark.lab

_VARIANTS = [variant for variant in variants_of("livepatch") if not variant.live]
_WATCHED = [variant for variant in variants_of("livepatch") if variant.live]
_FREED = ("stalled", "replaced", "disabled")
"""Moments right after a task was let go."""


@pytest.fixture(scope="module", params=_VARIANTS, ids=[variant.name for variant in _VARIANTS])
def variant(request: pytest.FixtureRequest) -> Variant:
    given: Variant = request.param
    return given


@pytest.fixture(scope="module")
def made(variant: Variant) -> LivepatchDump:
    """The dumps of one machine: ``core``, and ``before`` where there is one."""
    return lab_livepatch(variant)


@pytest.fixture(scope="module")
def sheet(made: LivepatchDump) -> LivepatchSheet:
    """What the kernel of ``core`` said."""
    return made.read_sheet()


def test_each_kind_of_answer_is_there(variant: Variant, sheet: LivepatchSheet) -> None:
    found = Counter(sheet.kind_of(answer) for answer in sheet.tasks)
    kinds = {"blocked", "unreliable", "running", "done"}
    assert set(found) == (kinds | {"free"} if variant.livepatch in _FREED else kinds)
    assert sheet.moment == MOMENTS[variant.livepatch][-1]
    assert sheet.target == (0 if variant.livepatch == "disabled" else 1)


def test_tasks_are_as_their_scenario_wants_them(sheet: LivepatchSheet) -> None:
    expected = EXPECTED[sheet.moment]
    found = {name: [in_words(sheet, answer) for answer in sheet.named(name)] for name in expected}
    assert found == {name: [wanted] for name, wanted in expected.items()}


def test_answers_agree_with_themselves(sheet: LivepatchSheet) -> None:
    for answer in sheet.tasks:
        assert bool(answer.func) == (answer.ret == -errno.EADDRINUSE)
        if answer.reliable >= 0:
            assert len(answer.entries) == answer.reliable
        if answer.pid == sheet.writer:
            assert (answer.curr, answer.ret) == (True, 0)
        else:
            assert (answer.ret == -errno.EBUSY) == answer.curr
        if answer.ret == -errno.EINVAL:
            assert answer.reliable < 0
        assert answer.pending == (answer.patch_state != sheet.target)


def test_console_said_the_same(
    variant: Variant, made: LivepatchDump, sheet: LivepatchSheet
) -> None:
    """Of tasks that sleep, the last round before the machine was held said it."""
    if variant.unwinder == "frame_pointer":
        pytest.skip("this kernel has no dynamic debug messages")
    last = {line.pid: line for line in lines_said(made.log.read_text(errors="replace"))}
    compared = 0
    for answer in sheet.tasks:
        if sheet.kind_of(answer) not in ("blocked", "unreliable") or not answer.state:
            continue
        said = last[answer.pid]
        assert (said.comm, said.kind) == (answer.comm.decode(), sheet.kind_of(answer))
        assert said.func == answer.func
        compared += 1
    assert compared >= 10


def test_the_same_tasks_were_there_before(
    variant: Variant, made: LivepatchDump, sheet: LivepatchSheet
) -> None:
    if "before" not in MOMENTS[variant.livepatch]:
        pytest.skip("no dump was made before")
    before = made.read_sheet("before")
    assert (before.patch, before.target, before.moment) == (0, -1, "before")
    entries = {answer.task: answer.entries for answer in before.tasks}
    asleep = [a for a in sheet.tasks if sheet.kind_of(a) == "blocked" and a.state]
    assert len(asleep) >= 10
    for answer in asleep:
        assert entries[answer.task] == answer.entries


# ---- a guest in which the tasks are let go, one after the other


@pytest.mark.parametrize("variant", _WATCHED, ids=[variant.name for variant in _WATCHED])
def test_a_transition_that_is_watched_ends(variant: Variant) -> None:
    run = lab_run(variant)
    said = run.log.read_text(errors="replace")
    assert "livepatch: 'lab_patch1': patching complete" in said
    assert re.findall("(?:BUG: |WARNING: |Oops: ).*", said) == []
    (stalled,) = run.read_found()["stalled"]
    waiting = {comm for comm, state in stalled["after"].values() if state == 0}
    assert {"w-old-d", "k-old-d", "k-spin/1a", "w-same2"} <= waiting
