#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""In a guest with a live patch that is held back: who holds it back, and who leaves when.

The tasks that hold it back are let go one after the other while ``livepatch --watch`` runs, so that it
ends. What the kernel itself says is in /proc/PID/patch_state, and on the console.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import threading
import time
from functools import partial
from pathlib import Path
from typing import IO, Callable

from guest import ENVIRONMENT, TIMEOUT, drgn_tools, report, say

SYS_FINIT_MODULE = 313
PATCH = "lab_patch1"
TRANSITION = Path(f"/sys/kernel/livepatch/{PATCH}/transition")
LEAVE = ("w-old-d", "k-old-d", "k-spin/1a", "all")
"""Who is let go, in this order. Those that sleep interruptibly left with the first fake signal."""


def load(module: str) -> None:
    """Load a module that lies in the guest."""
    libc = ctypes.CDLL(None, use_errno=True)
    fd = os.open(f"/modules/{module}.ko", os.O_RDONLY)
    if libc.syscall(SYS_FINIT_MODULE, fd, b"", 0):
        raise OSError(ctypes.get_errno(), module)
    os.close(fd)


def patch_states() -> dict[str, list[object]]:
    """What the kernel says: of every thread, by its pid, its comm and its patch_state."""
    states: dict[str, list[object]] = {}
    for path in Path("/proc").glob("[0-9]*/task/*/patch_state"):
        try:
            state = int(path.read_text())
            comm = (path.parent / "comm").read_text().rstrip("\n")
        except (FileNotFoundError, ProcessLookupError):
            continue
        states[path.parent.name] = [comm, state]
    return states


def in_transition() -> bool:
    """The kernel is not done."""
    return TRANSITION.read_text().strip() == "1"


def is_switched(name: str) -> bool:
    """All tasks of this name are."""
    return all(state == 1 for comm, state in patch_states().values() if comm == name)


def let_go(name: str) -> None:
    """Have the tasks of this name leave the function they are in."""
    say(f"go {name}")
    Path("/proc/klp_lab").write_text(f"go {name}")


def wait_until(what: str, done: Callable[[], bool]) -> None:
    """Wait until a function gives true."""
    limit = time.monotonic() + TIMEOUT
    while not done():
        if time.monotonic() > limit:
            raise TimeoutError(what)
        time.sleep(0.2)


class Watch:
    """``livepatch --watch``, and what it writes, with the time of each line."""

    def __init__(self) -> None:
        self.lines: list[list[object]] = []
        self._process = subprocess.Popen(
            ["/usr/bin/python3", "-u", "-m", "drgn_tools", "livepatch", "-k", "--watch"],
            env=ENVIRONMENT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout and self._process.stderr
        self._readers = [
            threading.Thread(target=self._read, args=(name, pipe))
            for name, pipe in (("out", self._process.stdout), ("err", self._process.stderr))
        ]
        for reader in self._readers:
            reader.start()

    def _read(self, name: str, pipe: IO[str]) -> None:
        for line in pipe:
            self.lines.append([time.monotonic(), name, line])

    @property
    def said(self) -> int:
        """How many lines it wrote to stdout."""
        return sum(stream == "out" for _, stream, _ in self.lines)

    def has_said_more_than(self, lines: int) -> bool:
        """It wrote more than so many lines to stdout, or has ended."""
        return self.said > lines or self._process.poll() is not None

    def end(self) -> int:
        """Wait until it has ended."""
        code = self._process.wait(TIMEOUT)
        for reader in self._readers:
            reader.join()
        return code


load(PATCH)
say("what holds it back")
before = patch_states()
stalled = drgn_tools("livepatch", "-k", "--all", "--format", "json")
report("stalled", {"before": before, "found": stalled, "after": patch_states()})

say("watch")
watch = Watch()
wait_until("watch says nothing", partial(watch.has_said_more_than, 0))
gone: list[list[object]] = []
for name in LEAVE:
    said = watch.said
    if name == "all":
        load("lab_absent")  # k-late calls a function of it as it leaves
    gone.append([time.monotonic(), name])
    let_go(name)
    if name != "all":
        wait_until(f"{name} is not switched", partial(is_switched, name))
        wait_until("watch says nothing more", partial(watch.has_said_more_than, said))
wait_until("the transition does not end", lambda: not in_transition())
ended = time.monotonic()
code = watch.end()
report("watch", {"code": code, "lines": watch.lines, "gone": gone, "ended": ended})
report("done", drgn_tools("livepatch", "-k"))
