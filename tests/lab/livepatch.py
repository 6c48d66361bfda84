# SPDX-License-Identifier: LGPL-2.1-or-later
"""Boots a guest with a live patch in transition, and dumps it with the kernel's own answers in it.

The modules (livepatch_modules/) are built for the guest's kernel, the guest's init is that of
livepatch_user/. The guest holds itself at one or more moments; each of them is dumped, and the machine
goes on.
"""

from __future__ import annotations

import json
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional, Union

import drgn

from .arch import qemu_program
from .cache import Entry, exclusive, file_hash, find_entry, make_entry
from .dump import Dump, describe, get_kernel, keep_for_a_look, kernel_if_cached, without_paths
from .errors import LabError
from .initramfs import write_initramfs

# kernel.py and stock.py are inputs of every kernel: what only this needs is not to change them.
from .kernel import Kernel, _compile, compile_modules
from .livepatch_check import faults_of_moment
from .livepatch_sheet import LivepatchSheet, read_livepatch_sheet
from .packages import BOOT, program_version, require
from .qemu import Machine, qemu_command
from .run import Progress, run, say
from .sheet import SheetError
from .sources import get_source
from .stock import _make
from .stock_packages import get_unpacked
from .variants import BuiltKernel, StockKernel, Variant, kernel_name

__all__ = (
    "MOMENTS",
    "LivepatchDump",
    "cached_livepatch",
    "cached_livepatch_initramfs",
    "make_livepatch",
    "make_livepatch_initramfs",
)

_HERE = Path(__file__).parent
_MODULE_SOURCES = (
    *sorted((_HERE / "livepatch_modules").iterdir()),
    _HERE / "kernel" / "lookup.h",
)
_USER_SOURCES = (
    *sorted((_HERE / "livepatch_user").iterdir()),
    *(_HERE / "user" / name for name in ("expected.c", "lab.h", "start.c")),
)
_FLAGS = ("-O2", "-Wall", "-Wextra", "-static", "-pthread", "-s")
_LOADED_FIRST = ("klp_target", "klp_oracle")
_PATCHES = ("lab_patch1", "lab_patch2")
_ANSWERS = r"LAB-ANSWERS {moment} ([0-9a-f]+) tasks \d+ left_out \d+\r?\n"
_ATTEMPTS = 3
"""What runs when a machine is held is chance, so a dump may lack a case."""

MOMENTS = {
    "stalled": ("before", "stalled"),
    "signalled": ("signalled",),
    "replaced": ("before", "replaced"),
    "disabled": ("disabled",),
    "late": ("late",),
}
"""Of each scenario: when the machine is dumped, in order."""


@dataclass(frozen=True)
class LivepatchDump(Dump):
    """The dumps of one machine. ``core`` is that of the last moment."""

    def core_of(self, moment: str) -> Path:
        """The ELF vmcore of a moment."""
        return self.entry / _core_name(moment)

    @property
    def before(self) -> Path:
        """The vmcore of the same machine before the patch in transition was loaded."""
        return self.core_of("before")

    def module(self, name: str) -> Path:
        """A live patch as it was loaded: "lab_patch1" or "lab_patch2"."""
        return self.entry / f"{name}.ko"

    def read_sheet(self, moment: Optional[str] = None) -> LivepatchSheet:
        """The answers of a moment, by default the last one.

        :raises SheetError: they are not in the dump
        """
        moments: dict[str, Any] = self.read_about()["moments"]
        wanted = moment or list(moments)[-1]
        return _read_sheet(self.core_of(wanted), int(moments[wanted]["address"], 16))


def _core_name(moment: str) -> str:
    return "core.before" if moment == "before" else "core"


def _read_sheet(core: Path, address: int) -> LivepatchSheet:
    prog = drgn.Program()
    prog.set_core_dump(core)
    return read_livepatch_sheet(prog, address)


# ----------------------------------------------------------------------- what is built


def _module_inputs(kernel: Kernel) -> dict[str, str]:
    return {"kernel": kernel.entry.name, "sources": file_hash(*_MODULE_SOURCES)}


def _module_name(kernel: Union[BuiltKernel, StockKernel]) -> str:
    return f"livepatch-{kernel_name(kernel)}"


def _build_modules(kernel: Union[BuiltKernel, StockKernel], built: Kernel) -> Entry:
    """Builds the modules, unless that was done before; returns the folder with the .ko files."""
    name = _module_name(kernel)

    def fill(folder: Path) -> None:
        log = folder / "build.log"
        with Progress(f"building {name}") as progress:
            if isinstance(kernel, StockKernel):
                make = _make(get_unpacked(kernel))
                compile_modules(make, _MODULE_SOURCES, folder, log, progress)
                return
            with exclusive("kernels"):
                _, make = _compile(kernel, get_source(kernel), log, progress)
                compile_modules(make, _MODULE_SOURCES, folder, log, progress)

    return make_entry("modules", name, _module_inputs(built), fill)


def _initramfs_inputs(kernel: Kernel, modules: Entry) -> dict[str, str]:
    require(["gcc", "/usr/include/stdio.h"])
    return {
        "init": file_hash(*_USER_SOURCES),
        "flags": " ".join(_FLAGS),
        "gcc": program_version("gcc"),
        "kernel": kernel.entry.name,
        "modules": modules.name,
        "builder": file_hash(Path(__file__), _HERE / "initramfs.py"),
    }


def cached_livepatch_initramfs(variant: Variant, kernel: Kernel) -> Optional[Entry]:
    """Folder of the initramfs, if it was made of the modules that are in the repository now."""
    name = _module_name(variant.kernel)
    modules = find_entry("modules", name, _module_inputs(kernel))
    if not modules:
        return None
    return find_entry("initramfs", name, _initramfs_inputs(kernel, modules))


def make_livepatch_initramfs(variant: Variant, kernel: Kernel) -> Entry:
    """Folder of ``initramfs.gz``, with the modules and the init of a guest with live patches."""
    modules = _build_modules(variant.kernel, kernel)

    def fill(folder: Path) -> None:
        with Progress("making the initramfs") as progress, tempfile.TemporaryDirectory() as work:
            init = Path(work, "init")
            sources = [str(source) for source in _USER_SOURCES if source.suffix == ".c"]
            run(
                ["gcc", *_FLAGS, "-o", str(init), *sources],
                progress,
                log=folder / "build.log",
            )
            early = [module for module in kernel.modules if _is_early(variant, module)]
            order = [*(module.stem for module in early), *_LOADED_FIRST]
            loadable = [*early, *modules.glob("*.ko")]
            files = {f"modules/{module.name}": module.read_bytes() for module in loadable}
            files["modules/order"] = "".join(f"{name}\n" for name in order).encode()
            files["init"] = init.read_bytes()
            write_initramfs(folder / "initramfs.gz", files)

    name = _module_name(variant.kernel)
    return make_entry("initramfs", name, _initramfs_inputs(kernel, modules), fill)


def _is_early(variant: Variant, module: Path) -> bool:
    """A module without which a stock kernel makes no dump, and that is not built in."""
    return (
        isinstance(variant.kernel, StockKernel)
        and module.stem in variant.kernel.early_modules
        and module.exists()
    )


# --------------------------------------------------------------------------- the dumps


def _inputs(variant: Variant, kernel: Kernel, initramfs: Entry) -> dict[str, str]:
    command = qemu_command(variant, kernel, initramfs / "initramfs.gz", mode="freeze")
    return {
        "kernel": kernel.entry.name,
        "initramfs": initramfs.name,
        "qemu": program_version(qemu_program(variant.kernel.arch)),
        "command": without_paths(command, kernel, initramfs),
        "check": file_hash(_HERE / "livepatch_check.py", _HERE / "livepatch_sheet.py"),
    }


def cached_livepatch(variant: Variant) -> Optional[LivepatchDump]:
    """The dumps of a variant, if there are some that fit what is in the repository now."""
    kernel = kernel_if_cached(variant)
    initramfs = cached_livepatch_initramfs(variant, kernel) if kernel else None
    if not kernel or not initramfs:
        return None
    entry = find_entry("dumps", variant.name, _inputs(variant, kernel, initramfs))
    return LivepatchDump(entry) if entry else None


def make_livepatch(
    variant: Variant, *, fresh: bool = False, seconds: float = 300.0
) -> LivepatchDump:
    """Builds what is needed, boots, dumps and checks, unless there are dumps already.

    :param fresh: make new ones anyway
    :param seconds: how long the guest may take to each moment
    :raises LabError: anything failed, or a dump lacks a case in every attempt
    """
    require(BOOT)
    kernel = get_kernel(variant)
    modules = _build_modules(variant.kernel, kernel)
    initramfs = make_livepatch_initramfs(variant, kernel)
    inputs = _inputs(variant, kernel, initramfs)

    def fill(folder: Path) -> None:
        for name in _PATCHES:
            (folder / f"{name}.ko").write_bytes((modules / f"{name}.ko").read_bytes())
        for attempt in range(1, _ATTEMPTS + 1):
            faults = _try(variant, kernel, initramfs, inputs, folder, seconds)
            if not faults:
                return
            for fault in faults:
                say(f"{variant.name}: attempt {attempt}: {fault}")
        kept = keep_for_a_look(variant, folder)
        raise LabError(
            f"{variant.name}: no good dump in {_ATTEMPTS} attempts; the last is kept as {kept.core}"
        )

    return LivepatchDump(make_entry("dumps", variant.name, inputs, fill, fresh=fresh))


def _try(
    variant: Variant,
    kernel: Kernel,
    initramfs: Entry,
    inputs: dict[str, str],
    folder: Path,
    seconds: float,
) -> list[str]:
    """Makes the dumps in ``folder`` and returns what is wrong with them."""
    dump = LivepatchDump(folder)
    with Progress(f"dumping {variant.name}") as progress:
        addresses = _run(variant, kernel, initramfs, dump, progress, seconds)
        progress.update("checking the dumps")
        console = dump.log.read_text(errors="replace")
        faults = []
        for moment, address in addresses.items():
            try:
                sheet = _read_sheet(dump.core_of(moment), address)
            except SheetError as e:
                faults.append(str(e))
            else:
                faults += [f"{moment}: {f}" for f in faults_of_moment(variant, sheet, console)]
        prog = drgn.Program()
        prog.set_core_dump(dump.core)
        about = {
            **describe(variant, kernel, inputs, prog, None, console),
            "moments": {
                moment: {"core": _core_name(moment), "address": hex(address)}
                for moment, address in addresses.items()
            },
        }
        dump.about.write_text(json.dumps(about, indent=1) + "\n")
    return faults


def _run(
    variant: Variant,
    kernel: Kernel,
    initramfs: Entry,
    dump: LivepatchDump,
    progress: Progress,
    seconds: float,
) -> dict[str, int]:
    """Boots, and dumps each moment; returns where its answers lie."""
    addresses = {}
    command = qemu_command(variant, kernel, initramfs / "initramfs.gz", mode="freeze")
    moments = MOMENTS[variant.livepatch]
    with Machine(command, dump.log) as machine:
        for moment in moments:
            said = re.compile(_ANSWERS.format(moment=moment))
            addresses[moment] = int(machine.wait_for(said, progress, seconds)[1], 16)
            machine.command("stop")
            core = dump.core_of(moment)
            core.unlink(missing_ok=True)
            machine.dump(core)
            core.chmod(0o644)
            if moment != moments[-1]:
                machine.command("cont")
                machine.command("inject-nmi")  # the guest waits for it (answer.c)
    return addresses
