# SPDX-License-Identifier: LGPL-2.1-or-later
"""Live patching, tracing, kprobes, BPF, modules."""

from __future__ import annotations

from collections.abc import Mapping

from .declared import Declared

__all__ = ("TRACING",)

TRACING: Mapping[str, Declared] = {
    # BPF
    "bpf_kallsyms": "struct list_head",
    "btf_idr": "struct idr",
    "btf_modules": "struct list_head",
    "btf_vmlinux": "struct btf *",
    "link_idr": "struct idr",
    "map_idr": "struct idr",
    "prog_idr": "struct idr",
    "sysctl_unprivileged_bpf_disabled": "int",
    "trampoline_table": "struct hlist_head [1024]",
    # tracing
    "dyn_event_list": "struct list_head",
    "event_mutex": "struct mutex",
    "event_subsystems": "struct list_head",
    "fgraph_array": "struct fgraph_ops *[16]",
    "ftrace_enabled": "int",
    "ftrace_events": "struct list_head",
    "ftrace_graph_active": "int",
    "ftrace_list_end": "struct ftrace_ops",
    "ftrace_lock": "struct mutex",
    "ftrace_mod_maps": "struct list_head",
    "ftrace_ops_list": "struct ftrace_ops *",
    "ftrace_pages_start": "struct ftrace_page *",
    "ftrace_trace_arrays": "struct list_head",
    "ftrace_trace_function": "ftrace_func_t",
    "global_ops": "struct ftrace_ops",
    "global_trace": "struct trace_array",
    "pmu_idr": "struct idr",
    "trace_types": "struct tracer *",
    "tracepoint_module_list": "struct list_head",
    "tracing_disabled": "int",
    "uprobes_tree": "struct rb_root",
    # live patching, kprobes
    "freeing_list": "struct list_head",
    "klp_mutex": "struct mutex",
    "klp_ops": "struct list_head",
    "klp_patches": "struct list_head",
    "klp_target_state": "int",
    "klp_transition_patch": "struct klp_patch *",
    "kprobe_blacklist": "struct list_head",
    "kprobe_insn_slots": "struct kprobe_insn_cache",
    "kprobe_mutex": "struct mutex",
    "kprobe_optinsn_slots": "struct kprobe_insn_cache",
    "kprobe_table": "struct hlist_head [64]",
    "kprobes_all_disarmed": "bool",
    "optimizing_list": "struct list_head",
    "unoptimizing_list": "struct list_head",
    # modules
    "mod_tree": "struct mod_tree_root",
    "modprobe_path": "char [256]",
    "module_kset": "struct kset *",
    "module_ktype": "const struct kobj_type",
    "module_mutex": "struct mutex",
    "modules": "struct list_head",
    "modules_disabled": "int",
    "unloaded_tainted_modules": "struct list_head",
}
