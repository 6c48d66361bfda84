# SPDX-License-Identifier: LGPL-2.1-or-later
"""Colours: who asks for them, and who gets them."""

from __future__ import annotations

import io

import pytest

from drgn_tools.terminal.colour import painted, wants_colour


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("when", "environment", "terminal", "pipe"),
    [
        ("auto", {}, True, False),
        ("always", {"NO_COLOR": "1"}, True, True),
        ("never", {"FORCE_COLOR": "1"}, False, False),
        ("auto", {"NO_COLOR": "1"}, False, False),
        ("auto", {"NO_COLOR": "", "TERM": "xterm"}, True, False),
        ("auto", {"TERM": "dumb"}, False, False),
        ("auto", {"FORCE_COLOR": "1"}, True, True),
        ("auto", {"CLICOLOR_FORCE": "1"}, True, True),
        ("auto", {"CLICOLOR_FORCE": "0"}, True, False),
        ("auto", {"NO_COLOR": "1", "FORCE_COLOR": "1"}, False, False),
    ],
)
def test_who_gets_colours(
    when: str,
    environment: dict[str, str],
    terminal: bool,
    pipe: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR", "CLICOLOR_FORCE", "TERM"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert wants_colour(when, _Terminal()) == terminal
    assert wants_colour(when, io.StringIO()) == pipe


def test_what_has_no_colour_is_as_it_was() -> None:
    assert painted("reliable", None) == "reliable"
    assert painted("unreliable", "red") == "\x1b[31munreliable\x1b[0m"
    assert painted("", "red") == ""
