# SPDX-License-Identifier: LGPL-2.1-or-later
"""Devices: buses, classes, drivers, block and character devices."""

from __future__ import annotations

from collections.abc import Mapping

from .declared import Declared

__all__ = ("DEVICES",)

_CLASS = ("const struct class", "struct class *")
"""A class is a variable of its own, or, before v6.5 and thereabouts, created at boot."""

DEVICES: Mapping[str, Declared] = {
    # buses
    "acpi_bus_type": "const struct bus_type",
    "acpi_root": "struct acpi_device *",
    "bus_kset": "struct kset *",
    "bus_ktype": "const struct kobj_type",
    "clocksource_subsys": "const struct bus_type",
    "cpu_subsys": "const struct bus_type",
    "memory_subsys": "const struct bus_type",
    "node_subsys": "const struct bus_type",
    "pci_bus_sem": "struct rw_semaphore",
    "pci_bus_type": "const struct bus_type",
    "pci_root_buses": "struct list_head",
    "pcie_port_bus_type": "const struct bus_type",
    "platform_bus": "struct device",
    "platform_bus_type": "const struct bus_type",
    "pmu_bus": "const struct bus_type",
    "scsi_bus_type": "const struct bus_type",
    "serio_bus": "const struct bus_type",
    "usb_bus_type": "const struct bus_type",
    "virtio_bus": "const struct bus_type",
    # classes
    "block_class": "const struct class",
    "bsg_class": _CLASS,
    "class_kset": "struct kset *",
    "class_ktype": "const struct kobj_type",
    "input_class": _CLASS,
    "mem_class": _CLASS,
    "misc_class": _CLASS,
    "net_class": _CLASS,
    "nvme_class": _CLASS,
    "rtc_class": _CLASS,
    "tty_class": _CLASS,
    # devices, drivers, kobjects
    "deferred_probe_pending_list": "struct list_head",
    "dev_kobj": "struct kobject *",
    "device_ktype": "const struct kobj_type",
    "devices_kset": "struct kset *",
    "dpm_list": "struct list_head",
    "driver_ktype": "const struct kobj_type",
    "firmware_kobj": "struct kobject *",
    "fs_kobj": "struct kobject *",
    "gpio_devices": "struct list_head",
    "iommu_device_list": "struct list_head",
    "kernel_kobj": "struct kobject *",
    "node_devices": "struct node *[]",
    "power_kobj": "struct kobject *",
    "sysfs_dev_block_kobj": "struct kobject *",
    "sysfs_dev_char_kobj": "struct kobject *",
    "system_kset": "struct kset *",
    "thermal_tz_list": "struct list_head",
    "wakeup_sources": "struct list_head",
    # block and character devices, input, terminals
    "blk_requestq_cachep": "struct kmem_cache *",
    "cdev_map": "struct kobj_map *",
    "chrdevs": "struct char_device_struct *[255]",
    "chrdevs_lock": "struct mutex",
    "disk_type": "const struct device_type",
    "elv_list": "struct list_head",
    "fg_console": "int",
    "input_dev_list": "struct list_head",
    "input_handler_list": "struct list_head",
    "major_names": "struct blk_major_name *[255]",
    "major_names_lock": "struct mutex",
    "misc_list": "struct list_head",
    "misc_mtx": "struct mutex",
    "nvme_bdev_ops": "const struct block_device_operations",
    "nvme_ns_head_ops": "const struct block_device_operations",
    "part_type": "const struct device_type",
    "registered_fb": "struct fb_info *[32]",
    "tty_drivers": "struct list_head",
    "tty_mutex": "struct mutex",
    "vc_cons": "struct vc [63]",
}
