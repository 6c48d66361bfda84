# SPDX-License-Identifier: LGPL-2.1-or-later
"""What entered the kernel, in words: ``syscall``, ``memory abort``. The functions below the ``pt_regs`` show it."""

from __future__ import annotations

import re
from typing import Optional

__all__ = ("enters_from_user_mode", "entry_of", "entry_of_handler", "is_interrupt_entry")

_VECTOR = re.compile(r"el[01][th]_(?:64|32)_(sync|irq|fiq|error)")
"""Entry code (entry_handler in arch/arm64/kernel/entry.S, v5.17 to v7.2). All exceptions go through ``sync``."""
_VECTORS = {"irq": "interrupt", "fiq": "fast interrupt", "error": "SError"}
_STUBS = {
    # A new task. Its pt_regs are a copy of its parent's, or empty.
    "ret_from_fork": "fork",
    "__bad_stack": "stack overflow",
    # Code that the kernel patches into itself saves pt_regs, too.
    "ftrace_caller": "function tracer",
    "ftrace_regs_caller": "function tracer",
    "ftrace_common": "function tracer",
    "ftrace trampoline": "function tracer",
    "arch_rethook_trampoline": "kretprobe",
    "__kretprobe_trampoline": "kretprobe",
    "kprobe slot": "kprobe",
}
_HANDLERS = {
    # elN_... in arch/arm64/kernel/entry-common.c, v6.1 to v7.2. el1_abort() is for data and
    # instruction aborts.
    "svc": "syscall",
    "svc_compat": "syscall",
    "da": "data abort",
    "ia": "instruction abort",
    "abort": "memory abort",
    "fpsimd_acc": "FP/SIMD access",
    "sve_acc": "SVE access",
    "sme_acc": "SME access",
    "fpsimd_exc": "FP/SIMD exception",
    "sys": "system instruction trap",
    "cp15": "CP15 trap",
    "pc": "PC alignment fault",
    "sp": "SP alignment fault",
    "undef": "undefined instruction",
    "bti": "BTI exception",
    "gcs": "GCS exception",
    "mops": "MOPS exception",
    "inv": "unknown exception",
    "dbg": "debug exception",
    "breakpt": "hardware breakpoint",
    "softstp": "single step",
    "watchpt": "watchpoint",
    "brk64": "breakpoint",
    "bkpt32": "breakpoint",
    "fpac": "pointer authentication failure",
    "interrupt": "interrupt",
}
_HANDLER = re.compile(r"el[01]_(\w+)")
_INTERRUPTS = re.compile(r"el[01][th]_(?:64|32)_(?:irq|fiq)(?:_handler)?|el[01]_interrupt")
_PATCHED_IN = frozenset(("function tracer", "kretprobe", "kprobe"))


def entry_of(stub: Optional[str]) -> Optional[str]:
    """Return what entered the kernel, in words.

    :param stub: Symbol of the code whose return address is right below the ``pt_regs``;
        ``None`` if it has none
    :return: ``None`` if it is not entry code, or entry code of all exceptions
    """
    if stub is None:
        return None
    vector = _VECTOR.fullmatch(stub)
    return _STUBS.get(stub) if vector is None else _VECTORS.get(vector[1])


def entry_of_handler(function: str) -> Optional[str]:
    """Return what entered the kernel, in words, as :func:`entry_of` does.

    :param function: Name of a C function that entry code of exceptions called
    :return: ``None`` if it is not one for a certain exception
    """
    match = _HANDLER.fullmatch(function)
    return None if match is None else _HANDLERS.get(match[1])


def is_interrupt_entry(function: str) -> bool:
    """Return whether a function handles an interrupt.

    :param function: Its name in the symbol table
    """
    return _INTERRUPTS.fullmatch(function) is not None


def enters_from_user_mode(entry: Optional[str]) -> bool:
    """Return whether user mode can have entered the kernel in this way.

    It cannot call the code that the kernel patches into itself.

    :param entry: What :func:`entry_of` or :func:`entry_of_handler` returned
    """
    return entry is not None and entry not in _PATCHED_IN
