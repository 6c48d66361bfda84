# SPDX-License-Identifier: LGPL-2.1-or-later
"""Tasks, pids, namespaces, credentials, cgroups, work queues."""

from __future__ import annotations

from collections.abc import Mapping

from .declared import Declared

__all__ = ("TASKS",)

TASKS: Mapping[str, Declared] = {
    # tasks and what they own
    "files_cachep": "struct kmem_cache *",
    "fs_cachep": "struct kmem_cache *",
    "init_cred": "struct cred",
    "init_files": "struct files_struct",
    "init_fs": "struct fs_struct",
    "init_mm": "struct mm_struct",
    "init_sighand": "struct sighand_struct",
    "init_signals": "struct signal_struct",
    "init_task": "struct task_struct",
    "init_ucounts": "struct ucounts",
    "max_threads": "int",
    "mm_cachep": "struct kmem_cache *",
    "nr_threads": "int",
    "root_user": "struct user_struct",
    "sighand_cachep": "struct kmem_cache *",
    "task_state_array": "const char *const []",
    "task_struct_cachep": "struct kmem_cache *",
    "tasklist_lock": "rwlock_t",
    "thread_stack_cache": "struct kmem_cache *",
    "total_forks": "unsigned long",
    "uidhash_table": ("struct hlist_head [128]", "struct hlist_head [8]"),  # CONFIG_BASE_SMALL
    # pids, namespaces
    "cad_pid": "struct pid *",
    "init_cgroup_ns": "struct cgroup_namespace",
    "init_ipc_ns": "struct ipc_namespace",
    "init_nsproxy": "struct nsproxy",
    "init_pid_ns": "struct pid_namespace",
    "init_struct_pid": "struct pid",
    "init_time_ns": "struct time_namespace",
    "init_user_ns": "struct user_namespace",
    "init_uts_ns": "struct uts_namespace",
    "ipc_mni_shift": "int",
    "pid_hash": "struct hlist_head *",
    "pid_max": "int",
    "pidhash_shift": "unsigned int",
    "pidmap_lock": "spinlock_t",
    # cgroups
    "cgroup_hierarchy_idr": "struct idr",
    "cgroup_mutex": "struct mutex",
    "cgroup_roots": "struct list_head",
    "cgroup_subsys": "struct cgroup_subsys *[CGROUP_SUBSYS_COUNT]",
    "cgrp_dfl_root": "struct cgroup_root",
    "css_set_count": "int",
    "css_set_lock": "spinlock_t",
    "css_set_table": "struct hlist_head [128]",
    "init_css_set": "struct css_set",
    "root_mem_cgroup": "struct mem_cgroup *",
    "root_task_group": "struct task_group",
    "task_groups": "struct list_head",
    "top_cpuset": "struct cpuset",
    # kernel threads, work queues
    "kthread_create_list": "struct list_head",
    "kthreadd_task": "struct task_struct *",
    "oom_reaper_list": "struct task_struct *",
    "system_freezable_wq": "struct workqueue_struct *",
    "system_highpri_wq": "struct workqueue_struct *",
    "system_long_wq": "struct workqueue_struct *",
    "system_unbound_wq": "struct workqueue_struct *",
    "system_wq": "struct workqueue_struct *",
    "unbound_pool_hash": "struct hlist_head [64]",
    "worker_pool_idr": "struct idr",
    "workqueues": "struct list_head",
    "wq_pool_mutex": "struct mutex",
}
