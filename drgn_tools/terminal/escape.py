# SPDX-License-Identifier: LGPL-2.1-or-later
"""Text from a dump, made safe to show.

A task may give itself any name: ``comm`` may hold escape sequences, newlines and text that runs
right to left. In a damaged dump every other string may hold them, too.
"""

from __future__ import annotations

import unicodedata

__all__ = ("escape", "escape_cell")

# Combining marks are drawn over the letter before them, and over its neighbours.
_MARKS = frozenset(("Mc", "Me", "Mn"))


def escape(text: str) -> str:
    """Return text with everything that is not plainly visible as ``\\xNN``, ``\\uNNNN`` or ``\\UNNNNNNNN``.

    Escaped are combining marks and all that :meth:`str.isprintable` rejects: C0 and C1 controls,
    line ends, bidirectional and zero-width characters, odd spaces, lone surrogates, private and
    unassigned characters. Letters stay as they are, also those beyond ASCII.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(c if _is_visible(c) else _code(c) for c in text)


def escape_cell(text: str) -> str:
    """Do as :func:`escape`, and make spaces at both ends visible.

    This is for a cell of a table, whose padding would hide them.
    """
    text = escape(text)
    inner = text.strip(" ")
    if len(inner) == len(text):
        return text
    start = text.find(inner)
    return "\\x20" * start + inner + "\\x20" * (len(text) - start - len(inner))


def _is_visible(char: str) -> bool:
    return char.isprintable() and unicodedata.category(char) not in _MARKS


def _code(char: str) -> str:
    number = ord(char)
    if number <= 0xFF:
        return f"\\x{number:02x}"
    if number <= 0xFFFF:
        return f"\\u{number:04x}"
    return f"\\U{number:08x}"
