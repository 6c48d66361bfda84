# SPDX-License-Identifier: LGPL-2.1-or-later
"""What changes from one reading of a transition to the next: which tasks left, which are left, since when."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Optional

import msgspec

from ..kernel.livepatch import Livepatches
from .livepatch import listed_patches
from .patch_question import Answer, TaskAnswer

__all__ = ("TransitionEvent", "TransitionWatch")


class TransitionEvent(msgspec.Struct, frozen=True):
    """Something that changed."""

    time: float
    """Time of the reading that saw it, in seconds since the epoch."""
    event: str
    """``begins`` or ``ends`` (the transition); ``holds`` or ``left`` (a task); ``at rest``: no patch
    was in transition at the first reading."""
    patch: Optional[str] = None
    """Name of the patch."""
    task: Optional[TaskAnswer] = None
    """The task, as it was when it was last seen to hold the patch back."""
    for_s: Optional[float] = None
    """Seconds since the reading that first saw the task hold the patch back, or the transition begin."""


class TransitionWatch:
    """Compares each reading with the one before."""

    def __init__(self) -> None:
        self._patch: Optional[tuple[str, str]] = None
        self._since = 0.0
        self._holding: dict[tuple[int, int], tuple[float, TaskAnswer]] = {}
        """Tasks that held the patch back and are not done: since when, and the last answer."""
        self._looks = 0

    def look(
        self, patches: Livepatches, answers: Iterable[TaskAnswer], now: float
    ) -> Iterator[TransitionEvent]:
        """Yield what changed since the last reading.

        A reading with contradictory patches is ignored: they may have changed while they were
        read.

        :param answers: Of all tasks
        :param now: Seconds since the epoch
        """
        if patches.target is None:
            return
        self._looks += 1
        patch = next(
            (
                (listed.patch.name, listed.transition)
                for listed in listed_patches(patches)
                if listed.transition is not None
            ),
            None,
        )
        if patch != self._patch:
            yield from self._ended(now)
            self._patch, self._since = patch, now
            if patch is not None:
                yield TransitionEvent(now, "begins", patch[0])
        elif patch is None and self._looks == 1:
            yield TransitionEvent(now, "at rest")
        if patch is not None:
            yield from self._compared(patch[0], answers, now)

    def _ended(self, now: float) -> Iterator[TransitionEvent]:
        if self._patch is None:
            return
        yield from self._left(self._patch[0], dict(self._holding), now)
        yield TransitionEvent(now, "ends", self._patch[0], None, now - self._since)

    def _compared(
        self, patch: str, answers: Iterable[TaskAnswer], now: float
    ) -> Iterator[TransitionEvent]:
        # A task that is only free is still in the old version.
        waiting = {
            (found.stack.task, found.stack.pid): found
            for found in answers
            if found.answer is not Answer.DONE
        }
        gone = {key: held for key, held in self._holding.items() if key not in waiting}
        yield from self._left(patch, gone, now)
        for key, found in waiting.items():
            if not found.holds:
                continue
            since, before = self._holding.get(key, (now, None))
            self._holding[key] = since, found
            if before is None or _place(before) != _place(found):
                yield TransitionEvent(now, "holds", patch, found, now - since)

    def _left(
        self, patch: str, gone: dict[tuple[int, int], tuple[float, TaskAnswer]], now: float
    ) -> Iterator[TransitionEvent]:
        for key, (since, found) in gone.items():
            del self._holding[key]
            yield TransitionEvent(now, "left", patch, found, now - since)


def _place(found: TaskAnswer) -> tuple[Answer, Optional[str]]:
    return found.answer, found.function
