# SPDX-License-Identifier: LGPL-2.1-or-later
"""What runs in the guest: the workload, compiled, and the initramfs with it and the modules."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Optional

from .arch import Arch, compiler_flags
from .cache import Entry, file_hash, find_entry, make_entry
from .initramfs import write_initramfs
from .kernel import Kernel
from .packages import SHELL, package_version, program_version, require
from .run import Progress, run

__all__ = ("cached_initramfs", "make_initramfs")

_HERE = Path(__file__).parent
_SOURCES = tuple(sorted((_HERE / "user").iterdir()))
"""C files and headers of the workload."""
_FLAGS = ("-O2", "-Wall", "-Wextra", "-static", "-pthread", "-s")
_BUSYBOX = Path("/bin/busybox")


def _inputs(kernel: Kernel, arch: Arch, shell: bool) -> dict[str, str]:
    headers = "/usr/include/gnu/stubs-32.h" if arch == "i386" else "/usr/include/stdio.h"
    require(["gcc", headers, *(SHELL if shell else ())])
    return {
        "workload": file_hash(*_SOURCES),
        "flags": " ".join((*_FLAGS, *compiler_flags(arch))),
        "gcc": program_version("gcc"),
        "modules": " ".join(f"{path.parent.name}/{path.name}" for path in kernel.modules),
        "builder": file_hash(Path(__file__), _HERE / "initramfs.py"),
        "busybox": package_version("busybox-static") if shell else "",
    }


def _name(kernel: Kernel, shell: bool) -> str:
    return f"{kernel.entry.name.rsplit('-', 1)[0]}{'-shell' if shell else ''}"


def cached_initramfs(kernel: Kernel, arch: Arch, *, shell: bool = False) -> Optional[Entry]:
    """Folder of the initramfs, if it was made."""
    return find_entry("initramfs", _name(kernel, shell), _inputs(kernel, arch, shell))


def make_initramfs(kernel: Kernel, arch: Arch, *, shell: bool = False) -> Path:
    """``initramfs.gz`` for a kernel; with ``shell`` there is a busybox in it, too."""

    def fill(folder: Path) -> None:
        with Progress("making the initramfs") as progress, tempfile.TemporaryDirectory() as work:
            init = Path(work, "init")
            sources = [str(source) for source in _SOURCES if source.suffix == ".c"]
            run(
                ["gcc", *_FLAGS, *compiler_flags(arch), "-o", str(init), *sources],
                progress,
                log=folder / "build.log",
            )
            loadable = [module for module in kernel.modules if module.exists()]
            files = {f"modules/{module.name}": module.read_bytes() for module in loadable}
            files["modules/order"] = "".join(f"{module.name}\n" for module in loadable).encode()
            files["init"] = init.read_bytes()
            if shell:
                files["bin/busybox"] = _BUSYBOX.read_bytes()
            write_initramfs(folder / "initramfs.gz", files)

    inputs = _inputs(kernel, arch, shell)
    return make_entry("initramfs", _name(kernel, shell), inputs, fill) / "initramfs.gz"
