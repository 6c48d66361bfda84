# SPDX-License-Identifier: LGPL-2.1-or-later
"""Some hundred damaged dumps (``make fuzz`` has more), and tests that the fuzzer would notice wrong answers."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

import pytest
from drgn import FaultError
from msgspec.structs import replace

from drgn_tools import Frame, KernelAudit, Symbol, TaskStack, Verdict, open_program
from drgn_tools.analysis.patch_question import Answer, Question, TaskAnswer
from drgn_tools.errors import InputError, UsageError

from ..conftest import lab_livepatch
from ..lab.variants import variant_named
from ..support.kdump import write_kdump
from ..support.wrong_answers import wrong_of_task
from . import run, worker
from .damage import KINDS, Damage, damage
from .files import PAGE, Changes, Victim, open_dump_file
from .properties import (
    Promise,
    faults_of_answers,
    faults_of_error,
    other_answers,
    other_patch_answers,
    promise,
)
from .run import Dump, Tally, cases
from .whole import Whole

CASES = 250


def test_damaged_dumps_give_the_same_answers_or_unknown(demo_core: str) -> None:
    dump, tally = Dump("demo", Path(demo_core)), Tally()
    for said in cases(dump, range(CASES)):
        tally.count(dump, said)
    print(f"\n{tally.table()}")
    assert tally.findings == []
    assert tally.number == CASES
    outcomes = {name for counter in tally.kinds.values() for name in counter}
    assert outcomes >= {"same", "other", "problems", "refused"}


@pytest.fixture(scope="module")
def whole(demo_core: str) -> Whole:
    return Whole(Path(demo_core))


@pytest.fixture(scope="module")
def victim(whole: Whole, tmp_path_factory: pytest.TempPathFactory) -> Victim:
    return Victim(whole.file, tmp_path_factory.mktemp("fuzz") / "vmcore")


# ---- damage


def test_each_kind_damages_something(whole: Whole) -> None:
    for kind in KINDS:
        made = [damage(whole, "demo", seed, [kind]) for seed in range(5)]
        assert any(each.changes.patches or each.changes.size is not None for each in made), kind
        assert {each.kind for each in made} == {kind}


def test_a_seed_is_always_the_same_damage(whole: Whole) -> None:
    for seed in range(20):
        first = damage(whole, "demo", seed)
        assert damage(whole, "demo", seed) == first
        # So a finding among all kinds is found again with --kind.
        assert damage(whole, "demo", seed, [first.kind]) == first


def test_a_victim_is_whole_again(whole: Whole, victim: Victim) -> None:
    original = whole.file.path.read_bytes()
    for seed in range(30):
        case = damage(whole, "demo", seed)
        with victim.changed(case.changes):
            damaged = victim.path.stat().st_size
        if case.changes.size is not None:
            assert damaged == case.changes.size
        assert victim.path.stat().st_size == len(original)
    with victim.changed(Changes((), 12345)):
        assert victim.path.stat().st_size == 12345
    assert victim.path.read_bytes() == original


@pytest.mark.parametrize("format_", ["elf", "kdump"])
def test_what_is_written_is_read(format_: str, demo_core: str, tmp_path: Path) -> None:
    path = Path(demo_core)
    if format_ == "kdump":
        path = tmp_path / "kdump"
        write_kdump(demo_core, path)
    file = open_dump_file(path)
    victim = Victim(file, tmp_path / "vmcore")
    prog, known = open_program(core=demo_core), Whole(path)
    for name in ("schedule", "init_task", "linux_banner"):
        address = prog.symbol(name).address
        ((physical, _),) = known.physical([(address, 1)])
        pfn, at = divmod(physical, PAGE)
        page = file.page(pfn)
        assert page is not None
        assert page[at : at + 8] == prog.read(address, 8)
        changed = page[:at] + b"damaged!" + page[at + 8 :]
        with victim.changed(Changes(tuple(file.with_memory({pfn: changed}, ())))) as core:
            found = open_program(core=core)
            assert found.read(physical, 8, True) == b"damaged!"
            assert found.read(address, 8) == b"damaged!"


def test_a_missing_page_is_missing(whole: Whole, victim: Victim) -> None:
    task = whole.sleepers[3]
    ((at, _), *_) = whole.physical([(task.stack_addr, 1)])
    patches = whole.file.with_memory({}, {at // PAGE})
    with victim.changed(Changes(tuple(patches))) as core:
        prog = open_program(core=core)
        with pytest.raises(FaultError):
            prog.read(task.stack_addr, 8)
        assert prog.read(task.stack_addr + PAGE, 8) == whole.prog.read(task.stack_addr + PAGE, 8)


def test_whose_memory_it_is(whole: Whole) -> None:
    task = whole.sleepers[3]
    for address in (task.addr, task.stack_addr, task.thread_sp):
        ((at, _),) = whole.physical([(address, 8)])
        assert task.addr in whole.owners(at, at + 8)
    ((at, _),) = whole.physical([(whole.btf.addr, 8)])
    assert "types" in whole.owners(at, at + 8)
    # The page table entries that map the stack belong to the task, too.
    ((_, _, where),) = whole.pieces(task.stack_addr, 8)
    assert task.addr in whole.owners(where.entries[-1], where.entries[-1] + 8)


# ---- what is promised


def case_of(*touched: int | str, in_headers: bool = False) -> Damage:
    return Damage("test", Changes(()), frozenset(touched), in_headers, "")


def test_promises() -> None:
    assert promise(case_of()) is Promise.SAME
    assert promise(case_of(1, "cpus", "module 0x1")) is Promise.SAME
    assert promise(case_of("symbols", "cpus")) is Promise.SAME_BUT_NAMES
    assert promise(case_of("symbols", "types")) is Promise.NONE
    assert promise(case_of(in_headers=True)) is Promise.NONE


def test_other_answers_are_seen(whole: Whole) -> None:
    audit = whole.audit
    i, task = next(
        (i, s)
        for i, s in enumerate(audit.tasks)
        if s.verdict is Verdict.RELIABLE and len(s.frames) > 4 and not whole.rests_on[s.task]
    )

    def found(*tasks: TaskStack, problems: tuple[str, ...] = ()) -> KernelAudit:
        return replace(
            audit, tasks=(*audit.tasks[:i], *tasks, *audit.tasks[i + 1 :]), problems=problems
        )

    misnamed = replace(task.frames[1], symbol=Symbol("x", 1))
    renamed = replace(task, frames=(task.frames[0], misnamed, *task.frames[2:]))
    shorter = replace(task, frames=task.frames[:3])
    unknown = replace(task, verdict=Verdict.UNKNOWN, frames=(), regs=(), why="a page is missing")
    other = replace(task, task=task.task + 8)
    nothing = case_of()
    for wrong in (found(), found(task, other), found(shorter), found(replace(task, pid=9999))):
        assert list(other_answers(whole, wrong, nothing))
    for right in (audit, found(unknown), found(problems=("a list is damaged",))):
        assert list(other_answers(whole, right, nothing)) == []
    assert list(other_answers(whole, found(renamed), nothing))
    assert list(other_answers(whole, found(renamed), case_of("symbols"))) == []
    assert list(other_answers(whole, found(shorter), case_of("symbols")))
    assert list(other_answers(whole, found(shorter), case_of(task.task))) == []


def test_a_caller_at_the_early_end_of_a_stack_is_the_next_frame(whole: Whole) -> None:
    """Fuzz: crash-stack-overflow-arm64-7.2, seed 720712. lr named it, and the frame record after it was missing."""
    task = next(s for s in whole.audit if s.regs and s.frames[2:])
    regs = replace(task.regs[0], caller=None)
    intact = replace(task, regs=(regs,), verdict=Verdict.UNKNOWN, why="running on CPU 0")

    def others(caller: Frame, *flags: str) -> list[str]:
        damaged = replace(intact, frames=intact.frames[:1], regs=(replace(regs, caller=caller),))
        return list(wrong_of_task(intact, replace(damaged, flags=flags)))

    assert others(intact.frames[1], "ends_early") == []
    assert others(intact.frames[2], "ends_early")
    assert others(intact.frames[1])


def test_what_an_answer_rests_on(whole: Whole) -> None:
    in_module = next(s for s in whole.audit if any(f.module for f in s.frames))
    labels = {label for label in whole.rests_on[in_module.task] if isinstance(label, str)}
    assert any(label.startswith("module ") for label in labels)
    shorter = replace(in_module, frames=in_module.frames[:1])
    tasks = tuple(shorter if s.task == in_module.task else s for s in whole.audit)
    found = replace(whole.audit, tasks=tasks)
    assert list(other_answers(whole, found, case_of("cpus")))
    assert list(other_answers(whole, found, case_of(*labels))) == []


def test_answers_that_contradict_themselves_are_seen(whole: Whole) -> None:
    task = next(s for s in whole.audit if len(s.frames) > 2)
    behind = replace(task.frames[0], symbol=Symbol("x", -1))
    for wrong in (
        replace(task, verdict=Verdict.UNKNOWN, why=None),
        replace(task, verdict=Verdict.RELIABLE, reason=whole.audit.tasks[0].reason or "x"),
        replace(task, frames=(behind,)),
    ):
        assert list(faults_of_answers(replace(whole.audit, tasks=(wrong,))))
    assert list(faults_of_answers(whole.audit)) == []
    assert list(faults_of_error(InputError("vmcore: is empty"))) == []
    assert list(faults_of_error(InputError("two\nlines")))
    assert list(faults_of_error(UsageError("which kernel?")))


def test_other_answers_for_a_live_patch_are_seen(
    whole: Whole, monkeypatch: pytest.MonkeyPatch
) -> None:
    task, another = whole.audit.tasks[:2]
    holds = TaskAnswer(task, Answer.IN_FUNCTION, "dig", "lab", 3)
    monkeypatch.setattr(whole, "patch_answers", {task.task: holds})
    clear, unclear = Question([], 1, True), Question([], 1, True, problems=["a list is damaged"])
    nothing = case_of()

    def seen(now: TaskAnswer, question: Question = clear, case: Damage = nothing) -> list[str]:
        return list(other_patch_answers(whole, question, [now], case))

    free, unknown = TaskAnswer(task, Answer.FREE), TaskAnswer(task, Answer.UNKNOWN)
    assert seen(free) == [f"pid {task.pid}: free, was in_function dig"]
    assert seen(replace(holds, function="fill"))
    assert seen(TaskAnswer(task, Answer.UNRELIABLE))
    assert seen(holds) == seen(unknown) == seen(free, unclear) == []
    assert seen(free, case=case_of(task.task)) == []
    assert seen(replace(holds, function="fill"), case=case_of("symbols")) == []
    assert seen(replace(free, stack=another)) == []


@pytest.mark.lab
def test_damaged_lists_of_live_patches_free_nobody() -> None:
    core = lab_livepatch(variant_named("klp-stalled-stock-6.12")).core
    tally = Tally()
    for said in cases(Dump("klp-stalled-stock-6.12", core), range(60), ["live patches"]):
        tally.count(Dump("klp-stalled-stock-6.12", core), said)
    assert tally.findings == []
    assert tally.kinds["live patches"]["problems"] > 10


# ---- the worker, and the code that runs it


@pytest.mark.parametrize(
    ("raised", "outcome", "says"),
    [
        (InputError("vmcore: is empty"), "refused", None),
        (InputError("vmcore:\nis empty"), "refused", "not one line"),
        (worker.Hang("in a loop"), "hang", "in a loop"),
        (MemoryError(), "exception", "MemoryError"),
        (KeyError("x"), "exception", "KeyError: 'x'"),
    ],
)
def test_what_a_dump_does_is_said(
    raised: BaseException,
    outcome: str,
    says: str | None,
    whole: Whole,
    victim: Victim,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def audit_of(*_: object) -> KernelAudit:
        raise raised

    monkeypatch.setattr(worker, "audit_of", audit_of)
    said = worker.check(whole, victim, case_of())
    assert said["outcome"] == outcome
    assert bool(said["faults"]) is (says is not None)
    assert all(says in fault for fault in said["faults"])


SCRIPT = """
import json, os, sys, time
first, count, step = map(int, sys.argv[1:])
for seed in range(first, first + count * step, step):
    print(json.dumps({"begin": seed}), flush=True)
    if seed == 3: os.abort()
    if seed == 5: sys.exit(0)  # replaced, but not before it was done
    print(json.dumps(dict(seed=seed, kind="x", outcome="same", faults=[], others=[], seconds=1)), flush=True)
    if seed == 7: sys.exit(0)  # it has grown
    if seed == 8: print("noise", file=sys.stderr)
"""


def test_a_worker_that_dies_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(
        dump: Dump, seeds: range, kinds: tuple[str, ...], errors: TextIO
    ) -> subprocess.Popen[str]:
        numbers = map(str, (seeds.start, len(seeds), seeds.step))
        return subprocess.Popen(
            [sys.executable, "-c", SCRIPT, *numbers],
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )

    monkeypatch.setattr(run, "_start", start)
    found: dict[int, Any] = {said["seed"]: said for said in cases(Dump("x", Path()), range(1, 10))}
    assert list(found) == [*range(1, 10)]
    assert [seed for seed, said in found.items() if said["faults"]] == [3, 5]
    assert "the worker ended with -6" in found[3]["faults"][0]


def test_a_worker_that_is_silent_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(*arguments: Any) -> subprocess.Popen[str]:
        script = """echo '{"begin": 1}'; exec sleep 600"""
        return subprocess.Popen(
            ["sh", "-c", script], stdout=subprocess.PIPE, stderr=arguments[3], text=True
        )

    monkeypatch.setattr(run, "_start", start)
    monkeypatch.setattr(run, "_SILENCE_S", 2)
    (said,) = cases(Dump("x", Path()), range(1, 2))
    assert said["faults"] == ["it hangs in C: "]


def test_a_worker_that_does_not_start_is_no_finding(tmp_path: Path) -> None:
    def all_of(dump: Dump) -> Iterator[dict[str, Any]]:
        return cases(dump, range(1))

    with pytest.raises(RuntimeError, match="does not start"):
        list(all_of(Dump("nothing", tmp_path / "nothing")))
