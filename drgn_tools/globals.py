# SPDX-License-Identifier: LGPL-2.1-or-later
"""C types of the kernel's global variables that BTF leaves out.

BTF describes only per-CPU variables before v6.16's pahole options; the rest
have an address (kallsyms) but no type. The types are stable enough to be
listed. An entry counts only if the symbol and the type exist in the kernel.
"""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ("GLOBALS",)

GLOBALS: Mapping[str, str] = {
    "__cpu_online_mask": "struct cpumask",
    "__cpu_possible_mask": "struct cpumask",
    "__cpu_present_mask": "struct cpumask",
    "__per_cpu_offset": "unsigned long []",
    "bpf_kallsyms": "struct list_head",
    "ftrace_ops_list": "struct ftrace_ops *",
    "init_mm": "struct mm_struct",
    "init_net": "struct net",
    "init_pid_ns": "struct pid_namespace",
    "init_task": "struct task_struct",
    "init_uts_ns": "struct uts_namespace",
    "jiffies_64": "u64",
    "modules": "struct list_head",
    "nr_cpu_ids": "unsigned int",
}
