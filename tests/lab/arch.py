# SPDX-License-Identifier: LGPL-2.1-or-later
"""What differs between the architectures of the guests: how they are compiled and run."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

__all__ = ("Arch", "compiler_flags", "cpu_model", "making_for", "qemu_program")

Arch = Literal["x86_64", "i386"]
"""As the kernel's makefiles and QEMU name them, and drgn in capitals."""

_FLAGS: dict[Arch, tuple[str, ...]] = {
    "x86_64": (),
    # asm/*.h of the kernel are the same for both; gcc does not look there for -m32.
    "i386": ("-m32", "-idirafter", "/usr/include/x86_64-linux-gnu"),
}


def compiler_flags(arch: Arch) -> tuple[str, ...]:
    """What gcc needs to compile a program for the guest."""
    return _FLAGS[arch]


def cpu_model(arch: Arch) -> str:
    """The CPU that QEMU emulates: with all that it can."""
    # As an AMD K7, which it is by default, it "is not suitable for SMP" (amd_k7_smp_check()).
    return "max,family=15" if arch == "i386" else "max"


def qemu_program(arch: Arch) -> str:
    """The QEMU that emulates the machine."""
    return f"qemu-system-{arch}"


@contextmanager
def making_for(arch: Arch) -> Iterator[None]:
    """Inside this context, the kernel's makefiles build for an architecture: they read it from the environment."""
    if arch == "x86_64":  # what they build here by themselves
        yield
        return
    before = os.environ.get("ARCH")
    os.environ["ARCH"] = arch
    try:
        yield
    finally:
        if before is None:
            del os.environ["ARCH"]
        else:
            os.environ["ARCH"] = before
