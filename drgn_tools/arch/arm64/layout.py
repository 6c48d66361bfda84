# SPDX-License-Identifier: LGPL-2.1-or-later
"""Every offset, size and address that the stacks of one arm64 kernel need, probed once."""

from __future__ import annotations

from drgn import Program

from ...debuginfo.vmcoreinfo import number_among, vmcoreinfo
from ...kernel.probing import probing, symbol_address
from ...kernel.task_layout import probe_task_layout
from ..base import Arch, Layout
from ..thread_size import thread_size
from .pt_regs import Arm64Regs, probe_pt_regs

__all__ = ("Arm64Layout", "probe_arm64", "strip")

_MAX_THREAD_SIZE_BYTES = 128 * 1024
"""16 KiB, or a page if that is larger; twice as much with KASAN (asm/memory.h, v7.2)."""
_BIT_55 = 1 << 55
"""Distinguishes addresses of the kernel from those of user mode, whatever the bits above it are."""
_LOWEST_PAC_BIT = 36
"""Kernel addresses have 36 bits or more (CONFIG_ARM64_VA_BITS)."""


class Arm64Layout(Layout, frozen=True, kw_only=True):
    """One arm64 kernel, as far as its stacks are concerned."""

    regs: Arm64Regs
    """Layout of ``struct pt_regs``."""
    pac_mask: int
    """ptrauth_kernel_pac_mask(): the bits of a return address that hold its authentication code. 0 if the CPUs
    or the kernel have none."""

    def code_address(self, word: int) -> int:
        """Return an address of code without its authentication code: ptrauth_strip_kernel_insn_pac(), v7.2."""
        return strip(word, self.pac_mask)

    def task_pt_regs(self, stack_addr: int) -> int:
        """Return the virtual address of task_pt_regs() (arch/arm64/include/asm/processor.h, v7.2).

        :param stack_addr: ``task->stack``: lowest virtual address of the stack
        """
        return stack_addr + self.thread_size_bytes - self.regs.size_bytes


def strip(addr: int, pac_mask: int) -> int:
    """Return an address of code without its authentication code.

    The highest byte of an address of user mode is a tag (TCR_EL1.TBI0), and stays.

    :param pac_mask: As :attr:`Arm64Layout.pac_mask`
    """
    return addr | pac_mask if addr & _BIT_55 else addr & ~(pac_mask & _BIT_55 - 1)


def probe_arm64(prog: Program, arch: Arch) -> Arm64Layout:
    """Find the layout of one arm64 kernel.

    :raises TypesError: if a type that every stack needs is missing or damaged
    """
    with probing(prog):
        page_bytes = prog["PAGE_SIZE"].value_()
        fork_return = symbol_address(prog, "ret_from_fork")
        return Arm64Layout(
            arch=arch,
            page_bytes=page_bytes,
            # With pages of 64 KiB a stack may be smaller than a page.
            thread_size_bytes=thread_size(prog, min(page_bytes, 4096), _MAX_THREAD_SIZE_BYTES),
            first_frame_offset=0,
            regs=probe_pt_regs(prog),
            task=probe_task_layout(
                prog,
                "thread.cpu_context.sp",
                "thread.cpu_context.fp",
                "thread.cpu_context.pc",
                ones=_ones_of_addresses(prog),
            ),
            unwinder="arm64",
            # arch/arm64/Kconfig selects HAVE_RELIABLE_STACKTRACE without a condition, or not at all.
            reliable_stacktrace=symbol_address(prog, "arch_stack_walk_reliable") is not None,
            fork_return_addrs=frozenset() if fork_return is None else frozenset({fork_return}),
            pac_mask=_pac_mask(prog),
        )


def _ones_of_addresses(prog: Program) -> int:
    """Return the bits of an address that drgn ignores as a tag, unless this kernel tags addresses (mm/kasan/, v7.2)."""
    # The last one was the only one before v5.11.
    tags = ("kasan_init_sw_tags", "kasan_init_hw_tags", "kasan_init_tags")
    return 0 if any(symbol_address(prog, name) is not None for name in tags) else 0xFF << 56


def _pac_mask(prog: Program) -> int:
    # Since Linux kernel commit 203b1152d18c ("arm64/crash_core: Export KERNELPACMASK in vmcoreinfo") (in v5.8),
    # it is in VMCOREINFO. Before v5.7, no kernel signs its return addresses.
    lines = vmcoreinfo(prog)
    mask, unused = number_among(lines, "KERNELPACMASK"), number_among(lines, "TCR_EL1_T1SZ")
    if mask == 0:
        return 0
    # With a damaged KERNELPACMASK no return address would have its symbol, and stacks would still be reliable. So
    # the mask is all bits that an address does not use, by TCR_EL1_T1SZ, which drgn uses to translate addresses.
    # It does not change return addresses that are not signed.
    if unused is not None and 0 < unused <= 64 - _LOWEST_PAC_BIT:
        return (1 << 64) - (1 << 64 - unused)
    mask = mask or 0
    return mask if mask >> _LOWEST_PAC_BIT << _LOWEST_PAC_BIT == mask < 1 << 64 else 0
