# SPDX-License-Identifier: LGPL-2.1-or-later
"""Choose the walker of a kernel, and find out whether its stacks can have verdicts."""

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
    """Why no stack of a kernel has a verdict."""

    reason: Reason
    """The reason of each of its tasks."""
    sentence: str
    """The reason in words, which is shown once for all tasks."""


def probe_walker(
    prog: Program, layout: Layout, is_kernel_text: Callable[[int], Optional[bool]]
) -> Walker:
    """Return the walker of a kernel.

    Frame pointers can be followed even if the kernel has no reliable stack traces (x86-32,
    CONFIG_STACK_VALIDATION=n).

    :param layout: Layout of this kernel
    :param is_kernel_text: ``__kernel_text_address()`` of a virtual address; returns ``None`` if
        the dump does not tell
    """
    rules = frame_pointer_rules(layout)
    if rules is not None:
        return FramePointerWalker(rules)
    return DrgnWalker(prog, layout, is_kernel_text)


def no_verdict(layout: Layout) -> Optional[NoVerdict]:
    """Return why no stack of a kernel has a verdict.

    :param layout: Layout of this kernel
    :return: ``None`` if its stacks have verdicts
    """
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
