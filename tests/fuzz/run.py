# SPDX-License-Identifier: LGPL-2.1-or-later
"""Run the workers, one at a time, and count their results."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Optional, TextIO

import msgspec

from .worker import SECONDS

__all__ = ("Dump", "Tally", "cases")

ROOT = Path(__file__).parents[2]
_SILENCE_S = 60 * SECONDS
"""A worker that prints nothing for this long hangs in C. The machine may be busy."""


class Dump(msgspec.Struct, frozen=True):
    """A whole dump that is to be damaged."""

    name: str
    """Part of the seed."""
    path: Path


def cases(dump: Dump, seeds: range, kinds: Sequence[str] = ()) -> Iterator[dict[str, Any]]:
    """Yield the result of each damaged dump. If a worker dies, the result of its current dump says so."""
    left = seeds
    while left:
        last: Optional[int] = None
        done: Optional[int] = None
        errors = tempfile.TemporaryFile("w+")  # noqa: SIM115  # a pipe would fill up unread
        process = _start(dump, left, kinds, errors)
        try:
            for line in _lines(process):
                said = json.loads(line)
                if "begin" in said:
                    last = said["begin"]
                else:
                    done = said["seed"]
                    yield said
            code = process.wait(_SILENCE_S)
        except (subprocess.TimeoutExpired, TimeoutError):
            code = None
        finally:
            process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()
            errors.seek(0)
            complaints = errors.read()[-2000:]
            errors.close()
        if last is None:
            raise RuntimeError(f"the worker for {dump.path} does not start: {complaints}")
        if done != last:
            how = "it hangs in C" if code is None else f"the worker ended with {code}"
            yield {
                "seed": last,
                "kind": "?",
                "outcome": "died",
                "faults": [f"{how}: {complaints}"],
                "others": [],
                "seconds": 0.0,
            }
        left = range(last + left.step, left.stop, left.step)


def _start(dump: Dump, seeds: range, kinds: Sequence[str], errors: TextIO) -> subprocess.Popen[str]:
    numbers = map(str, (seeds.start, len(seeds), seeds.step))
    return subprocess.Popen(
        [sys.executable, "-m", "tests.fuzz.worker", str(dump.path), dump.name, *numbers, *kinds],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": "0"},
        stdout=subprocess.PIPE,
        stderr=errors,
        text=True,
    )


def _lines(process: subprocess.Popen[str]) -> Iterator[str]:
    """Yield the lines of a worker. Raises TimeoutError if none comes for too long."""
    assert process.stdout is not None
    fd, rest = process.stdout.fileno(), b""
    while True:
        ready, _, _ = select.select([fd], [], [], _SILENCE_S)
        if not ready:
            raise TimeoutError
        data = os.read(fd, 1 << 16)
        if not data:
            return
        *lines, rest = (rest + data).split(b"\n")
        yield from (line.decode() for line in lines)


class Tally:
    """How often there was each result, and the findings."""

    def __init__(self, log: Optional[TextIO] = None) -> None:
        self.kinds: dict[str, Counter[str]] = {}
        self.findings: list[str] = []
        self.seconds = 0.0
        self._began = time.monotonic()
        self._log = log
        self._lock = threading.Lock()

    def count(self, dump: Dump, said: dict[str, Any]) -> None:
        """Count one damaged dump. Threads may call this."""
        with self._lock:
            self._count(dump, said)

    def _count(self, dump: Dump, said: dict[str, Any]) -> None:
        self.seconds += said["seconds"]
        counter = self.kinds.setdefault(said["kind"], Counter())
        counter[said["outcome"]] += 1
        for what in said["faults"]:
            self.findings.append(f"{dump.name} {said['seed']} ({said['kind']}): {what}")
        if said["others"]:
            counter["other answers"] += 1
        if self._log is not None:
            self._log.write(json.dumps({"dump": dump.name, **said}) + "\n")
            self._log.flush()

    @property
    def number(self) -> int:
        """Number of damaged dumps."""
        return sum(n for c in self.kinds.values() for k, n in c.items() if k != "other answers")

    def table(self) -> str:
        """Return a table with a line for each kind."""
        names = sorted({name for counter in self.kinds.values() for name in counter})
        lines = [" " * 24 + "".join(f"{name:>15}" for name in names)]
        for kind, counter in sorted(self.kinds.items()):
            lines.append(f"{kind:24}" + "".join(f"{counter[name]:>15}" for name in names))
        took = time.monotonic() - self._began
        lines.append(
            f"{self.number} damaged dumps, {self.seconds:.0f} s of CPU time, {took:.0f} s in all, "
            f"{len(self.findings)} findings"
        )
        return "\n".join(lines)
