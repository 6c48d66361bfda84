# SPDX-License-Identifier: LGPL-2.1-or-later
"""Time, timers, interrupts."""

from __future__ import annotations

from collections.abc import Mapping

from .declared import Declared

__all__ = ("TIME",)

TIME: Mapping[str, Declared] = {
    # time
    "alarm_bases": "struct alarm_base [ALARM_NUMTYPE]",
    "clockevent_devices": "struct list_head",
    "clocksource_list": "struct list_head",
    "clocksource_mutex": "struct mutex",
    "clocksource_tsc": "struct clocksource",
    "curr_clocksource": "struct clocksource *",
    "jiffies_64": "u64",
    "shadow_timekeeper": "struct timekeeper",
    "sys_tz": "struct timezone",
    "tick_broadcast_device": "struct tick_device",
    "tick_do_timer_cpu": "int",
    "tick_next_period": "ktime_t",
    "timekeeper_data": "struct tk_data [TIMEKEEPERS_MAX]",
    "timekeeper_lock": "raw_spinlock_t",
    "timekeeping_suspended": "int",
    "tk_core": (
        "struct tk_data",
        # Without a name in v5.10 to v6.12; v5.4 has no lock in its sequence counter.
        "struct { seqcount_raw_spinlock_t seq; struct timekeeper timekeeper; }",
        "struct { seqcount_t seq; struct timekeeper timekeeper; }",
    ),
    # interrupts
    "irq_default_affinity": "cpumask_var_t",
    "irq_default_domain": "struct irq_domain *",
    "irq_desc_tree": "struct xarray",
    "irq_domain_list": "struct list_head",
    "irq_err_count": "atomic_t",
    "nr_irqs": "int",
    "poll_spurious_irq_timer": "struct timer_list",
    "softirq_vec": "struct softirq_action [NR_SOFTIRQS]",
    "sparse_irqs": "struct maple_tree",
    "total_nr_irqs": "unsigned int",
    "vector_matrix": "struct irq_matrix *",
    "x86_vector_domain": "struct irq_domain *",
}
