# SPDX-License-Identifier: LGPL-2.1-or-later
"""Log messages on the console: which are shown, and that the levels are restored."""

from __future__ import annotations

import io
import logging

import pytest

from drgn_tools.terminal.console import Console
from drgn_tools.terminal.log import log_to_console


@pytest.mark.parametrize(
    ("level", "shown"),
    [
        ("info", "drgn-tools: info: a\ndrgn-tools: error: b\n"),
        ("error", "drgn-tools: error: b\n"),
        ("none", ""),
    ],
)
@pytest.mark.parametrize("name", ["drgn", "drgn.encoded_stacks", "drgn_tools"])
def test_messages_of_the_level_and_above_are_shown(level: str, shown: str, name: str) -> None:
    stream = io.StringIO()
    with log_to_console(Console(stream=stream), level):
        logging.getLogger(name).info("a")
        logging.getLogger(name).error("b")
    assert stream.getvalue() == shown


def test_afterwards_nothing_is_shown_and_the_levels_are_as_before() -> None:
    before = [logging.getLogger(name).level for name in ("drgn", "drgn_tools")]
    stream = io.StringIO()
    with log_to_console(Console(stream=stream), "debug"):
        pass
    logging.getLogger("drgn_tools").error("late")
    assert stream.getvalue() == ""
    assert [logging.getLogger(name).level for name in ("drgn", "drgn_tools")] == before
