# SPDX-License-Identifier: LGPL-2.1-or-later
"""The figures: what is compared with what, and how far it may be off."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Optional

from drgn_tools.data import demo_vmcore
from drgn_tools.program.unpack import unpacked
from tests.lab.dump import cached_dump, kernel_if_cached
from tests.lab.errors import LabError
from tests.lab.variants import variant_named

from .crash_program import find_crash
from .multiply import MultiplyError, multiply
from .timing import (
    NotMeasured,
    Ratio,
    Sample,
    in_turns,
    run_process,
    run_worker,
    timed_worker,
    usual,
)

__all__ = ("FIGURES", "Bench", "Figure", "Measured")

LARGE = "large"
"""The variant of the lab with thousands of tasks."""
LARGE_STOCK = "large-stock"
"""The same tasks on a kernel as Debian built it: ORC."""
VARIED = "fp-lsb"
ARM64 = "arm64-7.2"
"""Some 160 tasks of a stock kernel of arm64, few with the same stack."""
_OURS_IN_A_ROW = 5
"""By the side of one run of drgn, which takes as long as a hundred of ours."""
_SMALL_TASKS = 2_000
_MANY_TASKS = 100_000
_MOST_TASKS = 1_000_000
_MEMORY_LIMIT = 4 << 30
"""Address space for who is to use 200 bytes a task: others run on this machine, too."""
_TOOL = (sys.executable, "-m", "drgn_tools")
_OPENS_ONLY = "import sys, drgn; drgn.Program().set_core_dump(sys.argv[1])"


@dataclass(frozen=True)
class Measured:
    """What came out."""

    value: Ratio
    dump: str
    """Of what it is: a dump and how many tasks it has."""
    cpu: Optional[Ratio] = None
    """The same of CPU time, which what else the machine does hardly changes."""
    details: dict[str, float] = field(default_factory=dict)
    """Medians of what was divided, in seconds, and what else there is to know."""


@dataclass(frozen=True)
class Dump:
    """A core to measure on."""

    core: Path
    name: str
    vmlinux: Optional[Path] = None


class Bench:
    """What the figures of one run share: dumps, folders, how thorough it is to be."""

    def __init__(
        self,
        scratch: Path,
        rounds: int,
        quick: bool,
        given: Optional[Dump],
        progress: Callable[[str], None],
    ) -> None:
        """
        :param scratch: a folder for dumps that are made and removed again; wants 8 GB
        :param given: measure on this one where a single real one is wanted
        """
        self.scratch = scratch
        self.rounds = rounds
        self.quick = quick
        self._given = given
        self.progress = progress
        self.warm_cache = scratch / "warm"
        """A cache folder that stays for the run: what is measured warm has used it before."""

    @cached_property
    def demo(self) -> Dump:
        """The dump that ships with the package."""
        return Dump(Path(unpacked(str(demo_vmcore()))), "the bundled dump")

    @cached_property
    def small(self) -> Dump:
        """One to start on."""
        return self._given or self.demo

    @cached_property
    def large(self) -> Dump:
        """One with thousands of tasks."""
        return self._given or _of_lab(LARGE)

    @cached_property
    def large_stock(self) -> Dump:
        """One with thousands of tasks, of a kernel with ORC."""
        return self._given or _of_lab(LARGE_STOCK)

    @cached_property
    def varied(self) -> Dump:
        """One where hardly two tasks have the same stack."""
        return self._given or _of_lab(VARIED)

    @contextmanager
    def multiplied(self, tasks: int) -> Iterator[Dump]:
        """The bundled dump with so many tasks; removed again."""
        self.progress(f"making a dump of {tasks} tasks")
        with tempfile.TemporaryDirectory(dir=self.scratch) as folder:
            core = Path(folder, "core")
            try:
                multiply(self.demo.core, core, tasks)
            except (MultiplyError, OSError) as e:
                raise NotMeasured(f"no dump of {tasks} tasks: {e}") from e
            yield Dump(core, f"the bundled dump multiplied, {tasks} tasks")

    def env(self, cold: bool = False) -> dict[str, str]:
        """An environment with a cache folder of its own; a cold one is new each time."""
        folder = tempfile.mkdtemp(dir=self.scratch) if cold else str(self.warm_cache)
        return {"XDG_CACHE_HOME": folder}

    def compare(
        self, first: Callable[[], Sample], second: Callable[[], Sample], dump: str
    ) -> Measured:
        """First by second, each for one of what it did."""
        rounds = self.rounds
        firsts, seconds = in_turns(
            first, second, rounds, lambda done: self.progress(f"round {done} of {rounds}")
        )

        def ratio(of: Callable[[Sample], float]) -> Ratio:
            return Ratio.of([of(a) / of(b) for a, b in zip(firsts, seconds)])

        def median(samples: list[Sample]) -> float:
            return Ratio.of([s.seconds / s.count for s in samples]).median

        return Measured(
            ratio(lambda s: s.seconds / s.count),
            dump,
            ratio(lambda s: s.cpu_seconds / s.count),
            {"first_seconds": median(firsts), "second_seconds": median(seconds)},
        )


def _of_lab(name: str) -> Dump:
    variant = variant_named(name)
    try:
        kernel, dump = kernel_if_cached(variant), cached_dump(variant)
    except LabError as e:
        raise NotMeasured(f"the lab cannot run here: {e}") from e
    if kernel is None or dump is None:
        raise NotMeasured(
            f"the lab's dump is not there: python -m tests.lab dump {name}, or --core"
        )
    return Dump(dump.core, f"lab {name}, {dump.read_about()['tasks']} tasks", kernel.vmlinux)


@dataclass(frozen=True)
class Figure:
    """One line of the table."""

    name: str
    what: str
    bound: Optional[float]
    """``None``: it is only for comparison."""
    at_least: bool
    """The bound is a lower one."""
    measure: Callable[[Bench], Measured]
    unit: str = ""

    def holds(self, value: float) -> bool:
        if self.bound is None:
            return True
        return value >= self.bound if self.at_least else value <= self.bound


_PickDump = Callable[[Bench], Dump]


def _large(bench: Bench) -> Dump:
    return bench.large


def _large_stock(bench: Bench) -> Dump:
    return bench.large_stock


def _varied(bench: Bench) -> Dump:
    return bench.varied


def _arm64(bench: Bench) -> Dump:
    return bench._given or _of_lab(ARM64)


def _drgn(with_dwarf: bool, pick: _PickDump = _large) -> Callable[[Bench], Measured]:
    def measure(bench: Bench) -> Measured:
        dump = pick(bench)
        if with_dwarf and dump.vmlinux is None:
            raise NotMeasured("drgn unwinds with the DWARF of a vmlinux: --vmlinux")
        vmlinux = dump.vmlinux if with_dwarf else ""
        every = 20 if bench.quick and pick is not _varied else 1
        return bench.compare(
            lambda: timed_worker("drgns", dump.core, vmlinux, every, env=bench.env()),
            lambda: usual(lambda: timed_worker("ours", dump.core, env=bench.env()), _OURS_IN_A_ROW),
            dump.name,
        )

    return measure


def _read(pick: _PickDump) -> Callable[[Bench], Measured]:
    return lambda bench: _read_of(bench, pick(bench))


def _read_of(bench: Bench, dump: Dump) -> Measured:
    reads = bench.scratch / "reads.json"
    recorded = run_worker("record", dump.core, reads, env=bench.env())
    tasks = int(recorded["count"])
    if recorded["bytes"] < tasks * 1024:
        raise NotMeasured(f"{recorded['bytes']} bytes were seen read of {tasks} tasks: not all")

    def replay() -> Sample:
        sample = timed_worker("replay", dump.core, reads)
        return Sample(sample.seconds, sample.cpu_seconds, tasks)

    measured = bench.compare(
        lambda: timed_worker("ours", dump.core, env=bench.env()), replay, dump.name
    )
    measured.details.update(reads=recorded["reads"] / tasks, bytes=recorded["bytes"] / tasks)
    return measured


def _opens_only(core: Path) -> Sample:
    return run_process((sys.executable, "-c", _OPENS_ONLY, str(core)))


def _start(cold: bool, pick: Optional[_PickDump] = None) -> Callable[[Bench], Measured]:
    def measure(bench: Bench) -> Measured:
        dump = bench.small if pick is None else pick(bench)
        core = dump.core
        return bench.compare(
            lambda: run_process((*_TOOL, "tasks", "-c", str(core)), bench.env(cold)),
            lambda: _opens_only(core),
            dump.name,
        )

    return measure


def _orc_by_frame_pointers(bench: Bench) -> Measured:
    orc, frame_pointers = _of_lab(LARGE_STOCK), _of_lab(LARGE)
    return bench.compare(
        lambda: timed_worker("ours", orc.core, env=bench.env()),
        lambda: timed_worker("ours", frame_pointers.core, env=bench.env()),
        f"{orc.name} and {frame_pointers.name}",
    )


def _stock(bench: Bench) -> Dump:
    return bench._given or _of_lab("debian")


def _growth(bench: Bench) -> Measured:
    many = _MANY_TASKS // (10 if bench.quick else 1)
    with bench.multiplied(_SMALL_TASKS) as few_tasks, bench.multiplied(many) as many_tasks:
        return bench.compare(
            lambda: timed_worker("ours", many_tasks.core, env=bench.env()),
            lambda: timed_worker("ours", few_tasks.core, env=bench.env()),
            f"{many_tasks.name} and {_SMALL_TASKS}",
        )


def _memory(bench: Bench) -> Measured:
    most = _MOST_TASKS // (20 if bench.quick else 1)

    def peak(dump: Dump) -> float:
        words = ("tasks", "-c", dump.core, "--format", "jsonl")
        return run_worker("peak", _MEMORY_LIMIT, *words, env=bench.env())["peak_bytes"]

    with bench.multiplied(_SMALL_TASKS) as few_tasks:
        few = Ratio.of([peak(few_tasks) for _ in range(min(bench.rounds, 3))]).median
    with bench.multiplied(most) as most_tasks:
        bench.progress(f"memory for {most} tasks")
        try:
            more = peak(most_tasks)
        except NotMeasured as e:
            raise NotMeasured(f"with {_MEMORY_LIMIT >> 30} GiB for {most} tasks: {e}") from e
        each = (more - few) / (most - _SMALL_TASKS)
        details = {"start_bytes": few, "peak_bytes": more}
        return Measured(Ratio.of([each]), most_tasks.name, None, details)


def _crash(bench: Bench) -> Measured:
    dump = bench.large
    program = find_crash()
    if program is None:
        raise NotMeasured("no crash yet: python -m tests.bench --fetch-crash")
    if dump.vmlinux is None:
        raise NotMeasured("crash wants a vmlinux with DWARF: --vmlinux")
    argv = (str(program), "-s", "--no_scroll", "--no_crashrc", str(dump.vmlinux), str(dump.core))
    return bench.compare(
        lambda: run_process(argv, stdin="foreach bt\nquit\n"),
        lambda: run_process((*_TOOL, "stack", "-c", str(dump.core), "--all"), bench.env()),
        dump.name,
    )


FIGURES = (
    Figure(
        "drgn",
        "all tasks, complete records with symbols: drgn `stack_trace()` with frame names / ours",
        100,
        True,
        _drgn(with_dwarf=True),
    ),
    Figure(
        "read", "the same: ours / bare `prog.read()` of the same bytes", 4, False, _read(_large)
    ),
    Figure(
        "cold",
        "whole process `drgn-tools tasks -c core`, cold / a process that imports drgn and only"
        " opens that core",
        2.5,
        False,
        _start(cold=True),
    ),
    Figure("warm", "the same with a warm cache for that build ID", 1.5, False, _start(cold=False)),
    Figure("growth", "time per task at 100,000 tasks / at 2,000", 1.15, False, _growth),
    Figure(
        "memory",
        "peak memory per task beyond the start, `--format jsonl`, 1,000,000 tasks",
        200,
        False,
        _memory,
        " bytes",
    ),
    Figure(
        "crash",
        "Debian's `crash` `foreach bt` / `drgn-tools stack --all`, whole processes",
        5,
        True,
        _crash,
    ),
    Figure(
        "varied",
        "as the first, on the lab's usual dump: some 140 tasks, few with the same stack",
        None,
        True,
        _drgn(with_dwarf=True, pick=_varied),
    ),
    Figure(
        "no-dwarf",
        "as the first, where drgn has no DWARF and follows frame pointers: no inlined functions,"
        " no registers",
        None,
        True,
        _drgn(with_dwarf=False),
    ),
    Figure(
        "orc",
        "as the first, on a stock kernel: drgn unwinds by the same ORC tables, with names from the"
        " dump's kallsyms",
        None,
        True,
        _drgn(with_dwarf=False, pick=_large_stock),
    ),
    Figure(
        "orc-read",
        "on a stock kernel: ours / bare `prog.read()` of the same bytes",
        4,
        False,
        _read(_large_stock),
    ),
    Figure(
        "orc-fp",
        "time per task on a stock kernel (ORC) / with frame pointers",
        1.5,
        False,
        _orc_by_frame_pointers,
    ),
    Figure(
        "orc-cold",
        "whole process `drgn-tools tasks -c core` on a stock kernel, cold / a process that imports"
        " drgn and only opens that core",
        2,
        False,
        _start(cold=True, pick=_stock),
    ),
    Figure(
        "arm64",
        "as the first, on a stock kernel of arm64: some 160 tasks, few with the same stack; drgn has no DWARF,"
        " and follows the same frame records",
        None,
        True,
        _drgn(with_dwarf=False, pick=_arm64),
    ),
    Figure(
        "arm64-read",
        "there: ours / bare `prog.read()` of the same bytes",
        None,
        False,
        _read(_arm64),
    ),
)
