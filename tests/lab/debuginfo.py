# SPDX-License-Identifier: LGPL-2.1-or-later
"""The vmlinux with DWARF of a kernel that Debian built, of the very version that a dump is of.

It is a package of its own, of 0.3 to 1 GB, which only some tests need. Debian keeps it as long as
the kernel.
"""

from __future__ import annotations

from pathlib import Path
from typing import Optional

from .apt import newest, update
from .cache import find_entry, make_entry
from .dump import Dump
from .errors import LabError
from .run import Progress
from .stock_packages import unpack_vmlinux
from .variants import StockKernel, Variant

__all__ = ("find_debuginfo", "get_debuginfo")


def _inputs(variant: Variant, dump: Dump) -> dict[str, str]:
    if not isinstance(variant.kernel, StockKernel):
        raise LabError(
            f"{variant.name}: not a kernel that Debian built; its vmlinux is in the cache"
        )
    return {"release": str(dump.read_about()["release"]), "suite": variant.kernel.suite}


def find_debuginfo(variant: Variant, dump: Dump) -> Optional[Path]:
    """The vmlinux, if it was fetched."""
    entry = find_entry("debuginfo", variant.name, _inputs(variant, dump))
    return entry / "vmlinux" if entry else None


def get_debuginfo(variant: Variant, dump: Dump) -> Path:
    """The vmlinux, fetched if need be.

    :raises LabError: the archive has no such package any more
    """
    inputs = _inputs(variant, dump)
    suite, release = inputs["suite"], inputs["release"]

    def fill(folder: Path) -> None:
        log = folder / "build.log"
        with Progress(f"fetching the debuginfo of {release}") as progress:
            update(suite, log, progress)
            package = newest(suite, f"linux-image-{release}-dbg")
            unpack_vmlinux(suite, package, release, folder, log, progress)

    return make_entry("debuginfo", variant.name, inputs, fill) / "vmlinux"
