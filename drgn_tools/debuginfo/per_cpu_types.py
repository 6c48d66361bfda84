# SPDX-License-Identifier: LGPL-2.1-or-later
"""C types of the kernel's per-CPU variables, for kernels whose BTF leaves them out.

pahole writes them since v1.18, but the kernel's build leaves them out up to pahole v1.21 ("kbuild:
skip per-CPU BTF generation for pahole v1.18-v1.21", in v5.14 and stable trees). So Debian 11 (v5.10)
has none. As in :mod:`.global_types`, kallsyms has the address, here an offset into the memory of
each CPU, and this table has the type.

An entry is used if BTF does not have the variable, the kernel has both the symbol and the type,
and, if the kernel has CONFIG_SMP, the symbol is between ``__per_cpu_start`` and
``__per_cpu_end``. A length in brackets is a number or an enumerator. If it is empty, the array
has as many elements as fit before the next symbol. (The memory at the offset itself is not read: it
is not a copy of the variable.)
"""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ("PER_CPU",)

PER_CPU: Mapping[str, str] = {
    # tasks, scheduler, work
    "cpu_number": "int",
    "cpu_stopper": "struct cpu_stopper",
    "cpu_worker_pools": "struct worker_pool [NR_STD_WORKER_POOLS]",
    "cpuhp_state": "struct cpuhp_cpu_state",
    "current_task": "struct task_struct *",
    "idle_threads": "struct task_struct *",
    "kernel_cpustat": "struct kernel_cpustat",
    "ksoftirqd": "struct task_struct *",
    "kstat": "struct kernel_stat",
    "numa_node": "int",
    "osq_node": "struct optimistic_spin_node",
    "pcpu_hot": "struct pcpu_hot",
    "process_counts": "unsigned long",
    "rcu_data": "struct rcu_data",
    "runqueues": "struct rq",
    "sched_clock_data": "struct sched_clock_data",
    "sd_llc": "struct sched_domain *",
    "this_cpu_off": "unsigned long",
    # stacks, entry code, state of the CPU (arch/)
    "__irq_regs": "struct pt_regs *",
    "__preempt_count": "int",
    "_cea_offset": "unsigned long",
    "cea_exception_stacks": "struct cea_exception_stacks *",
    "cpu_current_top_of_stack": "unsigned long",
    "cpu_info": "struct cpuinfo_x86",
    "cpu_tlbstate": "struct tlb_state",
    "cpu_tss_rw": "struct tss_struct",
    "entry_stack_storage": "struct entry_stack_page",
    "exception_stacks": "struct exception_stacks",
    "fpu_fpregs_owner_ctx": "struct fpu *",
    "gdt_page": "struct gdt_page",
    "hardirq_stack_inuse": "bool",
    # struct irq_stack * before Linux kernel commit 951c2a51ae75 ("x86/irq/64: Adjust the per
    # CPU irq stack pointer by 8") (in v5.12), and in v7.2 again. It points to the end.
    "hardirq_stack_ptr": "void *",
    "irq_regs": "struct pt_regs *",
    "irq_stack_backing_store": "struct irq_stack",
    "irq_stack_ptr": "void *",  # what it points to depends on the machine and the version
    "softirq_stack_ptr": "struct irq_stack *",
    # interrupts, other CPUs, probes
    "call_single_queue": "struct llist_head",
    "cfd_data": "struct call_function_data",
    "csd_data": "call_single_data_t",
    "current_kprobe": "struct kprobe *",
    "irq_stat": "irq_cpustat_t",
    "kprobe_ctlblk": "struct kprobe_ctlblk",
    "lazy_list": "struct llist_head",
    "raised_list": "struct llist_head",
    "softnet_data": "struct softnet_data",
    "tasklet_hi_vec": "struct tasklet_head",
    "tasklet_vec": "struct tasklet_head",
    "vector_irq": "vector_irq_t",
    # time
    "hrtimer_bases": "struct hrtimer_cpu_base",
    "lapic_events": "struct clock_event_device",
    "tick_cpu_device": "struct tick_device",
    "tick_cpu_sched": "struct tick_sched",
    "timer_bases": "struct timer_base []",
    "watchdog_hrtimer": "struct hrtimer",
    "watchdog_touch_ts": "unsigned long",
    # memory, files
    "bh_lrus": "struct bh_lru",
    "memcg_stock": "struct memcg_stock_pcp",
    "nr_dentry": "long",
    "nr_dentry_unused": "long",
    "nr_inodes": "unsigned long",
    "nr_unused": "unsigned long",
    "vfree_deferred": "struct vfree_deferred",
    "vm_event_states": "struct vm_event_state",
    "vmap_block_queue": "struct vmap_block_queue",
}
