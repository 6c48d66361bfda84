# SPDX-License-Identifier: LGPL-2.1-or-later
"""Names of frames for people: the function, with or without offset and module.

The text is not escaped. The renderer escapes it by the rules of its format.
"""

from __future__ import annotations

from typing import Optional, Union

from ..records import Frame, SavedRegs

__all__ = ("frame_label", "function_label", "function_of", "mode_name", "place", "symbol_text")


def symbol_text(record: Union[Frame, SavedRegs]) -> Optional[str]:
    """Return the symbol of a frame or of saved registers as text.

    :return: ``vfs_read+0x8f``; ``None`` if no symbol is known there.
    """
    return None if record.symbol is None else str(record.symbol)


def function_of(record: Union[Frame, SavedRegs]) -> Optional[str]:
    """Return the name of the function that a frame or saved registers are in.

    :return: ``vfs_read``, without offset and module; ``None`` if no symbol is known there.
    """
    return None if record.symbol is None else record.symbol.name


def place(ip: int, symbol: Optional[str], module: Optional[str]) -> str:
    """Return a place in the code as text.

    :param ip: Its address, shown if there is no symbol.
    :param symbol: ``name`` or ``name+0xoffset``; ``None`` if no symbol is known there.
    :param module: Name of the module that holds it; ``None`` for the kernel image.
    :return: ``vfs_read+0x8f``, ``ext4_map_blocks+0x1c [ext4]``, or ``0xffffffff81234567``.
    """
    name = symbol or hex(ip)
    return f"{name} [{module}]" if module else name


def frame_label(frame: Frame) -> str:
    """Return the place of a frame with the offset: ``ext4_map_blocks+0x1c [ext4]``."""
    return place(frame.ip, symbol_text(frame), frame.module)


def function_label(frame: Frame) -> str:
    """Return the function of a frame with its module: ``ext4_map_blocks [ext4]``."""
    return place(frame.ip, function_of(frame), frame.module)


def mode_name(user_mode: bool) -> str:
    """Return ``user`` or ``kernel``: the mode that the CPU was in."""
    return "user" if user_mode else "kernel"
