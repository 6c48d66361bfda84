# SPDX-License-Identifier: LGPL-2.1-or-later
"""``livepatch --watch``: a transition on a running kernel, until it has ended."""

from __future__ import annotations

import itertools
import time
from typing import TYPE_CHECKING

from ..analysis.transition_watch import TransitionWatch
from ..errors import EXIT_OK
from ..render.livepatch import event_line
from .livepatch import AnswerCounts, LivepatchArguments, look_at_livepatch

if TYPE_CHECKING:
    from .command_line_session import CommandLineSession

__all__ = ("watch_livepatch",)


def watch_livepatch(args: LivepatchArguments, every_s: float, session: CommandLineSession) -> int:
    """Read a transition again and again, and show which tasks left and which are left.

    Ends when no patch is in transition, or when Ctrl-C is pressed.

    :param every_s: Seconds from one reading to the next.
    :return: The exit code.
    """
    watch = TransitionWatch()
    for number in itertools.count(1):
        began = time.monotonic()
        audit, inquiry = look_at_livepatch(args, session)
        counts = AnswerCounts(inquiry)
        answers = list(counts.of(session.select(audit, args.selection)))
        events = watch.look(inquiry.patches, answers, time.time())
        session.write(event_line(event, args.format) for event in events)
        if inquiry.name is None and not inquiry.question.problems:
            break
        session.console.progress(f"look {number}: {counts.summary()}")
        time.sleep(max(0.0, began + every_s - time.monotonic()))
    return EXIT_OK
