# SPDX-License-Identifier: LGPL-2.1-or-later
"""A record made from a template is the same as one made by a walk of the task's own stack."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from typing import Callable, Optional

import pytest

from drgn_tools import open_program, task_stacks
from drgn_tools.arch.base import Layout
from drgn_tools.arch.registry import layout_of
from drgn_tools.kernel.stack_memory import StackMemory
from drgn_tools.kernel.task_list import TaskList
from drgn_tools.kernel.tasks import Task
from drgn_tools.records import TaskStack
from drgn_tools.unwind.base import Recover, Signature
from drgn_tools.unwind.fast_path import FastPath
from drgn_tools.unwind.recovery import RecoverLayout, probe_recovery

from ..support.overlay import overlay

Key = tuple[tuple[int, ...], tuple[int, ...], bool]

WORD = 8
USER_CS, KERNEL_CS = 0x33, 0x10
NODES = 256
"""Offset of the rethook nodes on a stack: far below the part that is in use."""
NODE_BYTES = 64


class Machine:
    """The demo dump, and the stacks of its tasks that are not on a CPU."""

    def __init__(self, core: str) -> None:
        self.prog = open_program(core=core)
        self.layout: Layout = layout_of(self.prog)
        self.recover: RecoverLayout = probe_recovery(self.prog)
        tasks = TaskList(self.prog, self.layout.task)
        self.tasks = [t for t in tasks if t.has_stack and not tasks.is_running(t)]
        self.stacks = {t.addr: self.prog.read(t.stack_addr, self.size) for t in self.tasks}
        with_regs = {s.task for s in task_stacks(self.prog) if _in_kernel_mode(s)}
        self.interrupted = [t for t in self.tasks if t.addr in with_regs]

    @property
    def size(self) -> int:
        return self.layout.thread_size_bytes

    def shuffle(self, rng: random.Random) -> None:
        """Give most tasks the stack of one of four. Some are damaged, some have rewritten return addresses."""
        donors = [*rng.choices(self.interrupted, k=2), *rng.choices(self.tasks, k=2)]
        for task in self.tasks:
            if rng.random() < 0.9:
                _DrawnTask(self, task, rng.choice(donors), rng).lay_over()


class _DrawnTask:
    """A task with the stack of another one. Words that point into the stack are relocated."""

    def __init__(self, machine: Machine, task: Task, donor: Task, rng: random.Random) -> None:
        self.machine, self.task, self.rng = machine, task, rng
        self.stack = bytearray(machine.stacks[donor.addr])
        self.struct = bytearray(machine.prog.read(task.addr, machine.layout.task.size_bytes + 4096))
        for at in range(0, machine.size, WORD):
            if 0 <= self.get(at) - donor.stack_addr < machine.size:
                self.put(at, self.get(at) - donor.stack_addr + task.stack_addr)
        self.sp = donor.thread_sp - donor.stack_addr
        self.put_member(machine.layout.task.thread_sp[0], task.stack_addr + self.sp)
        places = list(self.chain())
        if rng.random() < 0.3:
            self.swap(sorted(rng.sample(places, min(3, len(places)))))
        for at in rng.choices(places, k=rng.choice((0, 0, 0, 1, 2))):
            self.put(at, self.anything(places))

    def chain(self) -> Iterator[int]:
        """Yield the offsets of the words that a walk reads: those of frames, and bp, ip and cs of pt_regs."""
        at, end, encoded = (
            self.sp + self.machine.layout.first_frame_offset,
            self.machine.size,
            False,
        )
        while 0 <= at <= end - (21 if encoded else 2) * WORD:
            offsets = (4, 16, 17) if encoded else (0, 1)
            yield from (at + WORD * offset for offset in offsets)
            bp = self.get(at + WORD * offsets[0]) - self.task.stack_addr
            if bp <= at:
                return
            at, encoded = bp & -WORD, bool(bp & 1)

    def swap(self, places: list[int]) -> None:
        """Rewrite return addresses as kretprobes do. Not each of them is where its node says."""
        rethook = self.machine.recover.rethook
        assert rethook is not None
        self.put_member(rethook.first_offset, self.task.stack_addr + NODES)
        for i, at in enumerate(places):
            node, last = NODES + i * NODE_BYTES, i == len(places) - 1
            self.put(node, 0 if last else self.task.stack_addr + node + NODE_BYTES)
            ret_addr = self.rng.choice((self.get(at), self.get(at), rethook.trampoline))
            self.put(node + rethook.ret_addr_offset, ret_addr)
            found_at = self.task.stack_addr + at + self.rng.choice((0, 0, 0, WORD))
            self.put(node + rethook.frame_offset, found_at)
            self.put(at, rethook.trampoline)

    def anything(self, places: list[int]) -> int:
        recover, addr = self.machine.recover, self.task.stack_addr + self.rng.choice(places)
        assert recover.rethook is not None and recover.fgraph is not None
        word = self.get(self.rng.choice(places))
        swapped = recover.rethook.trampoline, recover.fgraph.return_to_handler
        return self.rng.choice((addr, addr | 1, word, word + WORD, 0, USER_CS, KERNEL_CS, *swapped))

    def get(self, at: int) -> int:
        return int.from_bytes(self.stack[at : at + WORD], "little")

    def put(self, at: int, word: int) -> None:
        self.stack[at : at + WORD] = (word % (1 << 64)).to_bytes(WORD, "little")

    def put_member(self, at: int, word: int) -> None:
        self.struct[at : at + WORD] = word.to_bytes(WORD, "little")

    def lay_over(self) -> None:
        for addr, data in ((self.task.addr, self.struct), (self.task.stack_addr, self.stack)):
            overlay(self.machine.prog, addr, bytes(data))


def _in_kernel_mode(stack: TaskStack) -> bool:
    return any(not regs.user_mode for regs in stack.regs)


@pytest.mark.parametrize("seed", range(8))
def test_record_by_a_template_is_that_by_a_walk_whatever_lies_on_the_stacks(
    demo_core: str, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    machine = Machine(demo_core)
    machine.shuffle(random.Random(seed))
    keys: Counter[Optional[Key]] = Counter()
    recovered = 0
    signature_of = FastPath.signature

    def counted(
        self: FastPath, stack: StackMemory, thread_sp: int, make_recover: Callable[[], Recover]
    ) -> Optional[Signature]:
        def counting() -> Recover:
            nonlocal recovered
            recovered += 1
            return make_recover()

        signature = signature_of(self, stack, thread_sp, counting)
        keys[None if signature is None else signature.key] += 1
        return signature

    monkeypatch.setattr(FastPath, "signature", counted)
    by_templates = list(task_stacks(machine.prog))
    monkeypatch.setattr(FastPath, "signature", lambda *_: None)
    by_walks = list(task_stacks(machine.prog))
    for one, other in zip(by_templates, by_walks):
        assert one == other
    assert len(by_templates) == len(by_walks) > 100
    # Neither all were alike nor none.
    assert keys.pop(None) > 5
    assert len(keys) > 10 and max(keys.values()) > 10
    assert recovered
    assert sum(map(_in_kernel_mode, by_templates)) > 10
