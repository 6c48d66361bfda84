# SPDX-License-Identifier: LGPL-2.1-or-later
"""Read bytes of a file at an offset that comes from the file itself, and so may have any value."""

from __future__ import annotations

import os
from typing import BinaryIO

__all__ = ("read_at",)


def read_at(file: BinaryIO, offset: int, size: int) -> bytes:
    """Return the bytes of a file at an offset, fewer at its end.

    This takes no more memory than the file has bytes there.

    :param offset: In bytes from the start of the file, any number. If it is negative, or too large for the
        off_t of lseek(2), there are no bytes
    :param size: In bytes, any number
    :raises OSError: if the file cannot be read
    """
    end = file.seek(0, os.SEEK_END)
    if not 0 <= offset < end:
        return b""
    file.seek(offset)
    return file.read(max(0, min(size, end - offset)))
