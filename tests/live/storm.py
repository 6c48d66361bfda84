#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Audits, one after the other in one process, while tasks and modules come and go."""

from __future__ import annotations

import ctypes
import os
import resource
import struct
import subprocess
import time
import traceback
from collections import Counter, defaultdict
from pathlib import Path

from guest import drgn_tools, parameter, report, say

from drgn_tools import KernelAudit, TaskStack, Verdict, audit_kernel, open_program

COUNTS = ("forks", "execs", "threads", "orphans", "switches", "modules")
"""In the order of tests/lab/user/storm.c."""
MODULE = "/live/lab_storm.ko"
SYS_FINIT_MODULE, SYS_DELETE_MODULE = {"x86_64": (313, 176), "aarch64": (273, 106)}[
    os.uname().machine
]


def counts() -> dict[str, int]:
    """What the storm has done so far."""
    data = Path("/tmp/storm").read_bytes()
    return dict(zip(COUNTS, struct.unpack(f"<{len(COUNTS)}Q", data)))


def answer(task: TaskStack) -> tuple[object, ...]:
    """All that is said of a task's stack."""
    return task.verdict, task.reason, task.why, task.frames


def summary(audit: KernelAudit, seconds: float) -> dict[str, object]:
    """One audit, for the host."""
    reasons = Counter(
        task.reason.value if task.reason else None
        for task in audit.tasks
        if task.verdict is Verdict.UNKNOWN
    )
    return {
        "seconds": seconds,
        "tasks": len(audit.tasks),
        "verdicts": Counter(task.verdict.value for task in audit.tasks),
        "unknown": {str(reason): count for reason, count in reasons.items()},
        "unexplained": sum(
            task.verdict is Verdict.UNKNOWN and (task.reason is None or not task.why)
            for task in audit.tasks
        ),
        "twice": len(audit.tasks) - len({task.task for task in audit.tasks}),
        "problems": list(audit.problems),
        "rss_kib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
    }


def take_kcore_away() -> None:
    """From here on the kernel has no /proc/kcore."""
    libc = ctypes.CDLL(None, use_errno=True)
    fd = os.open(MODULE, os.O_RDONLY)
    if libc.syscall(SYS_FINIT_MODULE, fd, b"nokcore=1", 0):
        raise OSError(ctypes.get_errno(), "finit_module")
    os.close(fd)


audits = parameter("audits", 100)
storm = subprocess.Popen(["/init", "storm"], start_new_session=True)
while not Path("/tmp/storm").exists() or not all(counts().values()):
    time.sleep(0.1)
begun = counts()
answers: dict[int, Counter[tuple[object, ...]]] = defaultdict(Counter)
start = time.monotonic()
prog = open_program(kernel=True)
report("open", time.monotonic() - start)
for number in range(audits):
    start = time.monotonic()
    try:
        audit = audit_kernel(prog)
    except Exception:
        report("traceback", traceback.format_exc())
        say(traceback.format_exc())
        continue
    report("audit", summary(audit, time.monotonic() - start))
    for task in audit.tasks:
        if task.comm.startswith("w-"):
            answers[task.task][answer(task)] += 1
    if number % 10 == 0:
        say(f"audit {number} of {audits}, {time.monotonic() - start:.1f} s")
done = counts()
report("storm", {name: done[name] - begun[name] for name in COUNTS})
report("sleepers", [[str(said) for said in of_one] for of_one in answers.values()])
report("command", drgn_tools("tasks", "-k", "--format", "json"))

os.killpg(storm.pid, 9)
storm.wait()
time.sleep(1)
# If it is there.
ctypes.CDLL(None).syscall(SYS_DELETE_MODULE, b"lab_storm", os.O_NONBLOCK)
take_kcore_away()
# A permanent entry of /proc, as it is in 7.2, stays.
if not Path("/proc/kcore").exists():
    report("nokcore", drgn_tools("tasks", "-k"))
