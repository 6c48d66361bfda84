# SPDX-License-Identifier: LGPL-2.1-or-later
"""A multiplied dump: every copy has its original's answers, and drgn's own walk finds it."""

from __future__ import annotations

import dataclasses
import os
import struct
from pathlib import Path

import pytest
from drgn import Object
from drgn.helpers.linux.list import list_for_each_entry

from drgn_tools import audit_kernel, open_program, task_stacks
from drgn_tools.arch.registry import layout_of
from tests.conftest import lab_dump, lab_file
from tests.lab.sheet import read_sheet
from tests.lab.variants import variant_named
from tests.support.answers import compare

from .answers import copy_differences, read_answers
from .multiply import main, multiply

TASKS = 1000
IDLE_TASKS = 2
"""On no list."""


@pytest.fixture(scope="module")
def multiplied(demo_core: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("multiplied") / "core"
    multiply(Path(demo_core), out, TASKS)
    return out


def test_each_copy_has_the_answers_of_its_original(multiplied: Path) -> None:
    answers = read_answers(multiplied)
    assert answers.tasks == TASKS
    assert answers.copies == len(list(answers.pairs())) > TASKS * 3 // 4
    assert list(copy_differences(open_program(core=multiplied), answers)) == []


def test_originals_have_the_kernels_answers(multiplied: Path) -> None:
    prog = open_program(core=multiplied)
    audit = audit_kernel(prog)
    sheet = read_sheet(prog)
    assert audit.problems == ()
    copies = {copy for copy, _ in read_answers(multiplied).pairs()}
    result = compare(audit, sheet)
    # What the sheet does not know is a copy; nothing else differs.
    assert len(result.differences) == len(copies)
    assert all(d.endswith("is not on the sheet") for d in result.differences)
    # What is hard to multiply was there: page faults, and swapped-out return addresses.
    copied = {original for _, original in read_answers(multiplied).pairs()}
    assert all(t.task in copied for t in sheet if t.ret < 0 and not t.on_cpu)
    swapped = {
        t.task
        for t in sheet
        for f in t.frames
        if f.ip and not f.regs and prog.read_word(f.at) != f.ip
    }
    assert len(swapped & copied) >= 3


def test_a_difference_would_be_seen(multiplied: Path) -> None:
    prog = open_program(core=multiplied)
    layout = layout_of(prog)
    answers = read_answers(multiplied)
    # The last copy whose stack has a place in the file that can be found by its contents.
    copy = [c for c, _ in answers.pairs() if prog.read_word(c + layout.task.stack[0])][-1]
    frame = prog.read(prog.read_word(copy + layout.task.thread_sp[0]), 256)
    at = multiplied.read_bytes().find(frame) + layout.first_frame_offset
    (word,) = struct.unpack_from("<Q", frame, layout.first_frame_offset)
    with open(multiplied, "r+b") as file:
        os.pwrite(file.fileno(), struct.pack("<Q", word ^ 0x40), at)
        found = list(copy_differences(open_program(core=multiplied), answers))
        os.pwrite(file.fileno(), struct.pack("<Q", word), at)
    assert len(found) == 1
    one_more = dataclasses.replace(answers, tasks=answers.tasks + 1)
    assert list(copy_differences(prog, one_more)) == [f"{TASKS} tasks, not {TASKS + 1}"]


def test_drgns_own_walk_finds_the_copies(multiplied: Path) -> None:
    prog = open_program(core=multiplied)
    found, pids = [], set()
    for leader in list_for_each_entry(
        "struct task_struct", prog["init_task"].tasks.address_of_(), "tasks"
    ):
        for task in list_for_each_entry(
            "struct task_struct", leader.signal.thread_head.address_of_(), "thread_node"
        ):
            assert task.group_leader == leader
            assert task.tgid == leader.pid
            found.append(task.value_())
            pids.add(task.pid.value_())
    assert len(found) == len(pids) == TASKS - IDLE_TASKS
    assert {thread.object.value_() for thread in prog.threads()} == set(found)
    assert {copy for copy, _ in read_answers(multiplied).pairs()} < set(found)


def test_drgns_own_stack_traces_are_those_of_the_originals(multiplied: Path) -> None:
    prog = open_program(core=multiplied)

    def names(task: int) -> list[str]:
        return [f.name for f in prog.stack_trace(Object(prog, "struct task_struct *", task))]

    pairs = list(read_answers(multiplied).pairs())[::37]
    assert len(pairs) > 20
    for copy, original in pairs:
        assert names(copy) == names(original)


@pytest.mark.parametrize(("tasks", "says"), [(10, "has 1"), (0, "has 1")], ids=["fewer", "none"])
def test_fewer_tasks_than_there_are_is_an_error_in_a_line(
    demo_core: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], tasks: int, says: str
) -> None:
    out = tmp_path / "core"
    assert main([demo_core, str(out), "--tasks", str(tasks)]) == 1
    assert says in capsys.readouterr().err.splitlines()[-1]
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_core_is_an_error_in_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    core = tmp_path / "no-core"
    for contents, says in (
        (b"KDUMP   ", "is not an ELF core"),
        (b"\x7fELF", "its ELF headers are not whole"),
    ):
        core.write_bytes(contents)
        assert main([str(core), str(tmp_path / "out"), "--tasks", "10"]) == 1
        assert says in capsys.readouterr().err.splitlines()[-1]
        assert list(tmp_path.iterdir()) == [core]


@pytest.mark.lab
@pytest.mark.parametrize(
    "name",
    ["fp-5.10", "fp-6.1", "fp-7.2", "fp-fred", "fp-kasan", "fp-nokaslr", "fp-v3", "kdump"],
)
def test_kernels_of_all_kinds_can_be_multiplied(name: str, tmp_path: Path) -> None:
    variant = variant_named(name)
    core = lab_file(f"{name}.core") if variant.group == "core" else lab_dump(variant).core
    out = tmp_path / "core"
    answers = multiply(core, out, 500)
    prog = open_program(core=out)
    assert list(copy_differences(prog, answers)) == []
    frames = [frame for stack in task_stacks(prog) for frame in stack.frames]
    assert len(frames) > 500
    out.unlink()
