# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a dump of a live patch must contain: the cases that its scenario is for."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping

from .livepatch_sheet import LivepatchAnswer, LivepatchSheet
from .variants import Variant

__all__ = ("EXPECTED", "faults_of_moment", "in_words")

_Expected = Mapping[str, str]
"""Of a task by name: what the kernel says of it ("blocked FUNCTION", "unreliable", "done", "free")."""


def _of_all(prefix: str, kthreads: str) -> dict[str, str]:
    """Tasks asleep in functions in transition, as users and as kernel threads, and outside of them."""
    return {
        **{f"{prefix}-old-{state}": "blocked lab_old_sleep" for state in "sdi"},
        **{f"{kthreads}-old-{state}": "blocked lab_old_sleep" for state in "sdi"},
        f"{prefix}-same1": "done",
        f"{prefix}-same2": "blocked same_name",
        f"{prefix}-eventfd": "blocked eventfd_read",
        f"{prefix}-plain": "done",
        f"{prefix}-deep": "done",
        f"{prefix}-too-deep": "unreliable",
        f"{prefix}-leader": "done",
        f"{kthreads}-plain": "done",
        f"{kthreads}-late": "blocked lab_old_sleep",
        f"{kthreads}-free": "free",
    }


_STALLED = {
    **_of_all("w", "k"),
    "w-off": "blocked lab_next",
    # Its only frame is in lab_cold.cold, which is another symbol.
    "w-cold": "done",
}
EXPECTED: Mapping[str, _Expected] = {
    "stalled": _STALLED,
    # Who sleeps interruptibly leaves, with an error for user mode; kernel threads go back to sleep.
    "signalled": {
        **_STALLED,
        "w-old-s": "done",
        "w-eventfd": "done",
        "k-free": "blocked lab_old_sleep",
    },
    # Nobody asks about the version before the last one.
    "replaced": {
        **_of_all("v", "kv"),
        "v-off": "done",
        "v-cold": "blocked lab_cold",
        **{f"w-old-{state}": "done" for state in "sdi"},
        **{f"k-old-{state}": "done" for state in "sdi"},
        "w-same2": "done",
        "w-off": "done",
        "w-eventfd": "done",
    },
    "disabled": {**_of_all("v", "kv"), "v-off": "done", "v-cold": "blocked lab_cold"},
    "late": {
        **_STALLED,
        "k-late": "blocked absent_fn",
        "k-free": "blocked lab_old_sleep",
        # It came from user mode, so it is in the new function.
        "w-late": "done",
    },
}
"""Of each moment with a transition."""


def faults_of_moment(variant: Variant, sheet: LivepatchSheet, console: str) -> list[str]:
    """Everything that makes a dump useless as a test, as lines; none if it is good."""
    return list(_faults(variant, sheet, console))


def _faults(variant: Variant, sheet: LivepatchSheet, console: str) -> Iterator[str]:
    if sheet.moment in EXPECTED:
        yield from _unexpected(sheet, EXPECTED[sheet.moment])
        yield from _spinners(variant, sheet)
    elif sheet.patch:
        yield "a transition is under way"
    if not any(answer.idle_of is not None for answer in sheet.tasks):
        yield "there is no idle task"
    for trouble in re.findall(r"(?:BUG: |WARNING: |Oops: ).*", console):
        yield f"the kernel complained: {trouble.strip()}"


def _unexpected(sheet: LivepatchSheet, expected: _Expected) -> Iterator[str]:
    for name, wanted in expected.items():
        found = [in_words(sheet, answer) for answer in sheet.named(name)]
        if found != [wanted]:
            yield f"{name}: {', '.join(found) or 'missing'}, not {wanted}"


def in_words(sheet: LivepatchSheet, answer: LivepatchAnswer) -> str:
    """What the kernel said, as in EXPECTED."""
    kind = sheet.kind_of(answer)
    return f"{kind} {answer.func}" if kind == "blocked" else kind


def _spinners(variant: Variant, sheet: LivepatchSheet) -> Iterator[str]:
    """Of those that spin in a function in transition one runs, others were preempted in it."""
    kthreads = "kv" if sheet.moment in ("replaced", "disabled") else "k"
    names = (f"{kthreads}-spin/1a", f"{kthreads}-spin/1b")
    found = {in_words(sheet, answer) for name in names for answer in sheet.named(name)}
    # Registers of kernel mode on a stack: unreliable with frame pointers only.
    preempted = "unreliable" if variant.unwinder == "frame_pointer" else "blocked lab_old_spin"
    if preempted not in found or not found <= {preempted, "running"}:
        yield f"spinners: {_listed(found)}, not running and {preempted}"
    if not any(sheet.kind_of(answer) == "running" for answer in sheet.tasks):
        yield "no task is running"
    if variant.unwinder == "frame_pointer" and not _has_unreliable_fault(sheet):
        yield "no task sleeps in a page fault of kernel mode, unreliable"


def _has_unreliable_fault(sheet: LivepatchSheet) -> bool:
    return any(
        sheet.kind_of(answer) == "unreliable"
        for name in ("w-kfault", "v-kfault")
        for answer in sheet.named(name)
    )


def _listed(found: Iterable[str]) -> str:
    return ", ".join(sorted(found)) or "none"
