# SPDX-License-Identifier: LGPL-2.1-or-later
"""Bytes of a file from a place that the file itself decides, and so may be any place."""

from __future__ import annotations

import os
from typing import BinaryIO

__all__ = ("read_at",)


def read_at(file: BinaryIO, offset: int, size: int) -> bytes:
    """Return the bytes of a file at an offset, as far as there are any.

    Takes no more memory than the file has bytes there.

    :param offset: In bytes from the start of the file. Any number: seek(2) takes none that is
        negative or does not fit in its off_t, and at none of them is anything
    :param size: In bytes, any number
    :raises OSError: if the file cannot be read
    """
    end = file.seek(0, os.SEEK_END)
    if not 0 <= offset < end:
        return b""
    file.seek(offset)
    return file.read(max(0, min(size, end - offset)))
