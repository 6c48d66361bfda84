# SPDX-License-Identifier: LGPL-2.1-or-later
"""Hold back Ctrl-C until the program asks for it."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ("interrupts_held",)


@contextmanager
def interrupts_held() -> Iterator[Callable[[], None]]:
    """Return a context in which SIGINT and SIGTERM do not interrupt the program.

    Python raises KeyboardInterrupt wherever the program is: in the middle of a commit, or in
    a destructor, which ignores it. Batch systems send SIGTERM to end a run; it is handled in
    the same way. A second signal interrupts at once.

    :return: A function that raises KeyboardInterrupt if a signal has come.
    """
    pressed = False

    def hold(number: int, frame: object) -> None:
        nonlocal pressed
        let()
        pressed = True

    def let() -> None:
        if pressed:
            raise KeyboardInterrupt

    before = {number: signal.signal(number, hold) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield let
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
