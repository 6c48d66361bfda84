# SPDX-License-Identifier: LGPL-2.1-or-later
"""Machines that hang on purpose: who waits for what and who holds it, against what the tasks wrote down themselves."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from ..conftest import lab_hung, lab_run
from ..lab.hung import HungDump
from ..lab.hung_sheet import HungSheet, KnownWait
from ..lab.variants import Variant, variants_of
from ..support.command_line import ROOT

pytestmark = pytest.mark.lab

_VARIANTS = [variant for variant in variants_of("hung") if not variant.live]
_LIVE = [variant for variant in variants_of("hung") if variant.live]

KINDS = {
    "mutex": ("mutex", None),
    "rwsem-r": ("rwsem", "read"),
    "rwsem-w": ("rwsem", "write"),
    "mmap-r": ("rwsem", "read"),
    "mmap-w": ("rwsem", "write"),
    "rt-mutex": ("rt_mutex", None),
    "semaphore": ("semaphore", None),
    "completion": ("completion", None),
    "queue": ("queue", None),
    "bit": ("bit", None),
    "folio": ("folio", None),
    "percpu-r": ("percpu_rwsem", "read"),
    "bio": ("bio", None),
}
"""What hung_module/hung.c calls it -> what we call it, and for what it is wanted."""

LOCKS = {"mutex", "rwsem", "rt_mutex", "semaphore", "percpu_rwsem", "folio", "bit"}

CYCLES = {
    frozenset({"abba-1", "abba-2"}),
    frozenset({"ring-1", "ring-2", "ring-3"}),
    frozenset({"mixed-1", "mixed-2"}),
    frozenset({"self"}),
}
"""The deadlocks that hung_user/init.c makes."""

BEHIND = {
    "abba-1": {"abba-late"},
    "ring-1": set(),
    "mixed-1": {"mixed-late"},
    "self": set(),
}
"""Who waits behind a circle, by one of its tasks."""

CHAINS = {
    "chain-end": {
        "chain-3": 0,
        "chain-2": 1,
        "chain-1": 2,
        "chain-1-kill": 2,
        "chain-1-int": 2,
    },
    "wr-writer": {"wr-reader": 0, "wr-writer-2": 0},
    "rt-owner": {"rt-waiter": 0, "rt-waiter-2": 0},
    "spin-owner": {"spin-waiter": 0},
    "zombie-owner": {"zombie-waiter": 0},
    "pi-owner": {"pi-waiter": 0},
}
"""Who waits for a task that waits for nobody, and how many steps from it."""

KNOWN_BY_HEART = {"pi-waiter": ("rt_mutex", "pi-owner"), "mm-fault": ("userfaultfd", None)}
"""Tasks that cannot write down themselves what they wait for."""

_CLOCK_TOLERANCE_S = 1.0


@pytest.fixture(scope="module", params=_VARIANTS, ids=[variant.name for variant in _VARIANTS])
def made(request: pytest.FixtureRequest) -> HungDump:
    return lab_hung(request.param)


def ask(core: Path, *words: str) -> dict[str, Any]:
    """What the command line says, with the types of BTF alone."""
    done = subprocess.run(
        [sys.executable, "-m", "drgn_tools", "hung", "-c", str(core), "--format", "json", *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    assert report["problems"] == []
    return report


@pytest.fixture(scope="module")
def report(made: HungDump) -> dict[str, Any]:
    return ask(made.core, "--all")


@pytest.fixture(scope="module")
def sheet(made: HungDump) -> HungSheet:
    return made.read_answers()


@pytest.fixture
def has_rt(report: dict[str, Any]) -> bool:
    """With PREEMPT_RT mutexes and rwsems are other structs: see test_preempt_rt()."""
    return "-rt-" in report["kernel"]["release"]


def by_task(report: Mapping[str, Any]) -> dict[int, dict[str, Any]]:
    return {int(task["task"], 16): task for task in report["tasks"]}


def differences_of(known: KnownWait, ours: Mapping[str, Any]) -> list[str]:
    """What we say otherwise than the task itself."""
    kind, mode = KINDS[known.kind]
    # Who reads is not kept: of mmap_lock the sheet has the reader, whom we may give as a hint only.
    is_read = (known.kind.startswith("rwsem") and not known.owner) or known.kind.startswith("mmap")
    holder = None if is_read or not known.owner else hex(known.owner)
    expected = {
        "waits_for": kind,
        "mode": mode,
        "address": hex(known.lock),
        "holder": holder,
        "holder_exited": None if holder is None else ours["holder_exited"],
        "readers": known.readers if is_read else None,
        "free": False,
    }
    return [
        f"{known.comm}: {name} is {ours[name]}, not {value}"
        for name, value in expected.items()
        if ours[name] != value
    ]


def test_every_wait_is_as_the_task_wrote_it_down(
    made: HungDump,
    report: dict[str, Any],
    sheet: HungSheet,
    has_rt: bool,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if has_rt:
        pytest.skip("other structs: test_preempt_rt()")
    ours = by_task(report)
    differences = [line for wait in sheet.waits for line in differences_of(wait, ours[wait.task])]
    assert differences == []
    assert len(sheet.waits) >= 34
    with capsys.disabled():
        print(f"\n{made.read_about()['variant']}: {len(sheet.waits)} waits, 0 differences")


def test_nothing_is_invented(report: dict[str, Any], sheet: HungSheet, has_rt: bool) -> None:
    """Whoever wrote nothing down waits for no lock, and nobody holds what it waits for."""
    if has_rt:
        pytest.skip("other structs: test_preempt_rt()")
    known = {wait.task for wait in sheet.waits}
    others = [task for address, task in by_task(report).items() if address not in known]
    assert len(others) >= 30
    pids = {task["comm"]: task["pid"] for task in report["tasks"]}
    for task in others:
        kind, holder = KNOWN_BY_HEART.get(task["comm"], (None, None))
        if kind is not None:
            assert task["waits_for"] == kind
            assert task["holder_pid"] == (pids[holder] if holder else None)
            continue
        assert task["waits_for"] not in LOCKS, task
        assert task["holder"] is None, task
        assert task["last_holder_pid"] is None, task


def test_names(report: dict[str, Any]) -> None:
    """Whose mmap_lock it is, and whom a parent waits for after vfork()."""
    rows = {task["comm"]: task for task in report["tasks"] if task["comm"].startswith("mm-")}
    assert rows["mm-map"]["name"] == f"mmap_lock of mm-map ({rows['mm-map']['tgid']})"
    assert rows["mm-read"]["name"] == rows["mm-map"]["name"]
    parent, child = (task for task in report["tasks"] if task["comm"] == "calm-vfork")
    if parent["state"] != "D":
        parent, child = child, parent
    assert parent["detail"] == f"vfork(), until calm-vfork ({child['pid']}) execs or exits"


def test_innocents(report: dict[str, Any]) -> None:
    """What can be proven of tasks that sleep and do not hang."""
    expected = {
        "calm-sleep": "timer",
        "calm-pause": None,
        "calm-pipe": "pipe",
        "calm-poll": "poll",
        "calm-epoll": "epoll",
        "calm-futex": "futex",
        "chain-end": None,
        "rw-reader": None,
    }
    found = {task["comm"]: task["waits_for"] for task in report["tasks"]}
    assert {comm: found[comm] for comm in expected} == expected


def cycles_of(sheet: HungSheet) -> set[frozenset[str]]:
    """The circles that the sheet itself has, found by going on until somebody comes again."""
    owners = {wait.task: wait.owner for wait in sheet.waits if not wait.kind.startswith("mmap")}
    names = {wait.task: wait.comm for wait in sheet.waits}
    cycles = set()
    for start in owners:
        at, steps = owners[start], [start]
        while at in owners and at not in steps:
            steps.append(at)
            at = owners[at]
        if at == start:
            cycles.add(frozenset(names[task] for task in steps))
    return cycles


def test_every_deadlock_and_no_other(
    report: dict[str, Any], sheet: HungSheet, has_rt: bool
) -> None:
    if has_rt:
        pytest.skip("other structs: test_preempt_rt()")
    names = {task["pid"]: task["comm"] for task in report["tasks"]}
    found = [hangup for hangup in report["hangups"] if hangup["kind"] == "deadlock"]
    circles = [frozenset(names[pid] for pid in hangup["deadlock_pids"]) for hangup in found]
    assert set(circles) == CYCLES == cycles_of(sheet)
    assert len(circles) == len(CYCLES)
    for hangup, circle in zip(found, circles):
        (behind,) = [BEHIND[comm] for comm in circle if comm in BEHIND]
        assert {names[pid] for pid in hangup["pids"]} == circle | behind
    # In the order of the circle: each waits for the next.
    for hangup in found:
        pids = hangup["deadlock_pids"]
        holders = {task["pid"]: task["holder_pid"] for task in report["tasks"]}
        assert [holders[pid] for pid in pids] == [*pids[1:], pids[0]]


def test_chains(report: dict[str, Any], has_rt: bool) -> None:
    if has_rt:
        pytest.skip("other structs: test_preempt_rt()")
    rows = {task["pid"]: task for task in report["tasks"]}
    ends = {}
    for number, hangup in enumerate(report["hangups"]):
        if hangup["kind"] in ("task", "exited") and hangup["holder_pid"] is not None:
            holder = _comm_of(report, hangup["holder_pid"])
            ends[holder] = {rows[pid]["comm"]: rows[pid]["depth"] for pid in hangup["pids"]}
            assert all(rows[pid]["hangup"] == number for pid in hangup["pids"])
    assert ends == CHAINS


def _comm_of(report: Mapping[str, Any], pid: int) -> str:
    rows = {task["pid"]: task["comm"] for task in report["tasks"]}
    running = {cpu["pid"]: cpu["comm"] for cpu in report["cpus"]}
    queued = {pid: "spin-owner" for cpu in report["cpus"] for pid in cpu["waiting_pids"]}
    # A zombie does not sleep, so it has no row.
    return rows.get(pid) or running.get(pid) or queued.get(pid) or "zombie-owner"


def test_an_owner_that_has_exited(report: dict[str, Any], sheet: HungSheet, has_rt: bool) -> None:
    if has_rt:
        pytest.skip("other structs: test_preempt_rt()")
    rows = by_task(report)
    dead, zombie = sheet.named("dead-waiter"), sheet.named("zombie-waiter")
    assert dead.owner_exited
    assert not zombie.owner_exited  # its pid is not free yet
    assert rows[dead.task]["holder_pid"] is None
    assert rows[dead.task]["holder_exited"] is True
    assert rows[zombie.task]["holder_exited"] is True
    alive = [wait for wait in sheet.waits if wait.owner and wait not in (dead, zombie)]
    assert not any(rows[wait.task]["holder_exited"] for wait in alive)


def test_how_long(report: dict[str, Any], sheet: HungSheet) -> None:
    """The stamp of the scheduler, against the clock that the task read before it slept."""
    rows = by_task(report)
    compared = 0
    for wait in sheet.waits:
        if rows[wait.task]["waits_for"] is None:
            continue
        waited = (sheet.sealed_ns - wait.since_ns) / 1e9
        assert rows[wait.task]["stamp"] == "exec_start"
        assert abs(rows[wait.task]["not_run_s"] - waited) < _CLOCK_TOLERANCE_S, wait.comm
        seen = rows[wait.task]["seen_hung_s"]
        assert seen is None or seen < waited + _CLOCK_TOLERANCE_S
        compared += 1
    assert compared >= 20


def test_the_kernel_says_the_same(made: HungDump, report: dict[str, Any]) -> None:
    """khungtaskd of a kernel with CONFIG_DETECT_HUNG_TASK_BLOCKER names who holds a lock."""
    said = re.findall(
        r"INFO: task \S+:(\d+) (?:is|<\w+>) blocked on an? (mutex|rw-semaphore|semaphore) likely"
        r" (?:owned|last held) by task \S+:(\d+)(?: <(reader|writer)>)?",
        made.log.read_text(errors="replace"),
    )
    if not said:
        pytest.skip("this kernel names nobody")
    rows = {task["pid"]: task for task in report["tasks"]}
    for pid, kind, owner, how in said:
        row = rows[int(pid)]
        assert row["waits_for"] == kind.replace("rw-semaphore", "rwsem")
        is_hint = how == "reader" or kind == "semaphore"
        assert row["last_holder_pid" if is_hint else "holder_pid"] == int(owner), row
    assert len({pid for pid, *_ in said}) >= 15


def test_table(made: HungDump, has_rt: bool) -> None:
    if has_rt:
        pytest.skip("other structs: test_preempt_rt()")
    done = subprocess.run(
        [sys.executable, "-m", "drgn_tools", "hung", "-c", str(made.core), "--check"],
        cwd=ROOT,
        env={**os.environ, "COLUMNS": "120"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert re.search(
        r"deadlock of 2 tasks: (abba-\d) \(\d+\) -> (abba-\d) \(\d+\) -> \1 \(\d+\); 1 task waits behind",
        done.stdout,
    )
    assert re.search(r"\n *\d+  \.\.chain-2 +D ", done.stdout)
    assert re.search(r"\nCPU 1: ", done.stdout)
    assert "in or behind 4 deadlocks" in done.stderr


def test_preempt_rt(report: dict[str, Any], sheet: HungSheet, has_rt: bool) -> None:
    """Mutexes and rwsems are made of rt_mutexes; who waits for itself is found out by the kernel."""
    if not has_rt:
        pytest.skip("no PREEMPT_RT")
    rows = by_task(report)
    waits = [wait for wait in sheet.waits if wait.kind in ("mutex", "rt-mutex")]
    proven = [wait for wait in waits if rows[wait.task]["waits_for"] is not None]
    for wait in proven:
        row = rows[wait.task]
        assert row["waits_for"] == "rt_mutex"
        assert (row["address"], row["holder"]) == (hex(wait.lock), hex(wait.owner)), wait.comm
    # It is asleep in rt_mutex_handle_deadlock().
    assert {wait.comm for wait in waits} - {wait.comm for wait in proven} == {"self"}
    assert len(proven) >= 10
    for wait in sheet.waits:
        row = rows[wait.task]
        if wait.kind in ("rwsem-r", "rwsem-w") and wait.owner and row["waits_for"] is not None:
            assert row["holder"] == hex(wait.owner), wait.comm
        if row["waits_for"] is not None and wait.kind in (
            "semaphore",
            "completion",
            "bit",
            "queue",
        ):
            assert (row["waits_for"], row["address"]) == (KINDS[wait.kind][0], hex(wait.lock))
    names = {task["pid"]: task["comm"] for task in report["tasks"]}
    circles = {
        frozenset(names[pid] for pid in hangup["deadlock_pids"])
        for hangup in report["hangups"]
        if hangup["kind"] == "deadlock"
    }
    assert circles == CYCLES - {frozenset({"self"})}


# ---- from inside


@pytest.mark.parametrize("variant", _LIVE, ids=[variant.name for variant in _LIVE])
def test_live(variant: Variant) -> None:
    """The same machine, while it runs: the circles, the chains, and nobody else."""
    found = lab_run(variant).read_found()
    (asked,) = found["hung"]
    assert asked["code"] == 0, asked["stderr"]
    report = json.loads(asked["stdout"])
    names = {task["pid"]: task["comm"] for task in report["tasks"]}
    circles = {
        frozenset(names[pid] for pid in hangup["deadlock_pids"])
        for hangup in report["hangups"]
        if hangup["kind"] == "deadlock"
    }
    assert circles == CYCLES
    comms = {int(pid): comm for pid, comm in found["comms"][0].items()}
    holders = {
        task["comm"]: comms.get(task["holder_pid"], "gone")
        for task in report["tasks"]
        if task["holder"] is not None
    }
    assert holders == LIVE_HOLDERS
    assert found["check"][0]["code"] == 1
    assert "deadlock: self" in found["table"][0]["stdout"]


LIVE_HOLDERS = {
    "abba-1": "abba-2",
    "abba-2": "abba-1",
    "abba-late": "abba-1",
    "ring-1": "ring-2",
    "ring-2": "ring-3",
    "ring-3": "ring-1",
    "mixed-1": "mixed-2",
    "mixed-2": "mixed-1",
    "mixed-late": "mixed-1",
    "self": "self",
    "chain-3": "chain-end",
    "chain-2": "chain-3",
    "chain-1": "chain-2",
    "chain-1-kill": "chain-2",
    "chain-1-int": "chain-2",
    "wr-reader": "wr-writer",
    "wr-writer-2": "wr-writer",
    "rt-waiter": "rt-owner",
    "rt-waiter-2": "rt-owner",
    "spin-waiter": "spin-owner",
    "zombie-waiter": "zombie-owner",
    "dead-waiter": "gone",
    "pi-waiter": "pi-owner",
}
"""Who holds what a task waits for, by name."""
