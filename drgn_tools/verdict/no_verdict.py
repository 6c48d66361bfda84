# SPDX-License-Identifier: LGPL-2.1-or-later
"""Kernels on which no stack has a verdict, and why: another unwinder, or no reliable stack traces."""

from __future__ import annotations

from typing import Optional

import msgspec

from ..arch.base import Layout
from ..arch.x86.encoding import Encoding
from ..arch.x86.layout import X86Layout
from ..arch.x86.orc_tables import OrcProblem
from ..records import Reason

__all__ = ("NoVerdict", "no_verdict")


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
    if layout.unwinder == "guess":
        return NoVerdict(
            Reason.NOT_ENCODED,
            "this kernel uses the guess unwinder, which has no reliable stack traces",
        )
    if isinstance(layout, X86Layout) and isinstance(layout.orc, OrcProblem):
        return NoVerdict(
            Reason.ORC_UNCLEAR,
            f"this kernel uses the ORC unwinder, but {layout.orc.sentence}",
        )
    if (
        isinstance(layout, X86Layout)
        and layout.unwinder != "orc"
        and layout.encoding is Encoding.NONE
    ):
        return NoVerdict(
            Reason.NOT_ENCODED, "this kernel does not encode pt_regs in the frame pointer"
        )
    if not layout.reliable_stacktrace:
        return NoVerdict(Reason.NO_RELIABLE_STACKTRACE, layout.arch.lacks_reliable_stacktrace)
    return None
