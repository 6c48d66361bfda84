# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a fleet run costs beside its audits, and what a second worker gives.

    python -m tests.bench.fleet [--core CORE]... [--copies N] [--rounds N]

The same copies are audited into a new dataset in four ways, in turns:

    loop        audit_source() and Dataset.commit(), one after the other in one process
    sandbox     the same in a sandbox: audit_in_sandbox(), no Dask
    1 worker    a fleet run on a local cluster of one worker
    2 workers   on one of two

Each also with one copy only: what that takes is the start (of processes, of a cluster), and
is not counted in what a dump takes. Medians of the rounds, with quartiles; ratios are made
round by round, of what was timed one after the other. CPU time is that of all processes.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Optional

from drgn_tools.data import demo_vmcore
from drgn_tools.program.unpack import unpacked

from .timing import ROOT, Ratio

if TYPE_CHECKING:
    from distributed import Client

    from drgn_tools.fleet.run.job import Job, Outcome

__all__ = ("main",)

MODES = ("loop", "sandbox", "1 worker", "2 workers")


@dataclass(frozen=True)
class Run:
    """One way, once."""

    start_s: float
    """Until the first audit could begin: imports, the cluster."""
    run_s: float
    """From then until the last record was written."""
    audits_s: float
    """What the audits took by themselves, as their records say."""
    commits_s: float
    """What writing the records took, where the run was started."""
    cpu_s: float = 0.0
    """Of all processes, start and end with them."""


# ---- in a process of its own


def _run_here(mode: str, sources: Sequence[str], dataset_path: Path) -> Run:
    began = time.perf_counter()
    from drgn_tools.fleet.dataset.dataset import Dataset, source_key
    from drgn_tools.fleet.dataset.parquet import audit_file
    from drgn_tools.fleet.run.job import Job
    from drgn_tools.fleet.run.source import Source

    dataset = Dataset.create(dataset_path)
    jobs = [Job(Source(path, path), source_key(path)) for path in sources]
    audits_s = commits_s = 0.0

    def commit(job: Job, outcome: Outcome) -> None:
        nonlocal audits_s, commits_s
        since = time.perf_counter()
        record = outcome.record
        dataset.commit(job.key, record["audit_id"], audit_file(record), outcome.tasks)
        commits_s += time.perf_counter() - since
        audits_s += record["seconds"]

    with _way(mode) as do:
        ready = time.perf_counter()
        do(jobs, commit)
        done = time.perf_counter()
    assert len(list(dataset.audits.iterdir())) == len(jobs)
    return Run(ready - began, done - ready, audits_s, commits_s)


_Commit = Callable[["Job", "Outcome"], None]
_Do = Callable[[Sequence["Job"], _Commit], None]


@contextmanager
def _way(mode: str) -> Iterator[_Do]:
    if mode == "loop":
        yield _loop
    elif mode == "sandbox":
        yield _sandbox_loop
    else:
        with _engine(int(mode.split()[0])) as do:
            yield do


def _loop(jobs: Sequence[Job], commit: _Commit) -> None:
    from drgn_tools.fleet.run.audit_source import audit_source

    for job in jobs:
        commit(job, audit_source(job))


def _sandbox_loop(jobs: Sequence[Job], commit: _Commit) -> None:
    from drgn_tools.fleet.run.job import Limits
    from drgn_tools.fleet.run.sandboxes import Sandboxes, audit_in_sandbox

    sandboxes = Sandboxes()
    for job in jobs:
        commit(job, audit_in_sandbox(job, Limits(), sandboxes))
    sandboxes.close()


@contextmanager
def _engine(workers: int) -> Iterator[_Do]:
    from drgn_tools.fleet.run.cluster import Cluster
    from drgn_tools.fleet.run.dask_jobs import run_jobs
    from drgn_tools.fleet.run.job import Limits

    class Started(Cluster):
        def __init__(self, client: Client) -> None:
            super().__init__()
            self._client = client

        @contextmanager
        def client(self) -> Iterator[Client]:
            yield self._client

    class Nobody:
        def say(self, text: str) -> None:
            print(text, file=sys.stderr)

        def tick(self) -> None:
            pass

    with Cluster(workers=workers).client() as client:
        client.wait_for_workers(workers)
        yield lambda jobs, commit: run_jobs(jobs, Limits(), Started(client), commit, Nobody())


# ---- the process that starts them


def _run(mode: str, sources: Sequence[Path], scratch: Path) -> Run:
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(
            [
                *(sys.executable, "-m", "tests.bench.fleet", "--run", mode),
                *("--dataset", str(Path(folder, "dataset")), *map(str, sources)),
            ],
            stdout=subprocess.PIPE,
            text=True,
            timeout=1800,
            cwd=ROOT,
            check=True,
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    return Run(**{**json.loads(done.stdout), "cpu_s": cpu_s})


@dataclass(frozen=True)
class _Round:
    """All ways, with one copy and with all."""

    one: dict[str, Run]
    all: dict[str, Run]
    copies: int

    def per_dump_s(self, mode: str, of: Callable[[Run], float] = lambda run: run.run_s) -> float:
        """What each further copy takes."""
        return (of(self.all[mode]) - of(self.one[mode])) / (self.copies - 1)


def _copies(cores: Sequence[Path], count: int, folder: Path) -> list[Path]:
    # Of one content under names of their own: a link is enough.
    paths = []
    for number in range(count):
        path = folder / f"vmcore-{number}"
        path.symlink_to(cores[number % len(cores)].absolute())
        paths.append(path)
    return paths


def _measure(cores: Sequence[Path], copies: int, rounds: int, scratch: Path) -> list[_Round]:
    sources = _copies(cores, copies, scratch)
    found = []
    for number in range(rounds + 1):
        # Each round in another order: who comes first has no advantage of it.
        modes = MODES[number % len(MODES) :] + MODES[: number % len(MODES)]
        one = {mode: _run(mode, sources[:1], scratch) for mode in modes}
        all_ = {mode: _run(mode, sources, scratch) for mode in modes}
        if number:  # the first fills caches
            found.append(_Round(one, all_, copies))
            print(f"round {number} of {rounds}", file=sys.stderr)
    return found


def _lines(rounds: Sequence[_Round]) -> Iterator[str]:
    def ms(values: Sequence[float]) -> str:
        ratio = Ratio.of([1000 * value for value in values])
        return f"{ratio.median:7.1f} ms ({ratio.low:.1f} to {ratio.high:.1f})"

    def ratio_of(first: str, second: str, of: Callable[[Run], float]) -> str:
        each = [r.per_dump_s(first, of) / r.per_dump_s(second, of) for r in rounds]
        ratio = Ratio.of(each)
        return f"{ratio.median:.2f} ({ratio.low:.2f} to {ratio.high:.2f})"

    yield f"{'':10}  {'a dump takes':32}  {'CPU time of it':32}  start, and one dump"
    for mode in MODES:
        took = ms([r.per_dump_s(mode) for r in rounds])
        cpu = ms([r.per_dump_s(mode, _cpu) for r in rounds])
        start = statistics.median(r.one[mode].start_s + r.one[mode].run_s for r in rounds)
        yield f"{mode:10}  {took:32}  {cpu:32}  {start:.2f} s"
    yield ""
    yield "what a dump takes beside its audit and its commit:"
    for before, mode in zip(("", *MODES), MODES[:3]):
        beside = ms([r.per_dump_s(mode, _beside) for r in rounds])
        more = ms([r.per_dump_s(mode) - r.per_dump_s(before) for r in rounds]) if before else ""
        yield f"{mode:10}  {beside:32}{f'  more than {before}: {more}' if before else ''}"
    audits, commits = ([r.per_dump_s("loop", of) for r in rounds] for of in (_audits, _commits))
    yield f"in a loop the audit takes {ms(audits)}, the commit {ms(commits)}"
    yield ""
    yield f"1 worker by loop: {ratio_of('1 worker', 'loop', _wall)}; CPU time {ratio_of('1 worker', 'loop', _cpu)}"
    yield f"throughput of 2 workers by 1: {ratio_of('1 worker', '2 workers', _wall)}"
    whole = Ratio.of([r.all["1 worker"].run_s / r.all["2 workers"].run_s for r in rounds])
    yield (
        f"the same with the start of the processes that audit: "
        f"{whole.median:.2f} ({whole.low:.2f} to {whole.high:.2f})"
    )


def _wall(run: Run) -> float:
    return run.run_s


def _cpu(run: Run) -> float:
    return run.cpu_s


def _audits(run: Run) -> float:
    return run.audits_s


def _commits(run: Run) -> float:
    return run.commits_s


def _beside(run: Run) -> float:
    return run.run_s - run.audits_s - run.commits_s


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.fleet",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--core", type=Path, action="append", help="of which there are copies (default: the demo)"
    )
    parser.add_argument("--copies", type=int, default=60, metavar="N", help="default: 60")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="default: 5")
    parser.add_argument("--run", choices=MODES, help=argparse.SUPPRESS)
    parser.add_argument("--dataset", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("sources", nargs="*", help=argparse.SUPPRESS)
    return parser


def main(argv: Optional[Sequence[str]] = None) -> int:
    parser = _parser()
    args = parser.parse_args(argv)
    if args.run:
        print(json.dumps(asdict(_run_here(args.run, args.sources, args.dataset))))
        return 0
    if args.copies < 2 or args.rounds < 1:
        parser.error("at least two copies, and one round")
    cores = args.core or [unpacked(str(demo_vmcore()))]
    with tempfile.TemporaryDirectory(prefix="drgn-tools-bench-") as scratch:
        rounds = _measure(cores, args.copies, args.rounds, Path(scratch))
    load = os.getloadavg()[0]
    print(f"{args.copies} copies, {args.rounds} rounds, {os.cpu_count()} CPUs, load {load:.1f}")
    print("\n".join(_lines(rounds)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
