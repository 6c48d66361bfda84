# SPDX-License-Identifier: LGPL-2.1-or-later
"""Open the memory of the running kernel, /proc/kcore, or say why the system does not allow it."""

from __future__ import annotations

import errno
import os
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Optional

from drgn import Program

from ..errors import InputError

__all__ = ("open_running_kernel",)

_KCORE = "/proc/kcore"
_LOCKDOWN = Path("/sys/kernel/security/lockdown")
_NAME = "the running kernel"


def open_running_kernel(prog: Program) -> None:
    """Open the running kernel.

    If a user at a terminal is not root, sudo asks for the password and opens this one file.

    :param prog: a new program
    :raises InputError: with one line that says what is missing and what to do
    """
    if _is_masked():
        raise InputError(
            f"{_NAME}: there is nothing in {_KCORE}: containers hide it; run this on the host"
        )
    try:
        prog.set_kernel()
    except FileNotFoundError as e:
        raise InputError(
            f"{_NAME}: there is no {_KCORE}: it needs CONFIG_PROC_KCORE=y, and containers hide it"
        ) from e
    except PermissionError as e:
        if os.geteuid() == 0 or not _can_use_sudo():
            raise InputError(f"{_NAME}: {_reason(e)}") from e
        _open_by_sudo(prog)


def _is_masked() -> bool:
    """Return whether something else is mounted over the file: an empty file, or a device (/dev/null).

    The kernel's own is a regular file whose size covers the addresses in it
    (kcore_update_ram() in fs/proc/kcore.c, v6.12).
    """
    try:
        status = os.stat(_KCORE)
    except OSError:
        return False  # opening it then gives the error
    return not stat.S_ISREG(status.st_mode) or status.st_size == 0


def _can_use_sudo() -> bool:
    return shutil.which("sudo") is not None and sys.stdin is not None and sys.stdin.isatty()


def _open_by_sudo(prog: Program) -> None:
    from drgn.internal.sudohelper import open_via_sudo  # as drgn's own command line does

    try:
        prog.set_core_dump(open_via_sudo(_KCORE, os.O_RDONLY))
    except subprocess.CalledProcessError as e:
        raise InputError(f"{_NAME}: sudo did not open {_KCORE}") from e
    except PermissionError as e:
        raise InputError(f"{_NAME}: {_reason(e)}") from e
    except OSError as e:
        raise InputError(f"{_NAME}: {_KCORE}: {e.strerror}") from e


def _reason(error: PermissionError) -> str:
    # EACCES: the file belongs to root. EPERM: open_kcore() in fs/proc/kcore.c (v6.12)
    # requires a capability, and a kernel that is not locked down.
    if error.errno == errno.EACCES and os.geteuid() != 0:
        return f"only root may read {_KCORE}: run this with sudo"
    level = _lockdown_level()
    if level is not None and level != "none":
        return (
            f"{_KCORE} cannot be read, even by root: the kernel is locked down (lockdown={level})"
        )
    return (
        f"{_KCORE} cannot be opened: it needs the capability CAP_SYS_RAWIO "
        "and a kernel that is not locked down"
    )


def _lockdown_level() -> Optional[str]:
    """Return ``none``, ``integrity`` or ``confidentiality``, ``None`` if that cannot be read."""
    try:
        found = re.search(r"\[(\w+)\]", _LOCKDOWN.read_text())
    except OSError:
        return None
    return found and found[1]
