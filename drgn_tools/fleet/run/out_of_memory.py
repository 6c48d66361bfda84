# SPDX-License-Identifier: LGPL-2.1-or-later
"""Whether an error means that there was too little memory."""

from __future__ import annotations

import errno
from typing import Optional

__all__ = ("is_out_of_memory",)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether *error*, or an error that caused it, means that there was too little memory.

    drgn and the system report it as an error of what they were doing at the time.
    """
    cause: Optional[BaseException] = error
    while cause is not None:
        if isinstance(cause, MemoryError):
            return True
        if isinstance(cause, OSError) and cause.errno == errno.ENOMEM:
            return True
        cause = cause.__cause__
    return False
