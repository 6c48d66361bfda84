# SPDX-License-Identifier: LGPL-2.1-or-later
"""Colours of a terminal, and whether to use them."""

from __future__ import annotations

import os
from typing import Optional, TextIO

from .console import is_terminal

__all__ = ("WHEN", "painted", "wants_colour")

WHEN = ("auto", "always", "never")
"""Values of ``--color``."""

_CODES = {"red": "31", "yellow": "33", "bold": "1"}
_PLAIN = "\x1b[0m"


def wants_colour(when: str, stream: Optional[TextIO]) -> bool:
    """Return whether output to a stream has colours.

    :param when: One of :data:`WHEN`. ``auto``: the environment decides (``NO_COLOR``, then ``FORCE_COLOR``
        and ``CLICOLOR_FORCE``); otherwise a terminal that is not ``dumb`` has colours.
    """
    if when != "auto":
        return when == "always"
    if os.environ.get("NO_COLOR"):
        return False
    if any(
        os.environ.get(name, "0") not in ("", "0") for name in ("FORCE_COLOR", "CLICOLOR_FORCE")
    ):
        return True
    return is_terminal(stream) and os.environ.get("TERM") != "dumb"


def painted(text: str, colour: Optional[str]) -> str:
    """Return text in a colour.

    :param text: Escaped text.
    :param colour: ``red``, ``yellow`` or ``bold``; ``None`` to return the text unchanged.
    """
    return text if colour is None or not text else f"\x1b[{_CODES[colour]}m{text}{_PLAIN}"
