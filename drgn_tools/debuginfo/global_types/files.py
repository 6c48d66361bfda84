# SPDX-License-Identifier: LGPL-2.1-or-later
"""Files: file systems, dentries, inodes, mounts."""

from __future__ import annotations

from collections.abc import Mapping

from ..declarations import Condition
from .declared import Declared

__all__ = ("FILES",)

FILES: Mapping[str, Declared] = {
    "aio_max_nr": "unsigned long",
    "aio_nr": "unsigned long",
    "anon_inode_inode": "struct inode *",
    "anon_inode_mnt": "struct vfsmount *",
    "bd_type": "struct file_system_type",
    "bdev_cachep": "struct kmem_cache *",
    "bh_cachep": "struct kmem_cache *",
    "blockdev_superblock": "struct super_block *",
    "blocked_hash": "struct hlist_head [128]",
    "core_pattern": "char [128]",
    "core_uses_pid": "int",
    "d_hash_shift": "unsigned int",
    "def_blk_fops": "const struct file_operations",
    "def_chr_fops": "const struct file_operations",
    "dentry_cache": "struct kmem_cache *",
    "dentry_hashtable": "struct hlist_bl_head *",
    "dentry_stat": "struct dentry_stat_t",
    "dnotify_group": "struct fsnotify_group *",
    "fanotify_fops": "const struct file_operations",
    "file_rwsem": "struct percpu_rw_semaphore",
    "file_systems": (
        Condition("struct file_system_type", "list", "struct hlist_head"),
        "struct file_system_type *",
    ),
    "files_stat": "struct files_stat_struct",
    "filp_cachep": "struct kmem_cache *",
    "i_hash_mask": "unsigned int",
    "i_hash_shift": "unsigned int",
    "inode_cachep": "struct kmem_cache *",
    "inode_hashtable": "struct hlist_head *",
    "inodes_stat": "struct inodes_stat_t",
    "inotify_fops": "const struct file_operations",
    "m_hash_mask": "unsigned int",
    "m_hash_shift": "unsigned int",
    "mount_hashtable": "struct hlist_head *",
    "mount_lock": "seqlock_t",
    "mountpoint_hashtable": "struct hlist_head *",
    "names_cachep": "struct kmem_cache *",
    "namespace_sem": "struct rw_semaphore",
    "nr_files": "struct percpu_counter",
    "ns_file_operations": "const struct file_operations",
    "pipe_mnt": "struct vfsmount *",
    "pipefifo_fops": "const struct file_operations",
    "proc_fs_type": "struct file_system_type",
    "proc_root": "struct proc_dir_entry",
    "ramfs_fs_type": "struct file_system_type",
    "rename_lock": "seqlock_t",
    "rootfs_fs_type": "struct file_system_type",
    "sb_lock": "spinlock_t",
    "shmem_fs_type": "struct file_system_type",
    "sock_mnt": "struct vfsmount *",
    "super_blocks": "struct list_head",
    "sysfs_fs_type": "struct file_system_type",
    "sysfs_root_kn": "struct kernfs_node *",
}
