# SPDX-License-Identifier: LGPL-2.1-or-later
"""What people call things: a frame, a place in the code.

Not escaped: that is done where the text is put into its surroundings.
"""

from __future__ import annotations

from typing import Optional

from ..analysis.queries import function_name
from ..records import Frame

__all__ = ("frame_label", "function_label", "mode_name", "place")


def place(ip: int, symbol: Optional[str], module: Optional[str]) -> str:
    """``vfs_read+0x8f``, ``ext4_map_blocks+0x1c [ext4]``, or the bare address."""
    name = symbol or hex(ip)
    return f"{name} [{module}]" if module else name


def frame_label(frame: Frame) -> str:
    """Where the frame is, with the offset."""
    return place(frame.ip, frame.symbol, frame.module)


def function_label(frame: Frame) -> str:
    """The function that the frame is in."""
    symbol = frame.symbol and function_name(frame.symbol)
    return place(frame.ip, symbol, frame.module)


def mode_name(user_mode: bool) -> str:
    """Where the CPU was."""
    return "user" if user_mode else "kernel"
