# SPDX-License-Identifier: LGPL-2.1-or-later
"""What went wrong once in a fleet run or its report, where no other test of the fleet looks."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import threading
from pathlib import Path

import pytest

pytest.importorskip("distributed")
pytest.importorskip("duckdb")

from drgn_tools.commands.fleet_arguments import parse_fleet_arguments
from drgn_tools.commands.main import main
from drgn_tools.data import demo_vmcore
from drgn_tools.errors import UsageError
from drgn_tools.fleet.dataset.dataset import Dataset
from drgn_tools.fleet.report.query import query_lines
from drgn_tools.fleet.run import sandbox as sandbox_module
from drgn_tools.fleet.run.audit_source import audit_source
from drgn_tools.fleet.run.job import Job, Limits
from drgn_tools.fleet.run.sandbox import Sandbox
from drgn_tools.fleet.run.sandboxes import Sandboxes, audit_in_sandbox
from drgn_tools.fleet.run.source import Source, list_sources

from ..support.fleet_processes import wait_until


def test_a_query_that_fails_late_is_a_mistake_and_no_bug(tmp_path: Path) -> None:
    query = (
        "SELECT CAST(CASE WHEN i = 999999 THEN 'x' ELSE '1' END AS INT) FROM range(1000000) t(i)"
    )
    with pytest.raises(UsageError, match="Could not convert"):
        list(query_lines(Dataset.create(tmp_path), query, "csv"))


@pytest.mark.parametrize("query", ["DESCRIBE tasks", "SUMMARIZE audits", "EXPLAIN FROM audits"])
def test_a_table_too_wide_with_no_column_to_shorten_is_shown(tmp_path: Path, query: str) -> None:
    assert list(query_lines(Dataset.create(tmp_path), query, "table"))


def test_a_run_killed_before_its_dataset_was_one_does_not_spoil_the_folder(tmp_path: Path) -> None:
    (tmp_path / ".unfinished-1").touch()
    with Dataset.create(tmp_path).locked():
        assert not (tmp_path / ".unfinished-1").exists()


def test_the_last_words_on_an_earlier_dump_are_not_about_this_one(demo_core: str) -> None:
    sandboxes = Sandboxes()
    limits = Limits(seconds=60, retries=0)
    job = Job(Source(demo_core, demo_core), "key")
    assert audit_in_sandbox(job, limits, sandboxes).record["status"] == "audited"
    [sandbox] = sandboxes._idle
    os.write(sandbox._stderr.fileno(), b"an earlier dump is strange\n")
    killer = threading.Thread(target=_kill_when_busy, args=(sandbox._process.pid,))
    killer.start()
    packed = str(demo_vmcore())  # to unpack it takes long enough
    record = audit_in_sandbox(Job(Source(packed, packed), "key"), limits, sandboxes).record
    killer.join()
    assert record["line"] == f"{packed}: its process was killed by SIGSEGV"


def _kill_when_busy(pid: int) -> None:
    before = _cpu_ticks(pid)
    wait_until("it audits", lambda: _cpu_ticks(pid) > before + 2)
    os.kill(pid, signal.SIGSEGV)


def _cpu_ticks(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11])


def test_runs_with_a_limit_get_through_all_there_is_to_do(
    demo_core: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    dumps = tmp_path / "dumps"
    dumps.mkdir()
    for name in ("a.core", "b.core", "y.core", "z.core"):
        (dumps / name).write_bytes(b"no core")

    def audited(*options: str) -> list[str]:
        command = ["fleet", "run", str(dumps), "-o", str(tmp_path / "fleet"), "--workers", "1"]
        before = records()
        main([*command, *options])
        return [name for name, audit_id in records().items() if before.get(name) != audit_id]

    def records() -> dict[str, str]:
        if not (tmp_path / "fleet").exists():
            return {}
        query = "SELECT source, audit_id FROM audits ORDER BY source"
        _, *lines = query_lines(Dataset.open(tmp_path / "fleet"), query, "csv")
        return {os.path.basename(line.split(",")[0]): line for line in lines}

    assert audited("--limit", "3") == ["a.core", "b.core", "y.core"]
    assert audited("--limit", "3") == ["z.core"]
    # What is unchanged is no audit, and does not keep the others from theirs.
    shutil.copy(demo_core, dumps / "y.core")
    assert audited("--limit", "1") == ["y.core"]
    assert audited("--limit", "1") == []
    # One round after the other.
    assert audited("--limit", "2", "--redo", "failed") == ["a.core", "b.core"]
    assert audited("--limit", "2", "--redo", "failed") == ["a.core", "z.core"]
    assert audited("--limit", "1", "--redo", "all") == ["y.core"]
    capfd.readouterr()


def test_more_memory_than_can_be_a_limit_is_refused() -> None:
    with pytest.raises(UsageError, match="--memory"):
        parse_fleet_arguments(["run", "x", "-o", "y", "--memory", "99999999T"])


def test_a_core_whose_name_is_no_utf_8(demo_core: str, tmp_path: Path) -> None:
    core = os.path.join(os.fsencode(tmp_path), b"\xff.core")
    shutil.copyfile(demo_core, core)
    [source] = list_sources([os.fsdecode(core)]).sources
    assert audit_source(Job(source, "key")).record["line"] is None


def test_what_lies_beside_a_dump_is_not_imported(
    demo_core: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("drgn", "runpy", "json", "drgn_tools"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('imported')")
    # As a console script has it: no working directory, and nothing relative to it.
    monkeypatch.setattr(sys, "path", [os.path.abspath(path) for path in sys.path if path])
    monkeypatch.delenv("PYTHONPATH", raising=False)
    monkeypatch.chdir(tmp_path)
    sandboxes = Sandboxes()
    record = audit_in_sandbox(
        Job(Source(demo_core, demo_core), "key"), Limits(retries=0), sandboxes
    ).record
    sandboxes.close()
    assert record["line"] is None


def test_a_process_that_never_begins_does_not_keep_the_worker(
    demo_core: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sandbox_module, "_GRACE_S", 0.2)
    limits = Limits(seconds=0.5, retries=0)
    sandboxes = Sandboxes()
    sandbox = Sandbox(limits)
    os.kill(sandbox._process.pid, signal.SIGSTOP)
    sandboxes.give_back(sandbox)
    record = audit_in_sandbox(Job(Source(demo_core, demo_core), "key"), limits, sandboxes).record
    assert (record["cause"], record["exit_code"]) == ("time limit", 124)
    assert sandbox._process.poll() is not None
