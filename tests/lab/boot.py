# SPDX-License-Identifier: LGPL-2.1-or-later
"""Boots a variant for a person: console on this terminal, a shell in the guest."""

from __future__ import annotations

import subprocess

from .dump import get_kernel
from .guest import make_initramfs
from .packages import BOOT, require
from .qemu import qemu_command
from .run import say
from .variants import Variant

__all__ = ("boot",)


def boot(variant: Variant) -> int:
    """Returns QEMU's exit code. QEMU shares our terminal, so Ctrl-C goes to the guest."""
    require(BOOT)
    kernel = get_kernel(variant)
    initramfs = make_initramfs(kernel, variant.kernel.arch, shell=True)
    say("Ctrl-A X ends the machine; the workload starts beside the shell")
    command = qemu_command(variant, kernel, initramfs, mode="shell")
    return subprocess.run([*command, "-serial", "mon:stdio"], check=False).returncode
