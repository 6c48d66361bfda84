# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the console of a machine that died must say: the call trace meant, whole."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Optional

from .variants import Crash

__all__ = ("borders_of", "faults_of_crash")

_STAMP = r"\[ *\d+\.\d+\] "
_NEXT = r"Call Trace:|Modules linked in|---\[ end|NMI backtrace|Sending NMI|Kernel Offset|CPU: "
"""A trace may have a report of the unwinder in it, so its end is seen by what follows."""


def faults_of_crash(crash: Crash, console: str) -> list[str]:
    """Everything that makes a crash useless as a test, as lines; none if it is good."""
    return list(_faults(crash, console))


def _faults(crash: Crash, console: str) -> Iterator[str]:
    borders = borders_of(console, crash.begin)
    if borders is None:
        yield f"the console has no whole call trace after {crash.begin!r}"
    elif borders != crash.borders.split():
        yield f"the call trace goes through {' '.join(borders)}, not {crash.borders}"


def borders_of(console: str, begin: str) -> Optional[list[str]]:
    """The stacks that the first call trace after ``begin`` goes through, innermost first.

    None if there is no such trace, or if one of its stacks has no end.
    """
    trace = _first_trace(console, begin)
    if trace is None:
        return None
    words = re.findall(rf"^{_STAMP} <(/?[^>]+)>$", trace, re.M)
    opened = [word for word in words if not word.startswith("/")]
    closed = [word[1:] for word in words if word.startswith("/")]
    return opened if opened == closed else None


def _first_trace(console: str, begin: str) -> Optional[str]:
    """From ``Call Trace:`` to where the kernel speaks of something else."""
    text = console.replace("\r\n", "\n")
    start = re.search(rf"^{_STAMP}{begin}", text, re.M)
    if not start:
        return None
    trace = re.search(rf"^{_STAMP}Call Trace:\n", text[start.end() :], re.M)
    if not trace:
        return None
    rest = text[start.end() + trace.end() :]
    end = re.search(rf"^{_STAMP}(?:{_NEXT})", rest, re.M)
    return rest[: end.start()] if end else rest
