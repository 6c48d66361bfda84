# SPDX-License-Identifier: LGPL-2.1-or-later
"""Records that ``str()`` and drgn's prompt show as a drawing, and notebooks as HTML.

This is not in the module of the records because drgn's plugin imports it each time drgn starts:
it imports nothing else.
"""

from __future__ import annotations

from typing import Any, Callable

__all__ = ("Drawn", "InNotebook", "draw_html_with", "draw_with")

_draw: Callable[[Any], str] = repr
_draw_html: Callable[[Any], str] = repr


def draw_with(draw: Callable[[Any], str]) -> None:
    """Set the function that draws records.

    Records cannot import the renderers, which are above them. The package sets this to a function
    that calls ``drgn_tools.render.text.text_of``.

    :param draw: Takes a :class:`Drawn` record, and returns what ``str()`` of it is
    """
    global _draw
    _draw = draw


def draw_html_with(draw: Callable[[Any], str]) -> None:
    """Set the function that draws records in a notebook.

    :param draw: Takes an :class:`InNotebook` record, and returns a self-contained piece of HTML
    """
    global _draw_html
    _draw_html = draw


class InNotebook:
    """Base of a record that a notebook (Jupyter) shows as HTML."""

    __slots__ = ()

    def _repr_html_(self) -> str:
        return _draw_html(self)


class Drawn(InNotebook):
    """Base of a record whose ``str()`` is a drawing."""

    __slots__ = ()

    def __str__(self) -> str:
        return _draw(self)
