# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which machine runs the kernel, which of its boots this is, and how long it has been up."""

from __future__ import annotations

import uuid
from typing import Optional

from drgn import Object, Program

from ..memory import UNUSABLE, read_or_none
from .probing import symbol_address

__all__ = ("boot_id", "nodename", "uptime_s")

_NO_NODENAME = "(none)"
"""UTS_NODENAME of include/linux/uts.h: the name of a machine that was never given one."""
_BOOT_ID_BYTES = 16
_NS = 1_000_000_000
_MAX_UPTIME_S = 1000 * 365 * 24 * 60 * 60


def nodename(prog: Program) -> Optional[str]:
    """Return ``uname -n`` (init_uts_ns.name.nodename), ``None`` if it cannot be read or was never set."""
    address = symbol_address(prog, "init_uts_ns")
    if address is None:
        return None
    try:
        names = Object(prog, "struct uts_namespace", address=address).name
        name = names.nodename.string_().decode("utf-8", "backslashreplace")
    except UNUSABLE:
        return None
    return None if name in ("", _NO_NODENAME) else name


def boot_id(prog: Program) -> Optional[str]:
    """Return the UUID in ``/proc/sys/kernel/random/boot_id``, which is new for each boot.

    It is sysctl_bootid in drivers/char/random.c, v6.12. The kernel makes it when that file is first
    read, which systemd does.

    :return: ``None`` if it was not made, or cannot be read
    """
    address = symbol_address(prog, "sysctl_bootid")
    data = None if address is None else read_or_none(prog, address, _BOOT_ID_BYTES)
    return str(uuid.UUID(bytes=data)) if data is not None and any(data) else None


def uptime_s(prog: Program) -> Optional[int]:
    """Return the seconds since the machine was booted, including time in suspend, as uptime(1) does.

    That is CLOCK_BOOTTIME at the last timer tick: ktime_get_seconds() in kernel/time/timekeeping.c,
    v6.12, and ``offs_boot``.

    :return: ``None`` if it cannot be read
    """
    try:
        keeper = _timekeeper(prog)
        seconds = int(keeper.ktime_sec.value_() + keeper.offs_boot.value_() // _NS)
    except UNUSABLE:
        return None
    return seconds if 0 <= seconds < _MAX_UPTIME_S else None


def _timekeeper(prog: Program) -> Object:
    try:
        return prog["tk_core"].timekeeper
    except LookupError:
        # Since Linux kernel commit 22c62b9a84b8f16ca0277e133a0cd62a259fee7c ("timekeeping: Introduce
        # auxiliary timekeepers") (in v6.17), tk_core is a macro for this.
        return prog["timekeeper_data"][prog["TIMEKEEPER_CORE"]].timekeeper
