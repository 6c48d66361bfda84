# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the console of an arm64 machine that died must say: its call traces do not name stacks."""

from __future__ import annotations

import re
from collections.abc import Iterator

from .variants import Crash

__all__ = ("faults_of_arm64_crash", "traces_on")

_STAMP = re.compile(r"^\[ *\d+\.\d+\](?:\[[^]]*\])? ?", re.M)
_REPORT = re.compile(r"^CPU: \d+ .*\bComm: lab-crasher .*\n", re.M)
_TRACE = re.compile(r"^Call trace:\n((?: .+\n)+)", re.M)


def faults_of_arm64_crash(crash: Crash, console: str) -> list[str]:
    """Everything that makes a crash useless as a test, as lines; none if it is good."""
    return list(_faults(crash, console))


def _faults(crash: Crash, console: str) -> Iterator[str]:
    kinds = {kind for kind, _ in traces_on(console)}
    if crash.oops is not None and "oops" not in kinds:
        yield "there is no call trace of the oops"
    if crash.oops is None and "panic" not in kinds:
        yield "there is no call trace of the panic"


def traces_on(console: str) -> list[tuple[str, list[str]]]:
    """The call traces of the task that died, oldest first: kind, and lines as they were printed.

    "oops" begins at registers, which are printed before it; "panic" where the kernel stands.
    """
    text = _STAMP.sub("", console.replace("\r\n", "\n"))
    found = []
    for report in _REPORT.finditer(text):
        trace = _TRACE.search(text, report.end())
        if trace is None:
            break
        head = text[report.end() : trace.start()]
        if not _REPORT.search(head):
            kind = "oops" if re.search(r"^pc : ", head, re.M) else "panic"
            found.append((kind, [line.strip() for line in trace[1].splitlines()]))
    return found
