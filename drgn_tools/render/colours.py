# SPDX-License-Identifier: LGPL-2.1-or-later
"""The colours of words. Only words that need attention have one."""

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
"""A task's answer about a live patch, as a table shows it -> its colour."""
