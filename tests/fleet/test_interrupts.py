# SPDX-License-Identifier: LGPL-2.1-or-later
"""Ctrl-C and SIGTERM: held back, once for each wish to stop, and answered in one line."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("duckdb", reason="needs the extra drgn-tools[fleet]")
pytest.importorskip("pyarrow", reason="needs the extra drgn-tools[fleet]")
pytest.importorskip("distributed", reason="needs the extra drgn-tools[fleet]")

from drgn_tools.commands import fleet
from drgn_tools.commands.main import main
from drgn_tools.fleet.run import interrupts
from drgn_tools.fleet.run.interrupts import interrupts_held, kept_from_new_threads


def interrupt(number: int = signal.SIGINT) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_waits_until_it_is_asked_for(number: int) -> None:
    with interrupts_held() as let_interrupts:
        let_interrupts()
        interrupt(number)
        with pytest.raises(KeyboardInterrupt):
            let_interrupts()


def test_two_signals_of_one_moment_are_one_wish_to_stop() -> None:
    with interrupts_held() as let_interrupts:
        interrupt()
        interrupt()
        with pytest.raises(KeyboardInterrupt):
            let_interrupts()


def test_a_second_signal_interrupts_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(interrupts.time, "monotonic", lambda: now[0])
    with interrupts_held():
        interrupt()
        now[0] += 1
        with pytest.raises(KeyboardInterrupt):
            interrupt()


def test_before_the_first_audit_it_is_said_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(fleet, "list_sources", interrupted)
    assert main(["fleet", "run", str(tmp_path), "-o", str(tmp_path / "dataset")]) == 130
    assert capsys.readouterr().err == (
        "interrupted before the first audit; the same command starts again\n"
    )


def test_threads_of_libraries_take_no_signal() -> None:
    # pyarrow 21 starts one as it is imported. It took the Ctrl-C that was ignored for the workers' sake.
    masks: list[set[signal.Signals]] = []

    def look() -> None:
        masks.append(set(signal.pthread_sigmask(signal.SIG_BLOCK, ())))

    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    with kept_from_new_threads():
        thread = threading.Thread(target=look)
        thread.start()
        thread.join()
    assert masks == [set(before) | {signal.SIGINT, signal.SIGTERM}]
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before
