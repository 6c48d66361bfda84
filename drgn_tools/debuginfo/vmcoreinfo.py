# SPDX-License-Identifier: LGPL-2.1-or-later
"""VMCOREINFO: the few facts a kernel leaves in its dump for tools like this one.

Lines of ``KEY=VALUE``, written by kernel/vmcore_info.c (kernel/crash_core.c
before v6.9) and arch_crash_save_vmcoreinfo().
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Optional

from drgn import Program

__all__ = ("build_id", "vmcoreinfo", "vmcoreinfo_symbol")

_CACHE_KEY = "drgn_tools.debuginfo.vmcoreinfo"
_MAX_VALUE_CHARS = 4096  # the whole note is one page, VMCOREINFO_BYTES


def vmcoreinfo(prog: Program) -> Mapping[str, str]:
    """Return the ``KEY=VALUE`` lines of VMCOREINFO; of a repeated key the last counts.

    :raises KeyError: (drgn's ObjectNotFoundError) if the program is no Linux kernel
    """
    try:
        lines: Mapping[str, str] = prog.cache[_CACHE_KEY]
    except KeyError:
        text = prog["VMCOREINFO"].string_().decode("ascii", "backslashreplace")
        pairs = (line.partition("=") for line in text.split("\n"))
        lines = {key: value[:_MAX_VALUE_CHARS] for key, equals, value in pairs if equals}
        prog.cache[_CACHE_KEY] = lines
    return lines


def vmcoreinfo_symbol(prog: Program, name: str) -> Optional[int]:
    """Return the (virtual, relocated) address of ``SYMBOL(name)``, ``None`` if it is not there."""
    value = vmcoreinfo(prog).get(f"SYMBOL({name})", "")
    return int(value, 16) if re.fullmatch("[0-9a-fA-F]{1,16}", value) else None


def build_id(prog: Program) -> Optional[str]:
    """Return the GNU build ID of the kernel in hex; ``None`` before v5.9, which did not say it."""
    value = vmcoreinfo(prog).get("BUILD-ID", "").lower()
    return value if re.fullmatch("[0-9a-f]{8,128}", value) else None
