# SPDX-License-Identifier: LGPL-2.1-or-later
"""Memory that is not in the dump makes an answer ``unknown``, never a wrong one."""

from __future__ import annotations

import random
from collections.abc import Collection, Iterable
from functools import partial
from pathlib import Path
from typing import NamedTuple, Optional

import drgn
import pytest
from drgn.helpers.linux.mm import follow_phys
from msgspec.structs import replace

from drgn_tools import (
    DrgnToolsError,
    KernelAudit,
    Reason,
    Symbol,
    TaskStack,
    Verdict,
    audit_kernel,
    open_program,
)
from drgn_tools.arch.x86.encoding import PROBE_SYMBOLS
from drgn_tools.errors import EXIT_INPUT, EXIT_TYPES
from drgn_tools.program.builtin_types import use_builtin_types
from drgn_tools.program.elf import PT_LOAD, Segment, read_elf

from ..conftest import lab_dump
from ..lab.variants import variant_named, variants_of
from ..support.holed_core import PAGE, HoledCore
from ..support.kdump import write_kdump
from ..support.wrong_answers import wrong

# ---- which pages


class PagesRead(NamedTuple):
    """Page frames that were read."""

    by_opening: set[int]
    by_audit: set[int]
    """And not by opening."""


def pages_read(core: str) -> PagesRead:
    """Every page, page tables among them, that opening and auditing a core reads."""
    pages: set[int] = set()
    prog = drgn.Program()
    prog.set_core_dump(core)
    with open(core, "rb") as file:
        elf = read_elf(file)
        assert elf is not None

        def read(segment: Segment, _: int, count: int, offset: int, physical: bool) -> bytes:
            first = segment.physical_address + offset
            pages.update(range(first // PAGE, (first + count - 1) // PAGE + 1))
            file.seek(segment.offset + offset)
            return file.read(count)

        for segment in elf.segments:
            if segment.type == PT_LOAD:
                for at, physical in ((segment.address, False), (segment.physical_address, True)):
                    reader = partial(read, segment)
                    prog.add_memory_segment(at, segment.file_bytes, reader, physical)
        use_builtin_types(prog)
        by_opening = set(pages)
        audit_kernel(prog)
    return PagesRead(by_opening, pages - by_opening)


def page_of(prog: drgn.Program, address: int) -> int:
    """Page frame number of a kernel address."""
    return int(follow_phys(prog["init_mm"].address_of_(), address).value_()) // PAGE


def stack_pages(prog: drgn.Program, audit: Iterable[TaskStack]) -> list[list[int]]:
    """Of each task, the page frames of its stack."""
    size = int(prog["THREAD_SIZE"].value_())
    stacks = []
    for task in audit:
        begin = drgn.Object(prog, "struct task_struct", address=task.task).stack.value_()
        addresses = range(begin, begin + size, PAGE) if begin else ()
        stacks.append([page_of(prog, at) for at in addresses])
    return stacks


# ---- one kernel, whole and with holes


class Kernel:
    """A core, what is said of it whole, and the same with pages missing."""

    def __init__(self, core: str, folder: Path) -> None:
        self.core = core
        self.prog = open_program(core=core)
        self.whole = audit_kernel(self.prog)
        self._folder = folder
        self._holed = HoledCore(core, folder / "holed")

    def elf_without(self, pfns: Collection[int], zero_filled: bool = False) -> Path:
        return self._holed.without(pfns, zero_filled)

    def kdump_without(self, pfns: Collection[int]) -> Path:
        path = self._folder / "holed.kdump"
        write_kdump(self.core, path, left_out=pfns)
        return path


@pytest.fixture(scope="module")
def demo(demo_core: str, tmp_path_factory: pytest.TempPathFactory) -> Kernel:
    return Kernel(demo_core, tmp_path_factory.mktemp("demo"))


def unreadable(audit: KernelAudit) -> int:
    return sum(1 for stack in audit if stack.reason is Reason.UNREADABLE)


def missing_stack_pages(kernel: Kernel, seed: int, trials: int) -> None:
    """Any pages of any stacks: each task's answer only depends on its own."""
    stacks = stack_pages(kernel.prog, kernel.whole)
    depth = max(map(len, stacks))
    choices = [{pages[i] for pages in stacks if pages} for i in range(depth)]
    rng = random.Random(seed)
    for _ in range(trials):
        choices.append({pfn for pages in stacks for pfn in pages if rng.random() < 0.3})
    for number, pfns in enumerate(choices):
        path = kernel.elf_without(pfns, zero_filled=bool(number % 2))
        audit = audit_kernel(open_program(core=path))
        assert list(wrong(kernel.whole, audit)) == [], f"without page frames {sorted(pfns)}"
        assert len(audit) == len(kernel.whole)
        assert unreadable(audit) > 0 or number < depth
    # Where a stack begins there is always something on it.
    path = kernel.elf_without(choices[depth - 1])
    found = audit_kernel(open_program(core=path))
    stacks_there = sum(1 for s in kernel.whole if s.frames and s.reason is not Reason.RUNNING)
    assert unreadable(found) == stacks_there


def test_demo_without_pages_of_stacks(demo: Kernel) -> None:
    missing_stack_pages(demo, seed=1, trials=12)


def audit_without(path: Path) -> Optional[KernelAudit]:
    """What is said of a core; ``None`` if it is refused, in one line that says why."""
    try:
        return audit_kernel(open_program(core=path))
    except DrgnToolsError as e:
        assert e.exit_code in (EXIT_INPUT, EXIT_TYPES)
        assert "\n" not in str(e)
        assert "not in the dump" in str(e)
        return None


def missing_pages(kernel: Kernel, seed: int, of_opening: int, of_audit: int) -> int:
    """One page at a time, of all that are read: lists, tasks, page tables, per-CPU data, text ...

    Returns how often the dump was refused.
    """
    read = pages_read(kernel.core)
    assert len(read.by_audit) > 300
    rng = random.Random(seed)
    refused = unknown = 0
    for pages, number in ((read.by_opening, of_opening), (read.by_audit, of_audit)):
        for i, pfn in enumerate(rng.sample(sorted(pages), min(number, len(pages)))):
            audit = audit_without(kernel.elf_without({pfn}, zero_filled=bool(i % 2)))
            if audit is None:
                refused += 1
            else:
                assert list(wrong(kernel.whole, audit)) == [], f"without page frame {pfn:#x}"
                unknown += audit.tasks != kernel.whole.tasks
    assert unknown > of_audit // 4
    return refused


def test_demo_without_pages_that_are_read(demo: Kernel) -> None:
    # Types and symbols are of no use in part.
    assert missing_pages(demo, seed=2, of_opening=10, of_audit=70) >= 10


@pytest.mark.parametrize(
    ("symbol", "says"),
    [
        # drgn takes a kernel that does not have it for one without SMP.
        ("__per_cpu_offset", "CPU 0 cannot be read"),
        ("modules", "the list of modules cannot be read"),
        ("init_task", "init_task is not in the dump"),
    ],
)
def test_demo_without_the_page_of_a_variable(demo: Kernel, symbol: str, says: str) -> None:
    pages = {page_of(demo.prog, demo.prog.symbol(symbol).address)}
    audit = audit_without(demo.elf_without(pages))
    assert audit is not None
    assert says in "; ".join(audit.problems)
    assert list(wrong(demo.whole, audit)) == []


def test_demo_without_the_entry_code(demo: Kernel) -> None:
    names = [name for name in PROBE_SYMBOLS if list(demo.prog.symbols(name))]
    pages = {page_of(demo.prog, demo.prog.symbol(name).address) for name in names}
    audit = audit_without(demo.elf_without(pages))
    assert audit is not None
    assert list(wrong(demo.whole, audit)) == []
    assert {s.reason for s in audit} == {Reason.ENCODING_UNCLEAR, Reason.RUNNING}
    assert "is not in the dump" in audit.kernel.notes[0]


def test_kdump_without_pages_that_are_read(demo: Kernel) -> None:
    read = pages_read(demo.core)
    rng = random.Random(3)
    for _ in range(8):
        pfns = set(rng.sample(sorted(read.by_audit), 5))
        audit = audit_without(demo.kdump_without(pfns))
        if audit is not None:
            assert list(wrong(demo.whole, audit)) == [], f"without page frames {sorted(pfns)}"


# ---- other kernels


@pytest.fixture(
    params=[*variants_of("kernels"), *variants_of("formats"), variant_named("arm64-7.2")],
    ids=lambda v: v.name,
)
def lab(request: pytest.FixtureRequest, tmp_path: Path) -> Kernel:
    return Kernel(str(lab_dump(request.param).core), tmp_path)


@pytest.mark.lab
def test_lab_dump_without_pages_that_are_read(lab: Kernel) -> None:
    missing_stack_pages(lab, seed=4, trials=4)
    missing_pages(lab, seed=5, of_opening=4, of_audit=60)  # before 6.0 kallsyms are searched for


@pytest.mark.lab
@pytest.mark.parametrize("name", ["crash-nmi-irq", "crash-hardirq-softirq"])
def test_crash_without_pages_that_are_read(name: str, tmp_path: Path) -> None:
    # Stacks of a CPU: what of them is there is shown, and that it is not all.
    crash = Kernel(str(lab_dump(variant_named(name)).core), tmp_path)
    assert any(len(s.frames) > 10 for s in crash.whole if s.on_cpu)
    missing_pages(crash, seed=6, of_opening=2, of_audit=60)
    of_cpus = stack_pages(crash.prog, [s for s in crash.whole if s.on_cpu])
    for pfn in [pfn for pages in of_cpus for pfn in pages]:
        audit = audit_without(crash.elf_without({pfn}))
        assert audit is not None
        assert list(wrong(crash.whole, audit)) == [], f"without page frame {pfn:#x}"


# ---- the test itself


def test_a_wrong_answer_would_be_seen(demo: Kernel) -> None:
    whole = demo.whole
    i, task = next((i, s) for i, s in enumerate(whole.tasks) if len(s.frames) > 4 and not s.on_cpu)

    def holed(*tasks: TaskStack, problems: tuple[str, ...] = ()) -> KernelAudit:
        return replace(
            whole, tasks=(*whole.tasks[:i], *tasks, *whole.tasks[i + 1 :]), problems=problems
        )

    other = Verdict.UNRELIABLE if task.verdict is Verdict.RELIABLE else Verdict.RELIABLE
    unknown = replace(task, verdict=Verdict.UNKNOWN, reason=Reason.UNREADABLE, why="missing")
    unnamed = replace(task.frames[1], symbol=None)
    misnamed = replace(task.frames[1], symbol=Symbol("x", 1))
    elsewhere = replace(task.frames[1], ip=task.frames[1].ip + 1)
    short = task.frames[:2]
    for audit in (
        holed(replace(task, verdict=other)),
        holed(replace(task, frames=short)),
        holed(replace(unknown, why=None)),
        holed(replace(unknown, frames=(short[0], elsewhere))),
        holed(replace(unknown, frames=(short[0], misnamed))),
        holed(replace(unknown, frames=(*task.frames, elsewhere), regs=())),
        holed(task, replace(task, task=task.task + 8)),
        holed(),
    ):
        assert list(wrong(whole, audit))
    for audit in (
        whole,
        holed(replace(unknown, frames=short, regs=())),
        holed(replace(unknown, frames=(short[0], unnamed), regs=())),
        holed(replace(task, frames=(short[0], unnamed, *task.frames[2:]))),
        holed(problems=("a list",)),
    ):
        assert list(wrong(whole, audit)) == []
