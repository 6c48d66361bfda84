# SPDX-License-Identifier: LGPL-2.1-or-later
"""What people call things: a frame, a place in the code.

Not escaped: that is done where the text is put into its surroundings.
"""

from __future__ import annotations

from typing import Optional

from ..records import Frame, Symbol

__all__ = ("frame_label", "function_label", "mode_name", "place")


def place(ip: int, symbol: Optional[Symbol]) -> str:
    """``vfs_read+0x8f``, ``ext4_map_blocks+0x1c [ext4]``, or the bare address."""
    if symbol is None:
        return hex(ip)
    return f"{symbol} [{symbol.module}]" if symbol.module else str(symbol)


def frame_label(frame: Frame) -> str:
    """Where the frame is, with the offset."""
    return place(frame.ip, frame.symbol)


def function_label(frame: Frame) -> str:
    """The function that the frame is in."""
    symbol = frame.symbol
    if symbol is None:
        return hex(frame.ip)
    return f"{symbol.name} [{symbol.module}]" if symbol.module else symbol.name


def mode_name(user_mode: bool) -> str:
    """Where the CPU was."""
    return "user" if user_mode else "kernel"
