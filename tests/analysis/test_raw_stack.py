# SPDX-License-Identifier: LGPL-2.1-or-later
"""The words of stacks of a real dump: each is what the unwinder or the memory says."""

from __future__ import annotations

import re
from pathlib import Path

import drgn
import pytest
from drgn.helpers.linux.mm import follow_phys

from drgn_tools import audit_kernel, open_program, raw_stack
from drgn_tools.analysis.raw_stack import RawWords
from drgn_tools.analysis.raw_word import RawWord
from drgn_tools.records import TaskStack
from drgn_tools.render.raw_stack import draw_raw_stacks

from ..support.holed_core import PAGE, HoledCore


@pytest.fixture(scope="module")
def stacks(demo_program: drgn.Program) -> list[tuple[TaskStack, list[RawWord]]]:
    words = RawWords(demo_program)
    return [(task, list(words.of(task.task))) for task in audit_kernel(demo_program)]


def test_words_are_the_memory_of_the_stack_without_gap(
    demo_program: drgn.Program, stacks: list[tuple[TaskStack, list[RawWord]]]
) -> None:
    for task, words in stacks:
        for stack in {word.stack for word in words}:
            of_stack = [word for word in words if word.stack == stack]
            first = of_stack[0].address
            assert [w.address for w in of_stack] == [first + 8 * i for i in range(len(of_stack))]
            assert demo_program.read(first, 8 * len(of_stack)) == b"".join(
                (word.value or 0).to_bytes(8, "little") for word in of_stack
            )
        assert (words == []) is ("no_stack" in task.flags)


def test_every_frame_is_one_word_in_the_order_of_the_stack(
    stacks: list[tuple[TaskStack, list[RawWord]]],
) -> None:
    rewritten = 0
    for task, words in stacks:
        calls = [
            (number, frame)
            for number, frame in enumerate(task.frames)
            # Where a CPU is is in its registers.
            if frame.regs is None and not (task.on_cpu and number == 0)
        ]
        found = [word for word in words if word.kind == "frame"]
        assert [word.frame for word in found] == [number for number, _ in calls]
        for word, (_, frame) in zip(found, calls):
            if word.value != frame.ip:
                assert re.search(r" \(replaced by \S+\)$", word.label or "")
                rewritten += 1
    # Of the function graph tracer and of kretprobes.
    assert rewritten > 0


def test_registers_are_those_of_the_record(
    stacks: list[tuple[TaskStack, list[RawWord]]],
) -> None:
    seen = 0
    for task, words in stacks:
        registers = {regs.address: regs.registers for regs in task.regs}
        for number, frame in enumerate(task.frames):
            if frame.regs is None:
                continue
            found = {
                (word.label or "").partition(" ")[0]: word.value
                for word in words
                if word.kind == "regs" and word.frame == number
            }
            expected = {f"pt_regs.{name}": value for name, value in registers[frame.regs].items()}
            segments = {"pt_regs.cs", "pt_regs.ss"}  # the rest of their words means something else
            assert found.keys() == expected.keys()
            for name in expected.keys() - segments:
                assert found[name] == expected[name]
            seen += 1
    assert seen > 100


def test_a_task_that_a_word_points_into_is_there(
    stacks: list[tuple[TaskStack, list[RawWord]]], demo_program: drgn.Program
) -> None:
    size = drgn.sizeof(demo_program.type("struct task_struct"))
    by_pid = {task.pid: task for task, _ in stacks}
    pointed = [word for _, words in stacks for word in words if word.kind == "task"]
    assert len(pointed) > 100
    for word in pointed:
        match = re.fullmatch(r'(\d+) "(.*)"(?:\+(0x[0-9a-f]+))?', word.label or "", re.S)
        assert match is not None
        assert word.value is not None
        offset = int(match[3] or "0", 16)
        assert offset < size
        if match[1] != "0":
            assert by_pid[int(match[1])].task + offset == word.value
            assert by_pid[int(match[1])].comm == match[2]


def test_a_slab_is_named_by_its_cache(stacks: list[tuple[TaskStack, list[RawWord]]]) -> None:
    found = {word.label for _, words in stacks for word in words if word.kind == "slab"}
    assert {"mm_struct", "vm_area_struct", "userfaultfd_ctx_cache"} <= found


def test_an_encoded_frame_pointer_names_its_frame(
    stacks: list[tuple[TaskStack, list[RawWord]]],
) -> None:
    for task, words in stacks:
        for word in words:
            if word.kind == "encoded":
                assert word.frame is not None
                assert word.value == (task.frames[word.frame].regs or 0) | 1


def test_a_pid_is_enough(
    demo_program: drgn.Program, stacks: list[tuple[TaskStack, list[RawWord]]]
) -> None:
    task, words = next(found for found in stacks if found[0].pid == 97)
    assert list(raw_stack(demo_program, 97)) == words
    assert {word.task for word in words} == {task}


def test_nothing_is_at_an_address_of_no_task(demo_program: drgn.Program) -> None:
    assert list(RawWords(demo_program).of(0xFFFF_0000_0000_0000)) == []


def test_a_page_that_is_missing_is_said(
    demo_program: drgn.Program, demo_core: str, tmp_path: Path
) -> None:
    address = raw_stack(demo_program, 97)[0].address
    frame = follow_phys(demo_program["init_mm"].address_of_(), address).value_() // PAGE
    prog = open_program(core=HoledCore(demo_core, tmp_path / "holed").without([frame]))
    words = raw_stack(prog, 97)
    assert words[0].address == address
    assert {word.value for word in words} == {None}
    lines = list(draw_raw_stacks([(words[0].task, words)]))
    assert lines[-3:] == [
        f"task stack, from {address:x}",
        f"      {address:x}  (not in the dump)",
        f"      ... {len(words) - 1} more",
    ]
