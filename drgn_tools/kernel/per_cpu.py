# SPDX-License-Identifier: LGPL-2.1-or-later
"""CPU masks and per-CPU variables.

As drgn.helpers.linux.cpumask and .percpu have them; but these come with all of
drgn's helpers, whose import takes longer than all stacks of a small machine.
"""

from __future__ import annotations

from drgn import Object, sizeof

__all__ = ("cpus_in", "per_cpu")

_MAX_MASK_BYTES = 1024
"""NR_CPUS is 8,192 at most (MAXSMP)."""


def cpus_in(mask: Object) -> list[int]:
    """Return the numbers of the CPUs in a mask, ascending.

    :param mask: ``struct cpumask``
    """
    prog = mask.prog_
    try:
        count = prog["nr_cpu_ids"].value_()
    except KeyError:  # CONFIG_SMP=n
        count = 1
    data = prog.read(mask.bits.address_, min(sizeof(mask.bits), _MAX_MASK_BYTES))
    bits = int.from_bytes(data, "little")
    return [cpu for cpu in range(min(count, 8 * len(data))) if bits >> cpu & 1]


def per_cpu(variable: Object, cpu: int) -> Object:
    """Return a CPU's own copy of a per-CPU variable.

    :param variable: As the program has it: its address is an offset
    """
    prog = variable.prog_
    try:
        offsets = prog["__per_cpu_offset"]
    except KeyError:  # CONFIG_SMP=n: there is one copy
        return variable
    address = variable.address_ + offsets[cpu].value_()
    return Object(prog, variable.type_, address=address & (1 << 8 * prog.address_size()) - 1)
