# SPDX-License-Identifier: LGPL-2.1-or-later
"""CPUs, the scheduler, RCU, what the machine is."""

from __future__ import annotations

from collections.abc import Mapping

from .declared import Declared

__all__ = ("CPUS",)

CPUS: Mapping[str, Declared] = {
    "__cpu_active_mask": "struct cpumask",
    "__cpu_online_mask": "struct cpumask",
    "__cpu_possible_mask": "struct cpumask",
    "__cpu_present_mask": "struct cpumask",
    "__num_online_cpus": "atomic_t",
    "__per_cpu_offset": "unsigned long []",
    "apic": "struct apic *",
    "avenrun": "unsigned long [3]",
    "boot_cpu_data": "struct cpuinfo_x86",
    "cpu_bit_bitmap": "const unsigned long [BITS_PER_LONG + 1][]",
    "cpu_hotplug_lock": "struct percpu_rw_semaphore",
    "cpu_khz": "unsigned int",
    "cpu_smt_control": "enum cpuhp_smt_control",
    "cpufreq_driver": "struct cpufreq_driver *",
    "cpufreq_policy_list": "struct list_head",
    "cpuidle_curr_driver": "struct cpuidle_driver *",
    "cpuset_mutex": "struct mutex",
    "def_root_domain": "struct root_domain",
    "idt_descr": "struct desc_ptr",
    "idt_table": "gate_desc [256]",
    "loops_per_jiffy": "unsigned long",
    "nr_cpu_ids": "unsigned int",
    "pv_ops": "struct paravirt_patch_template",
    "rcu_expedited": "int",
    "rcu_normal": "int",
    "rcu_scheduler_active": "int",
    "rcu_state": "struct rcu_state",
    "sched_domains_mutex": "struct mutex",
    "scheduler_running": "int",
    "smp_ops": "struct smp_ops",
    "tsc_khz": "unsigned int",
    "x86_hyper_type": "enum x86_hypervisor_type",
    "x86_init": "struct x86_init_ops",
    "x86_platform": "struct x86_platform_ops",
}
