# SPDX-License-Identifier: LGPL-2.1-or-later
"""``diff``: two dumps, a saved snapshot and a dump, two snapshots of a running kernel."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Callable

import drgn
import pytest
from drgn import Object
from msgspec.structs import replace

from drgn_tools.commands.main import main
from drgn_tools.records import KernelAudit, TaskStack, Verdict

from ..support.command_line import SOUND, joined, offer, refused
from ..support.core_copy import CoreCopy
from ..support.fabricated import HOSTILE, KERNEL, SLEEPER
from ..support.snapshots import save


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["diff"], "diff compares two snapshots"),
        (["diff", "a"], "diff compares two snapshots"),
        (["diff", "-k"], "-k --interval SECONDS"),
        (["diff", "a", "b", "c"], "diff compares two snapshots"),
        (["diff", "a", "b", "-k"], "diff compares two snapshots"),
        (["diff", "-c", "a", "-k"], "-c and -k exclude each other"),
        (
            ["diff", "-c", "a", "--interval", "1"],
            "--interval takes two snapshots of a running kernel",
        ),
        (
            ["diff", "a", "-k", "--interval", "1"],
            "--interval takes two snapshots of a running kernel",
        ),
        (["diff", "-k", "--interval", "0"], "--interval takes seconds"),
        (
            ["diff", "a", "b", "--kind", "same"],
            "'same' is not a kind: the kinds are still, changed",
        ),
        (["diff", "a", "b", "--kind", "still", "--all"], "--all lists all kinds"),
        (["diff", "a", "b", "--pid", "x"], "not 'x'; use --comm for a name"),
    ],
    ids=joined,
)
def test_a_usage_error_is_one_line_and_opens_nothing(
    argv: Sequence[str], says: str, nothing_opens: None, capsys: pytest.CaptureFixture[str]
) -> None:
    refused(argv, says, capsys)


# ---- on a real dump


def diff(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[list[dict], str, int]:
    code = main(["diff", *argv, "--format", "jsonl"])
    out, err = capsys.readouterr()
    return [json.loads(line) for line in out.splitlines()], err, code


def test_a_dump_and_itself_differ_in_nothing(
    demo_core: str, stacks: list[TaskStack], capsys: pytest.CaptureFixture[str]
) -> None:
    rows, err, code = diff(capsys, demo_core, demo_core, "--all")
    assert code == 0
    assert len(rows) == len(stacks)
    assert {row["change"] for row in rows} == {"still"}
    assert [row["ran"] for row in rows] == [None if s.on_cpu else False for s in stacks]
    assert f"{len(stacks)} tasks in both snapshots, 0 s apart: {len(stacks)} still" in err
    assert "boots" not in err
    # By default only those that may hang.
    rows, _, _ = diff(capsys, demo_core, "-c", demo_core)
    assert [row["pid"] for row in rows] == [s.pid for s in stacks if s.state == "D"]


@pytest.fixture
def later(demo_program: drgn.Program, stacks: list[TaskStack], tmp_path: Path) -> Later:
    return Later(demo_program, stacks, tmp_path / "later")


class Later:
    """A copy of the dump in which one stack is broken, one task has run, and one PID is another task's."""

    def __init__(self, prog: drgn.Program, stacks: list[TaskStack], path: Path) -> None:
        sound = [s for s in stacks if s.verdict is Verdict.RELIABLE and s.pid and len(s.frames) > 5]
        self.broken, self.ran, self.replaced, self.renamed = sound[:4]
        self.core = CoreCopy(prog, path)
        self.path = str(path)
        # The innermost return address, where the frame pointer says it is.
        sp = self._task(self.broken).thread.sp.value_()
        offset = prog.type("struct inactive_task_frame").member("bp").offset
        self.core.write(prog.read_u64(sp + offset) + 8, (0x1000).to_bytes(8, "little"))
        self._write(self.ran, "nvcsw", (12345).to_bytes(8, "little"))
        self._write(self.replaced, "start_time", (10**15).to_bytes(8, "little"))
        self._write(self.renamed, "comm", b"a new name\0")

    def _task(self, stack: TaskStack) -> Object:
        return Object(self.core.prog, "struct task_struct", address=stack.task)

    def _write(self, stack: TaskStack, member: str, data: bytes) -> None:
        address = self._task(stack).member_(member).address_
        assert address is not None
        self.core.write(address, data)


def test_it_tells_what_was_written_into_a_copy(
    demo_core: str, later: Later, capsys: pytest.CaptureFixture[str]
) -> None:
    rows, _, code = diff(capsys, demo_core, later.path, "--kind", "changed,came,went")
    assert code == 0
    assert [(row["change"], row["pid"]) for row in rows] == [
        ("changed", later.broken.pid),
        ("came", later.replaced.pid),
        ("went", later.replaced.pid),
    ]
    broken = rows[0]
    assert "verdict" in broken["what"]
    assert broken["ran"] is False  # a damaged stack, not another
    assert broken["before"]["reason"] is None
    assert broken["after"]["reason"] == "bad_return_address"
    stayed = {row["pid"]: row for row in diff(capsys, demo_core, later.path, "--kind", "still")[0]}
    assert stayed[later.ran.pid]["ran"] is True
    assert stayed[later.renamed.pid]["before"]["comm"] == later.renamed.comm
    assert stayed[later.renamed.pid]["comm"] == "a new name"


def test_filters_choose_by_either_look(
    demo_core: str, later: Later, capsys: pytest.CaptureFixture[str]
) -> None:
    for glob in ("a new*", later.renamed.comm):
        rows, _, _ = diff(capsys, demo_core, later.path, "--all", "--comm", glob)
        assert [row["pid"] for row in rows] == [later.renamed.pid]
    rows, _, _ = diff(capsys, demo_core, later.path, "--verdict", "unreliable")
    assert [row["pid"] for row in rows] == [later.broken.pid]


def test_another_build_is_said_and_matched_by_name(
    demo_core: str, later: Later, capsys: pytest.CaptureFixture[str]
) -> None:
    later.core.set_build_id("0" * 40)
    rows, err, _ = diff(capsys, demo_core, later.path)
    assert "two builds of 6.12.117: tasks are matched by name and stack" in err
    assert {row["ran"] for row in rows} == {None}
    assert {"came", "went"} <= {row["change"] for row in rows if row["pid"] == later.renamed.pid}


def test_check_is_as_that_of_diff(
    demo_core: str, later: Later, capsys: pytest.CaptureFixture[str]
) -> None:
    check = ("--check", "--kind", "changed")
    assert diff(capsys, demo_core, later.path, *check)[2] == 1
    assert diff(capsys, demo_core, demo_core, *check)[2] == 0


def test_a_saved_look_and_the_dump_that_it_is_of(
    demo_core: str,
    stacks: list[TaskStack],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    saved = tmp_path / "saved.json"
    for frames in (["--frames"], []):
        assert main(["tasks", "-c", demo_core, *frames, "--format", "json"]) == 0
        saved.write_text(capsys.readouterr().out)
        rows, err, _ = diff(capsys, str(saved), demo_core, "--all")
        on_cpu = {s.task for s in stacks if s.on_cpu}
        assert len(rows) == len(stacks)
        unclear = {int(row["after"]["task"], 16) for row in rows if row["change"] == "unclear"}
        # Without frames, the switches tell for all but those on a CPU.
        assert unclear == (set() if frames else on_cpu)
        assert ("has no stacks: it was saved without --frames" in err) is not bool(frames)
    # Neither needs the dump any more.
    assert diff(capsys, str(saved), str(saved), "--check")[2] == 1


# ---- a kernel that runs


@pytest.fixture
def two_looks(monkeypatch: pytest.MonkeyPatch) -> Callable[[KernelAudit, KernelAudit], None]:
    def offer_both(first: KernelAudit, second: KernelAudit) -> None:
        offer(monkeypatch, first)
        looks: Iterator[KernelAudit] = iter((first, second))
        monkeypatch.setattr(
            "drgn_tools.analysis.audit.audit_under_way", lambda *_, **__: next(looks)
        )

    return offer_both


def test_two_looks_at_a_running_kernel(
    two_looks: Callable[[KernelAudit, KernelAudit], None], capsys: pytest.CaptureFixture[str]
) -> None:
    sleeper = replace(SLEEPER, switches=5, start_time_ns=7)
    two_looks(
        KernelAudit(replace(KERNEL, uptime_s=100), (sleeper,)),
        KernelAudit(replace(KERNEL, uptime_s=160), (replace(sleeper, state="D", switches=6),)),
    )
    rows, err, code = diff(capsys, "-k", "--interval", "0.001")
    assert code == 0
    assert [(row["what"], row["ran"]) for row in rows] == [(["state"], True)]
    assert "1 task in both snapshots, 1 min apart: 0 still" in err
    assert err.count("6.12.117") == 1  # introduced once


def test_a_saved_look_and_the_running_kernel(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sound = KernelAudit(KERNEL, tuple(one for one in SOUND if one is not HOSTILE))
    saved = save(sound, tmp_path / "saved.json")
    offer(monkeypatch, sound)
    rows, _, code = diff(capsys, str(saved), "-k", "--kind", "changed,came,went")
    assert (rows, code) == ([], 0)


def test_what_could_not_be_read_is_exit_code_5(
    two_looks: Callable[[KernelAudit, KernelAudit], None], capsys: pytest.CaptureFixture[str]
) -> None:
    two_looks(
        KernelAudit(KERNEL, (SLEEPER,), ("the list ends early",)), KernelAudit(KERNEL, (SLEEPER,))
    )
    _, err, code = diff(capsys, "-k", "--interval", "0.001")
    assert code == 5
    assert f"drgn-tools: warning: {KERNEL.source}: the list ends early" in err


# ---- in the REPL


def test_the_repl_compares_its_kernel_with_an_earlier_look(
    run: Callable[..., tuple[object, str]], demo_core: str
) -> None:
    rows, out = run(f"diff {demo_core} --comm w-mutex")
    assert [change.last.comm for change in rows] == ["w-mutex"]
    assert out.splitlines()[1].split()[:3] == ["still", str(rows[0].last.pid), "w-mutex"]
