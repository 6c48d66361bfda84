# SPDX-License-Identifier: LGPL-2.1-or-later
"""The answers of a multiplied dump: which task is the copy of which, and what has to be the same."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Optional

from drgn import Program
from msgspec.structs import replace

from drgn_tools import TaskStack, task_stacks
from drgn_tools.arch.registry import layout_of

__all__ = ("Answers", "Rounds", "answers_path", "copy_differences", "read_answers", "write_answers")


@dataclass(frozen=True)
class Rounds:
    """Copies of the same processes, one round behind the other."""

    base_addr: int
    """Virtual address of the first round."""
    count: int
    round_bytes: int
    originals: list[int]
    """Addresses of the tasks that were copied."""
    offsets: list[int]
    """Where in a round the copy of each of them lies."""


@dataclass(frozen=True)
class Answers:
    """Which task is the copy of which."""

    tasks: int
    """All there are now: originals and copies, and the idle tasks."""
    rounds: list[Rounds]

    @property
    def copies(self) -> int:
        return sum(r.count * len(r.originals) for r in self.rounds)

    def pairs(self) -> Iterator[tuple[int, int]]:
        """The address of each copy and that of its original, in the order of the task list."""
        for r in self.rounds:
            for i in range(r.count):
                begin = r.base_addr + i * r.round_bytes
                for original, offset in zip(r.originals, r.offsets):
                    yield begin + offset, original


def answers_path(core: Path) -> Path:
    """Where the answers are that belong to a multiplied core."""
    return core.with_name(f"{core.name}.json")


def write_answers(core: Path, answers: Answers) -> None:
    answers_path(core).write_text(json.dumps(asdict(answers)) + "\n")


def read_answers(core: Path) -> Answers:
    """What multiply() wrote down beside a core."""
    raw = json.loads(answers_path(core).read_text())
    return Answers(raw["tasks"], [Rounds(**r) for r in raw["rounds"]])


def copy_differences(prog: Program, answers: Answers) -> Iterator[str]:
    """In words: each copy without the answers of its original, and where the task list is wrong."""
    stack_at = layout_of(prog).task.stack[0]
    known: dict[int, object] = {}
    pairs = answers.pairs()
    nothing = (0, 0)
    copy, original = next(pairs, nothing)
    tasks = 0
    for stack in task_stacks(prog):
        tasks += 1
        answer = _answer(stack, prog.read_word(stack.task + stack_at))
        if stack.task != copy:
            known[stack.task] = answer
            continue
        if answer != known.get(original):
            yield f"pid {stack.pid}: {answer}, not {known.get(original)}"
        copy, original = next(pairs, nothing)
    if copy:
        yield f"the task list does not lead to the copy at {copy:#x}"
    if tasks != answers.tasks:
        yield f"{tasks} tasks, not {answers.tasks}"


def _answer(stack: TaskStack, stack_addr: int) -> object:
    """What a copy has in common with its original: addresses on the stack count from its begin."""

    def on_stack(addr: Optional[int]) -> Optional[int]:
        return None if addr is None else addr - stack_addr

    return replace(
        stack,
        task=0,
        pid=0,
        tgid=int(stack.pid != stack.tgid),  # a thread of somebody, not of whom
        frames=tuple(replace(frame, regs=on_stack(frame.regs)) for frame in stack.frames),
        regs=tuple(
            # In kernel mode, registers lead to the stack and to the task.
            replace(
                regs,
                address=regs.address - stack_addr,
                registers=regs.registers if regs.user_mode else {"ip": regs["ip"]},
            )
            for regs in stack.regs
        ),
    )
