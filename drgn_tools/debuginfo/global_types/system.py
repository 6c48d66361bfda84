# SPDX-License-Identifier: LGPL-2.1-or-later
"""State of the system, its console and log, crashes, security."""

from __future__ import annotations

from collections.abc import Mapping

from .declared import Declared

__all__ = ("SYSTEM",)

SYSTEM: Mapping[str, Declared] = {
    # banners, command lines, parameters
    "boot_command_line": "char [2048]",
    "boot_params": "struct boot_params",
    "linux_banner": "const char []",
    "linux_proc_banner": "const char []",
    "saved_command_line": "char *",
    "static_command_line": "char *",
    "vermagic": "const char []",
    # console, log
    "console_drivers": "struct console *",
    "console_list": "struct hlist_head",
    "console_printk": "int [4]",
    "console_sem": "struct semaphore",
    "console_srcu": "struct srcu_struct",
    "log_buf": "char *",
    "log_buf_len": "u32",
    "log_first_idx": "u32",
    "log_first_seq": "u64",
    "log_next_idx": "u32",
    "log_next_seq": "u64",
    "oops_in_progress": "int",
    "prb": "struct printk_ringbuffer *",
    "printk_rb_static": "struct printk_ringbuffer",
    "printk_time": "bool",
    # crashes
    "crash_kexec_post_notifiers": "bool",
    "crash_notes": "note_buf_t *",
    "crashing_cpu": "int",
    "crashk_low_res": "struct resource",
    "crashk_res": "struct resource",
    "die_chain": "struct atomic_notifier_head",
    "die_counter": "int",
    "die_nest_count": "unsigned int",
    "die_owner": "int",
    "hardlockup_panic": "unsigned int",
    "kexec_crash_image": "struct kimage *",
    "kexec_image": "struct kimage *",
    "panic_cpu": "atomic_t",
    "panic_notifier_list": "struct atomic_notifier_head",
    "panic_on_oops": "int",
    "panic_on_warn": "int",
    "panic_print": "unsigned long",
    "panic_timeout": "int",
    "reboot_mode": "enum reboot_mode",
    "reboot_notifier_list": "struct blocking_notifier_head",
    "softlockup_panic": "unsigned int",
    "sysctl_hung_task_panic": "unsigned int",
    "sysctl_hung_task_timeout_secs": "unsigned long",
    "sysrq_key_table": "const struct sysrq_key_op *[62]",
    "vmcoreinfo_data": "unsigned char *",
    "vmcoreinfo_note": "u32 *",
    "vmcoreinfo_size": "size_t",
    "watchdog_enabled": "unsigned long",
    "watchdog_thresh": "int",
    # state, security
    "audit_enabled": "u32",
    "dump_stack_arch_desc_str": "char [128]",
    "e820_table": "struct e820_table *",
    "efi": "struct efi",
    "kernel_locked_down": "enum lockdown_reason",
    "lsm_active_cnt": "u32",
    "lsm_names": "char *",
    "rodata_enabled": "bool",
    "sysctl_lock": "spinlock_t",
    "sysctl_table_root": "struct ctl_table_root",
    "system_state": "enum system_states",
    "taint_flags": "const struct taint_flag []",
    "tainted_mask": "unsigned long",
    "uts_sem": "struct rw_semaphore",
}
