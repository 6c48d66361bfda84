# SPDX-License-Identifier: LGPL-2.1-or-later
"""Fixtures: records made by hand behind the command line, and a REPL."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Callable

import drgn
import pytest
from drgn.commands import run_command

from drgn_tools import task_stacks
from drgn_tools.records import TaskStack, Verdict

from ..support.command_line import SOUND, offer
from ..support.fabricated import AUDIT
from ..support.repl import Repl


@pytest.fixture
def fabricated(monkeypatch: pytest.MonkeyPatch) -> None:
    offer(monkeypatch, AUDIT)


@pytest.fixture
def sound(monkeypatch: pytest.MonkeyPatch) -> None:
    offer(monkeypatch, SOUND)


@pytest.fixture
def nothing_opens(monkeypatch: pytest.MonkeyPatch) -> None:
    def open_program(**_: object) -> None:
        pytest.fail("a dump was opened")

    monkeypatch.setattr("drgn_tools.program.open.open_program", open_program)


@pytest.fixture(scope="session")
def stacks(demo_program: drgn.Program) -> list[TaskStack]:
    return list(task_stacks(demo_program))


@pytest.fixture(scope="session")
def interrupted(stacks: list[TaskStack]) -> TaskStack:
    """An unreliable task with registers of both modes."""
    return next(
        s
        for s in stacks
        if s.verdict is Verdict.UNRELIABLE and {r.user_mode for r in s.regs} == {True, False}
    )


@pytest.fixture(scope="session")
def terminal(demo_core: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Repl]:
    # A plain drgn -c CORE, and no debuginfo anywhere.
    terminal = Repl("-c", demo_core, history=tmp_path_factory.mktemp("history"))
    yield terminal
    assert terminal.close() == 0


@pytest.fixture
def run(demo_program: drgn.Program, capsys: pytest.CaptureFixture[str]) -> Callable[..., object]:
    def run(command: str) -> tuple[object, str]:
        result = run_command(demo_program, command)
        return result, capsys.readouterr().out

    return run
