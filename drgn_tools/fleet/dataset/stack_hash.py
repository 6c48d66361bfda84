# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which stacks of a fleet are identical."""

from __future__ import annotations

import hashlib

from ...analysis.labels import function_label, function_of
from ...analysis.waiting import kernel_frames
from ...records import TaskStack

__all__ = ("stack_hash",)


def stack_hash(task: TaskStack) -> str:
    """Return a hash that is equal for identical stacks on all hosts, builds and boots.

    It covers the functions in the kernel, innermost first, each with its module and whether
    it is a ``pt_regs``. Offsets and addresses do not count. A frame without a symbol counts
    as ``?``.

    :return: 16 hexadecimal digits.
    """
    digest = hashlib.sha256()
    for frame in kernel_frames(task):
        name = function_label(frame) if function_of(frame) else f"? [{frame.module}]"
        # A symbol is a C string, so it cannot contain the separator.
        digest.update(f"{name}\0{'regs' if frame.regs is not None else ''}\0".encode())
    return digest.hexdigest()[:16]
