# SPDX-License-Identifier: LGPL-2.1-or-later
"""Live patches in transition: our answer for every task against the kernel's own."""

from __future__ import annotations

import errno
import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from drgn_tools import open_program, task_stacks
from drgn_tools.analysis.inquiry import Inquiry, inquire
from drgn_tools.analysis.patch_file import read_patch_file
from drgn_tools.analysis.patch_question import Answer, TaskAnswer
from drgn_tools.analysis.waiting import kernel_frames
from drgn_tools.engine.kernel import kernel_of

from ..conftest import lab_livepatch, lab_run
from ..lab.livepatch import MOMENTS, LivepatchDump
from ..lab.livepatch_sheet import LivepatchAnswer, LivepatchSheet, lines_said
from ..lab.variants import Variant, variants_of
from ..support.command_line import ROOT

pytestmark = pytest.mark.lab

_VARIANTS = [
    variant
    for variant in (*variants_of("livepatch"), *variants_of("arm64-built"))
    if variant.livepatch and not variant.live
]
_KINDS = {
    "blocked": Answer.IN_FUNCTION,
    "unreliable": Answer.UNRELIABLE,
    "running": Answer.RUNNING,
    "free": Answer.FREE,
    "done": Answer.DONE,
    "none": Answer.NO_TRANSITION,
}


@pytest.fixture(scope="module", params=_VARIANTS, ids=[variant.name for variant in _VARIANTS])
def variant(request: pytest.FixtureRequest) -> Variant:
    given: Variant = request.param
    return given


@pytest.fixture(scope="module")
def made(variant: Variant) -> LivepatchDump:
    return lab_livepatch(variant)


def ask(core: Path, ko: str = "") -> tuple[Inquiry, dict[int, TaskAnswer]]:
    """Return our answers by task, with the types of BTF alone.

    :param ko: A patch that is not loaded; empty for the one in transition
    """
    prog = open_program(core=str(core))
    planned = read_patch_file(prog, ko) if ko else None
    inquiry = inquire(prog, kernel_of(prog).layout.reliable_stacktrace, planned)
    return inquiry, {s.task: inquiry.question.answer(s) for s in task_stacks(prog)}


def compare(sheet: LivepatchSheet, ours: dict[int, TaskAnswer]) -> tuple[list[str], Counter[str]]:
    """Return the differences, and how many tasks have which answer."""
    differences = []
    compared: Counter[str] = Counter()
    for said in sheet.tasks:
        found = ours.get(said.task)
        if found is None:
            # The kernel switches the idle task of a CPU that is offline without asking it.
            assert said.idle_of is not None, said
            continue
        expected = _KINDS[sheet.kind_of(said)]
        # It asked as current, which is not "running" then; to everybody else it is.
        if said.pid == sheet.writer and expected is Answer.FREE:
            expected = Answer.RUNNING
        where = f"{said.pid} {said.comm!r}"
        if found.answer is not expected:
            differences.append(f"{where}: {found.answer}, the kernel says {expected}")
        if expected is Answer.IN_FUNCTION and found.function != said.func:
            differences.append(f"{where}: in {found.function}, the kernel says {said.func}")
        if found.stack.patch_state != said.patch_state:
            differences.append(f"{where}: patch_state {found.stack.patch_state}")
        compared[found.answer.value] += 1
    return differences, compared


def test_every_answer_is_the_kernels(
    variant: Variant, made: LivepatchDump, capsys: pytest.CaptureFixture[str]
) -> None:
    for moment in MOMENTS[variant.livepatch]:
        sheet = made.read_sheet(moment)
        inquiry, ours = ask(made.core_of(moment))
        assert inquiry.question.problems == ()
        transition = inquiry.patches.transition
        assert (transition.address if transition else 0) == sheet.patch
        assert inquiry.question.target == sheet.target
        differences, compared = compare(sheet, ours)
        assert differences == []
        assert sum(compared.values()) >= 60
        with capsys.disabled():
            print(f"\n{variant.name} {moment}: 0 differences, {dict(compared)}")


def test_the_kernels_log_says_the_same(made: LivepatchDump) -> None:
    """The last line about each task that sleeps: dynamic debug of klp_try_switch_task()."""
    _, ours = ask(made.core)
    last = {line.pid: line for line in lines_said(made.log.read_text(errors="replace"))}
    if not last:
        pytest.skip("this kernel has no dynamic debug messages")
    compared = 0
    for found in ours.values():
        if found.stack.state == "R" or found.answer not in (Answer.IN_FUNCTION, Answer.UNRELIABLE):
            continue
        said = last[found.stack.pid]
        assert (_KINDS[said.kind], said.func or None) == (found.answer, found.function)
        compared += 1
    assert compared >= 10


def test_what_if_is_what_happened_then(
    variant: Variant, made: LivepatchDump, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before the patch was loaded, of each task that has not run since: its answer is the kernel's then."""
    moments = MOMENTS[variant.livepatch]
    if "before" not in moments:
        pytest.skip("no dump was made before")
    name = "lab_patch2" if variant.livepatch == "replaced" else "lab_patch1"
    inquiry, ours = ask(made.before, str(made.module(name)))
    assert inquiry.plan is not None
    assert (inquiry.plan.refusals, inquiry.plan.problems) == ((), ())
    before = {said.task: said for said in made.read_sheet("before").tasks}
    after = made.read_sheet(moments[-1])
    same = [said for said in after.tasks if _has_not_run(before.get(said.task), said)]
    compared: Counter[str] = Counter()
    for said in same:
        found = ours[said.task]
        assert (found.answer, found.function or "") == (_answer_of(said), said.func), said
        compared[found.answer.value] += 1
    assert compared["in_function"] >= 8
    assert sum(compared.values()) >= 40
    moved = len(after.tasks) - len(same)
    with capsys.disabled():
        print(f"\n{variant.name}: what-if {dict(compared)}; {moved} tasks have run since")


def _has_not_run(before: Any, after: LivepatchAnswer) -> bool:
    """Whether it sleeps where it slept; a task on a CPU may be anywhere."""
    return (
        before is not None
        and not before.curr
        and not after.curr
        and before.entries == after.entries
        and before.state == after.state
    )


def _answer_of(said: LivepatchAnswer) -> Answer:
    # The kernel was asked about each task, done or not.
    return {
        0: Answer.FREE,
        -errno.EINVAL: Answer.UNRELIABLE,
        -errno.EADDRINUSE: Answer.IN_FUNCTION,
    }[said.ret]


def test_frames_are_the_kernels(made: LivepatchDump) -> None:
    sheet = made.read_sheet()
    _, ours = ask(made.core)
    compared = 0
    for said in sheet.tasks:
        if said.task in ours and not said.curr and said.reliable >= 0:
            frames = kernel_frames(ours[said.task].stack)
            assert tuple(frame.ip for frame in frames) == said.entries
            compared += 1
    assert compared >= 50


def test_command_line(made: LivepatchDump, variant: Variant) -> None:
    words = ["livepatch", "-c", str(made.core), "--check", "--format", "json"]
    done = subprocess.run(
        [sys.executable, "-m", "drgn_tools", *words], cwd=ROOT, capture_output=True, check=False
    )
    assert done.returncode == 1
    report = json.loads(done.stdout)
    [patch] = [patch for patch in report["patches"] if patch["transition"]]
    assert patch["transition"] == ("unpatching" if variant.livepatch == "disabled" else "patching")
    assert report["problems"] == []
    sheet = made.read_sheet()
    held = {int(task["task"], 16) for task in report["tasks"]}
    assert held >= {said.task for said in sheet.tasks if sheet.kind_of(said) == "blocked"}
    assert not held & {said.task for said in sheet.tasks if sheet.kind_of(said) == "done"}


# ---- a guest that watches its own transition


_WATCHED = [variant for variant in variants_of("livepatch") if variant.live]


@pytest.fixture(scope="module", params=_WATCHED, ids=[variant.name for variant in _WATCHED])
def found(request: pytest.FixtureRequest) -> dict[str, Any]:
    run: dict[str, list[Any]] = lab_run(request.param).read_found()
    return {name: reports[0] for name, reports in run.items() if reports}


def test_a_live_look_has_the_patch_state_of_every_thread(found: dict[str, Any]) -> None:
    """/proc/PID/patch_state was read before and after: where it did not change, ours is the same."""
    stalled = found["stalled"]
    assert stalled["found"]["code"] == 0
    report = json.loads(stalled["found"]["stdout"])
    ours = {str(task["pid"]): task for task in report["tasks"]}
    same = 0
    for pid, (_comm, state) in stalled["before"].items():
        if stalled["after"].get(pid, [None, None])[1] != state or pid not in ours:
            continue
        same += 1
        assert ours[pid]["patch_state"] == state
        assert (ours[pid]["answer"] == "done") == (state == 1)
    assert same >= 40
    assert [patch["transition"] for patch in report["patches"]] == ["patching"]
    held = {task["comm"] for task in report["tasks"] if task["answer"] == "in_function"}
    assert {"w-old-d", "k-old-d", "w-same2"} <= held


def test_a_watch_sees_who_leaves_and_the_end(found: dict[str, Any]) -> None:
    watch = found["watch"]
    assert watch["code"] == 0
    lines = [(at, line) for at, stream, line in watch["lines"] if stream == "out"]
    said = [line for _, line in lines]
    assert "lab_patch1: transition begins" in said[0]
    assert re.search(r"lab_patch1: transition ends after \d+ s$", said[-1].rstrip())
    for at, name in watch["gone"]:
        if name == "all":
            continue
        holds = next(
            when for when, line in lines if f" {name} " in line and "holds it back" in line
        )
        left = next(when for when, line in lines if f" {name} " in line and " left after " in line)
        assert holds < at < left
    assert lines[-1][0] >= watch["ended"] - 1
    done = found["done"]
    assert (done["code"], "no live patch is in transition" in done["stderr"]) == (0, True)
