# SPDX-License-Identifier: LGPL-2.1-or-later
"""Two things timed in turns, and the ratios of what came out."""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

__all__ = (
    "NotMeasured",
    "Ratio",
    "Sample",
    "in_turns",
    "run_process",
    "run_worker",
    "timed_worker",
    "usual",
)

ROOT = Path(__file__).parent.parent.parent
_SECONDS = 1800.0


class NotMeasured(Exception):
    """Why a figure cannot be had here, in a line."""


@dataclass(frozen=True)
class Sample:
    """One thing, timed once."""

    seconds: float
    cpu_seconds: float
    count: int = 1
    """How many things it did, so that times for one of them can be compared."""


@dataclass(frozen=True)
class Ratio:
    """One thing's time by another's: the median of the rounds, and the quartiles."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, ratios: Sequence[float]) -> Ratio:
        if len(ratios) == 1:
            return cls(ratios[0], ratios[0], ratios[0])
        low, median, high = statistics.quantiles(ratios, n=4, method="inclusive")
        return cls(median, low, high)


def usual(sample: Callable[[], Sample], times: int) -> Sample:
    """The sample of median time among so many in a row.

    For what is over at once, by the side of what takes a hundred times as long: that has an
    average of a machine's moods in it, this just one of them.
    """
    return sorted((sample() for _ in range(times)), key=lambda s: s.seconds)[times // 2]


def in_turns(
    first: Callable[[], Sample],
    second: Callable[[], Sample],
    rounds: int,
    done: Callable[[int], None],
) -> tuple[list[Sample], list[Sample]]:
    """A B A B ...: what else the machine does hits both. One round before that is not counted."""
    first(), second()
    firsts, seconds = [], []
    for i in range(rounds):
        firsts.append(first())
        seconds.append(second())
        done(i + 1)
    return firsts, seconds


def run_process(
    argv: Sequence[str], env: Optional[Mapping[str, str]] = None, stdin: str = ""
) -> Sample:
    """Runs a command to its end, output thrown away.

    :raises NotMeasured: it fails, or takes too long
    """
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.perf_counter()
    _run(argv, env, stdin, subprocess.DEVNULL)
    seconds = time.perf_counter() - began
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    return Sample(seconds, cpu)


def run_worker(*words: object, env: Optional[Mapping[str, str]] = None) -> dict[str, float]:
    """What a function of worker.py measured, in a process of its own.

    :raises NotMeasured: it fails, or takes too long
    """
    argv = [sys.executable, "-m", "tests.bench.worker", *map(str, words)]
    result: dict[str, float] = json.loads(_run(argv, env, "", subprocess.PIPE))
    return result


def timed_worker(*words: object, env: Optional[Mapping[str, str]] = None) -> Sample:
    """The same as a sample."""
    result = run_worker(*words, env=env)
    return Sample(result["seconds"], result["cpu_seconds"], int(result["count"]))


def _environment() -> dict[str, str]:
    # Modules are to be compiled once and kept, as they are where this is installed.
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def _run(argv: Sequence[str], env: Optional[Mapping[str, str]], stdin: str, stdout: int) -> str:
    try:
        done = subprocess.run(
            argv,
            input=stdin,
            stdout=stdout,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            timeout=_SECONDS,
            cwd=ROOT,
            env={**_environment(), **(env or {})},
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise NotMeasured(f"{Path(argv[0]).name} takes more than {_SECONDS:.0f} s") from None
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"it ended with {done.returncode}"]
        raise NotMeasured(f"{Path(argv[0]).name} failed: {said[-1]}")
    return done.stdout or ""
