# SPDX-License-Identifier: LGPL-2.1-or-later
"""A guest looked at from its host, over QMP, with no help from inside."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from drgn_tools import audit_kernel, open_program

from ..conftest import need_group
from ..lab.dump import SHEET_LINE, kernel_if_cached
from ..lab.guest import make_initramfs
from ..lab.qemu import Machine, qemu_command, second_monitor
from ..lab.run import Progress
from ..lab.sheet import read_sheet
from ..lab.variants import variant_named
from ..support.answers import compare

pytestmark = pytest.mark.lab

ROOT = Path(__file__).parents[2]
EXIT_INPUT = 3
VARIANT = variant_named("fp-lsb")


class Guest(NamedTuple):
    """A frozen machine."""

    pid: int
    socket: str


@pytest.fixture
def guest(tmp_path: Path) -> Iterator[Guest]:
    need_group("live")
    kernel = kernel_if_cached(VARIANT)
    if kernel is None:
        pytest.fail(f"the lab was meant to build the kernel of {VARIANT.name}: make lab-all")
    socket = tmp_path / "qmp"
    command = qemu_command(
        VARIANT, kernel, make_initramfs(kernel, VARIANT.kernel.arch), mode="freeze"
    )
    with (
        Progress("freezing a guest") as progress,
        Machine([*command, *second_monitor(socket)], tmp_path / "console.log") as machine,
    ):
        machine.wait_for(SHEET_LINE, progress, 300)
        yield Guest(machine.pid, str(socket))


def drgn_tools(*args: str, program: tuple[str, ...] = ("-m", "drgn_tools")) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, *program, *args],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_frozen_guest_is_as_the_kernel_said(guest: Guest) -> None:
    start = time.monotonic()
    prog = open_program(qemu=guest.socket)
    opened = time.monotonic()
    audit = audit_kernel(prog)
    audited = time.monotonic()
    comparison = compare(audit, read_sheet(prog))
    print(
        f"qemu: {comparison}; opened in {opened - start:.2f} s, audit in {audited - opened:.2f} s"
    )
    assert comparison.differences == ()
    assert comparison.compared > 100
    assert comparison.unreliable > 10
    assert audit.kernel.source == "qemu"


def test_command_line_says_the_same(guest: Guest) -> None:
    # Before we are there ourselves: QEMU answers one at a time.
    for _ in range(2):
        run = drgn_tools("tasks", "--qemu", guest.socket, "--frames", "--format", "json")
        stdout, stderr = run.communicate(timeout=60)
        assert run.returncode == 0, stderr
    audit = audit_kernel(open_program(qemu=guest.socket))
    tasks = json.loads(stdout)["tasks"]
    assert [(int(t["task"], 16), t["verdict"], len(t["frames"])) for t in tasks] == [
        (s.task, s.verdict.value, len(s.frames)) for s in audit
    ]


DIES_MEANWHILE = """if True:
    import os, sys
    from drgn_tools.analysis import audit
    from drgn_tools.commands.main import main

    pid, tasks = int(sys.argv.pop(1)), int(sys.argv.pop(1))
    audit_kernel = audit.audit_kernel

    def until_it_dies(prog, progress=None, max_tasks=None):
        def at_task(done):
            if done >= tasks:
                os.kill(pid, 9)
                # Dead, but its parent has yet to look.
                while open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()[0] != "Z":
                    pass
        at_task(0)
        return audit_kernel(prog, at_task, max_tasks)

    audit.audit_kernel = until_it_dies
    sys.exit(main())
"""


@pytest.mark.parametrize("tasks", [0, 50], ids=["before the first task", "between two tasks"])
def test_guest_that_is_killed_meanwhile_is_one_line(guest: Guest, tasks: int) -> None:
    program = ("-c", DIES_MEANWHILE, str(guest.pid), str(tasks))
    run = drgn_tools("tasks", "--qemu", guest.socket, program=program)
    the_line(run)


@pytest.mark.parametrize("share", [0.5, 0.7, 0.9])
def test_guest_that_is_killed_at_any_time_is_one_line(guest: Guest, share: float) -> None:
    start = time.monotonic()
    whole = drgn_tools("tasks", "--qemu", guest.socket)
    whole.communicate(timeout=60)
    assert whole.returncode == 0
    seconds = time.monotonic() - start
    run = drgn_tools("tasks", "--qemu", guest.socket)
    time.sleep(share * seconds)
    os.kill(guest.pid, signal.SIGKILL)
    stdout, stderr = run.communicate(timeout=60)
    if run.returncode == 0:  # done with reading by then
        assert stdout.count("\n") > 100
        return
    assert run.returncode == EXIT_INPUT, (stdout, stderr)
    assert len(stderr.splitlines()) == 1, stderr


def test_monitor_that_somebody_else_uses_is_one_line(guest: Guest) -> None:
    # QEMU answers one at a time; who comes second is not even greeted.
    with socket.socket(socket.AF_UNIX) as somebody:
        somebody.connect(guest.socket)
        assert somebody.recv(1) == b"{"
        run = drgn_tools("tasks", "--qemu", guest.socket)
        try:
            the_line(run, seconds=15)
        finally:
            run.kill()
            run.communicate()


def the_line(run: subprocess.Popen, seconds: float = 60) -> None:
    stdout, stderr = run.communicate(timeout=seconds)
    assert run.returncode == EXIT_INPUT, (stdout, stderr)
    assert stdout == ""
    (line,) = stderr.splitlines()
    print(line)
    assert line.startswith("drgn-tools: error: ")
