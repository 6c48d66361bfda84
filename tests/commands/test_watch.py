# SPDX-License-Identifier: LGPL-2.1-or-later
"""``tasks --watch``: what changes on a running kernel."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest
from msgspec.structs import replace

from drgn_tools.commands.main import main
from drgn_tools.records import KernelAudit, TaskStack, Verdict

from ..support.command_line import SOUND, joined, offer, refused
from ..support.fabricated import FAULTING, KERNEL, SLEEPER


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["tasks", "-k", "--watch", "0"], "--watch takes seconds"),
        (["tasks", "-k", "--watch", "soon"], "--watch takes seconds"),
        (["tasks", "-k", "--watch", "nan"], "--watch takes seconds"),
        (["tasks", "-c", "a", "--watch", "1"], "nothing changes in a vmcore"),
        (["tasks", "-k", "--until-reliable"], "--until-reliable works only with --watch"),
        (
            ["tasks", "-k", "--watch", "1", "--frames"],
            "--frames, --sort and --columns do not work with --watch",
        ),
        (["tasks", "-k", "--watch", "1", "--format", "csv"], "it has table and jsonl"),
    ],
    ids=joined,
)
def test_a_usage_error_is_one_line_and_opens_nothing(
    argv: Sequence[str], says: str, nothing_opens: None, capsys: pytest.CaptureFixture[str]
) -> None:
    refused(argv, says, capsys)


def offer_looks(monkeypatch: pytest.MonkeyPatch, *looks: Sequence[TaskStack]) -> list[float]:
    """Let each audit find the next of *looks*; gives the list of sleeps between them."""
    rest = iter(looks)
    slept: list[float] = []
    offer(monkeypatch, SOUND)
    monkeypatch.setattr(
        "drgn_tools.analysis.audit.audit_kernel",
        lambda prog, **_: KernelAudit(KERNEL, tuple(next(rest))),
    )
    monkeypatch.setattr("time.sleep", slept.append)
    return slept


def now_reliable(task: TaskStack) -> TaskStack:
    return replace(task, verdict=Verdict.RELIABLE, reason=None, why=None, brief=None)


def test_watch_ends_when_all_were_reliable_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    slept = offer_looks(
        monkeypatch, [SLEEPER, FAULTING], [SLEEPER, FAULTING], [SLEEPER, now_reliable(FAULTING)]
    )
    assert main(["tasks", "-k", "--watch", "7", "--until-reliable", "--check"]) == 0
    captured = capsys.readouterr()
    lines = [line.split(None, 1)[1] for line in captured.out.splitlines()]
    assert lines == [
        "unreliable       51  reader            page fault in rep_stos_alternative+0x40",
        "reliable         51  reader            was unreliable for 0 s",
    ]
    assert len(slept) == 2
    assert all(0 < seconds <= 7 for seconds in slept)
    assert captured.err.count("unwinder: frame pointers") == 1
    assert "2 tasks: 2 reliable" in captured.err


def test_watch_in_json_has_an_object_for_each_change(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    offer_looks(monkeypatch, [SLEEPER, FAULTING], [now_reliable(SLEEPER)])
    argv = ["tasks", "-k", "--watch", "1", "--until-reliable", "--format", "jsonl", "-q"]
    assert main(argv) == 0
    changes = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(c["pid"], c["verdict"], c["before"]) for c in changes] == [
        (51, "unreliable", None),
        (51, None, "unreliable"),
    ]
    assert all(
        list(c) == ["time", "task", "pid", "comm", "verdict", "reason", "why", "before", "seconds"]
        for c in changes
    )


def test_watch_that_is_interrupted_says_so_by_its_exit_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    offer_looks(monkeypatch, [FAULTING])

    def interrupted(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("time.sleep", interrupted)
    assert main(["tasks", "-k", "--watch", "1"]) == 130
    assert "page fault" in capsys.readouterr().out
