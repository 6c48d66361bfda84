# SPDX-License-Identifier: LGPL-2.1-or-later
"""Hold back Ctrl-C until the program asks for it."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Optional

__all__ = ("interrupts_held", "kept_from_new_threads")

_ONE_PRESS_S = 0.5
"""Signals within this time count as one request to stop: ``timeout`` and batch systems send one to the
process, and one to its group."""


@contextmanager
def interrupts_held() -> Iterator[Callable[[], None]]:
    """Return a context in which SIGINT and SIGTERM do not interrupt the program.

    Python raises KeyboardInterrupt wherever the program is: in the middle of a commit, or in
    a destructor, which ignores it. Batch systems send SIGTERM to end a run; it is handled in
    the same way. A second signal, if it comes later, interrupts at once.

    :return: A function that raises KeyboardInterrupt if a signal has come.
    """
    pressed: Optional[float] = None

    def hold(number: int, frame: object) -> None:
        nonlocal pressed
        now = time.monotonic()
        if pressed is None:
            pressed = now
        elif now > pressed + _ONE_PRESS_S:
            raise KeyboardInterrupt

    def let() -> None:
        if pressed is not None:
            raise KeyboardInterrupt

    before = {number: signal.signal(number, hold) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield let
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def kept_from_new_threads() -> Iterator[None]:
    """Return a context in which this thread blocks SIGINT and SIGTERM. New threads block them until they end.

    Some libraries start threads while they are imported (pyarrow 21). If such a thread takes a signal
    while the signal is ignored, the signal is lost.
    """
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
