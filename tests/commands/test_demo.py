# SPDX-License-Identifier: LGPL-2.1-or-later
"""``demo``: a guided tour of the vmcore in the package."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pytest

from drgn_tools.commands.main import main

from ..support.command_line import joined, refused


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["demo", "-c", "a"], "demo has its own vmcore"),
    ],
    ids=joined,
)
def test_a_usage_error_is_one_line_and_opens_nothing(
    argv: Sequence[str], says: str, nothing_opens: None, capsys: pytest.CaptureFixture[str]
) -> None:
    refused(argv, says, capsys)


@pytest.mark.parametrize(
    "options", [["--format", "json"], ["--format", "csv", "--frames"], ["--format", "github"]]
)
def test_demo_is_tasks_in_every_format_but_the_table(
    options: list[str], fabricated: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["demo", *options]) == main(["tasks", "-c", "vmcore", *options])
    out = capsys.readouterr().out
    assert out[: len(out) // 2] == out[len(out) // 2 :]


def test_demo_shows_what_cannot_be_trusted_first_and_where_to_go_next(
    fabricated: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["drgn-tools"])
    main(["demo"])
    out = capsys.readouterr().out
    verdicts = re.findall(r" (unreliable|unknown|reliable) ", out.split("One of")[0])
    assert verdicts == ["unknown", *["unreliable"] * 6, *["unknown"] * 2, *["reliable"] * 13]
    assert "PID: 51  TASK: " in out and "\nTGID: 42" in out
    commands = [line.split() for line in out.splitlines() if line.startswith("  drgn-tools ")]
    assert [words[1] for words in commands] == ["stack", "regs", "groups", "tasks"]
    for words in commands:
        assert main(words[1:]) in (0, 5)


def test_demo_draws_only_what_was_selected(sound: None, capsys: pytest.CaptureFixture[str]) -> None:
    for pid in ("52", "53"):
        main(["demo", "--pid", pid])
        assert re.findall(r"^PID: (\d+)", capsys.readouterr().out, re.MULTILINE) == [pid]
    main(["demo", "--pid", "1"])
    assert "PID: " not in capsys.readouterr().out
