# SPDX-License-Identifier: LGPL-2.1-or-later
"""The project inside guests whose kernels run: what it said there, held against the kernel.

The programs that ran there are in tests/live; the lab ran them with this very project
(tests/lab/live.py) and kept what they found.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import drgn
import pytest
from drgn.helpers.linux.printk import get_dmesg

from drgn_tools import Verdict, open_program

from ..conftest import lab_run
from ..lab.debian_live import audits_of
from ..lab.live import LiveRun
from ..lab.sheet import SheetTask, read_sheet
from ..lab.variants import Variant, variant_named
from ..support.answers import frame_differences, verdict_differences
from ..support.answers_arm64 import marks_in, task_differences

pytestmark = pytest.mark.lab

EXIT_CHECK = 1
EXIT_INPUT = 3
EXIT_PARTIAL = 5


IDLE = ("live", "live-stock", "live-arm64")


@pytest.fixture(scope="module", params=(*IDLE, "live-i386"))
def sleepers(request: pytest.FixtureRequest) -> LiveRun:
    return lab_run(variant_named(request.param))


@pytest.fixture(scope="module")
def found_of_sleepers(sleepers: LiveRun) -> dict[str, list[Any]]:
    return sleepers.read_found()


@pytest.fixture(scope="module", params=IDLE)
def found(request: pytest.FixtureRequest) -> dict[str, list[Any]]:
    return lab_run(variant_named(request.param)).read_found()


@pytest.fixture(scope="module", params=["live-storm", "live-storm-stock", "live-storm-arm64"])
def storm_variant(request: pytest.FixtureRequest) -> Variant:
    return variant_named(request.param)


@pytest.fixture(scope="module")
def storm(storm_variant: Variant) -> dict[str, list[Any]]:
    return lab_run(storm_variant).read_found()


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
            exact=frame["exact"],
        )
        for frame in task["frames"]
    ]
    return SimpleNamespace(verdict=Verdict(task["verdict"]), why=task["why"], frames=frames)


def fewest_unreliable_of(kernel: dict[str, Any]) -> int:
    """How many stacks are unreliable at least: with ORC only those that are too deep, and BPF."""
    if not kernel["reliable_stacktrace"]:
        return 0
    return 4 if kernel["unwinder"] == "orc" else 8


@pytest.fixture(scope="module")
def fewest_unreliable(found: dict[str, list[Any]]) -> int:
    return fewest_unreliable_of(json.loads(found["looked"][0]["stdout"])["kernel"])


def marks_of(prog: drgn.Program) -> Mapping[int, tuple[str, ...]]:
    """What the kernel of arm64 has said in its log of the frames of each task."""
    return marks_in(get_dmesg(prog).decode("utf-8", "replace"))


def differences_of(
    stack: Any,
    task: SheetTask,
    kernel: dict[str, Any],
    marks: Mapping[int, tuple[str, ...]],
) -> list[str]:
    """What drgn-tools says of a task against what the kernel says."""
    verdicts = kernel["reliable_stacktrace"]
    if kernel["arch"] == "aarch64":
        return task_differences(stack, task, marks.get(task.task), verdicts)
    found = list(frame_differences(stack, task))
    return [*verdict_differences(stack, task), *found] if verdicts else found


def test_every_task_that_slept_is_as_the_kernel_said(
    sleepers: LiveRun, found_of_sleepers: dict[str, list[Any]]
) -> None:
    prog = open_program(core=sleepers.core)
    (looked,) = found_of_sleepers["looked"]
    assert looked["code"] == 0
    document = json.loads(looked["stdout"])
    kernel = document["kernel"]
    assert kernel["source"] == "live"
    ours = {int(task["task"], 16): task for task in document["tasks"]}
    (before,), (after,) = found_of_sleepers["before"], found_of_sleepers["after"]
    marks = marks_of(prog) if kernel["arch"] == "aarch64" else {}
    differences, compared, regs = [], [], 0
    for task in read_sheet(prog):
        key = hex(task.task)
        slept = before.get(key) == after.get(key) == switches(prog, task.task)
        if not slept or task.on_cpu or ours[task.task]["on_cpu"]:
            continue
        compared.append(task)
        stack = from_json(ours[task.task])
        found_here = differences_of(stack, task, kernel, marks)
        differences += [f"pid {task.pid} ({task.comm!r}): {d}" for d in found_here]
        regs += sum(bool(frame.regs) and not frame.user_mode for frame in stack.frames)
    seconds = looked["seconds"]
    print(
        f"{summary(compared, len(ours))}, {regs} pt_regs of kernel mode, {seconds:.0f} s:"
        f" {len(differences)} differences"
    )
    assert differences == []
    # Less than that is a test of nothing: most of the workload sleeps for good.
    assert len(compared) >= 90
    unreliable = sum(task.reliable is False for task in compared)
    assert unreliable >= fewest_unreliable_of(kernel)
    assert regs > 0
    if kernel["arch"] == "aarch64":
        assert len(marks) >= len(compared)
    if not kernel["reliable_stacktrace"]:
        assert {task["reason"] for task in ours.values()} <= {"no_reliable_stacktrace", "running"}


def summary(compared: list[SheetTask], seen: int) -> str:
    frames = sum(len(task.frames) for task in compared)
    unreliable = sum(task.reliable is False for task in compared)
    return (
        f"live: {len(compared)} of {seen} tasks slept and were compared, {unreliable} unreliable,"
        f" {frames} frames"
    )


def test_what_is_found_inside_comes_at_once(found_of_sleepers: dict[str, list[Any]]) -> None:
    for seconds, tasks in found_of_sleepers["audit"]:
        print(f"live: audit of {tasks} tasks in {seconds:.2f} s, under emulation")
        assert tasks > 100


# ---- the other commands


def test_check_says_that_some_are_unreliable(found_of_sleepers: dict[str, list[Any]]) -> None:
    (check,) = found_of_sleepers["check"]
    document = json.loads(check["stdout"])
    kernel = document["kernel"]
    assert check["code"] == (EXIT_CHECK if kernel["reliable_stacktrace"] else EXIT_PARTIAL)
    unreliable = sum(task["verdict"] == "unreliable" for task in document["tasks"])
    assert unreliable >= fewest_unreliable_of(kernel)


def test_stack_of_one_is_drawn(found_of_sleepers: dict[str, list[Any]]) -> None:
    (stack,) = found_of_sleepers["stack"]
    assert stack["code"] == 0
    assert '"w-pipe-read"' in stack["stdout"]
    assert "pipe_read+0x" in stack["stdout"]
    assert "syscall from user mode" in stack["stdout"]


def test_whoever_sleeps_for_good_is_still_there_at_the_second_look(
    found_of_sleepers: dict[str, list[Any]],
) -> None:
    (diff,) = found_of_sleepers["diff"]
    assert diff["code"] == 0, diff["stderr"]
    document = json.loads(diff["stdout"])
    assert document["same_boot"]
    workload = [task for task in document["tasks"] if task["comm"].startswith("w-")]
    still = [task for task in workload if task["change"] == "still" and not task["ran"]]
    print(f"live: {len(still)} of {len(workload)} tasks of the workload are still there")
    assert len(still) >= 60
    assert [task["comm"] for task in workload if task["change"] in ("came", "went")] == []


def test_hung_names_who_holds_the_lock(found_of_sleepers: dict[str, list[Any]]) -> None:
    (hung,) = found_of_sleepers["hung"]
    assert hung["code"] == 0, hung["stderr"]
    of_comm = {task["comm"]: task for task in json.loads(hung["stdout"])["tasks"]}
    tasks = json.loads(found_of_sleepers["check"][0]["stdout"])["tasks"]
    pid_of = {task["comm"]: task["pid"] for task in tasks}
    # It writes to the file that another one writes to, and that one waits in a page fault.
    waits = of_comm["w-inode-lock"]
    assert (waits["waits_for"], waits["mode"]) == ("rwsem", "write")
    assert waits["holder_pid"] == pid_of["w-kfault-file"]
    assert of_comm["w-vfork"]["waits_for"] == "completion"
    assert of_comm["w-mutex"]["waits_for"] == "mutex"
    assert of_comm["w-mutex"]["holder_pid"] == 1


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
    assert "types and symbols come from the kernel's own BTF and kallsyms" in session[""]
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
    # Hours may lie between the two: it sleeps for good.
    assert found["stack"][0]["stdout"] == drawn
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


def test_without_kcore_there_is_nothing_to_read(
    storm: dict[str, list[Any]], storm_variant: Variant
) -> None:
    if storm_variant.kernel.arch == "aarch64":
        assert "nokcore" not in storm
        pytest.skip("7.2 lets no module remove /proc/kcore")
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


def test_every_audit_in_a_storm_is_one(storm: dict[str, list[Any]], storm_variant: Variant) -> None:
    assert storm.get("traceback", []) == []
    audits = storm["audit"]
    assert len(audits) == audits_of(storm_variant)
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
