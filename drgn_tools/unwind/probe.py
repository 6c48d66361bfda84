# SPDX-License-Identifier: LGPL-2.1-or-later
"""Choose the walker of a kernel."""

from __future__ import annotations

from drgn import Program

from ..arch.base import Layout
from ..arch.x86.frame_pointer_rules import frame_pointer_rules
from ..kernel.text import KernelText
from .base import Walker
from .drgn_fallback import DrgnWalker
from .frame_pointer import FramePointerWalker

__all__ = ("probe_walker",)


def probe_walker(prog: Program, layout: Layout, text: KernelText) -> Walker:
    """Return the walker of a kernel.

    A new one is made with each reading of the kernel text: tables of modules (ORC) belong to it.
    Frame pointers can be followed even if the kernel has no reliable stack traces (x86-32,
    CONFIG_STACK_VALIDATION=n).

    :param layout: Layout of this kernel
    :param text: Text and modules of this kernel
    """
    rules = frame_pointer_rules(layout)
    if rules is not None:
        return FramePointerWalker(rules)
    return DrgnWalker(prog, layout, text.is_kernel_text)
