# SPDX-License-Identifier: LGPL-2.1-or-later
"""What entered the kernel, in words: ``page fault``, ``syscall``. The symbol of the entry code shows it."""

from __future__ import annotations

import re
from typing import Optional

__all__ = ("enters_from_user_mode", "entry_of", "entry_of_handler", "is_interrupt_entry")

_STUBS = {
    # Exceptions: DECLARE_IDTENTRY* in arch/x86/include/asm/idtentry.h.
    "asm_exc_divide_error": "divide error",
    "asm_exc_overflow": "overflow exception",
    "asm_exc_bounds": "bounds exception",
    "asm_exc_device_not_available": "device-not-available exception",
    "asm_exc_coprocessor_error": "x87 error",
    "asm_exc_simd_coprocessor_error": "SIMD error",
    "asm_exc_invalid_tss": "invalid TSS exception",
    "asm_exc_segment_not_present": "segment-not-present exception",
    "asm_exc_stack_segment": "stack segment fault",
    "asm_exc_general_protection": "general protection fault",
    "asm_exc_alignment_check": "alignment check",
    "asm_exc_invalid_op": "invalid opcode",
    "asm_exc_int3": "breakpoint",
    "asm_exc_page_fault": "page fault",
    "asm_exc_machine_check": "machine check",
    "asm_exc_debug": "debug exception",
    "asm_exc_nmi": "NMI",
    "end_repeat_nmi": "NMI",  # inside asm_exc_nmi, where it calls exc_nmi()
    "asm_exc_double_fault": "double fault",
    "asm_exc_control_protection": "control protection exception",
    "asm_exc_vmm_communication": "VMM communication exception",
    # Interrupts.
    "asm_common_interrupt": "device interrupt",
    "asm_spurious_interrupt": "spurious interrupt",
    "asm_sysvec_apic_timer_interrupt": "timer interrupt",
    "asm_sysvec_reschedule_ipi": "reschedule interrupt",
    "asm_sysvec_call_function": "function call interrupt",
    "asm_sysvec_call_function_single": "function call interrupt",
    "asm_sysvec_irq_work": "irq work interrupt",
    "asm_sysvec_reboot": "stop interrupt",  # panic() sends it to the other CPUs
    "asm_sysvec_kvm_asyncpf_interrupt": "KVM async page fault interrupt",
    "asm_sysvec_xen_hvm_callback": "Xen interrupt",
    "asm_sysvec_hyperv_callback": "Hyper-V interrupt",
    "asm_sysvec_hyperv_stimer0": "timer interrupt",
    # FRED has one stub for each ring. The C code that it calls distinguishes the events.
    "asm_fred_entrypoint_user": "event from user mode",
    "asm_fred_entrypoint_kernel": "event in kernel mode",
    # Before v5.8.
    "page_fault": "page fault",
    "async_page_fault": "page fault",
    "common_interrupt": "device interrupt",
    "ret_from_intr": "device interrupt",
    "apic_timer_interrupt": "timer interrupt",
    "reschedule_interrupt": "reschedule interrupt",
    "nmi": "NMI",
    "general_protection": "general protection fault",
    "double_fault": "double fault",
    "int3": "breakpoint",
    # System calls.
    "entry_SYSCALL_64": "syscall",
    "entry_SYSCALL_64_after_hwframe": "syscall",
    "entry_SYSCALL_compat": "syscall",
    "entry_SYSCALL_compat_after_hwframe": "syscall",
    "entry_SYSENTER_compat": "syscall",
    "entry_SYSENTER_compat_after_hwframe": "syscall",
    "entry_INT80_compat": "syscall",
    "asm_int80_emulation": "syscall",
    "entry_SYSENTER_32": "syscall",
    "entry_INT80_32": "syscall",
    # A new task. Its pt_regs are a copy of its parent's, or empty.
    "ret_from_fork": "fork",
    "ret_from_fork_asm": "fork",
    # Code that the kernel patches into itself saves pt_regs, too.
    "ftrace_regs_caller": "function tracer",
    "ftrace trampoline": "function tracer",
    "arch_rethook_trampoline": "kretprobe",
    "__kretprobe_trampoline": "kretprobe",
    "kretprobe_trampoline": "kretprobe",
    "kprobe slot": "kprobe",
}


_INTERRUPTS = re.compile(
    # Entry code and the C function that it calls, since v5.8, and before.
    r"(?:asm_|__|smp_)?(?:sysvec_\w+|common_interrupt|spurious_interrupt|apic_timer_interrupt"
    r"|reschedule_interrupt|\w+_ipi_interrupt)|do_IRQ|ret_from_intr|retint_kernel|retint_user"
)
"""Names of the functions that handle interrupts (arch/x86/entry, arch/x86/kernel/irq.c, v4.10 to v7.2)."""

_PATCHED_IN = frozenset(("function tracer", "kretprobe", "kprobe"))


def enters_from_user_mode(entry: Optional[str]) -> bool:
    """Return whether user mode can have entered the kernel in this way.

    It cannot call the code that the kernel patches into itself.

    :param entry: What :func:`entry_of` returned
    """
    return entry is not None and entry not in _PATCHED_IN


def entry_of(stub: Optional[str]) -> Optional[str]:
    """Return what entered the kernel, in words.

    :param stub: Symbol of the code whose return address is right below the ``pt_regs``;
        ``None`` if it has none
    :return: ``page fault``, ``timer interrupt``, ``syscall`` and so on; ``None`` if it is not
        entry code
    """
    if stub is None:
        return None
    known = _STUBS.get(stub)
    if known is not None:
        return known
    # If a stub is not in the table, its name says what it is for.
    for prefix, kind in (("asm_exc_", "exception"), ("asm_sysvec_", "interrupt")):
        if stub.startswith(prefix):
            return f"{stub[len(prefix) :].replace('_', ' ')} {kind}"
    return None


def entry_of_handler(function: str) -> Optional[str]:
    """Return what entered the kernel, in words, as :func:`entry_of` does.

    The entry stubs of x86-32 all go through ``handle_exception`` (``common_exception`` before v5.8).

    :param function: Name of the C function that handles the exception or interrupt
    :return: ``None`` if it is not known
    """
    # exc_page_fault() and sysvec_apic_timer_interrupt(); before v5.8 do_page_fault().
    if function.startswith(("exc_", "sysvec_")):
        return entry_of(f"asm_{function}")
    if function.startswith("do_"):
        return _STUBS.get(f"asm_exc_{function[len('do_') :].lower()}")
    return None


def is_interrupt_entry(function: str) -> bool:
    """Return whether a function handles an interrupt.

    :param function: Its name in the symbol table
    """
    return _INTERRUPTS.fullmatch(function) is not None
