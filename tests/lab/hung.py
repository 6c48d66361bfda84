# SPDX-License-Identifier: LGPL-2.1-or-later
"""Boots a guest that hangs on purpose, and dumps it with the answers in it.

The module (hung_module/) is built for the guest's kernel; the guest's init is that of hung_user/. When
all tasks wait that are to wait, the module says where it has written down who waits for what.
"""

from __future__ import annotations

import json
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

import drgn

from .arch import qemu_program
from .cache import Entry, exclusive, file_hash, find_entry, make_entry
from .dump import Dump, describe, get_kernel, keep_for_a_look, kernel_if_cached, without_paths
from .errors import LabError
from .hung_sheet import HungSheet, read_hung_sheet
from .initramfs import write_initramfs

# kernel.py, stock.py and livepatch.py are inputs of what is cached: what only this needs is not to
# change them.
from .kernel import Kernel, _compile, compile_modules
from .livepatch import _is_early
from .packages import BOOT, program_version, require
from .qemu import Machine, qemu_command
from .run import Progress, run
from .sources import get_source
from .stock import _make
from .stock_packages import get_unpacked
from .variants import StockKernel, Variant, kernel_name

__all__ = (
    "HungDump",
    "cached_hung",
    "cached_hung_initramfs",
    "make_hung",
    "make_hung_initramfs",
)

_HERE = Path(__file__).parent
_MODULE_SOURCES = tuple(sorted((_HERE / "hung_module").iterdir()))
_USER_SOURCES = (
    *sorted((_HERE / "hung_user").iterdir()),
    *(_HERE / "user" / name for name in ("expected.c", "lab.h", "start.c")),
)
_FLAGS = ("-O2", "-Wall", "-Wextra", "-static", "-pthread", "-s")
_SEALED = re.compile(r"LAB-HUNG-SHEET ([0-9a-f]+) tasks \d+\r?\n")


@dataclass(frozen=True)
class HungDump(Dump):
    """The dump of a machine that hangs."""

    def read_answers(self) -> HungSheet:
        """Who waits for what.

        :raises SheetError: they are not in the dump
        """
        prog = drgn.Program()
        prog.set_core_dump(self.core)
        return read_hung_sheet(prog, int(self.read_about()["hung_address"], 16))


# ----------------------------------------------------------------------- what is built


def _name(variant: Variant) -> str:
    return f"hung-{kernel_name(variant.kernel)}"


def _module_inputs(kernel: Kernel) -> dict[str, str]:
    return {"kernel": kernel.entry.name, "sources": file_hash(*_MODULE_SOURCES)}


def _build_module(variant: Variant, built: Kernel) -> Entry:
    """Builds the module, unless that was done before; returns its folder."""
    kernel = variant.kernel

    def fill(folder: Path) -> None:
        log = folder / "build.log"
        with Progress(f"building {_name(variant)}") as progress:
            if isinstance(kernel, StockKernel):
                make = _make(get_unpacked(kernel))
                compile_modules(make, _MODULE_SOURCES, folder, log, progress)
                return
            with exclusive("kernels"):
                _, make = _compile(kernel, get_source(kernel), log, progress)
                compile_modules(make, _MODULE_SOURCES, folder, log, progress)

    return make_entry("modules", _name(variant), _module_inputs(built), fill)


def _initramfs_inputs(kernel: Kernel, module: Entry) -> dict[str, str]:
    require(["gcc", "/usr/include/stdio.h"])
    return {
        "init": file_hash(*_USER_SOURCES),
        "flags": " ".join(_FLAGS),
        "gcc": program_version("gcc"),
        "kernel": kernel.entry.name,
        "module": module.name,
        "builder": file_hash(_HERE / "initramfs.py"),
    }


def cached_hung_initramfs(variant: Variant, kernel: Kernel) -> Optional[Entry]:
    """Folder of the initramfs, if it was made of what is in the repository now."""
    module = find_entry("modules", _name(variant), _module_inputs(kernel))
    if not module:
        return None
    return find_entry("initramfs", _name(variant), _initramfs_inputs(kernel, module))


def make_hung_initramfs(variant: Variant, kernel: Kernel) -> Entry:
    """Folder of ``initramfs.gz``, with the module and the init of a guest that hangs."""
    module = _build_module(variant, kernel)

    def fill(folder: Path) -> None:
        with Progress("making the initramfs") as progress, tempfile.TemporaryDirectory() as work:
            init = Path(work, "init")
            sources = [str(source) for source in _USER_SOURCES if source.suffix == ".c"]
            run(["gcc", *_FLAGS, "-o", str(init), *sources], progress, log=folder / "build.log")
            early = [path for path in kernel.modules if _is_early(variant, path)]
            loadable = [*early, module / "lab_hung.ko"]
            files = {f"modules/{path.name}": path.read_bytes() for path in loadable}
            files["modules/order"] = "".join(f"{path.stem}\n" for path in loadable).encode()
            files["init"] = init.read_bytes()
            write_initramfs(folder / "initramfs.gz", files)

    return make_entry("initramfs", _name(variant), _initramfs_inputs(kernel, module), fill)


# ---------------------------------------------------------------------------- the dump


def _inputs(variant: Variant, kernel: Kernel, initramfs: Entry) -> dict[str, str]:
    command = qemu_command(variant, kernel, initramfs / "initramfs.gz", mode="freeze")
    return {
        "kernel": kernel.entry.name,
        "initramfs": initramfs.name,
        "qemu": program_version(qemu_program(variant.kernel.arch)),
        "command": without_paths(command, kernel, initramfs),
    }


def cached_hung(variant: Variant) -> Optional[HungDump]:
    """The dump of a variant, if there is one that fits what is in the repository now."""
    kernel = kernel_if_cached(variant)
    initramfs = cached_hung_initramfs(variant, kernel) if kernel else None
    if not kernel or not initramfs:
        return None
    entry = find_entry("dumps", variant.name, _inputs(variant, kernel, initramfs))
    return HungDump(entry) if entry else None


def make_hung(variant: Variant, *, fresh: bool = False, seconds: float = 300.0) -> HungDump:
    """Builds what is needed, boots and dumps, unless there is a dump already.

    :param fresh: make a new one anyway
    :param seconds: how long the guest may take
    :raises LabError: anything failed
    """
    require(BOOT)
    kernel = get_kernel(variant)
    initramfs = make_hung_initramfs(variant, kernel)
    inputs = _inputs(variant, kernel, initramfs)

    def fill(folder: Path) -> None:
        try:
            _run(variant, kernel, initramfs, inputs, HungDump(folder), seconds)
        except LabError:
            keep_for_a_look(variant, folder)
            raise

    return HungDump(make_entry("dumps", variant.name, inputs, fill, fresh=fresh))


def _run(
    variant: Variant,
    kernel: Kernel,
    initramfs: Entry,
    inputs: dict[str, str],
    dump: HungDump,
    seconds: float,
) -> None:
    command = qemu_command(variant, kernel, initramfs / "initramfs.gz", mode="freeze")
    with (
        Progress(f"dumping {variant.name}") as progress,
        Machine(command, dump.log) as machine,
    ):
        address = machine.wait_for(_SEALED, progress, seconds)[1]
        machine.command("stop")
        machine.dump(dump.core)
        dump.core.chmod(0o644)
        console = machine.console()
    prog = drgn.Program()
    prog.set_core_dump(dump.core)
    read_hung_sheet(prog, int(address, 16))
    about = {
        **describe(variant, kernel, inputs, prog, None, console),
        "hung_address": f"0x{address}",
    }
    dump.about.write_text(json.dumps(about, indent=1) + "\n")
