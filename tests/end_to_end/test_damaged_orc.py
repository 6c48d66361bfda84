# SPDX-License-Identifier: LGPL-2.1-or-later
"""A stock kernel whose ORC tables or stacks are damaged: no traceback, no hang, no wrong ``reliable``."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator

import drgn
import pytest

from drgn_tools import TaskStack, Verdict, open_program
from drgn_tools.arch.x86.layout import X86Layout
from drgn_tools.arch.x86.orc_tables import OrcImage
from drgn_tools.engine.kernel import Kernel
from drgn_tools.kernel.tasks import Task
from drgn_tools.records import Reason

from ..conftest import lab_file

RUNS = 1000
TASKS_A_RUN = 25
_PAGE = 4096


class Memory:
    """Memory of the dump that a test changes, and pages that it takes away."""

    def __init__(self, prog: drgn.Program, addr: int, size: int) -> None:
        self.original = prog.read(addr, size)
        self.addr = addr
        self.data = bytearray(self.original)
        self.missing: set[int] = set()
        prog.add_memory_segment(addr, size, self._read)

    def _read(self, address: int, count: int, offset: int, physical: bool) -> bytes:
        for page in range(offset // _PAGE, (offset + count - 1) // _PAGE + 1):
            if page in self.missing:
                raise drgn.FaultError("not in the dump", self.addr + page * _PAGE)
        return bytes(self.data[offset : offset + count])

    def mend(self) -> None:
        self.data[:] = self.original
        self.missing.clear()


class Damaged:
    def __init__(self) -> None:
        self.prog = open_program(core=str(lab_file("debian.core")))
        self.kernel = Kernel(self.prog)
        layout = self.kernel.layout
        assert isinstance(layout, X86Layout) and isinstance(layout.orc, OrcImage)
        self.image = layout.orc
        self.ips = Memory(self.prog, self.image.ips_addr, 4 * self.image.count)
        self.entries = Memory(self.prog, self.image.entries_addr, 6 * self.image.count)
        tasks = self.kernel.tasks
        self.tasks = [t for t in tasks if t.has_stack and not tasks.is_running(t)]
        self.whole = {task.addr: self.record(task) for task in self.tasks}
        found = {frame.ip for stack in self.whole.values() for frame in stack.frames}
        self.used = sorted(
            ip for ip in found if self.image.code[0][0] <= ip < self.image.code[0][1]
        )

    def record(self, task: Task) -> TaskStack:
        record = self.kernel.stack(task)
        assert record is not None
        return record

    def again(self) -> None:
        """Forget all that was read of the tables."""
        self.kernel._read_text()

    def index_of(self, ip: int) -> int:
        """Where in the table the rule of an address is, in the sound table."""
        low, high = 0, self.image.count - 1
        while low < high:
            middle = (low + high + 1) // 2
            relative = int.from_bytes(self.ips.original[4 * middle :][:4], "little", signed=True)
            if self.image.ips_addr + 4 * middle + relative <= ip:
                low = middle
            else:
                high = middle - 1
        return low


@pytest.fixture(scope="module")
def damaged() -> Damaged:
    return Damaged()


def wrong(damaged: Damaged, dice: random.Random) -> Iterator[str]:
    """What some of the tasks say that they must not say, whatever the damage."""
    for task in dice.sample(damaged.tasks, TASKS_A_RUN):
        found, whole = damaged.record(task), damaged.whole[task.addr]
        if found == whole:
            continue
        if found.verdict is Verdict.RELIABLE:
            yield f"{found.comm} is reliable by {len(found.frames)} frames"
        elif found.verdict is Verdict.UNRELIABLE and whole.verdict is Verdict.RELIABLE:
            yield f"{found.comm} is unreliable: {found.why}"


@pytest.mark.lab
@pytest.mark.parametrize("kind", ["random", "zeros", "missing"])
def test_pages_of_the_tables_are_damaged(damaged: Damaged, kind: str) -> None:
    dice = random.Random(kind)
    reasons: Counter[str] = Counter()
    for run in range(RUNS // 3):
        memory = dice.choice((damaged.ips, damaged.entries))
        at = damaged.index_of(dice.choice(damaged.used)) * len(memory.data) // damaged.image.count
        page = at // _PAGE
        if run % 10 == 0:  # all of it
            span = slice(0, len(memory.data))
        else:
            span = slice(page * _PAGE, min((page + 1) * _PAGE, len(memory.data)))
        if kind == "missing":
            memory.missing.update(range(span.start // _PAGE, -(-span.stop // _PAGE)))
        else:
            size = span.stop - span.start
            memory.data[span] = dice.randbytes(size) if kind == "random" else bytes(size)
        damaged.again()
        assert list(wrong(damaged, dice)) == []
        for task in damaged.tasks[:5]:
            reasons[str(damaged.record(task).reason)] += 1
        memory.mend()
    print(f"\n{RUNS // 3} runs, {kind}: {dict(reasons)}")
    expected = Reason.UNREADABLE if kind == "missing" else Reason.UNWIND_DATA_UNCLEAR
    assert reasons[expected.value] > RUNS // 6


@pytest.mark.lab
def test_stacks_of_garbage_are_judged_and_end(damaged: Damaged) -> None:
    # The walks go where words lead: addresses of code and of the stack, and anything else.
    dice = random.Random(5)
    damaged.again()
    task = next(t for t in damaged.tasks if t.comm == "w-nanosleep")
    memory = Memory(damaged.prog, task.stack_addr, damaged.kernel.layout.thread_size_bytes)
    words = [*damaged.used, 0, 0x10, 0x33, (1 << 64) - 1]
    start = task.thread_sp - task.stack_addr
    reasons: Counter[str] = Counter()
    for _ in range(RUNS):
        memory.mend()
        for _ in range(dice.choice((1, 5, 50, 500))):
            at = dice.randrange(start // 8, len(memory.data) // 8) * 8
            near = task.stack_addr + dice.randrange(-64, len(memory.data) + 64)
            text = dice.randrange(*damaged.image.code[0])
            word = dice.choice((dice.choice(words), text, near, near & -8, dice.getrandbits(64)))
            memory.data[at : at + 8] = word.to_bytes(8, "little")
        found = damaged.record(task)
        reasons[str(found.reason or found.verdict)] += 1
        assert (found.verdict is Verdict.RELIABLE) == (found.reason is None)
    memory.mend()
    assert damaged.record(task) == damaged.whole[task.addr]
    print(f"\n{RUNS} stacks: {dict(reasons)}")
    assert {"reliable", "bad_return_address", "off_stack", "undefined_unwind_state"} <= set(reasons)
