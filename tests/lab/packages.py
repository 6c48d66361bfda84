# SPDX-License-Identifier: LGPL-2.1-or-later
"""The programs and files the lab needs, and the Debian packages they come in."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

from .errors import LabError

__all__ = (
    "ARM64",
    "BOOT",
    "BUILD",
    "I386",
    "SHELL",
    "STOCK",
    "SUITES",
    "multilib_package",
    "package_version",
    "packages_of",
    "program_version",
    "require",
    "require_i386",
)

_PACKAGE_OF = {
    "aarch64-linux-gnu-gcc": "gcc-aarch64-linux-gnu",
    "aarch64-linux-gnu-strip": "binutils-aarch64-linux-gnu",
    "apt-cache": "apt",
    "apt-get": "apt",
    "bc": "bc",
    "bison": "bison",
    "busybox": "busybox-static",
    "dpkg": "dpkg",
    "dpkg-deb": "dpkg",
    "dpkg-query": "dpkg",
    "flex": "flex",
    "gcc": "gcc",
    "ld": "binutils",
    "make": "make",
    "pahole": "dwarves",
    "patch": "patch",
    "qemu-system-aarch64": "qemu-system-arm",
    "qemu-system-i386": "qemu-system-x86",
    "qemu-system-x86_64": "qemu-system-x86",
    "strip": "binutils",
    "tar": "tar",
    "xz": "xz-utils",
    "/usr/aarch64-linux-gnu/include/stdio.h": "libc6-dev-arm64-cross",
    "/usr/include/gnu/stubs-32.h": "libc6-dev-i386",
    "/usr/include/libelf.h": "libelf-dev",
    "/usr/include/stdio.h": "libc6-dev",
    "/usr/share/keyrings/debian-archive-keyring.gpg": "debian-archive-keyring",
}

BUILD = (
    "bc", "bison", "dpkg-query", "flex", "gcc", "ld", "make", "pahole", "patch", "strip", "tar",
    "xz", "/usr/include/libelf.h", "/usr/include/stdio.h",
)  # fmt: skip
"""To build a kernel, modules and the workload."""
STOCK = (
    "apt-cache", "apt-get", "dpkg", "gcc", "ld", "make", "strip", "xz",
    "/usr/include/libelf.h", "/usr/include/stdio.h",
)  # fmt: skip
"""To unpack a stock kernel and build modules for it."""
SUITES = ("apt-get", "dpkg", "dpkg-deb", "/usr/share/keyrings/debian-archive-keyring.gpg")
"""To fetch a source package of another suite."""
BOOT = ("qemu-system-x86_64",)
SHELL = ("busybox",)
ARM64 = (
    "qemu-system-aarch64", "aarch64-linux-gnu-gcc", "aarch64-linux-gnu-strip",
    "/usr/aarch64-linux-gnu/include/stdio.h",
)  # fmt: skip
"""For guests of arm64, beyond what those of this machine need."""
I386 = ("gcc", "qemu-system-i386", "/usr/include/gnu/stubs-32.h")
"""The same for guests of x86-32; see :func:`require_i386`."""


def _is_there(need: str) -> bool:
    return Path(need).exists() if need.startswith("/") else shutil.which(need) is not None


def packages_of(needs: Iterable[str]) -> set[str]:
    """The Debian packages that programs and files come in."""
    return {_PACKAGE_OF.get(need, need) for need in needs}


def require(needs: Iterable[str], packages: Iterable[str] = ()) -> None:
    """Checks for programs and files (keys of the table), and for ``packages`` by name.

    :raises LabError: something is missing; the line names one command that installs it all
    """
    missing = [need for need in needs if not _is_there(need)]
    wanted = packages_of(missing)
    for package in packages:
        if not package_version(package):
            missing.append(package)
            wanted.add(package)
    if missing:
        raise LabError(
            f"missing: {', '.join(missing)}; as root: apt-get install {' '.join(sorted(wanted))}"
        )


def multilib_package() -> str:
    """The package with what gcc links 32-bit programs with, or "" without a gcc.

    Not gcc-multilib: that and a gcc for another machine cannot both be installed.
    """
    if not _is_there("gcc"):
        return ""
    command = ["gcc", "-dumpversion"]
    result = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return f"gcc-{result.stdout.split('.')[0].strip()}-multilib"


def require_i386() -> None:
    """Checks for what guests of x86-32 take, before their kernel is built for ten minutes.

    :raises LabError: something is missing
    """
    require(I386, filter(None, [multilib_package()]))


def package_version(package: str) -> str:
    """Version of an installed Debian package, or "" if it is not installed."""
    try:
        result = subprocess.run(
            ["dpkg-query", "--show", "--showformat=${db:Status-Status} ${Version}", package],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            check=False,
        )
    except FileNotFoundError:
        return ""
    status, _, version = result.stdout.partition(" ")
    return version if result.returncode == 0 and status == "installed" else ""


def program_version(program: str) -> str:
    """First line of what ``program --version`` says."""
    result = subprocess.run([program, "--version"], stdout=subprocess.PIPE, text=True, check=True)
    return result.stdout.splitlines()[0].strip()
