# SPDX-License-Identifier: LGPL-2.1-or-later
"""CPU masks and per-CPU variables.

drgn.helpers.linux.cpumask and .percpu do the same. But they import all of drgn's
helpers, which takes longer than all stacks of a small machine.
"""

from __future__ import annotations

from drgn import Object, sizeof

__all__ = ("cpus_in", "has_impossible_cpus", "per_cpu")

_MAX_MASK_BYTES = 1024
"""NR_CPUS is 8,192 at most (MAXSMP)."""


def cpus_in(mask: Object) -> list[int]:
    """Return the numbers of the CPUs in a mask, ascending, as for_each_cpu() in linux/cpumask.h.

    :param mask: ``struct cpumask``
    :raises UNUSABLE: if it is not in the dump, or its type is damaged
    """
    bits, count = _bits_in(mask), _nr_cpu_ids(mask)
    return [cpu for cpu in range(min(count, bits.bit_length())) if bits >> cpu & 1]


def has_impossible_cpus(mask: Object) -> bool:
    """Return whether a mask has CPUs that cannot exist: then the mask or the number of CPUs is damaged.

    :param mask: ``struct cpumask``
    :raises UNUSABLE: as :func:`cpus_in`
    """
    return bool(_bits_in(mask) >> max(_nr_cpu_ids(mask), 0))


def _bits_in(mask: Object) -> int:
    data = mask.prog_.read(mask.bits.address_, min(sizeof(mask.bits), _MAX_MASK_BYTES))
    return int.from_bytes(data, "little")


def _nr_cpu_ids(mask: Object) -> int:
    try:
        return int(mask.prog_["nr_cpu_ids"].value_())
    except KeyError:  # CONFIG_SMP=n
        return 1


def per_cpu(variable: Object, cpu: int) -> Object:
    """Return the copy of a per-CPU variable that belongs to one CPU, as per_cpu() in asm/percpu.h.

    :param variable: the object that the program has, whose address is an offset
    :param cpu: number of the CPU
    :return: object of the same type, at a virtual address
    :raises UNUSABLE: if the offset of the CPU is not in the dump, or a type is damaged
    """
    prog = variable.prog_
    try:
        offsets = prog["__per_cpu_offset"]
    except KeyError:  # CONFIG_SMP=n: there is one copy
        return variable
    address = variable.address_ + offsets[cpu].value_()
    return Object(prog, variable.type_, address=address & (1 << 8 * prog.address_size()) - 1)
