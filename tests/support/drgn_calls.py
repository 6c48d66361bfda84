# SPDX-License-Identifier: LGPL-2.1-or-later
"""Call every helper of drgn.helpers.linux, and every crash command with its options.

The same calls on two programs of one dump, one with BTF and one with DWARF, show where their answers
differ.

    python -m tests.support.drgn_calls CORE VMLINUX    prints what differs
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import io
import pkgutil
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from itertools import islice
from typing import Any, Callable, NamedTuple, Optional

import drgn.commands
import drgn.helpers.linux
from drgn import Object, Program, StackFrame, Symbol, Type, cast, container_of
from drgn.commands._crash import CRASH_COMMAND_NAMESPACE
from drgn.helpers.linux import (
    SOCK_INODE,
    SOCKET_I,
    bpf_prog_for_each,
    cpu_online_mask,
    cpu_rq,
    fget,
    find_pid,
    find_slab_cache,
    find_task,
    for_each_disk,
    for_each_file,
    for_each_hstate,
    for_each_irq_desc,
    for_each_memory_block,
    for_each_module,
    for_each_online_pgdat,
    for_each_partition,
    for_each_pci_dev,
    for_each_pci_root_bus,
    for_each_swap_info,
    for_each_sysv_shm,
    for_each_task,
    for_each_vma,
    module_address_regions,
    netdev_get_by_name,
    nr_to_section,
    path_lookup,
    per_cpu,
    rb_first,
    sysfs_lookup_node,
    virt_to_page,
)

from drgn_tools import open_program
from drgn_tools.debuginfo.symbol_finder import find_symbols

__all__ = (
    "Answers",
    "Difference",
    "answers",
    "by_nature",
    "commands_of_crash",
    "differences",
    "helpers",
    "with_dwarf",
)

_MODULES_VADDR = 0xFFFFFFFFC0000000
"""On x86-64 with KASLR: the image is below this address."""
_MOST_ITEMS = 2000
_MOST_CHARS = 64_000_000


# ---- drgn's helpers


def helpers() -> Mapping[str, Callable[..., Any]]:
    """Return every function in the ``__all__`` of a module of drgn.helpers.linux, by MODULE.NAME."""
    found = {}
    for info in pkgutil.iter_modules(drgn.helpers.linux.__path__):
        module = importlib.import_module(f"drgn.helpers.linux.{info.name}")
        for name in getattr(module, "__all__", ()):
            value = getattr(module, name)
            if callable(value) and not inspect.isclass(value):
                found[f"{info.name}.{name}"] = value
    return found


class Arguments:
    """The arguments of helpers, by the names of their parameters."""

    def __init__(self, prog: Program) -> None:
        self.prog = prog

    def address_of(self, symbol: str, type: str) -> Object:
        """Return a pointer to a variable that BTF may not have, by its symbol; its own type does not matter here."""
        return Object(self.prog, f"{type} *", self.prog.symbol(symbol).address)

    def first(self, items: Iterable[Any]) -> Any:
        for item in items:
            return item
        raise ValueError("this kernel has none")

    @cached_property
    def task(self) -> Object:
        return find_task(self.prog, 1)

    @cached_property
    def kthread(self) -> Object:
        return find_task(self.prog, 2)

    @cached_property
    def user_task(self) -> Object:
        return self.named("w-futex")

    def named(self, comm: str) -> Object:
        return self.first(
            task for task in for_each_task(self.prog) if task.comm.string_() == comm.encode()
        )

    @cached_property
    def file(self) -> Object:
        return fget(self.task, 1)

    @cached_property
    def path(self) -> Object:
        return path_lookup(self.prog, "/dev/console")

    @cached_property
    def inode(self) -> Object:
        return self.path.dentry.d_inode

    @cached_property
    def mm(self) -> Object:
        return self.task.mm.read_()

    @cached_property
    def vma(self) -> Object:
        return self.first(for_each_vma(self.mm))

    @cached_property
    def user_address(self) -> int:
        return int(self.mm.start_stack) if "start_stack" in dir(self.mm) else int(self.vma.vm_start)

    @cached_property
    def page(self) -> Object:
        return virt_to_page(self.prog, self.task.value_())

    @cached_property
    def vmalloc_address(self) -> int:
        return int(self.task.stack) if int(self.task.stack) >> 40 != 0xFFFFFF else 0

    @cached_property
    def module(self) -> Object:
        return self.first(for_each_module(self.prog))

    @cached_property
    def module_list(self) -> Object:
        return self.prog["modules"].address_of_()

    @cached_property
    def node(self) -> Object:
        return self.module_list.next.read_()

    @cached_property
    def zone(self) -> Object:
        return self.first(for_each_online_pgdat(self.prog)).node_zones[1].address_of_()

    @cached_property
    def section(self) -> Object:
        return nr_to_section(self.prog, 0)

    @cached_property
    def rq(self) -> Object:
        return cpu_rq(self.prog, 0)

    @cached_property
    def cgroup(self) -> Object:
        return self.prog["cgrp_dfl_root"].cgrp.address_of_()

    @cached_property
    def netdev(self) -> Object:
        return netdev_get_by_name(self.prog, "lo")

    @cached_property
    def pci(self) -> Object:
        return self.first(for_each_pci_dev(self.prog))

    @cached_property
    def pci_bus(self) -> Object:
        return self.first(for_each_pci_root_bus(self.prog))

    @cached_property
    def kernfs(self) -> Object:
        return sysfs_lookup_node(self.prog, "kernel/mm")

    @cached_property
    def cache(self) -> Object:
        found = find_slab_cache(self.prog, "task_struct")
        assert found is not None
        return found

    @cached_property
    def rb_root(self) -> Object:
        # init_mm has none; that of the pid of a timer queue does.
        return (
            per_cpu(self.prog["hrtimer_bases"], 0)
            .clock_base[0]
            .active.rb_root.rb_root.address_of_()
        )

    @cached_property
    def rb_node(self) -> Object:
        return rb_first(self.rb_root)

    @cached_property
    def socket(self) -> Object:
        task = self.named("w-accept")
        for _, file in for_each_file(task):
            if file.f_inode.i_mode & 0xF000 == 0xC000:
                return SOCKET_I(file.f_inode)
        raise ValueError("no socket")

    @cached_property
    def sk(self) -> Object:
        return self.socket.sk.read_()

    @cached_property
    def mutex(self) -> Object:
        return self.prog["cgroup_mutex"].address_of_()

    @cached_property
    def rwsem(self) -> Object:
        return self.inode.i_rwsem.address_of_()

    @cached_property
    def waitqueue(self) -> Object:
        return self.task.signal.wait_chldexit.address_of_()

    @cached_property
    def irq_desc(self) -> Object:
        return self.first(for_each_irq_desc(self.prog))[1]

    @cached_property
    def bpf_prog(self) -> Object:
        return self.first(bpf_prog_for_each(self.prog))

    @cached_property
    def user(self) -> Object:
        return self.prog["root_user"].address_of_()

    @cached_property
    def plist(self) -> Object:
        return self.prog["swap_active_head"].address_of_()

    @cached_property
    def llist(self) -> Object:
        return per_cpu(self.prog["call_single_queue"], 0).address_of_()

    @cached_property
    def xarray(self) -> Object:
        return self.prog["init_pid_ns"].idr.idr_rt.address_of_()

    @cached_property
    def ns_idr(self) -> Object:
        return self.prog["init_pid_ns"].idr.address_of_()

    @cached_property
    def hlist(self) -> Object:
        table = self.prog["uidhash_table"]
        return self.first(head.address_of_() for head in table if head.first)

    @cached_property
    def nulls(self) -> Object:
        hash = self.prog["tcp_hashinfo"]
        return hash.ehash[0].chain.address_of_()


A = Arguments


def _lists(a: A) -> Mapping[str, tuple[Any, ...]]:
    head, node = a.module_list, a.module
    entry = ("struct module", head, "list")
    return {
        "list_empty": (head,),
        "list_is_singular": (head,),
        "list_count_nodes": (head,),
        "list_first_entry": (head, "struct module", "list"),
        "list_first_entry_or_null": (head, "struct module", "list"),
        "list_last_entry": (head, "struct module", "list"),
        "list_next_entry": (node, "list"),
        "list_prev_entry": (node, "list"),
        "list_for_each": (head,),
        "list_for_each_reverse": (head,),
        "list_for_each_entry": entry,
        "list_for_each_entry_reverse": entry,
        "validate_list": (head,),
        "validate_list_count_nodes": (head,),
        "validate_list_for_each": (head,),
        "validate_list_for_each_entry": entry,
    }


def _bound(a: A) -> Mapping[str, Callable[[], tuple[Any, ...]]]:
    """Arguments of the helpers for which the names of parameters are not enough."""
    p = a.prog
    calls: dict[str, Callable[[], tuple[Any, ...]]] = {
        "bitmap_weight": lambda: (p["__cpu_online_mask"].bits, 64),
        "for_each_clear_bit": lambda: (p["__cpu_online_mask"].bits, 64),
        "for_each_set_bit": lambda: (p["__cpu_online_mask"].bits, 64),
        "test_bit": lambda: (0, p["__cpu_online_mask"].bits),
        "bus_for_each_dev": lambda: (p["cpu_subsys"].address_of_(),),
        "bus_to_subsys": lambda: (p["platform_bus_type"].address_of_(),),
        "class_for_each_device": lambda: (p["tty_class"].address_of_(),),
        "class_to_subsys": lambda: (p["tty_class"].address_of_(),),
        "dev_name": lambda: (a.pci.dev.address_of_(),),
        "MAJOR": lambda: (a.inode.i_rdev,),
        "MINOR": lambda: (a.inode.i_rdev,),
        "MKDEV": lambda: (5, 1),
        "cgroup_bpf_prog_for_each": lambda: (a.cgroup, p["CGROUP_INET_INGRESS"]),
        "cgroup_bpf_prog_for_each_effective": lambda: (a.cgroup, p["CGROUP_INET_INGRESS"]),
        "bpf_prog_by_id": lambda: (p, a.bpf_prog.aux.id),
        "bpf_map_by_id": lambda: (p, 1),
        "cgroup_get_from_path": lambda: (p, "/"),
        "css_next_child": lambda: (
            Object(p, "struct cgroup_subsys_state *", 0),
            a.cgroup.self.address_of_(),
        ),
        "css_next_descendant_pre": lambda: (
            Object(p, "struct cgroup_subsys_state *", 0),
            a.cgroup.self.address_of_(),
        ),
        "sock_cgroup_ptr": lambda: (a.sk.sk_cgrp_data.address_of_(),),
        "decode_file_type": lambda: (a.inode.i_mode,),
        "fget": lambda: (a.task, 1),
        "path_lookup": lambda: (p, "/dev/console"),
        "super_block_for_each_mount": lambda: (a.inode.i_sb,),
        "idr_find": lambda: (a.ns_idr, 1),
        "idr_for_each_entry": lambda: (a.ns_idr, "struct pid"),
        "for_each_resource": lambda: (p["iomem_resource"].address_of_(),),
        "decode_sysv_shm_mode_flags": lambda: (p, 0o1600),
        "gate_desc_func": lambda: (p["idt_table"][14],),
        "irq_desc_kstat_cpu": lambda: (a.irq_desc, 0),
        "irq_to_desc": lambda: (p, 9),
        "kernfs_walk": lambda: (a.kernfs, "transparent_hugepage"),
        "kthread_data": lambda: (a.kthread,),
        "to_kthread": lambda: (a.kthread,),
        "hlist_empty": lambda: (a.hlist,),
        "hlist_for_each": lambda: (a.hlist,),
        "hlist_for_each_entry": lambda: ("struct user_struct", a.hlist, "uidhash_node"),
        "hlist_nulls_empty": lambda: (a.nulls,),
        "hlist_nulls_for_each_entry": lambda: (
            "struct sock",
            a.nulls,
            "__sk_common.skc_nulls_node",
        ),
        "is_a_nulls": lambda: (a.nulls.first,),
        "llist_empty": lambda: (a.llist,),
        "llist_first_entry": lambda: (a.llist, "struct __call_single_data", "node.llist"),
        "llist_first_entry_or_null": lambda: (a.llist, "struct __call_single_data", "node.llist"),
        "llist_for_each": lambda: (a.llist.first,),
        "llist_for_each_entry": lambda: ("struct __call_single_data", a.llist.first, "node.llist"),
        "llist_is_singular": lambda: (a.llist,),
        "mutex_owner": lambda: (a.mutex,),
        "mt_for_each": lambda: (a.mm.mm_mt.address_of_(),),
        "mtree_load": lambda: (a.mm.mm_mt.address_of_(), a.vma.vm_start),
        "PFN_PHYS": lambda: (p, 16),
        "PHYS_PFN": lambda: (p, 65536),
        "access_process_vm": lambda: (a.task, a.mm.start_code, 64),
        "access_remote_vm": lambda: (a.mm, a.mm.start_code, 64),
        "decode_memory_block_state": lambda: (a.first(for_each_memory_block(p)),),
        "decode_memory_block_state_value": lambda: (p, 1),
        "decode_page_flags_value": lambda: (p, 0x10201),
        "find_vmap_area": lambda: (p, a.task.stack),
        "follow_page": lambda: (a.mm, a.mm.start_code),
        "follow_pfn": lambda: (a.mm, a.mm.start_code),
        "follow_phys": lambda: (a.mm, a.mm.start_code),
        "in_direct_map": lambda: (p, a.task),
        "pfn_to_page": lambda: (p, 16),
        "pfn_to_virt": lambda: (p, 16),
        "phys_to_page": lambda: (p, 65536),
        "phys_to_virt": lambda: (p, 65536),
        "virt_to_page": lambda: (p, a.task),
        "virt_to_pfn": lambda: (p, a.task),
        "virt_to_phys": lambda: (p, a.task),
        "vma_find": lambda: (a.mm, a.mm.start_code),
        "vmalloc_to_page": lambda: (p, a.task.stack),
        "vmalloc_to_pfn": lambda: (p, a.task.stack),
        "NODE_DATA": lambda: (p, 0),
        "pfn_to_section": lambda: (p, 16),
        "pfn_to_section_nr": lambda: (p, 16),
        "section_decode_mem_map": lambda: (a.section, 0),
        "wmark_pages": lambda: (a.zone, 1),
        "address_to_module": lambda: (p, a.first(module_address_regions(a.module))[0]),
        "find_module": lambda: (p, a.module.name),
        "SOCK_INODE": lambda: (a.socket,),
        "SOCKET_I": lambda: (SOCK_INODE(a.socket),),
        "get_net_ns_by_inode": lambda: (path_lookup(p, "/proc/1/ns/net").dentry.d_inode,),
        "get_net_ns_by_fd": lambda: (a.task, 1),
        "netdev_get_by_index": lambda: (p, 1),
        "netdev_get_by_name": lambda: (p, "lo"),
        "sk_nulls_for_each": lambda: (a.nulls,),
        "neigh_table_for_each_neighbor": lambda: (p["arp_tbl"].address_of_(),),
        "for_each_node_mask": lambda: (p["node_states"][p["N_ONLINE"]],),
        "for_each_node_state": lambda: (p, p["N_ONLINE"]),
        "node_state": lambda: (0, p["N_ONLINE"]),
        "pci_bus_for_each_child": lambda: (a.pci_bus,),
        "pci_bus_for_each_dev": lambda: (a.pci_bus,),
        "pci_bus_name": lambda: (a.pci_bus,),
        "per_cpu": lambda: (p["runqueues"], 1),
        "per_cpu_ptr": lambda: (p["vm_committed_as"].counters, 1),
        "percpu_counter_sum": lambda: (p["vm_committed_as"].address_of_(),),
        "percpu_counter_sum_positive": lambda: (p["vm_committed_as"].address_of_(),),
        "find_pid": lambda: (p, 1),
        "find_task": lambda: (p, 1),
        "pid_task": lambda: (find_pid(p, 1), p["PIDTYPE_PID"]),
        "plist_first_entry": lambda: (a.plist, "struct swap_info_struct", "list"),
        "plist_last_entry": lambda: (a.plist, "struct swap_info_struct", "list"),
        "plist_for_each_entry": lambda: ("struct swap_info_struct", a.plist, "list"),
        "plist_node_empty": lambda: (a.task.pushable_tasks.address_of_(),),
        "radix_tree_for_each": lambda: (a.xarray,),
        "radix_tree_lookup": lambda: (a.xarray, 1),
        "RB_EMPTY_NODE": lambda: (a.rb_node,),
        "rb_find": lambda: (
            "struct timerqueue_node",
            a.rb_root,
            "node",
            0,
            lambda key, entry: (key > entry.expires) - (key < entry.expires),
        ),
        "validate_rbtree": lambda: ("struct timerqueue_node", a.rb_root, "node", _by_expiry, True),
        "validate_rbtree_inorder_for_each_entry": lambda: (
            "struct timerqueue_node",
            a.rb_root,
            "node",
            _by_expiry,
            True,
        ),
        "rbtree_inorder_for_each_entry": lambda: ("struct timerqueue_node", a.rb_root, "node"),
        "rbtree_preorder_for_each_entry": lambda: ("struct timerqueue_node", a.rb_root, "node"),
        "sbitmap_for_each_set": lambda: (a.first(for_each_disk(p)).queue.elevator.address_of_(),),
        "cfs_rq_for_each_entity": lambda: (a.rq.cfs.address_of_(),),
        "cpu_curr": lambda: (p, 0),
        "cpu_rq": lambda: (p, 0),
        "idle_task": lambda: (p, 0),
        "sched_entity_is_task": lambda: (a.task.se.address_of_(),),
        "sched_entity_to_task": lambda: (a.task.se.address_of_(),),
        "task_group_name": lambda: (p["root_task_group"].address_of_(),),
        "task_group_sched_entity": lambda: (p["root_task_group"].address_of_(), 0),
        "decode_sigaction_flags": lambda: (a.task.sighand.action[2].address_of_(),),
        "decode_sigaction_flags_value": lambda: (p, 0x14000000),
        "decode_sigset": lambda: (p, a.named("w-sigwait").real_blocked.address_of_()),
        "sigset_to_hex": lambda: (a.task.blocked.address_of_(),),
        "sigpending_for_each": lambda: (a.named("w-stopped").signal.shared_pending.address_of_(),),
        "find_containing_slab_cache": lambda: (p, a.task),
        "find_slab_cache": lambda: (p, "task_struct"),
        "slab_cache_for_each_allocated_object": lambda: (a.cache, "struct task_struct"),
        "slab_object_info": lambda: (p, a.task),
        "kernel_stack_trace": lambda: (p, a.task),
        "stack_depot_fetch": lambda: (Object(p, "depot_stack_handle_t", 1),),
        "swait_active": lambda: (_swait(a),),
        "swait_for_each_task": lambda: (_swait(a),),
        "swap_file_path": lambda: (a.first(for_each_swap_info(p)),),
        "sysfs_lookup_node": lambda: (p, "kernel/mm"),
        "sysfs_lookup_kobject": lambda: (p, "kernel/mm"),
        "sysfs_lookup": lambda: (p, "devices/system/cpu/cpu0"),
        "sysfs_listdir": lambda: (p, "kernel"),
        "kobject_path": lambda: (a.pci.dev.kobj.address_of_(),),
        "qdisc_lookup": lambda: (a.netdev, 0x8001),
        "sk_tcpstate": lambda: (a.sk,),
        "ktime_to_ns": lambda: (per_cpu(p["hrtimer_bases"], 0).expires_next,),
        "hrtimer_clock_base_for_each": lambda: (
            per_cpu(p["hrtimer_bases"], 0).clock_base[0].address_of_(),
        ),
        "timer_base_for_each": lambda: (per_cpu(p["timer_bases"], 0)[0].address_of_(),),
        "find_user": lambda: (p, 0),
        "kuid_val": lambda: (a.task.cred.uid,),
        "global_node_page_state": lambda: (p, p["NR_FILE_PAGES"]),
        "global_numa_event_state": lambda: (p, p["NUMA_HIT"]),
        "global_vm_event_state": lambda: (p, p["PGFAULT"]),
        "global_zone_page_state": lambda: (p, p["NR_FREE_PAGES"]),
        "zone_page_state": lambda: (a.zone, p["NR_FREE_PAGES"]),
        "waitqueue_active": lambda: (a.waitqueue,),
        "waitqueue_for_each_entry": lambda: (
            a.named("w-pipe-read").signal.wait_chldexit.address_of_(),
        ),
        "waitqueue_for_each_task": lambda: (a.named("w-wait4").signal.wait_chldexit.address_of_(),),
        "xa_for_each": lambda: (a.xarray,),
        "xa_load": lambda: (a.xarray, 1),
        "xa_is_value": lambda: (Object(p, "void *", 3),),
        "xa_is_zero": lambda: (Object(p, "void *", 1030),),
        "xa_to_value": lambda: (Object(p, "void *", 7),),
        "completion_done": lambda: (_completion(a),),
        "completion_for_each_task": lambda: (_completion(a),),
        "blk_rq_bytes": lambda: (_request(a),),
        "blk_rq_pos": lambda: (_request(a),),
        "blk_mq_rq_to_pdu": lambda: (_request(a),),
        "blk_mq_rq_from_pdu": lambda: (cast("void *", _request(a)),),
        "req_op": lambda: (_request(a),),
        "rq_data_dir": lambda: (_request(a),),
        "request_queue_busy_iter": lambda: (Object(p, "struct request_queue *", 0),),
        "op_is_write": lambda: (Object(p, "unsigned int", 1),),
        "bdev_partno": lambda: (a.inode.i_sb.s_bdev,),
        "find_sysv_msg_queue": lambda: (p, 0),
        "find_sysv_sem_array": lambda: (p, 0),
        "find_sysv_shm": lambda: (p, 0),
        "for_each_mount": lambda: (p,),
        "print_mounts": lambda: (p,),
        "netdev_priv": lambda: (a.netdev,),
        "skb_shinfo": lambda: (_skb(a),),
        "disk_devt": lambda: (a.first(for_each_disk(p)),),
        "early_section_nr": lambda: (p, 0),
        "section_nr_to_pfn": lambda: (p, 1),
    }
    for name in ("nr_to_section", "online_section_nr", "present_section_nr", "valid_section_nr"):
        calls[name] = lambda: (p, 0)
    for name in _lists(a):
        calls[name] = lambda name=name: _lists(a)[name]  # type: ignore[misc]
    for name in ("plist_for_each", "plist_head_empty"):
        calls[name] = lambda: (a.plist,)
    for name in ("inode_path", "inode_paths", "inode_for_each_page"):
        calls[name] = lambda: (path_lookup(p, "/init").dentry.d_inode,)
    calls["d_path"] = lambda: (a.file.f_path.address_of_(),)
    calls["address_space_for_each_page"] = lambda: (
        path_lookup(p, "/init").dentry.d_inode.i_mapping,
    )
    return calls


def _by_expiry(a: Object, b: Object) -> int:
    return int(a.expires > b.expires) - int(a.expires < b.expires)


def _swait(a: A) -> Object:
    return _completion(a).wait.address_of_()


def _completion(a: A) -> Object:
    vfork = a.named("w-vfork-child").vfork_done
    return vfork.read_()


def _request(a: A) -> Object:
    return Object(a.prog, "struct request *", a.task.value_())


def _skb(a: A) -> Object:
    return a.sk.sk_receive_queue.next.read_()


_BY_PARAMETER: Mapping[str, Callable[[A], Any]] = {
    "prog": lambda a: a.prog,
    "ns": lambda a: a.prog,
    "net": lambda a: a.prog,
    "task": lambda a: a.task,
    "page": lambda a: a.page,
    "mm": lambda a: a.mm,
    "vma": lambda a: a.vma,
    "inode": lambda a: a.inode,
    "dentry": lambda a: a.path.dentry,
    "mnt": lambda a: container_of(a.path.mnt, "struct mount", "mnt"),
    "mapping": lambda a: a.inode.i_mapping,
    "mask": lambda a: cpu_online_mask(a.prog),
    "cpu": lambda a: 0,
    "cgrp": lambda a: a.cgroup,
    "css": lambda a: a.cgroup.self.address_of_(),
    "hstate": lambda a: a.first(for_each_hstate(a.prog)),
    "idr": lambda a: a.ns_idr,
    "desc": lambda a: a.irq_desc,
    "module": lambda a: a.module,
    "mod": lambda a: a.module,
    "kn": lambda a: a.kernfs,
    "sem": lambda a: a.rwsem,
    "section": lambda a: a.section,
    "nr": lambda a: 0,
    "zone": lambda a: a.zone,
    "dev": lambda a: a.netdev,
    "sk": lambda a: a.sk,
    "root": lambda a: a.rb_root,
    "node": lambda a: a.rb_node,
    "rq": lambda a: a.rq,
    "slab_cache": lambda a: a.cache,
    "bpf_prog": lambda a: a.bpf_prog,
    "disk": lambda a: a.first(for_each_disk(a.prog)),
    "part": lambda a: a.first(for_each_partition(a.prog)),
    "shm": lambda a: a.first(for_each_sysv_shm(a.prog)),
    "si": lambda a: a.first(for_each_swap_info(a.prog)),
}


def _arguments(
    name: str, helper: Callable[..., Any], a: A, bound: Mapping[str, Any]
) -> tuple[Any, ...]:
    if name in bound:
        return tuple(bound[name]())
    if name in ("pci_is_bridge", "pci_name", "pci_pcie_type"):
        return (a.pci,)
    try:
        parameters = inspect.signature(helper).parameters.values()
    except ValueError:  # of C, all of one task
        return (a.task,)
    return tuple(
        _BY_PARAMETER[parameter.name](a)
        for parameter in parameters
        if parameter.default is parameter.empty and parameter.kind is not parameter.KEYWORD_ONLY
    )


# ---- crash commands


def commands_of_crash(prog: Program) -> list[str]:
    """Return command lines with the options of crash commands; addresses are those of *prog*."""
    a = Arguments(prog)
    task, page = f"{a.task.value_():x}", f"{a.page.value_():x}"
    user = a.named("w-futex").pid.value_()
    stack = f"{int(a.task.stack):x}"
    dentry, inode = (f"{int(x):x}" for x in (a.path.dentry, a.inode))
    modules = f"{prog.symbol('modules').address:x}"
    code = f"{int(a.mm.start_code):x}"
    return [
        line.strip()
        for line in f"""
        set 1
        * task_struct.pid {task}
        ascii
        ascii 696e6974
        bpf
        bpf -p 1
        bpf -m 1
        bpf -s
        bpf -p 1 -x
        bt
        bt 1
        bt {user}
        bt -a
        bt -c 0
        bt -f 1
        bt -F 1
        bt -l 1
        bt -d 1
        bt -V 1
        btop {task}
        dev
        dev -i
        dev -p
        dev -d
        dev -D
        eval 1 + 2
        eval -b 4096
        eval -l 0x1000000
        files 1
        files {a.named("w-pipe-read").pid.value_()}
        files -d {dentry}
        files -p {inode}
        files -c 1
        files -R 1 1
        foreach task -R pid
        foreach kernel ps
        foreach user files
        foreach user vm
        foreach bt
        foreach sig
        foreach set
        ipcs
        ipcs -s
        ipcs -m
        ipcs -q
        irq
        irq 9
        irq -u
        irq -d
        irq -b
        irq -a
        irq -s
        irq -s -c 0
        kmem -f
        kmem -F
        kmem -i
        kmem -v
        kmem -V
        kmem -n
        kmem -z
        kmem -o
        kmem -h
        kmem -m page_type
        kmem -p {page}
        kmem -s
        kmem -s task_struct
        kmem -g
        kmem -g 10201
        kmem -I task_struct -s
        kmem {task}
        kmem {page}
        kmem {stack}
        list -h {modules}
        list -H {modules}
        list -H {modules} -o module.list -s module.name
        list -H {modules} -o module.list -s module.name -r
        list modules
        log
        log -T
        log -t
        mod
        mod -t
        mount
        mount -n 1
        net
        net -a
        p jiffies
        p jiffies_64
        p init_task.pid
        p runqueues:0
        p linux_banner
        p init_task.comm
        p tk_core
        p tcp_hashinfo
        p -x init_mm.mm_count
        p super_blocks
        p saved_command_line
        ps
        ps -k
        ps -u
        ps -G
        ps -y FIFO
        ps -A
        ps -s
        ps -p 1
        ps -c 1
        ps -t
        ps -l
        ps -m
        ps -a 1
        ps -g
        ps -r 1
        ps -S
        ps -m -C 0
        ps init
        ptob 16
        ptov 10000
        ptov 0:0
        rd linux_banner 4
        rd -a linux_banner 4
        rd -s jiffies_64 2
        rd -S {task} 32
        rd -x -32 {task} 8
        rd -p 10000 2
        rd -N {task} 4
        rd -u {code} 4
        runq
        runq -t
        runq -T
        runq -m
        runq -g
        runq -c 0
        search -s {task} -l 512 {modules}
        search -c -s linux_banner -l 64 Linux
        search -t {modules}
        set
        set -c 0
        set 1
        sig
        sig 1
        sig -g 1
        sig -l
        sig -s 10000
        struct task_struct
        struct task_struct.pid,comm {task}
        struct task_struct {task}
        struct -l task_struct.tasks task_struct.pid {task}
        struct list_head modules
        struct -x list_head modules
        struct -c 2 list_head modules
        struct rq.nr_running runqueues:a
        swap
        sym schedule
        sym modules
        sym linux_banner
        sym {task}
        sym -q tk_core
        sym -p schedule
        sym -n schedule
        sym -l
        sys
        task 1
        task -R pid,comm 1
        task -x -R flags 1
        timer
        timer -r
        timer -C 0
        tree -t rbtree -r 0 {int(a.rb_root):x}
        tree -t xarray {int(a.xarray):x}
        tree -t radix {int(a.xarray):x}
        tree -t maple {int(a.mm.mm_mt.address_of_()) if a.mm.type_.type.has_member("mm_mt") else 0:x}
        union sigval
        union rcu_special
        vm 1
        vm {user}
        vtop {task}
        vtop -k {stack}
        vtop -u -c 1 {code}
        waitq {int(a.waitqueue):x}
        waitq signal_struct.wait_chldexit {int(a.task.signal):x}
        whatis task_struct
        whatis modules
        whatis init_task
        whatis schedule
        whatis tk_core
        whatis pid_t
        """.splitlines()
        if line.strip()
    ]


# ---- their answers


class Answers(NamedTuple):
    """The answers of calls, and the errors of the calls that failed."""

    given: Mapping[str, str]
    errors: Mapping[str, str]


class Difference(NamedTuple):
    """A call for which BTF gives another answer than DWARF, or an error."""

    call: str
    btf: str
    dwarf: str
    failed: bool
    """Whether the call is an error with BTF."""


def _shown(value: object) -> str:
    if isinstance(value, Object):
        # A reference is compared by its address.
        where = (
            "absent" if value.absent_ else hex(value.address_) if value.address_ is not None else ""
        )
        text = f"({value.type_.type_name()}){where}"
        if not where:
            text += str(value.format_(dereference=False, symbolize=False, string=False))
        return text
    if isinstance(value, (str, bytes, int, float, type(None), Type)):
        return repr(value)
    if isinstance(value, Program):
        return "prog"
    if isinstance(value, Symbol):
        return f"{value.name}@{value.address:#x}"
    if isinstance(value, StackFrame):
        return f"{frame_name(value)} {value.pc:#x}"
    if isinstance(value, Mapping):
        items = sorted(f"{_shown(key)}: {_shown(each)}" for key, each in value.items())
        return "{" + ", ".join(items) + "}"
    if isinstance(value, drgn.SymbolIndex):
        return "\n".join(sorted(map(_shown, value(Program(), None, None, False))))
    if isinstance(value, Iterable):
        return "[" + ", ".join(map(_shown, islice(value, _MOST_ITEMS))) + "]"
    return repr(value)


def frame_name(frame: StackFrame) -> str:
    return f"{frame.name}{' (inline)' if frame.is_inline else ''}"


def _called(call: Callable[[], object]) -> tuple[str, str]:
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            shown = _shown(call())
    except Exception as error:  # whatever a helper raises is compared
        return "", f"{type(error).__name__}: {error}"
    return printed.getvalue()[:_MOST_CHARS] + shown[:_MOST_CHARS], ""


def answers(prog: Program, commands: Iterable[str]) -> Answers:
    """Call every helper, then run crash commands."""
    a = Arguments(prog)
    bound = _bound(a)
    given, errors = {}, {}
    calls: Iterator[tuple[str, Callable[[], object]]] = (
        (
            full,
            lambda full=full, helper=helper: helper(
                *_arguments(full.partition(".")[2], helper, a, bound)
            ),
        )
        for full, helper in helpers().items()
    )
    for name, call in calls:
        given[name], errors[name] = _called(call)
    for line in commands:
        given[f"% {line}"], errors[f"% {line}"] = _called(
            lambda line=line: CRASH_COMMAND_NAMESPACE.run(prog, line, globals={"prog": prog})  # type: ignore[misc]
        )
    return Answers(given, {name: error for name, error in errors.items() if error})


# ---- what DWARF has and BTF cannot have

INLINE_FRAMES = (
    "DWARF has inline frames and source lines; a label inside a function is a symbol of its own in "
    "kallsyms, which has no sizes, and an oops names it, too"
)
SOURCE_LINES = "DWARF has source lines"
MORE_SYMBOLS = (
    "the symbol table of a vmlinux has symbols that kallsyms leaves out, and with KASLR drgn leaves "
    "absolute ones where they were linked"
)
NAME_OF_VMLINUX = "the name of the vmlinux"
LENGTH_OF_BANNER = "DWARF has a declaration of linux_banner, without its length, and gives that"
LENGTH_0 = "BTF does not tell [0] from []"
SPELLING = "the name of a type where a typedef names it, too: pg_data_t"

_ABSOLUTE = ("__brk_limit", "__init_scratch_end", "__pi__end", "_end")
_LABELS = {
    "common_startup_64": "secondary_startup_64",
    "entry_SYSCALL_64_after_hwframe": "entry_SYSCALL_64",
}

_BY_NATURE: tuple[tuple[str, str], ...] = (
    (r"stack\.kernel_stack_trace|% bt( .*)?|% foreach bt", INLINE_FRAMES),
    (r"% sym -l", MORE_SYMBOLS),
    (r"% sym .*", SOURCE_LINES),
    (r"% sys", NAME_OF_VMLINUX),
    (r"% p linux_banner", LENGTH_OF_BANNER),
    (r"% (struct|task|p|\*) ?.*", LENGTH_0),
    (r"mmzone\..*|% p node_data|% kmem -n", SPELLING),
)
"""Calls, as regular expressions, and why they differ. The first that matches counts."""


def by_nature(difference: Difference) -> Optional[str]:
    """Return why BTF must give another answer, ``None`` if it must give the same."""
    reason = next((why for call, why in _BY_NATURE if re.fullmatch(call, difference.call)), None)
    if difference.failed or reason is None:
        return None
    btf, dwarf = _rest(difference.btf, reason), _rest(difference.dwarf, reason)
    if reason == MORE_SYMBOLS:
        return reason if set(btf) <= set(dwarf) else None
    if reason == INLINE_FRAMES:
        # The lines of BTF are all in the answer of DWARF, in the same order.
        lines = iter(dwarf)
        return reason if all(line in lines for line in btf) else None
    return reason if btf == dwarf or reason == LENGTH_OF_BANNER else None


def _rest(text: str, reason: str) -> list[str]:
    # Return the lines of an answer without the parts that may differ for this reason.
    if reason == INLINE_FRAMES:
        text = re.sub(
            r"(?m)^ *#\d+ +|\(inline\) *| +\([^()]+:\d+:\d+\)|^ +[\w./-]+: \d+$", "", text
        )
        for label, function in _LABELS.items():
            text = text.replace(label, function)
        text = re.sub(r"[\w.]+\+\d+", "LABEL", text)  # bt -F
        # Another label at the same address may give the name.
        text = re.sub(r"[\w.]+ (?:at (?=[0-9a-f]{8,})|(?=0x[0-9a-f]{8,}))", "", text)
        text = text.replace(", ", "\n").replace("[", "").replace("]", "")
    elif reason == MORE_SYMBOLS:
        text = re.sub(rf"(?m)^.* (?:{'|'.join(_ABSOLUTE)})$", "", text)
    elif reason == SOURCE_LINES:
        text = re.sub(r"(?m) +[\w./-]+: \d+ *$", "", text)
    elif reason == NAME_OF_VMLINUX:
        text = re.sub(r"(KERNEL:) *\S*vmlinux\S*", r"\1", text)
    elif reason == LENGTH_0:
        text = text.replace("[0]", "[]")
    elif reason == SPELLING:
        text = text.replace("pg_data_t", "struct pglist_data")
    return [" ".join(line.split()) for line in text.splitlines() if line.strip()]


def differences(btf: Answers, dwarf: Answers) -> list[Difference]:
    """Return the calls that have an answer with DWARF, but not the same with BTF."""
    return [
        Difference(name, btf.errors.get(name) or btf.given[name], text, name in btf.errors)
        for name, text in dwarf.given.items()
        if name not in dwarf.errors and (name in btf.errors or btf.given[name] != text)
    ]


def _excerpt(a: str, b: str) -> str:
    lines_a, lines_b = re.split(r"\n|, (?=\()", a), re.split(r"\n|, (?=\()", b)
    for x, y in zip(lines_a, lines_b):
        if x != y:
            return f"    btf   {x[:300]}\n    dwarf {y[:300]}"
    return f"    btf {len(lines_a)} lines, dwarf {len(lines_b)}: {a[-200:]!r} {b[-200:]!r}"


def with_dwarf(core: str, vmlinux: str) -> Program:
    """Open a dump with a vmlinux. Symbols of its modules come from the dump, as with BTF."""
    prog = open_program(core=core, symbols=[vmlinux])

    def of_modules(
        prog: Program, name: Optional[str], address: Optional[int], one: bool
    ) -> list[Symbol]:
        found = find_symbols(prog, name, address, False)
        return [symbol for symbol in found if symbol.address >= _MODULES_VADDR]

    prog.register_symbol_finder("modules", of_modules, enable_index=-1)
    return prog


def main(core: str, vmlinux: str) -> None:
    """Print the calls for which BTF and DWARF give different answers."""
    dwarf_prog, btf_prog = with_dwarf(core, vmlinux), open_program(core=core)
    commands = commands_of_crash(dwarf_prog)
    dwarf, btf = answers(dwarf_prog, commands), answers(btf_prog, commands)
    found = differences(btf, dwarf)
    for kind in ("helpers", "crash"):
        ours = [d for d in found if d.call.startswith("%") == (kind == "crash")]
        names = [n for n in dwarf.given if n.startswith("%") == (kind == "crash")]
        answered = [n for n in names if n not in dwarf.errors]
        failing = sum(d.failed for d in ours)
        natural = sum(by_nature(d) is not None for d in ours)
        print(
            f"{kind}: {len(names)} called, {len(answered)} answer with DWARF, "
            f"{len(answered) - len(ours)} alike, {natural} differ by nature, "
            f"{len(ours) - failing - natural} differ otherwise, {failing} fail"
        )
    for d in found:
        why = by_nature(d)
        print(d.call, f"({why})" if why else "FAILS" if d.failed else "DIFFERS")
        if not why:
            print(d.btf[:300] if d.failed else _excerpt(d.btf, d.dwarf))
    print("---- no answer with DWARF either")
    for name, error in dwarf.errors.items():
        print(name, error[:150], "" if name in btf.errors else "(but with BTF)")


if __name__ == "__main__":
    main(*sys.argv[1:])
