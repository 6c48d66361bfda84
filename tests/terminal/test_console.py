# SPDX-License-Identifier: LGPL-2.1-or-later
"""Progress on the console: shown only to a person, and removed again."""

from __future__ import annotations

import io
import time

import pytest

from drgn_tools.terminal.console import Console


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_is_shown_on_a_terminal_and_taken_away(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter(range(100))
    monkeypatch.setattr(time, "monotonic", lambda: next(now))
    stream = Terminal()
    console = Console(stream=stream)
    console.progress("1 tasks")
    console.note("done")
    assert stream.getvalue() == "\r1 tasks\x1b[K\r\x1b[Kdone\n"


@pytest.mark.parametrize(("quiet", "stream"), [(True, Terminal()), (False, io.StringIO())])
def test_progress_is_for_nobody_else(
    quiet: bool, stream: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = iter(range(100))
    monkeypatch.setattr(time, "monotonic", lambda: next(now))
    console = Console(quiet, stream)
    console.progress("1 tasks")
    console.end_progress()
    assert stream.getvalue() == ""
