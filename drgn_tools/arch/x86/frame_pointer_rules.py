# SPDX-License-Identifier: LGPL-2.1-or-later
"""The constants of an x86 kernel that decide how its frame pointers are followed."""

from __future__ import annotations

from typing import Optional

import msgspec

from ..base import Layout
from .encoding import Encoding
from .layout import X86Layout
from .pt_regs import X86Regs

__all__ = ("UnwindRules", "frame_pointer_rules")

_DEFAULT_THREAD_SIZE_BYTES = 16 * 1024


class UnwindRules(msgspec.Struct, frozen=True):
    """The constants of arch/x86/kernel/unwind_frame.c (v6.12) in one kernel."""

    encoding: Encoding
    """The form of ENCODE_FRAME_POINTER."""
    regs: X86Regs
    """Layout of ``struct pt_regs``."""
    top_padding_bytes: int
    """TOP_OF_KERNEL_STACK_PADDING: 0, or 16 with CONFIG_X86_FRED; x86-32: 8, or 16 with VM86."""
    frame_bp_offset: int
    """``offsetof(struct inactive_task_frame, bp)``."""
    thread_size_bytes: int = _DEFAULT_THREAD_SIZE_BYTES
    """THREAD_SIZE."""

    @property
    def gcc_realign_words(self) -> int:
        """GCC_REALIGN_WORDS: by how many words gcc moves a frame that it realigns (see is_last_aligned_frame())."""
        return 1 if self.regs.word_bytes == 8 else 3


def frame_pointer_rules(layout: Layout) -> Optional[UnwindRules]:
    """Return how this kernel's frame pointers are followed.

    :return: ``None`` if it has another unwinder, or its frame pointers are not encoded, or it is
        unclear whether they are
    """
    if not isinstance(layout, X86Layout) or layout.unwinder not in (None, "frame_pointer"):
        return None
    if layout.detection.problem is not None or layout.encoding is Encoding.NONE:
        return None
    return UnwindRules(
        layout.encoding,
        layout.regs,
        layout.top_padding_bytes,
        layout.first_frame_offset,
        layout.thread_size_bytes,
    )
