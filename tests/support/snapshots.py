# SPDX-License-Identifier: LGPL-2.1-or-later
"""An earlier snapshot of the fabricated kernel, to compare with the later one."""

from __future__ import annotations

from pathlib import Path

from msgspec.structs import replace

from drgn_tools.records import KernelAudit, Verdict
from drgn_tools.render.views import TASKS, TASKS_WITH_FRAMES, render

from .fabricated import (
    AUDIT,
    BAD_ADDRESS,
    BROKEN,
    FAULTING,
    HOSTILE,
    IN_MODULE,
    KERNEL,
    NEVER_RUN,
    PREEMPTED,
    SLEEPER,
    task,
)
from .fabricated import (
    TASKS as LATER_TASKS,
)

EARLIER_KERNEL = replace(KERNEL, source="live", last_words=())

_CHANGED = (
    # Its stack changed, and was reliable before.
    replace(
        FAULTING, verdict=Verdict.RELIABLE, reason=None, why=None, frames=SLEEPER.frames, regs=()
    ),
    replace(BROKEN, frames=BROKEN.frames[1:]),
    replace(PREEMPTED, state="S"),
    # Its module was called by another function.
    replace(IN_MODULE, frames=(*IN_MODULE.frames[:-1], SLEEPER.frames[0])),
    # Its PID was given to a new task.
    replace(BAD_ADDRESS, start_time_ns=1),
    replace(HOSTILE, comm="\x1b[31m\n|<b>\u202e"),
)
_GONE = task(70, "cron", frames=SLEEPER.frames, state="D")

EARLIER = KernelAudit(
    EARLIER_KERNEL,
    (
        *(
            next((one for one in _CHANGED if one.task == later.task), later)
            for later in LATER_TASKS
            if later is not NEVER_RUN
        ),
        _GONE,
    ),
)
"""Compared with :data:`.fabricated.AUDIT`, one task does not exist yet, one still exists, and some differ."""

LATER = KernelAudit(
    KERNEL,
    tuple(replace(one, start_time_ns=2) if one is BAD_ADDRESS else one for one in LATER_TASKS),
    AUDIT.problems,
)
"""Like :data:`.fabricated.AUDIT`, with another start time of one task."""


def save(audit: KernelAudit, path: Path, frames: bool = True) -> Path:
    """Write what ``tasks --format json`` prints of an audit."""
    view = TASKS_WITH_FRAMES if frames else TASKS
    lines = render(view, "json", audit.kernel, audit.tasks, audit.problems)
    path.write_text("\n".join(lines))
    return path
