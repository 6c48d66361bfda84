# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the programs that run inside a live guest share. They start as root, by its init.

Progress goes to the console (print), what they found to the second serial port (report).
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
import tty
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Optional

__all__ = (
    "ENVIRONMENT",
    "NOBODY",
    "TIMEOUT",
    "context_switches",
    "drgn_tools",
    "parameter",
    "pid_of_sleeper",
    "report",
    "report_commands",
    "report_sleepers",
    "run",
    "say",
)

TIMEOUT = 900.0
"""Of one program under emulation, with nothing else to do. Whoever takes longer hangs."""
NOBODY = 65534
ENVIRONMENT = {**os.environ, "DRGN_PLUGINS": "encoded_stacks=drgn_tools.commands.plugin"}

_port = os.open("/dev/ttyS1", os.O_WRONLY | os.O_NOCTTY)
tty.setraw(_port)


def say(text: str) -> None:
    """A line for the host to see how far we are."""
    print(f"[{time.monotonic():.1f}] {text}", flush=True)


def report(name: str, value: Any) -> None:
    """Hand *value* to the host."""
    line = json.dumps([name, value]).encode() + b"\n"
    while line:
        line = line[os.write(_port, line) :]


def parameter(name: str, default: int) -> int:
    """A number on the kernel's command line, ``live.NAME=N``."""
    found = re.search(rf"\blive\.{name}=(\d+)", Path("/proc/cmdline").read_text())
    return int(found[1]) if found else default


def drgn_tools(*args: str, user: Optional[int] = None, stdin: str = "") -> dict[str, Any]:
    """Run the command line; see run()."""
    return run("-m", "drgn_tools", *args, user=user, stdin=stdin)


def run(*args: str, user: Optional[int] = None, stdin: str = "") -> dict[str, Any]:
    """Run Python to its end.

    :param user: as whom, with no group but that of the same number.
    :return: exit code (negative: the signal it died of), what it wrote, and how long it took.
    """
    say(f"python3 {' '.join(args)}")
    start = time.monotonic()
    done = subprocess.run(
        ["/usr/bin/python3", *args],
        env=ENVIRONMENT,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        user=user,
        group=user,
        extra_groups=None if user is None else [],
        check=False,
    )
    seconds = time.monotonic() - start
    say(f"exit code {done.returncode} after {seconds:.1f} s; {done.stderr.strip()[-300:]}")
    return {
        "args": args,
        "code": done.returncode,
        "stdout": done.stdout,
        "stderr": done.stderr,
        "seconds": seconds,
    }


def context_switches(prog: Any) -> Mapping[str, list[int]]:
    """Of every task, by its address: pid, nvcsw, nivcsw."""
    from drgn.helpers.linux.pid import for_each_task

    return {
        hex(task.value_()): [task.pid.value_(), task.nvcsw.value_(), task.nivcsw.value_()]
        for task in for_each_task(prog)
    }


def pid_of_sleeper() -> int:
    """Of one that sleeps for good, in pipe_read()."""
    return next(
        int(comm.parent.name)
        for comm in sorted(Path("/proc").glob("[0-9]*/task/*/comm"))
        if comm.read_bytes() == b"w-pipe-read\n"
    )


def report_commands(pid: int) -> None:
    """Report what commands say of tasks that sleep for good.

    :param pid: of one
    """
    report("stack", drgn_tools("stack", "-k", str(pid)))
    check = drgn_tools("tasks", "-k", "--check", "--frames", "--format", "json")
    report("check", check)
    earlier = Path("/tmp/earlier.json")
    earlier.write_text(check["stdout"])
    report("diff", drgn_tools("diff", str(earlier), "-k", "--all", "--format", "json"))
    report("hung", drgn_tools("hung", "-k", "--format", "json"))


def report_sleepers(prog: Any) -> None:
    """Report all stacks, and who ran meanwhile.

    Nothing but the freeze is to come after this: whoever sleeps now is to sleep then.

    :param prog: the running kernel
    """
    from drgn_tools import audit_kernel

    for _ in range(3):
        start = time.monotonic()
        audit = audit_kernel(prog)
        report("audit", [time.monotonic() - start, len(audit.tasks)])
    before = context_switches(prog)
    looked = drgn_tools("tasks", "-k", "--frames", "--format", "json")
    after = context_switches(prog)
    report("looked", looked)
    report("before", before)
    report("after", after)
