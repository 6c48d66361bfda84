# SPDX-License-Identifier: LGPL-2.1-or-later
"""Audits in a sandbox: its process really dies, and the record says how."""

from __future__ import annotations

import os
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

pytest.importorskip("pyarrow", reason="needs the extra drgn-tools[fleet]")
pytest.importorskip("fsspec", reason="needs the extra drgn-tools[fleet]")

from drgn_tools.fleet.run import sandbox as sandbox_module
from drgn_tools.fleet.run.job import Job, Limits, Outcome
from drgn_tools.fleet.run.sandboxes import Sandboxes, audit_in_sandbox
from drgn_tools.fleet.run.source import Source

from ..support.fleet_processes import ROOT, wait_until

LIMITS = Limits(seconds=60, retries=0)


@pytest.fixture(autouse=True)
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where temporary files go; in the end there are none."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setenv("TMPDIR", str(folder))
    yield folder
    assert list(folder.iterdir()) == []


@pytest.fixture
def sandboxes(scratch: Path) -> Iterator[Sandboxes]:
    sandboxes = Sandboxes()
    yield sandboxes
    sandboxes.close()
    assert sandbox_pids() == []


def sandbox_pids(parent: int = os.getpid()) -> list[int]:
    """Processes that audit, by their parent; those that are dead do not count."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with suppress(OSError):
                status = dict(
                    line.split(":\t", 1) for line in (folder / "status").read_text().splitlines()
                )
                if (
                    int(status["PPid"]) == parent
                    and status["State"][0] not in "ZX"
                    and b"drgn_tools.fleet.run.sandbox_process" in (folder / "cmdline").read_bytes()
                ):
                    found.append(int(folder.name))
    return found


def job(core: str, name: str = "") -> Job:
    return Job(Source(name=name or core, core=core), "key")


class Deaf:
    """A server that takes connections and never says a word: who opens its URL waits."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.connections: list[socket.socket] = []
        self.answers = False
        self.thread = threading.Thread(target=self._listen)
        self.thread.start()

    @property
    def url(self) -> str:
        return f"ftp://127.0.0.1:{self._socket.getsockname()[1]}/vmcore"

    def _listen(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._socket.accept()
                self.connections.append(connection)
                if self.answers:
                    connection.sendall(b"421 go away\r\n")

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self.thread.join()
        for connection in (self._socket, *self.connections):
            connection.close()


@pytest.fixture
def deaf() -> Iterator[Deaf]:
    server = Deaf()
    yield server
    server.close()


@contextmanager
def under_way(*arguments: Any) -> Iterator[Future[Outcome]]:
    with ThreadPoolExecutor() as pool:
        yield pool.submit(audit_in_sandbox, *arguments)


def wait_for_attempt(deaf: Deaf, number: int) -> int:
    """The process that is at its attempt of that number, from 1."""
    wait_until("an attempt", lambda: len(deaf.connections) >= number)
    (pid,) = sandbox_pids()
    return pid


def assert_audited(outcome: Outcome) -> None:
    record = outcome.record
    assert (record["status"], record["attempts"], record["exit_code"]) == ("audited", 1, 0)
    assert record["tasks"] > 100
    assert outcome.tasks is not None


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (signal.SIGKILL, "SIGKILL (the kernel does this when memory runs out)"),
        (signal.SIGSEGV, "SIGSEGV"),
        (signal.SIGABRT, "SIGABRT"),
        (signal.SIGRTMIN + 6, "signal 40"),
    ],
)
def test_a_dump_that_kills_its_process(
    number: int, said: str, sandboxes: Sandboxes, deaf: Deaf, demo_core: str
) -> None:
    assert_audited(audit_in_sandbox(job(demo_core), LIMITS, sandboxes))
    limits = replace(LIMITS, retries=1)
    with under_way(job(deaf.url, "evil"), limits, sandboxes) as future:
        for attempt in (1, 2):
            os.kill(wait_for_attempt(deaf, attempt), number)
        outcome = future.result()
    record = outcome.record
    assert outcome.tasks is None
    assert record["source"] == "evil"
    assert record["status"] == "failed"
    assert record["cause"] == "crashed"
    assert record["exit_code"] == 128 + number
    assert record["quarantined"] is True
    assert record["attempts"] == len(deaf.connections) == 2
    assert record["line"] == f"evil: its process was killed by {said}"
    assert_audited(audit_in_sandbox(job(demo_core), LIMITS, sandboxes))


def test_an_attempt_that_succeeds_is_final(sandboxes: Sandboxes, deaf: Deaf) -> None:
    with under_way(job(deaf.url), replace(LIMITS, retries=5), sandboxes) as future:
        pid = wait_for_attempt(deaf, 1)
        deaf.answers = True
        os.kill(pid, signal.SIGSEGV)
        record = future.result().record
    # That the server wants nothing of us is an answer: no dump harmed anybody.
    assert (record["cause"], record["exit_code"], record["quarantined"]) == ("input", 3, False)
    assert record["attempts"] == 2
    assert record["line"].startswith(deaf.url)


def test_a_dump_that_takes_forever(sandboxes: Sandboxes, deaf: Deaf, demo_core: str) -> None:
    limits = Limits(seconds=1.5, retries=1)
    began = time.monotonic()
    record = audit_in_sandbox(job(deaf.url, "slow"), limits, sandboxes).record
    assert 2 * limits.seconds <= time.monotonic() - began < 20
    assert (record["cause"], record["exit_code"], record["quarantined"]) == (
        "time limit",
        124,
        True,
    )
    assert record["attempts"] == len(deaf.connections) == 2
    assert record["line"] == "slow: took longer than 1.5 s"
    # A timer of the one before must not hit the next.
    assert_audited(audit_in_sandbox(job(demo_core), replace(limits, seconds=30), sandboxes))


def test_a_process_that_its_timer_does_not_end(
    sandboxes: Sandboxes, deaf: Deaf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sandbox_module, "_GRACE_S", 0.5)
    with under_way(job(deaf.url, "stuck"), Limits(seconds=1.5, retries=0), sandboxes) as future:
        os.kill(wait_for_attempt(deaf, 1), signal.SIGSTOP)
        record = future.result().record
    assert (record["cause"], record["exit_code"]) == ("time limit", 124)
    assert sandbox_pids() == []


def test_a_dump_that_takes_too_much_memory(sandboxes: Sandboxes, demo_core: str) -> None:
    # How much it takes depends on much. Just below that, a library that does not check what malloc()
    # gives it may die of SIGSEGV or SIGABRT; a limit that is too small by more is told as such.
    known = audit_in_sandbox(job(demo_core), LIMITS, sandboxes).record["content_id"]
    for mib in range(96, 0, -8):
        limits = Limits(memory_bytes=mib << 20, retries=1)
        record = audit_in_sandbox(job(demo_core, "large"), limits, sandboxes).record
        if record["exit_code"] not in (0, 134, 139):
            break
    assert (record["cause"], record["exit_code"], record["quarantined"]) == (
        "memory limit",
        137,
        True,
    )
    assert record["line"] == f"large: took more than {mib} MiB of memory"
    assert record["attempts"] == 2
    # So a run that goes on lets it be until its content changes.
    assert record["content_id"] == known
    assert_audited(audit_in_sandbox(job(demo_core), LIMITS, sandboxes))


def test_a_process_that_cannot_even_start(sandboxes: Sandboxes, demo_core: str) -> None:
    record = audit_in_sandbox(
        job(demo_core, "a"), Limits(memory_bytes=4 << 20, retries=1), sandboxes
    ).record
    assert (record["cause"], record["attempts"]) == ("crashed", 2)
    assert record["line"].startswith("a: its process ")
    assert record["line"].isprintable()


def test_limits_are_of_the_process_alone(sandboxes: Sandboxes, demo_core: str) -> None:
    before = resource.getrlimit(resource.RLIMIT_DATA)
    assert_audited(audit_in_sandbox(job(demo_core), LIMITS, sandboxes))
    assert resource.getrlimit(resource.RLIMIT_DATA) == before
    (pid,) = sandbox_pids()
    assert resource.prlimit(pid, resource.RLIMIT_DATA) == (LIMITS.memory_bytes,) * 2
    assert resource.prlimit(pid, resource.RLIMIT_CORE) == (0, 0)


def test_what_cannot_be_audited_kills_nobody(
    sandboxes: Sandboxes, demo_core: str, tmp_path: Path
) -> None:
    (tmp_path / "text").write_text("no core")
    assert_audited(audit_in_sandbox(job(demo_core), LIMITS, sandboxes))
    before = sandbox_pids()
    for core in (str(tmp_path / "text"), str(tmp_path / "nothing"), str(tmp_path), "zip://x::/"):
        record = audit_in_sandbox(job(core), LIMITS, sandboxes).record
        assert (record["cause"], record["exit_code"], record["attempts"]) == ("input", 3, 1)
        assert record["quarantined"] is False
        assert record["line"].isprintable()
        assert core in record["line"]
    assert sandbox_pids() == before


KILL_AT = """
import builtins, os, signal, sys

plain_import = builtins.__import__

def kill(*_):
    open({once!r}, "x").close()
    os.kill(os.getpid(), signal.SIGKILL)

def import_and_look(*arguments, **options):
    found = plain_import(*arguments, **options)
    module = sys.modules.get("drgn_tools.fleet.run.audit_source")
    if hasattr(module, "_content_id"):  # all of it is there
        builtins.__import__ = plain_import
        if not os.path.exists({once!r}):
            setattr(module, {step!r}, kill)
    return found

builtins.__import__ = import_and_look
"""
STEPS = ("_content_id", "_open", "_audit", "tasks_file")
"""Functions of a sandbox process: it looks which dump it is, opens it, audits it, packs what was found."""


@pytest.mark.parametrize("step", STEPS)
def test_a_process_that_is_killed_at_each_step(
    step: str, sandboxes: Sandboxes, demo_core: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    once = tmp_path / "killed"
    (tmp_path / "site").mkdir()
    script = KILL_AT.format(step=step, once=str(once))
    (tmp_path / "site" / "sitecustomize.py").write_text(script)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    record = audit_in_sandbox(job(demo_core), LIMITS, sandboxes).record
    assert once.exists()
    assert (record["status"], record["cause"]) == ("failed", "crashed")
    assert record["exit_code"] == 128 + signal.SIGKILL
    # What it knew of the dump before is in the record: a run that goes on lets it be.
    assert (record.get("content_id") is None) is (step == "_content_id")
    once.unlink()
    again = audit_in_sandbox(job(demo_core), replace(LIMITS, retries=1), sandboxes)
    assert (again.record["status"], again.record["attempts"]) == ("audited", 2)
    assert again.tasks is not None


# ---- who is used again, and who ends


def test_a_process_is_used_again(sandboxes: Sandboxes, demo_core: str) -> None:
    seen = set()
    for _ in range(3):
        assert_audited(audit_in_sandbox(job(demo_core), LIMITS, sandboxes))
        seen.update(sandbox_pids())
    assert len(seen) == 1


def test_one_that_has_grown_is_not(sandboxes: Sandboxes, demo_core: str) -> None:
    half_is_too_much = replace(LIMITS, memory_bytes=128 << 20)
    assert_audited(audit_in_sandbox(job(demo_core), half_is_too_much, sandboxes))
    assert sandbox_pids() == []


def test_other_limits_are_another_process(sandboxes: Sandboxes, demo_core: str) -> None:
    assert_audited(audit_in_sandbox(job(demo_core), LIMITS, sandboxes))
    before = sandbox_pids()
    assert_audited(audit_in_sandbox(job(demo_core), replace(LIMITS, seconds=50), sandboxes))
    assert len(sandbox_pids()) == 1
    assert sandbox_pids() != before


def test_one_that_died_idle_costs_nobody_an_attempt(sandboxes: Sandboxes, demo_core: str) -> None:
    assert_audited(audit_in_sandbox(job(demo_core), LIMITS, sandboxes))
    (pid,) = sandbox_pids()
    os.kill(pid, signal.SIGKILL)
    wait_until("its death", lambda: not sandbox_pids())
    assert_audited(audit_in_sandbox(job(demo_core), LIMITS, sandboxes))


def test_several_at_the_same_time(sandboxes: Sandboxes, demo_core: str, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no core")
    cores = [demo_core, str(tmp_path / "text")] * 4
    with ThreadPoolExecutor(4) as pool:
        outcomes = list(
            pool.map(lambda core: audit_in_sandbox(job(core), LIMITS, sandboxes), cores)
        )
    for core, outcome in zip(cores, outcomes):
        assert outcome.record["source"] == core
        assert (outcome.record["status"] == "audited") is (core == demo_core)
    assert len(sandbox_pids()) <= 4


IDLE = """
import socket, subprocess, sys
ours, theirs = socket.socketpair()
code = "import sys; from drgn_tools.fleet.run import sandbox_process as p; p._IDLE_S = 0.3; p.main(int(sys.argv[1]), 1 << 30, sys.argv[2])"
child = subprocess.Popen([sys.executable, "-c", code, str(theirs.fileno()), sys.argv[1]],
                         stdin=subprocess.PIPE, pass_fds=[theirs.fileno()])
theirs.close()
sys.exit(child.wait(60))
"""


def test_who_has_no_work_ends(tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    subprocess.run([sys.executable, "-c", IDLE, scratch], check=True, cwd=ROOT, timeout=60)
    assert not scratch.exists()


PARENT = """
import sys
from drgn_tools.fleet.run.sandboxes import Sandboxes, audit_in_sandbox
from drgn_tools.fleet.run.job import Job, Limits
from drgn_tools.fleet.run.source import Source
def audit(core):
    return audit_in_sandbox(Job(Source(core, core), "key"), Limits(), sandboxes)
sandboxes = Sandboxes()
print(audit(sys.argv[1]).record["status"], flush=True)
if len(sys.argv) > 2:
    audit(sys.argv[2])
sys.stdin.read()
"""


@pytest.mark.parametrize("busy", [False, True])
def test_it_ends_with_its_parent(busy: bool, deaf: Deaf, demo_core: str, scratch: Path) -> None:
    arguments = [demo_core, deaf.url] if busy else [demo_core]
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, *arguments],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "audited\n"
        wait_until("it is at it", lambda: len(deaf.connections) == busy)
        (pid,) = sandbox_pids(parent.pid)
        parent.kill()
    wait_until("the end of the process", gone(pid), 10)
    # It looks dead for a moment, too, when rm takes its place.
    wait_until("the end of its folder", lambda: not any(scratch.iterdir()), 10)


def gone(pid: int) -> Callable[[], bool]:
    def is_gone() -> bool:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        # Where nobody reaps orphans.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"

    return is_gone
