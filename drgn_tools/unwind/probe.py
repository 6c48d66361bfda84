# SPDX-License-Identifier: LGPL-2.1-or-later
"""Choose the walker of a kernel."""

from __future__ import annotations

from drgn import Program

from ..arch.arm64.layout import Arm64Layout
from ..arch.base import Layout
from ..arch.x86.frame_pointer_rules import frame_pointer_rules
from ..arch.x86.layout import X86Layout
from ..arch.x86.orc_tables import OrcImage, OrcTables
from ..kernel.text import KernelText
from .arm64 import Arm64Walker
from .arm64_rules import arm64_rules
from .base import Walker
from .drgn_fallback import DrgnWalker
from .frame_pointer import FramePointerWalker
from .orc import OrcRules, OrcWalker
from .recovery import RecoverLayout

__all__ = ("probe_walker",)


def probe_walker(
    prog: Program, layout: Layout, text: KernelText, recover_layout: RecoverLayout
) -> Walker:
    """Return the walker of a kernel.

    A new one is made each time the kernel text is read, because it has the tables of modules (ORC).
    Frame pointers can be followed even if the kernel has no reliable stack traces (x86-32,
    CONFIG_STACK_VALIDATION=n).

    :param layout: Layout of this kernel
    :param text: Text and modules of this kernel
    :param recover_layout: What rewrites return addresses in this kernel
    """
    if isinstance(layout, Arm64Layout):
        return Arm64Walker(arm64_rules(layout, recover_layout.trampolines))
    rules = frame_pointer_rules(layout)
    if rules is not None:
        return FramePointerWalker(rules, recover_layout.trampolines)
    if isinstance(layout, X86Layout) and isinstance(layout.orc, OrcImage):
        return OrcWalker(_orc_rules(prog, layout, layout.orc, text, recover_layout))
    return DrgnWalker(prog, layout, text.is_kernel_text)


def _orc_rules(
    prog: Program,
    layout: X86Layout,
    image: OrcImage,
    text: KernelText,
    recover_layout: RecoverLayout,
) -> OrcRules:
    rethook = recover_layout.rethook
    return OrcRules(
        find=OrcTables(prog, image, text).find,
        regs=layout.regs,
        frame_bp_offset=layout.first_frame_offset,
        first_exact_addrs=image.first_exact_addrs,
        guesses=image.guesses,
        rethook_trampoline=None if rethook is None else rethook.trampoline,
        trampolines=recover_layout.trampolines,
    )
