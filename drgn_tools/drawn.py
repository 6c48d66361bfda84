# SPDX-License-Identifier: LGPL-2.1-or-later
"""Records that people see as a drawing: ``str()`` of them, and a prompt that shows them.

Apart from the records, because importing this costs nothing: drgn's plugin tells the prompt
of it at every start of drgn.
"""

from __future__ import annotations

from typing import Any, Callable

__all__ = ("Drawn", "draw_with")

_draw: Callable[[Any], str] = repr


def draw_with(draw: Callable[[Any], str]) -> None:
    """Set what ``str()`` of a :class:`Drawn` record returns.

    Records lie below the renderers and do not know them: the package sets the drawing of
    ``drgn_tools.render.stack``.
    """
    global _draw
    _draw = draw


class Drawn:
    """A record that is shown as its drawing."""

    __slots__ = ()

    def __str__(self) -> str:
        return _draw(self)
