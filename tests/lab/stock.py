# SPDX-License-Identifier: LGPL-2.1-or-later
"""A kernel that Debian built, with the modules built here for it. Needs no root."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Optional

from .cache import Entry, file_hash, find_entry, make_entry
from .kernel import CRASH_SOURCES, KERNEL_SOURCES, Kernel, compile_modules
from .packages import STOCK, program_version, require
from .run import Progress
from .stock_packages import Unpacked, find_unpacked, get_unpacked
from .variants import StockKernel, kernel_name

__all__ = (
    "build_stock_crash_module",
    "cached_stock_crash_module",
    "cached_stock_kernel",
    "get_stock_kernel",
)


def _inputs(kernel: StockKernel, unpacked: Unpacked) -> dict[str, str]:
    """All that the modules depend on."""
    return {
        "packages": unpacked.packages,
        "early": " ".join(kernel.early_modules),
        "kernel": file_hash(*KERNEL_SOURCES),
        "builder": file_hash(Path(__file__)),
        "gcc": program_version(unpacked.compiler),
    }


def _as_kernel(entry: Entry, kernel: StockKernel, unpacked: Unpacked) -> Kernel:
    names = (*kernel.early_modules, "lab_oracle", "lab_helper")
    modules = tuple(entry / f"{name}.ko" for name in names)
    return Kernel(entry, entry / "vmlinuz", modules, unpacked.packages.split(", ")[0])


def cached_stock_kernel(kernel: StockKernel) -> Optional[Kernel]:
    """The kernel, if it was fetched.

    :raises LabError: apt does not know the packages, or a program is not installed
    """
    require(STOCK)
    unpacked = find_unpacked(kernel)
    if not unpacked:
        return None
    entry = find_entry("kernels", kernel_name(kernel), _inputs(kernel, unpacked))
    return _as_kernel(entry, kernel, unpacked) if entry else None


def get_stock_kernel(kernel: StockKernel) -> Kernel:
    """Fetches the kernel and builds the modules, unless that was done before."""
    require(STOCK)
    name = kernel_name(kernel)
    unpacked = get_unpacked(kernel)

    def fill(folder: Path) -> None:
        with Progress(f"building modules for {name}") as progress:
            shutil.copy2(unpacked.image, folder / "vmlinuz")
            shutil.copy2(unpacked.config, folder / "config")
            for module in kernel.early_modules:
                if unpacked.early_module(module).exists():
                    shutil.copy2(unpacked.early_module(module), folder)
            if unpacked.vmlinux.exists():
                os.link(unpacked.vmlinux, folder / "vmlinux")
            log = folder / "build.log"
            compile_modules(
                _make(unpacked), KERNEL_SOURCES, folder, log, progress, builtin_oracle=False
            )

    entry = make_entry("kernels", name, _inputs(kernel, unpacked), fill)
    return _as_kernel(entry, kernel, unpacked)


_OF_NO_USE = (
    "CONFIG_CC_HAS_MIN_FUNCTION_ALIGNMENT=",  # -fmin-function-alignment, of gcc 14
    "CONFIG_DEBUG_INFO_BTF_MODULES=",  # wants the pahole of the kernel's suite
)
"""Options of the kernel that the compiler and pahole of this machine may not know."""


def _make(unpacked: Unpacked) -> list[str]:
    return ["make", "-C", str(unpacked.headers), f"CC={unpacked.compiler}", *_OF_NO_USE]


# ------------------------------------------------------------------ the module that crashes


def _crash_inputs(fetched: Kernel) -> dict[str, str]:
    return {"kernel": fetched.entry.name, "sources": file_hash(*CRASH_SOURCES)}


def cached_stock_crash_module(kernel: StockKernel, fetched: Kernel) -> Optional[Path]:
    """The module that crashes, if it was built."""
    entry = find_entry("modules", kernel_name(kernel), _crash_inputs(fetched))
    return entry / "lab_crash.ko" if entry else None


def build_stock_crash_module(kernel: StockKernel, fetched: Kernel) -> Path:
    """Builds the module that crashes, unless that was done before."""
    name = kernel_name(kernel)

    def fill(folder: Path) -> None:
        with Progress(f"building a module for {name}") as progress:
            make = _make(get_unpacked(kernel))
            compile_modules(make, CRASH_SOURCES, folder, folder / "build.log", progress)

    return make_entry("modules", name, _crash_inputs(fetched), fill) / "lab_crash.ko"
