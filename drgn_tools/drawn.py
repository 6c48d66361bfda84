# SPDX-License-Identifier: LGPL-2.1-or-later
"""Records that ``str()`` and drgn's prompt show as a drawing.

This is not in the module of the records because drgn's plugin imports it each time drgn starts:
it imports nothing else.
"""

from __future__ import annotations

from typing import Any, Callable

__all__ = ("Drawn", "draw_with")

_draw: Callable[[Any], str] = repr


def draw_with(draw: Callable[[Any], str]) -> None:
    """Set the function that draws records.

    Records cannot import the renderers, which are above them. The package sets this to a function
    of ``drgn_tools.render.stack``.

    :param draw: Takes a :class:`Drawn` record, and returns what ``str()`` of it is
    """
    global _draw
    _draw = draw


class Drawn:
    """Base of a record whose ``str()`` is a drawing."""

    __slots__ = ()

    def __str__(self) -> str:
        return _draw(self)
