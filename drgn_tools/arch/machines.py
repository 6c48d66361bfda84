# SPDX-License-Identifier: LGPL-2.1-or-later
"""How files name machines, and which of them are understood.

Apart from :mod:`.registry`, because the code that opens a file needs this before there is a kernel, and
should not import all that is known about a machine.
"""

from __future__ import annotations

from typing import Optional

__all__ = ("ARCHES", "UNDERSTOOD", "arch_of_elf", "arch_of_utsname", "elf_machine_name")

_ELF_MACHINES = {
    2: "sparc",
    3: "i386",
    4: "m68k",
    8: "mips",
    15: "parisc",
    20: "ppc",
    21: "ppc64",
    22: "s390",
    40: "arm",
    42: "sh",
    43: "sparc64",
    50: "ia64",
    62: "x86_64",
    92: "openrisc",
    94: "xtensa",
    183: "aarch64",
    189: "microblaze",
    243: "riscv",
    252: "csky",
    258: "loongarch",
    0x9026: "alpha",
}
"""e_machine (elf.h) -> name; also of machines that are not understood, to say what a file is."""
_UTSNAME_MACHINES = {
    "x86_64": "x86_64",
    "i386": "i386",
    "i486": "i386",
    "i586": "i386",
    "i686": "i386",
    "aarch64": "aarch64",
}
"""utsname.machine -> name of the :class:`~.base.Arch`."""
ARCHES = ("x86_64", "i386", "aarch64")
"""Names of the architectures that are understood: drgn's names in lower case."""

UNDERSTOOD = f"{', '.join(ARCHES[:-1])} and {ARCHES[-1]}"
"""For error messages."""


def arch_of_elf(machine: int) -> Optional[str]:
    """Return the name of an :class:`~.base.Arch`, ``None`` if the machine is not understood.

    :param machine: e_machine of an ELF header
    """
    name = _ELF_MACHINES.get(machine)
    return name if name in ARCHES else None


def elf_machine_name(machine: int) -> str:
    """Return what people call a machine: ``riscv``, or ``ELF machine 999``.

    :param machine: e_machine of an ELF header
    """
    return _ELF_MACHINES.get(machine, f"ELF machine {machine}")


def arch_of_utsname(machine: str) -> Optional[str]:
    """Return the name of an :class:`~.base.Arch`, ``None`` if the machine is not understood.

    :param machine: utsname.machine, as in the header of a kdump file
    """
    return _UTSNAME_MACHINES.get(machine)
