# SPDX-License-Identifier: LGPL-2.1-or-later
"""Network: namespaces, protocols, sockets, routes."""

from __future__ import annotations

from collections.abc import Mapping

from .declared import Declared

__all__ = ("NETWORK",)

NETWORK: Mapping[str, Declared] = {
    "act_base": "struct list_head",
    "arp_tbl": "struct neigh_table",
    "bsd_socket_locks": "spinlock_t [256]",
    "default_qdisc_ops": "const struct Qdisc_ops *",
    "dev_base_lock": "rwlock_t",
    "fib_info_hash": "struct hlist_head *",
    "fib_info_hash_size": "unsigned int",
    "genl_fam_idr": "struct idr",
    "inet_offloads": "const struct net_offload *[256]",
    "inet_protos": "struct net_protocol *[256]",
    "inetsw": "struct list_head [11]",
    "inetsw6": "struct list_head [11]",
    "init_net": "struct net",
    "link_ops": "struct list_head",
    "nd_tbl": "struct neigh_table",
    "neigh_tables": "struct neigh_table *[]",
    "net_families": "const struct net_proto_family *[]",
    "net_hotdata": "struct net_hotdata",
    "net_namespace_list": "struct list_head",
    "net_rwsem": "struct rw_semaphore",
    "netdev_chain": "struct raw_notifier_head",
    "netlink_proto": "struct proto",
    "nl_table": "struct netlink_table *",
    "noop_qdisc": "struct Qdisc",
    "packet_proto": "struct proto",
    "pernet_list": "struct list_head",
    "proto_list": "struct list_head",
    "proto_list_mutex": "struct mutex",
    "ptype_all": "struct list_head",
    "ptype_base": "struct list_head [16]",
    "qdisc_base": "struct Qdisc_ops *",
    "raw_prot": "struct proto",
    "raw_v4_hashinfo": "struct raw_hashinfo",
    "raw_v6_hashinfo": "struct raw_hashinfo",
    "rtnl_af_ops": "struct list_head",
    "rtnl_mutex": "struct mutex",
    "sock_fs_type": "struct file_system_type",
    "sysctl_tcp_mem": "long [3]",
    "sysctl_udp_mem": "long [3]",
    "tcf_proto_base": "struct list_head",
    "tcp_cong_list": "struct list_head",
    "tcp_hashinfo": "struct inet_hashinfo",
    "tcp_memory_allocated": "atomic_long_t",
    "tcp_memory_pressure": "unsigned long",
    "tcp_prot": "struct proto",
    "tcp_sockets_allocated": "struct percpu_counter",
    "tcpv6_prot": "struct proto",
    "udp_prot": "struct proto",
    "udp_table": "struct udp_table",
    "udplite_table": "struct udp_table",
    "udpv6_prot": "struct proto",
    "unix_dgram_proto": "struct proto",
    "unix_proto": "struct proto",
    "unix_socket_table": "struct hlist_head [512]",
    "unix_stream_proto": "struct proto",
}
