# SPDX-License-Identifier: LGPL-2.1-or-later
"""The command line in this process on records made by hand, and in a process of its own."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Callable, Optional

import pytest

from drgn_tools.commands.main import main
from drgn_tools.errors import TaskNotFoundError
from drgn_tools.records import KernelAudit, Reason, TaskStack

from .fabricated import KERNEL, TASKS

ROOT = Path(__file__).parents[2]


SOUND = KernelAudit(KERNEL, tuple(task for task in TASKS if task.reason is not Reason.UNREADABLE))
"""An audit without the tasks that could not be read."""


def offer(monkeypatch: pytest.MonkeyPatch, audit: KernelAudit) -> None:
    """Make the command line return *audit* for any kernel that it opens."""

    def audit_kernel(
        prog: object, progress: Optional[Callable[[int], None]], max_tasks: Optional[int]
    ) -> KernelAudit:
        for done in range(len(audit)):
            if progress is not None:
                progress(done + 1)
        return audit

    def task_stack(prog: object, which: int) -> TaskStack:
        for task in audit:
            if which in (task.pid, task.task):
                return task
        raise TaskNotFoundError(f"no task with pid {which} in {audit.kernel.source}")

    monkeypatch.setattr("drgn_tools.program.open.open_program", lambda **_: object())
    for name in ("audit_kernel", "audit_under_way"):
        monkeypatch.setattr(f"drgn_tools.analysis.audit.{name}", audit_kernel)
    monkeypatch.setattr("drgn_tools.analysis.audit.task_stack", task_stack)
    monkeypatch.setattr("drgn_tools.analysis.audit.kernel_info", lambda prog: audit.kernel)
    crashed = next((task for task in audit if "crashed" in task.flags), None)
    monkeypatch.setattr("drgn_tools.analysis.audit.crashed_stack", lambda prog: crashed)


def pids(text: str) -> list[int]:
    return [task["pid"] for task in json.loads(text)["tasks"]]


def joined(value: object) -> str:
    """The id of a test: its command line."""
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def refused(argv: Sequence[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Check that a command line is a usage error with a message of one line."""
    assert main(argv) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("drgn-tools: error: ")
    assert err.count("\n") == 1
    assert says in err


PROGRAM = """
import sys, time
from unittest import mock
from drgn_tools.commands.main import main
from drgn_tools.records import KernelAudit
from tests.support.fabricated import KERNEL, TASKS

def audit_kernel(prog, progress, max_tasks):
    {body}
    return KernelAudit(KERNEL, TASKS * {times})

with mock.patch("drgn_tools.program.open.open_program"), \\
     mock.patch("drgn_tools.analysis.audit.audit_under_way", audit_kernel):
    sys.exit(main(sys.argv[1:]))
"""


def start(*argv: str, body: str = "pass", times: int = 1, **kwargs: Any) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM.format(body=body, times=times), *argv],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        **kwargs,
    )


def in_a_shell(line: str, core: str, redirect: str) -> subprocess.CompletedProcess[bytes]:
    """Run a command line in a shell, with its streams redirected by *redirect*."""
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full")
    words = [sys.executable, "-m", "drgn_tools", *line.replace("CORE", core).split()]
    return subprocess.run(
        f"{shlex.join(words)} {redirect}",
        shell=True,
        cwd=ROOT,
        input=b"print(len(list(task_stacks(prog))))",
        capture_output=True,
        check=False,
    )
