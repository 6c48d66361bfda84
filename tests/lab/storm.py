# SPDX-License-Identifier: LGPL-2.1-or-later
"""The module that comes and goes in a live guest (storm_module/), built for the guest's kernel."""

from __future__ import annotations

from pathlib import Path
from typing import Union

from .cache import exclusive, file_hash, make_entry

# kernel.py and stock.py are inputs of every kernel: what only this needs is not to change them.
from .kernel import Kernel, _compile, compile_modules
from .run import Progress
from .sources import get_source
from .stock import _make
from .stock_packages import get_unpacked
from .variants import BuiltKernel, StockKernel, kernel_name

__all__ = ("STORM_SOURCES", "build_storm_module")

STORM_SOURCES = tuple(sorted((Path(__file__).parent / "storm_module").iterdir()))


def build_storm_module(kernel: Union[BuiltKernel, StockKernel], built: Kernel) -> Path:
    """Builds ``lab_storm.ko``, unless that was done before."""
    name = f"storm-{kernel_name(kernel)}"
    inputs = {"kernel": built.entry.name, "sources": file_hash(*STORM_SOURCES)}

    def fill(folder: Path) -> None:
        with exclusive("kernels"), Progress(f"building {name}") as progress:
            log = folder / "build.log"
            if isinstance(kernel, StockKernel):
                make = _make(get_unpacked(kernel))
            else:
                _, make = _compile(kernel, get_source(kernel), log, progress)
            compile_modules(make, STORM_SOURCES, folder, log, progress)

    return make_entry("modules", name, inputs, fill) / "lab_storm.ko"
