# SPDX-License-Identifier: LGPL-2.1-or-later
"""What differs between arm64 kernels when their stacks are walked."""

from __future__ import annotations

from struct import Struct

import msgspec

from ..arch.arm64.layout import Arm64Layout, strip
from ..arch.arm64.pt_regs import Arm64Regs

__all__ = ("Arm64Rules", "arm64_rules")

_WORD = Struct("<Q")
_X29 = 8 * 29


class Arm64Rules(msgspec.Struct, frozen=True):
    """What differs between arm64 kernels."""

    regs: Arm64Regs
    """Layout of ``struct pt_regs``."""
    thread_size_bytes: int
    """THREAD_SIZE."""
    pac_mask: int
    """As :attr:`.Arm64Layout.pac_mask`."""
    trampolines: frozenset[int]
    """The addresses that tracers write over return addresses."""

    def strip(self, addr: int) -> int:
        """Return a return address without its authentication code: ptrauth_strip_kernel_insn_pac(), v7.2."""
        return strip(addr, self.pac_mask)

    def are_regs_around(self, data: bytes, regs_at: int, fp: int, pc: int) -> bool:
        """Return whether a frame record without a type is the one in a ``pt_regs`` of kernel mode.

        Unlike the kernel, which before v6.13 cannot distinguish such a record from that of a call: a
        ``pt_regs`` holds the same two words a second time, as x29 and pc.

        :param data: Memory of the stack
        :param regs_at: Where in it the ``pt_regs`` would be, in bytes; it may be outside
        :param fp: The first word of the record
        :param pc: The second
        """
        end = regs_at + self.regs.size_bytes
        return (
            regs_at >= 0
            and end <= len(data)
            and _WORD.unpack_from(data, regs_at + self.regs.ip_offset)[0] == pc
            and _WORD.unpack_from(data, regs_at + _X29)[0] == fp
            and self.regs.kernel_mode(self.regs.read(data[regs_at:end]))
        )


def arm64_rules(layout: Arm64Layout, trampolines: frozenset[int]) -> Arm64Rules:
    """Return how this kernel's stacks are walked.

    :param trampolines: The addresses that tracers write over return addresses
    """
    return Arm64Rules(layout.regs, layout.thread_size_bytes, layout.pac_mask, trampolines)
