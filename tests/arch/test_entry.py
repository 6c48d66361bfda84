# SPDX-License-Identifier: LGPL-2.1-or-later
"""What entered the kernel, by the symbol of the stub."""

from __future__ import annotations

from typing import Optional

import pytest

from drgn_tools.arch.x86.entry import enters_from_user_mode, entry_of, entry_of_handler
from drgn_tools.kernel.text import TextKind


@pytest.mark.parametrize(
    ("stub", "entry"),
    [
        # v5.8 and later
        ("asm_exc_page_fault", "page fault"),
        ("asm_exc_int3", "breakpoint"),
        ("asm_exc_nmi", "NMI"),
        ("asm_exc_general_protection", "general protection fault"),
        ("asm_common_interrupt", "device interrupt"),
        ("asm_sysvec_apic_timer_interrupt", "timer interrupt"),
        ("asm_sysvec_reschedule_ipi", "reschedule interrupt"),
        ("asm_fred_entrypoint_user", "event from user mode"),
        ("asm_fred_entrypoint_kernel", "event in kernel mode"),
        # before
        ("page_fault", "page fault"),
        ("ret_from_intr", "device interrupt"),
        ("apic_timer_interrupt", "timer interrupt"),
        # system calls
        ("entry_SYSCALL_64_after_hwframe", "syscall"),
        ("entry_SYSENTER_compat_after_hwframe", "syscall"),
        ("entry_INT80_32", "syscall"),
        # no entry from outside, but registers all the same
        ("ret_from_fork_asm", "fork"),
        ("ret_from_fork", "fork"),
        ("arch_rethook_trampoline", "kretprobe"),
    ],
)
def test_known_stubs(stub: str, entry: str) -> None:
    assert entry_of(stub) == entry


@pytest.mark.parametrize(
    ("stub", "entry"),
    [
        ("asm_exc_brand_new_fault", "brand new fault exception"),
        ("asm_sysvec_thermal", "thermal interrupt"),
        ("asm_sysvec_posted_msi_notification", "posted msi notification interrupt"),
    ],
)
def test_stub_that_is_not_in_the_table_still_says_what_it_is(stub: str, entry: str) -> None:
    assert entry_of(stub) == entry


@pytest.mark.parametrize(
    "stub",
    [
        None,
        "",
        "schedule",
        "exc_page_fault",
        "sysvec_thermal",
        "asm_",
        "ASM_EXC_NMI",
        "not_asm_exc_x",
    ],
)
def test_what_is_no_entry_code_entered_nothing(stub: Optional[str]) -> None:
    assert entry_of(stub) is None


@pytest.mark.parametrize(
    ("function", "entry"),
    [
        ("exc_page_fault", "page fault"),
        ("exc_brand_new_fault", "brand new fault exception"),
        ("sysvec_apic_timer_interrupt", "timer interrupt"),
        ("sysvec_thermal", "thermal interrupt"),
        # before 5.8
        ("do_page_fault", "page fault"),
        ("do_int3", "breakpoint"),
        ("do_invalid_TSS", "invalid TSS exception"),
        # what else may lie in that word
        ("do_exit", None),
        ("do_", None),
        ("schedule", None),
        ("asm_exc_page_fault", None),
        ("", None),
    ],
)
def test_handlers_that_x86_32_enters(function: str, entry: Optional[str]) -> None:
    assert entry_of_handler(function) == entry


def test_code_made_at_run_time_goes_by_its_kind_of_text() -> None:
    named = {kind: entry_of(kind.value) for kind in TextKind}
    assert named.pop(TextKind.FTRACE) == "function tracer"
    assert named.pop(TextKind.KPROBE) == "kprobe"
    assert set(named.values()) == {None}


def test_user_mode_cannot_have_come_in_through_code_that_was_patched_in() -> None:
    assert enters_from_user_mode("syscall")
    assert enters_from_user_mode("page fault")
    assert not enters_from_user_mode("function tracer")
    assert not enters_from_user_mode("kretprobe")
    assert not enters_from_user_mode(None)
