# SPDX-License-Identifier: LGPL-2.1-or-later
"""C types of the kernel's global variables, which BTF leaves out: one file for each purpose.

BTF has them only if the kernel was built with pahole --btf_features=global_var. For other kernels
kallsyms has the address, and these tables the type. An entry is used if the kernel has both the
symbol and the type, and BTF does not have the variable. Per-CPU variables have a table of their
own, :mod:`.per_cpu_types`.

A type is one that :mod:`.declarations` can parse. If a length is empty, the array has as many
elements as fit before the next symbol. Fewer zeros at its end than a cache line has bytes count as
padding. A string ends with its first zero.
"""

from __future__ import annotations

from collections.abc import Mapping

from .cpus import CPUS
from .declared import Declared
from .devices import DEVICES
from .files import FILES
from .memory import MEMORY
from .network import NETWORK
from .system import SYSTEM
from .tasks import TASKS
from .time import TIME
from .tracing import TRACING

__all__ = ("GLOBALS", "Declared")

GLOBALS: Mapping[str, Declared] = {
    **TASKS,
    **CPUS,
    **TRACING,
    **SYSTEM,
    **TIME,
    **MEMORY,
    **FILES,
    **DEVICES,
    **NETWORK,
}
