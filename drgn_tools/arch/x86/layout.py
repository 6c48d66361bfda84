# SPDX-License-Identifier: LGPL-2.1-or-later
"""Every offset, size and address that the stacks of one x86 kernel need, probed once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Optional, Union

from drgn import Program, SymbolBinding, offsetof, sizeof

from ...kernel.probing import at_most, function_code, probing, symbol_address
from ...kernel.task_layout import probe_task_layout
from ..base import Arch, Layout, Unwinder
from ..thread_size import thread_size
from .encoding import PROBE_SYMBOLS, Detection, Encoding, detect_encoding
from .orc_tables import OrcImage, OrcProblem, probe_orc
from .pt_regs import REGS_32, SHORT_KERNEL_REGS_32, X86Regs, check_pt_regs

__all__ = ("X86Layout", "probe_x86")

_MAX_STUB_BYTES = 4096
"""Entry stubs have a few hundred bytes. A damaged symbol table may give any size."""

_MAX_THREAD_SIZE_BYTES = 64 * 1024
"""16 KiB, and KASAN_STACK_ORDER of up to 2 (asm/page_64_types.h); x86-32 has 8 KiB (asm/page_32_types.h)."""
_MAX_INACTIVE_FRAME_BYTES = 64
"""Eight words at most (asm/switch_to.h)."""

_OF_FRED = (
    "asm_fred_entrypoint_user",
    "asm_fred_entrypoint_kernel",
    "fred_entry_from_user",
    "fred_entry_from_kernel",
)
"""Functions of arch/x86/entry/entry_64_fred.S and entry_fred.c (v6.9), in every kernel with CONFIG_X86_FRED."""
_STUBS_OF_5_8 = ("asm_exc_page_fault", "asm_exc_invalid_op", "asm_exc_general_protection")
"""DECLARE_IDTENTRY (asm/idtentry.h, v5.8), in every kernel."""


class X86Layout(Layout, frozen=True, kw_only=True):
    """One x86 kernel, as far as its stacks are concerned."""

    regs: X86Regs
    """Layout of ``struct pt_regs``."""
    top_padding_bytes: int
    """TOP_OF_KERNEL_STACK_PADDING."""
    detection: Detection
    """Which form of ENCODE_FRAME_POINTER the entry code uses."""
    has_old_reliable_rules: bool
    """Up to v5.7 a reliable walk of a user task had to end at user-mode registers. Some stable
    kernels have dropped that rule, and a dump does not show which."""
    orc: Union[OrcImage, OrcProblem, None]
    """Its ORC tables, or why they cannot be used; ``None`` if it has another unwinder."""

    @property
    def encoding(self) -> Encoding:
        """The form of ENCODE_FRAME_POINTER."""
        return self.detection.encoding

    @property
    def may_need_user_regs(self) -> bool:
        """The kernel may require user-mode registers at the end of a user task's reliable stack."""
        return self.has_old_reliable_rules

    def task_pt_regs(self, stack_addr: int) -> int:
        """Return the virtual address of task_pt_regs() (arch/x86/include/asm/processor.h, v6.12).

        :param stack_addr: ``task->stack``: lowest virtual address of the stack
        """
        end = stack_addr + self.thread_size_bytes
        return end - self.top_padding_bytes - self.regs.size_bytes


def probe_x86(prog: Program, arch: Arch, regs: X86Regs) -> X86Layout:
    """Find the layout of one x86 kernel.

    :param arch: x86-64 or x86-32
    :param regs: The registers that its entry code pushes
    :raises TypesError: if a type that every stack needs is missing or damaged
    """
    with probing(prog):
        check_pt_regs(prog, regs)
        page_bytes = prog["PAGE_SIZE"].value_()
        unwinder = _unwinder(prog)
        entry_code = _entry_code(prog)
        return X86Layout(
            arch=arch,
            page_bytes=page_bytes,
            thread_size_bytes=thread_size(
                prog, page_bytes, _MAX_THREAD_SIZE_BYTES, _irq_stack_sizes(prog, regs.word_bytes)
            ),
            top_padding_bytes=_top_padding(prog, regs),
            first_frame_offset=at_most(
                offsetof(prog.type("struct inactive_task_frame"), "bp"),
                _MAX_INACTIVE_FRAME_BYTES,
                "struct inactive_task_frame",
            ),
            regs=_regs_of(regs, entry_code),
            task=probe_task_layout(prog, "thread.sp"),
            unwinder=unwinder,
            detection=detect_encoding(entry_code, regs.word_bytes),
            orc=probe_orc(prog) if unwinder == "orc" else None,
            has_old_reliable_rules=_has_old_reliable_rules(prog),
            reliable_stacktrace=_has_reliable_stacktrace(prog),
            fork_return_addrs=_fork_return_addrs(prog),
        )


def _fork_return_addrs(prog: Program) -> frozenset[int]:
    # Since Linux kernel commit 3aec4ecb3d1f ("x86: Rewrite ret_from_fork() in C") (in v6.5), the
    # code is ret_from_fork_asm, and ret_from_fork is a function like any other.
    for name in ("ret_from_fork_asm", "ret_from_fork"):
        addr = symbol_address(prog, name)
        if addr is not None:
            return frozenset({addr})
    return frozenset()


def _irq_stack_sizes(prog: Program, word_bytes: int) -> Iterator[int]:
    # Since Linux kernel commit e6401c130931 ("x86/irq/64: Split the IRQ stack into
    # its own pages") (in v5.2), struct irq_stack has IRQ_STACK_SIZE bytes, which
    # is THREAD_SIZE on x86-64 (asm/page_64_types.h).
    if word_bytes == 8:
        with suppress(LookupError):
            yield sizeof(prog.type("struct irq_stack"))


def _top_padding(prog: Program, regs: X86Regs) -> int:
    """Return TOP_OF_KERNEL_STACK_PADDING (asm/thread_info.h), in bytes."""
    if regs.word_bytes == 4:
        return 16 if prog.type("struct thread_struct").has_member("vm86") else 8
    # Since Linux kernel commit 65c9cc9e2c14602d98f1ca61c51ac954e9529303 ("x86/fred:
    # Reserve space for the FRED stack frame") (in v6.9), 16 bytes with
    # CONFIG_X86_FRED=y, whether or not the CPU has it.
    return 16 if _has_any(prog, _OF_FRED) else 0


def _unwinder(prog: Program) -> Optional[Unwinder]:
    """Return which of arch/x86/kernel/unwind_{frame,orc,guess}.c was built.

    ``struct unwind_state`` in asm/unwind.h has other members for each of them.
    """
    try:
        state = prog.type("struct unwind_state")
    except LookupError:
        return None
    if not state.has_member("sp"):
        return "frame_pointer"  # bp, orig_sp, ...
    if state.has_member("bp"):
        return "orc"  # sp, bp, ip, signal ...
    return "guess"


def _entry_code(prog: Program) -> dict[str, bytes]:
    found = {name: function_code(prog, name, _MAX_STUB_BYTES) for name in PROBE_SYMBOLS}
    return {name: code for name, code in found.items() if code is not None}


_SETS_CS_FROM_KERNEL = (
    bytes.fromhex("81 4c 24 0c 00 00 00 20"),
    bytes.fromhex("81 4c 24 10 00 00 00 20"),
)
"""``orl $CS_FROM_KERNEL, 3*4(%esp)``, later ``4*4(%esp)``, in FIXUP_FRAME (arch/x86/entry/entry_32.S, v5.3 and v6.12)."""


def _regs_of(regs: X86Regs, entry_code: Mapping[str, bytes]) -> X86Regs:
    """Return which words of struct pt_regs entry code saves in kernel mode."""
    if regs is not REGS_32:
        return regs
    code = b"".join(entry_code.values())
    return regs if any(form in code for form in _SETS_CS_FROM_KERNEL) else SHORT_KERNEL_REGS_32


def _has_reliable_stacktrace(prog: Program) -> bool:
    # kernel/stacktrace.c has stack_trace_save_tsk_reliable() only with
    # CONFIG_HAVE_RELIABLE_STACKTRACE. Up to v5.1 the function was called
    # save_stack_trace_tsk_reliable(). Without that option there was a weak one that always
    # fails.
    if symbol_address(prog, "stack_trace_save_tsk_reliable") is not None:
        return True
    try:
        return prog.symbol("save_stack_trace_tsk_reliable").binding is not SymbolBinding.WEAK
    except LookupError:
        return False


def _has_old_reliable_rules(prog: Program) -> bool:
    # v5.8 added the stubs asm_exc_* and dropped that rule.
    return not _has_any(prog, _STUBS_OF_5_8)


def _has_any(prog: Program, names: Iterable[str]) -> bool:
    """Return whether a kernel has any of some symbols: a damaged table of symbols may lack one, but hardly all."""
    return any(symbol_address(prog, name) is not None for name in names)
