# SPDX-License-Identifier: LGPL-2.1-or-later
"""Kernels on which no stack has a verdict, and why: another unwinder, or no reliable stack traces."""

from __future__ import annotations

from typing import Optional

import msgspec

from ..arch.base import Layout
from ..arch.x86.encoding import Encoding
from ..arch.x86.layout import X86Layout
from ..records import Reason

__all__ = ("NoVerdict", "no_verdict")

_UNWINDERS_WITHOUT_VERDICT = {"orc": "ORC", "guess": "guess"}
"""Unwinders that are not re-stated here (orc), or that give no reliable stack traces (guess)."""


class NoVerdict(msgspec.Struct, frozen=True):
    """Why no stack of a kernel has a verdict."""

    reason: Reason
    """The reason of each of its tasks."""
    sentence: str
    """The reason in words, which is shown once for all tasks."""


def no_verdict(layout: Layout) -> Optional[NoVerdict]:
    """Return why no stack of a kernel has a verdict.

    :param layout: Layout of this kernel
    :return: ``None`` if its stacks have verdicts
    """
    if isinstance(layout, X86Layout) and layout.detection.problem is not None:
        return NoVerdict(Reason.ENCODING_UNCLEAR, layout.detection.problem)
    if layout.unwinder in _UNWINDERS_WITHOUT_VERDICT:
        return NoVerdict(
            Reason.NOT_ENCODED,
            f"this kernel uses the {_UNWINDERS_WITHOUT_VERDICT[layout.unwinder]} unwinder, not encoded frame pointers",
        )
    if isinstance(layout, X86Layout) and layout.encoding is Encoding.NONE:
        return NoVerdict(
            Reason.NOT_ENCODED, "this kernel does not encode pt_regs in the frame pointer"
        )
    if not layout.reliable_stacktrace:
        return NoVerdict(
            Reason.NO_RELIABLE_STACKTRACE,
            "this kernel was built without reliable stack traces (CONFIG_STACK_VALIDATION)",
        )
    return None
