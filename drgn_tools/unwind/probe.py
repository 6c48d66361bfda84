# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which walker a kernel gets, and why it gives no verdict where it gives none."""

from __future__ import annotations

from typing import Callable, Optional

import msgspec
from drgn import Program

from ..arch.base import Layout
from ..arch.x86.encoding import Encoding
from ..arch.x86.layout import X86Layout
from ..arch.x86.unwind_rules import frame_pointer_rules
from ..records import Reason
from .base import Walker
from .drgn_fallback import DrgnWalker
from .frame_pointer import FramePointerWalker

__all__ = ("NoVerdict", "no_verdict", "probe_walker")

_NAMES = {"orc": "ORC", "guess": "guess"}


class NoVerdict(msgspec.Struct, frozen=True):
    """Why no stack of a kernel gets a verdict."""

    reason: Reason
    """Of each of its tasks."""
    sentence: str
    """In words; said once for all tasks."""


def probe_walker(
    prog: Program, layout: Layout, is_kernel_text: Callable[[int], Optional[bool]]
) -> Walker:
    """Return the walker for one kernel.

    Frame pointers can be followed even where the kernel itself gives no verdict (x86-32,
    CONFIG_STACK_VALIDATION=n).

    :param is_kernel_text: ``__kernel_text_address()``; ``None`` where that cannot be told
    """
    rules = frame_pointer_rules(layout)
    if rules is not None:
        return FramePointerWalker(rules)
    return DrgnWalker(prog, layout, is_kernel_text)


def no_verdict(layout: Layout) -> Optional[NoVerdict]:
    """Return why this kernel gives no verdict on any stack; ``None`` if it gives one."""
    if isinstance(layout, X86Layout) and layout.detection.problem is not None:
        return NoVerdict(Reason.ENCODING_UNCLEAR, layout.detection.problem)
    if layout.unwinder in _NAMES:
        return NoVerdict(
            Reason.NOT_ENCODED,
            f"this kernel uses the {_NAMES[layout.unwinder]} unwinder, not encoded frame pointers",
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
