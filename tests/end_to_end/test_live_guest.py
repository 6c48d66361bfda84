# SPDX-License-Identifier: LGPL-2.1-or-later
"""The project inside guests whose kernels run: what it said there, held against the kernel.

The programs that ran there are in tests/live; the lab ran them with this very project
(tests/lab/live.py) and kept what they found.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from types import SimpleNamespace
from typing import Any

import drgn
import pytest

from drgn_tools import Verdict, open_program

from ..conftest import lab_run
from ..lab.live import AUDITS_VARIABLE, LiveRun
from ..lab.sheet import SheetTask, read_sheet
from ..lab.variants import variant_named
from ..support.answers import frame_differences, verdict_differences

pytestmark = pytest.mark.lab

EXIT_INPUT = 3
EXIT_PARTIAL = 5


@pytest.fixture(scope="module", params=["live", "live-stock"])
def idle(request: pytest.FixtureRequest) -> LiveRun:
    return lab_run(variant_named(request.param))


@pytest.fixture(scope="module")
def found(idle: LiveRun) -> dict[str, list[Any]]:
    return idle.read_found()


@pytest.fixture(scope="module", params=["live-storm", "live-storm-stock"])
def storm(request: pytest.FixtureRequest) -> dict[str, list[Any]]:
    return lab_run(variant_named(request.param)).read_found()


# ---- tasks that sleep, and the answer sheet of the same boot


def switches(prog: drgn.Program, address: int) -> list[int]:
    task = drgn.Object(prog, "struct task_struct *", address)
    return [task.pid.value_(), task.nvcsw.value_(), task.nivcsw.value_()]


def from_json(task: dict[str, Any]) -> Any:
    """A task of the JSON output, as what tests/support/answers.py compares."""
    frames = [
        SimpleNamespace(
            ip=int(frame["ip"], 16),
            symbol=frame["symbol"],
            module=frame["module"],
            regs=int(frame["regs"], 16) if frame["regs"] else None,
            user_mode=frame["user_mode"],
        )
        for frame in task["frames"]
    ]
    return SimpleNamespace(verdict=Verdict(task["verdict"]), why=task["why"], frames=frames)


@pytest.fixture(scope="module")
def fewest_unreliable(found: dict[str, list[Any]]) -> int:
    """How many stacks are unreliable at least: with ORC only those that are too deep, and BPF."""
    kernel = json.loads(found["looked"][0]["stdout"])["kernel"]
    return 4 if kernel["unwinder"] == "orc" else 8


def test_every_task_that_slept_is_as_the_kernel_said(
    idle: LiveRun, found: dict[str, list[Any]], fewest_unreliable: int
) -> None:
    prog = open_program(core=idle.core)
    (looked,) = found["looked"]
    assert looked["code"] == 0
    document = json.loads(looked["stdout"])
    assert document["kernel"]["source"] == "live"
    ours = {int(task["task"], 16): task for task in document["tasks"]}
    (before,), (after,) = found["before"], found["after"]
    differences, compared = [], []
    for task in read_sheet(prog):
        key = hex(task.task)
        slept = before.get(key) == after.get(key) == switches(prog, task.task)
        if not slept or task.on_cpu or ours[task.task]["on_cpu"]:
            continue
        compared.append(task)
        stack = from_json(ours[task.task])
        found_here = [*verdict_differences(stack, task), *frame_differences(stack, task)]
        differences += [f"pid {task.pid} ({task.comm!r}): {d}" for d in found_here]
    assert differences == []
    print(summary(compared, len(ours)))
    # Less than that is a test of nothing: most of the workload sleeps for good.
    assert len(compared) >= 90
    assert sum(task.ret < 0 for task in compared) >= fewest_unreliable
    assert any(frame.regs and not frame.user_mode for task in compared for frame in task.frames)


def summary(compared: list[SheetTask], seen: int) -> str:
    frames = sum(len(task.frames) for task in compared)
    unreliable = sum(task.ret < 0 for task in compared)
    return (
        f"live: {len(compared)} of {seen} tasks slept and were compared, {unreliable} unreliable,"
        f" {frames} frames"
    )


def test_what_is_found_inside_comes_at_once(found: dict[str, list[Any]]) -> None:
    for seconds, tasks in found["audit"]:
        print(f"live: audit of {tasks} tasks in {seconds:.2f} s, under emulation")
        assert tasks > 100


# ---- the other commands


def test_watch_ends_when_the_task_was_reliable(found: dict[str, list[Any]]) -> None:
    (watch,) = found["watch"]
    assert watch["code"] == 0, watch["stderr"]


def test_no_more_tasks_than_wanted_are_looked_at(found: dict[str, list[Any]]) -> None:
    (few,) = found["max"]
    assert few["code"] == EXIT_PARTIAL
    assert len(few["stdout"].splitlines()) == 1 + 20


def test_shell_takes_a_script(found: dict[str, list[Any]]) -> None:
    (shell,) = found["shell"]
    assert shell["code"] == 0
    assert shell["stdout"].startswith(f"PID: {found['pid'][0]} ")


@pytest.mark.parametrize("number", range(4))
def test_scripts_of_contrib(found: dict[str, list[Any]], number: int) -> None:
    script = found["contrib"][number]
    assert script["code"] == 0, script
    assert "Traceback" not in script["stderr"]
    assert len(script["stdout"].splitlines()) > 1


# ---- the REPL


@pytest.fixture(scope="module")
def session(found: dict[str, list[Any]]) -> dict[str, str]:
    """What drgn answered to each line; "" is its banner."""
    (terminal,) = found["terminal"]
    assert terminal["status"] == 0
    assert all(echo.strip() == line for line, echo, _ in terminal["answers"])
    return {"": terminal["banner"], **{line: answer for line, _, answer in terminal["answers"]}}


def test_repl_begins_without_debuginfo_and_without_a_traceback(session: dict[str, str]) -> None:
    assert "types and symbols are the BTF and kallsyms of the kernel itself" in session[""]
    assert "Traceback" not in "".join(session.values())


def test_repl_lists_tasks_and_pipes_them(session: dict[str, str], fewest_unreliable: int) -> None:
    header, *rows = session["%tasks"].splitlines()
    assert header.split()[:5] == ["PID", "COMM", "S", "CPU", "VERDICT"]
    assert len(rows) > 100
    unreliable = [row.split()[0] for row in rows if re.search(r"\bunreliable\b", row)]
    piped = [row.split()[0] for row in session["%tasks | grep unreliable"].splitlines()]
    assert len(piped) >= fewest_unreliable
    assert piped == unreliable


def test_repl_draws_a_stack(found: dict[str, list[Any]], session: dict[str, str]) -> None:
    (pid,) = found["pid"]
    drawn = session[f"%stack {pid}"]
    assert drawn.startswith(f"PID: {pid} ")
    assert '"w-pipe-read"' in drawn
    assert "VERDICT: reliable" in drawn
    assert "pipe_read+0x" in drawn
    assert "syscall from user mode" in drawn


def test_repl_goes_on_after_a_mistake(session: dict[str, str]) -> None:
    (line,) = session["%stack 4000000"].splitlines()
    assert line.startswith("drgn: error: no task with pid 4000000")
    assert session["len(audit_kernel()) > 50"].strip() == "True"
    assert session["1 + 1"].strip() == "2"


# ---- who refuses


def the_line(refused: dict[str, Any], *, about: str) -> None:
    assert refused["code"] == EXIT_INPUT
    assert refused["stdout"] == ""
    (line,) = refused["stderr"].splitlines()
    print(line)
    assert line.startswith("drgn-tools: error: the running kernel: ")
    assert about in line


def test_a_normal_user_is_told_to_be_root(found: dict[str, list[Any]]) -> None:
    the_line(found["user"][0], about="root")


def test_without_kcore_there_is_nothing_to_read(storm: dict[str, list[Any]]) -> None:
    the_line(storm["nokcore"][0], about="CONFIG_PROC_KCORE")


def test_lockdown_keeps_root_out() -> None:
    locked = lab_run(variant_named("live-lockdown")).read_found()
    assert "[confidentiality]" in locked["lockdown"][0]
    the_line(locked["refused"][0], about="lockdown")


def test_types_of_modules_and_variables_are_those_of_a_running_kernel(
    found: dict[str, list[Any]],
) -> None:
    assert found["module_type"][0][:3] == ["kobj", "size", "select"]
    ours, kernels = found["uptimes"][0]
    assert abs(ours - kernels) < 2
    assert found["declared"] == [2]


def test_kptr_restrict_keeps_nobody_out_who_is_root(found: dict[str, list[Any]]) -> None:
    (allowed,) = found["kptr_restrict"]
    assert allowed["code"] == 0
    assert allowed["stderr"] == ""
    assert "w-pipe-read" in allowed["stdout"]


# ---- a storm


def test_every_audit_in_a_storm_is_one(storm: dict[str, list[Any]]) -> None:
    assert storm.get("traceback", []) == []
    audits = storm["audit"]
    assert len(audits) == int(os.environ.get(AUDITS_VARIABLE, "500"))
    for audit in audits:
        assert audit["unexplained"] == 0
        assert audit["twice"] == 0
        assert audit["problems"] == []
        assert audit["tasks"] > 100
        assert sum(audit["verdicts"].values()) == audit["tasks"]


def test_the_storm_was_one(storm: dict[str, list[Any]]) -> None:
    (done,) = storm["storm"]
    print(f"storm: {done} during {len(storm['audit'])} audits")
    assert all(count >= len(storm["audit"]) for count in done.values())


def test_few_tasks_of_a_storm_are_unknown(storm: dict[str, list[Any]]) -> None:
    audits = storm["audit"]
    unknown: Counter[str] = Counter()
    for audit in audits:
        unknown.update(audit["unknown"])
    tasks = sum(audit["tasks"] for audit in audits)
    seconds = sorted(audit["seconds"] for audit in audits)
    share = sum(unknown.values()) / tasks
    print(
        f"storm: {len(audits)} audits, {tasks} tasks, {share:.1%} unknown ({dict(unknown)}),"
        f" {seconds[len(seconds) // 2]:.2f} s each, {seconds[-1]:.2f} s at most"
    )
    assert set(unknown) <= {"running", "changed", "unreadable"}
    assert share < 0.1


def test_tasks_that_sleep_through_a_storm_are_always_the_same(storm: dict[str, list[Any]]) -> None:
    (sleepers,) = storm["sleepers"]
    assert len(sleepers) >= 60
    changed = [answers for answers in sleepers if len(answers) > 1]
    print(f"storm: {len(sleepers) - len(changed)} of {len(sleepers)} sleepers never changed")
    assert changed == []


def test_memory_of_a_storm_is_bounded(storm: dict[str, list[Any]]) -> None:
    kib = [audit["rss_kib"] for audit in storm["audit"]]
    early = min(100, len(kib) // 2)
    print(
        f"storm: {kib[0]} KiB after 1 audit, {kib[early - 1]} after {early},"
        f" {kib[-1]} after {len(kib)}"
    )
    assert kib[-1] <= 1.1 * kib[early - 1]


def test_a_storm_does_not_stop_the_command_line(storm: dict[str, list[Any]]) -> None:
    (command,) = storm["command"]
    assert command["code"] == 0
    assert len(json.loads(command["stdout"])["tasks"]) > 100
