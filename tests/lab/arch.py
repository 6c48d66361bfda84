# SPDX-License-Identifier: LGPL-2.1-or-later
"""What differs between the architectures of the guests: how they are compiled and run."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Literal, Optional

__all__ = (
    "Arch",
    "compiler_flags",
    "console_name",
    "cpu_model",
    "cross_prefix",
    "machine_options",
    "making_for",
    "qemu_program",
)

Arch = Literal["x86_64", "i386", "aarch64"]
"""As QEMU names them, and drgn in capitals."""

_FLAGS: dict[Arch, tuple[str, ...]] = {
    "x86_64": (),
    # asm/*.h of the kernel are the same for both; gcc does not look there for -m32.
    "i386": ("-m32", "-idirafter", "/usr/include/x86_64-linux-gnu"),
    "aarch64": (),
}
_MAKEFILES: dict[Arch, str] = {"i386": "i386", "aarch64": "arm64"}
"""As the kernel's makefiles name those that they do not build for by themselves."""
_CROSS = {"aarch64": "aarch64-linux-gnu-"}
_CPU_MODELS: dict[Arch, str] = {
    "x86_64": "max",
    # As an AMD K7, which it is by default, it "is not suitable for SMP" (amd_k7_smp_check()).
    "i386": "max,family=15",
    # The architected algorithm of pointer authentication takes most of the time of an emulation.
    "aarch64": "max,pauth-impdef=on",
}
_MACHINES: dict[Arch, str] = {"x86_64": "q35", "i386": "q35", "aarch64": "virt,gic-version=3"}


def compiler_flags(arch: Arch) -> tuple[str, ...]:
    """What gcc needs to compile a program for the guest."""
    return _FLAGS[arch]


def cross_prefix(arch: Arch) -> str:
    """What the names of gcc, ld and strip begin with, if those of this machine do not make code for the guest."""
    return _CROSS.get(arch, "")


def cpu_model(arch: Arch) -> str:
    """The CPU that QEMU emulates: with all that it can."""
    return _CPU_MODELS[arch]


def machine_options(arch: Arch) -> str:
    """The machine that QEMU emulates."""
    return _MACHINES[arch]


def console_name(arch: Arch) -> str:
    """The serial port of the guest."""
    return "ttyAMA0" if arch == "aarch64" else "ttyS0"


def qemu_program(arch: Arch) -> str:
    """The QEMU that emulates the machine."""
    return f"qemu-system-{arch}"


@contextmanager
def making_for(arch: Arch) -> Iterator[None]:
    """Inside this context, the kernel's makefiles build for an architecture: they read it from the environment."""
    settings = {"ARCH": _MAKEFILES.get(arch), "CROSS_COMPILE": _CROSS.get(arch)}
    before = {name: os.environ.get(name) for name in settings}
    try:
        _set({name: value for name, value in settings.items() if value is not None})
        yield
    finally:
        _set(before)


def _set(variables: Mapping[str, Optional[str]]) -> None:
    for name, value in variables.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
