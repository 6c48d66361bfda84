# SPDX-License-Identifier: LGPL-2.1-or-later
"""The colours of words: only what calls for a look has one."""

from __future__ import annotations

from ..records import Verdict

__all__ = ("ANSWER_COLOURS", "VERDICT_COLOURS")

VERDICT_COLOURS = {Verdict.UNRELIABLE.value: "red", Verdict.UNKNOWN.value: "yellow"}
"""Verdict -> its colour."""

ANSWER_COLOURS = {
    "in function": "red",
    "unreliable": "red",
    "running": "yellow",
    "unknown": "yellow",
    "no reliable stacktrace": "yellow",
}
"""What a task says to a live patch, as a table has it -> its colour."""
