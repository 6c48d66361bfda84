# SPDX-License-Identifier: LGPL-2.1-or-later
"""Escape text from a dump, so that it is safe to show.

A task may give itself any name: ``comm`` may contain escape sequences, newlines and right-to-left
text. In a damaged dump every other string may contain them, too.
"""

from __future__ import annotations

import unicodedata

__all__ = ("escape", "escape_cell")

# Combining marks are drawn over the letter before them, and over its neighbours.
_MARKS = frozenset(("Mc", "Me", "Mn"))


def escape(text: str) -> str:
    """Return text with all characters that are not plainly visible as ``\\xNN``, ``\\uNNNN`` or ``\\UNNNNNNNN``.

    This escapes combining marks and all characters that :meth:`str.isprintable` rejects: C0 and C1
    controls, line ends, bidirectional and zero-width characters, unusual spaces, lone surrogates,
    private and unassigned characters. Letters stay as they are, also those outside ASCII.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(c if _is_visible(c) else _code(c) for c in text)


def escape_cell(text: str) -> str:
    """Return text as :func:`escape` does, with spaces at both ends escaped as well.

    The padding of a table would hide them.
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
