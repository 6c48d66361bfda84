# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the console of a machine that died must say: the call traces meant, whole."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Optional

from .variants import Crash

__all__ = ("borders_of", "faults_of_crash", "traces_of")

_STAMP = r"\[ *\d+\.\d+\] "
_REPORT = re.compile(rf"^{_STAMP}CPU: \d+ .*\bComm: lab-crasher .*\n", re.M)
_TRACE = re.compile(rf"^{_STAMP}Call Trace:\n", re.M)
_END = re.compile(
    rf"^{_STAMP}(?:Call Trace:|Modules linked in|---\[ end|NMI backtrace|Sending NMI|Kernel Offset"
    r"|CPU: )",
    re.M,
)
"""A trace may have a report of the unwinder in it, so its end is seen by what follows."""
_BORDER = re.compile(rf"^{_STAMP} <(/?[^>]+)>$", re.M)


def faults_of_crash(crash: Crash, said: str) -> list[str]:
    """Everything that makes a crash useless as a test, as lines; none if it is good."""
    return list(_faults(crash, said))


def _faults(crash: Crash, said: str) -> Iterator[str]:
    found = traces_of(said)
    for kind, wanted in (("oops", crash.oops), ("panic", crash.panic)):
        if wanted is None and kind in found:
            yield f"there is a call trace of the {kind}"
        elif wanted is not None and kind not in found:
            yield f"there is no call trace of the {kind}"
        elif wanted is not None:
            borders = borders_of(found[kind])
            if borders is None:
                yield f"the call trace of the {kind} has a stack with no end"
            elif borders != wanted.split():
                yield f"the call trace of the {kind} goes through {' '.join(borders)}, not {wanted}"


def traces_of(said: str) -> dict[str, str]:
    """The first call trace of each kind, of the task that died.

    "oops" begins at registers, which are printed before it; "panic" where the kernel stands.
    """
    traces: dict[str, str] = {}
    text = said.replace("\r\n", "\n")
    for report in _REPORT.finditer(text):
        start = _TRACE.search(text, report.end())
        if start is None:
            break
        head = text[report.end() : start.start()]
        if not _REPORT.search(head):
            kind = "oops" if re.search(rf"^{_STAMP}[RE]IP: ", head, re.M) else "panic"
            end = _END.search(text, start.end())
            traces.setdefault(kind, text[start.end() : end.start() if end else len(text)])
    return traces


def borders_of(trace: str) -> Optional[list[str]]:
    """The stacks that a call trace goes through, innermost first; None if one has no end."""
    words = _BORDER.findall(trace)
    opened = [word for word in words if not word.startswith("/")]
    closed = [word[1:] for word in words if word.startswith("/")]
    return opened if opened == closed else None
