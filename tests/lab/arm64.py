# SPDX-License-Identifier: LGPL-2.1-or-later
"""Makes the dumps of arm64 kernels: fetches or builds one and its modules, boots, freezes, dumps, checks.

As :mod:`.stock` and :mod:`.dump` do for x86; but these and what they build from are inputs of every
dump of x86, so what arm64 needs is apart. The modules are the oracle of arm64/ and the helper of
kernel/, the workload is that of user/; patches/workload-arm64.patch changes what of these is of x86.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Optional

import drgn

from .arch import qemu_program
from .arm64_built import build_arm64_kernel, cached_built_arm64_kernel
from .arm64_check import faults_of_arm64
from .arm64_crash_check import faults_of_arm64_crash
from .arm64_modules import (
    COMPILER,
    CRASH_PATCH,
    CRASH_SOURCES,
    MODULE_SOURCES,
    MODULES,
    WORKLOAD_PATCH,
    apply_patch,
    compile_arm64_modules,
)
from .cache import Entry, file_hash, find_entry, make_entry
from .dump import (
    SHEET_LINE,
    Dump,
    _last_words,
    _wait_for,
    _wait_in_silence,
    describe,
    keep_for_a_look,
    without_paths,
)
from .errors import LabError
from .initramfs import write_initramfs
from .kernel import Kernel
from .packages import ARM64, STOCK, program_version, require
from .qemu import Machine, qemu_command
from .run import Progress, run, say
from .sheet import SheetError, read_whole_sheet
from .stock_packages import Unpacked, find_unpacked, get_unpacked
from .variants import BuiltKernel, StockKernel, Variant, kernel_name

__all__ = ("cached_arm64", "cached_arm64_kernel", "get_arm64_kernel", "make_arm64")

_HERE = Path(__file__).parent
_PATCH_16K = _HERE / "patches" / "workload-16k.patch"
_PATCH_64K = _HERE / "patches" / "workload-64k.patch"
_USER_SOURCES = tuple(sorted((_HERE / "user").iterdir()))
_FLAGS = ("-O2", "-Wall", "-Wextra", "-static", "-pthread", "-s")
_ATTEMPTS = 3
"""Which tasks are preempted where is chance, so a dump may lack a case."""
_READY = "log_buf_len=4M"
"""The call traces of all tasks stay in the kernel's log."""


def _stock(variant: Variant) -> StockKernel:
    assert isinstance(variant.kernel, StockKernel)
    return variant.kernel


# ----------------------------------------------------------------- the kernel, its modules


def _kernel_inputs(kernel: StockKernel, unpacked: Unpacked) -> dict[str, str]:
    require((*STOCK, *ARM64))
    return {
        "packages": unpacked.packages,
        "early": " ".join(kernel.early_modules),
        "modules": file_hash(*MODULE_SOURCES, WORKLOAD_PATCH),
        "gcc": program_version(COMPILER),
        **({"vmlinux": "yes"} if kernel.with_vmlinux else {}),
    }


def _as_kernel(entry: Entry, kernel: StockKernel, unpacked: Unpacked) -> Kernel:
    modules = tuple(entry / f"{name}.ko" for name in (*kernel.early_modules, *MODULES))
    return Kernel(entry, entry / "vmlinuz", modules, unpacked.packages.split(", ")[0])


def cached_arm64_kernel(variant: Variant) -> Optional[Kernel]:
    """The kernel of a variant, if it was fetched or built, and its modules were built."""
    if isinstance(variant.kernel, BuiltKernel):
        return cached_built_arm64_kernel(variant.kernel)
    kernel = _stock(variant)
    unpacked = find_unpacked(kernel)
    if not unpacked:
        return None
    entry = find_entry("kernels", kernel_name(kernel), _kernel_inputs(kernel, unpacked))
    if not entry:
        return None
    found = _as_kernel(entry, kernel, unpacked)
    if not variant.crash:
        return found
    module = find_entry("modules", kernel_name(kernel), _crash_inputs(found))
    return found.with_module(module / "lab_crash.ko") if module else None


def get_arm64_kernel(variant: Variant) -> Kernel:
    """The kernel of a variant, fetched or built, and its modules built, if need be."""
    if isinstance(variant.kernel, BuiltKernel):
        return build_arm64_kernel(variant.kernel)
    kernel = _stock(variant)
    require((*STOCK, *ARM64))
    name = kernel_name(kernel)
    unpacked = get_unpacked(kernel)

    def fill(folder: Path) -> None:
        with Progress(f"building modules for {name}") as progress:
            shutil.copy2(unpacked.image, folder / "vmlinuz")
            shutil.copy2(unpacked.config, folder / "config")
            if unpacked.vmlinux.exists():
                os.link(unpacked.vmlinux, folder / "vmlinux")
            for module in kernel.early_modules:
                if unpacked.early_module(module).exists():
                    shutil.copy2(unpacked.early_module(module), folder)
            compile_arm64_modules(
                unpacked.headers, MODULE_SOURCES, WORKLOAD_PATCH, folder, progress
            )

    inputs = _kernel_inputs(kernel, unpacked)
    found = _as_kernel(make_entry("kernels", name, inputs, fill), kernel, unpacked)
    return found.with_module(_crash_module(kernel, found)) if variant.crash else found


def _crash_inputs(kernel: Kernel) -> dict[str, str]:
    return {"kernel": kernel.entry.name, "sources": file_hash(*CRASH_SOURCES, CRASH_PATCH)}


def _crash_module(kernel: StockKernel, fetched: Kernel) -> Path:
    """The module that crashes, built if need be."""
    name = kernel_name(kernel)

    def fill(folder: Path) -> None:
        with Progress(f"building a module for {name}") as progress:
            compile_arm64_modules(
                get_unpacked(kernel).headers, CRASH_SOURCES, CRASH_PATCH, folder, progress
            )

    return make_entry("modules", name, _crash_inputs(fetched), fill) / "lab_crash.ko"


# ------------------------------------------------------------------------- the initramfs


def _patches(kernel: Kernel) -> tuple[Path, ...]:
    """What of the workload is changed, in this order."""
    if "-16k" in kernel.source:
        return (WORKLOAD_PATCH, _PATCH_16K)
    if "-64k" in kernel.entry.name:
        return (WORKLOAD_PATCH, _PATCH_64K)
    return (WORKLOAD_PATCH,)


def _initramfs_inputs(kernel: Kernel) -> dict[str, str]:
    return {
        "workload": file_hash(*_USER_SOURCES, *_patches(kernel)),
        "flags": " ".join(_FLAGS),
        "gcc": program_version(COMPILER),
        "modules": " ".join(f"{path.parent.name}/{path.name}" for path in kernel.modules),
        "builder": file_hash(_HERE / "initramfs.py"),
    }


def _initramfs_name(kernel: Kernel) -> str:
    return kernel.entry.name.rsplit("-", 1)[0]


def _make_initramfs(kernel: Kernel) -> Entry:
    def fill(folder: Path) -> None:
        log = folder / "build.log"
        with Progress("making the initramfs") as progress, tempfile.TemporaryDirectory() as work:
            for source in _USER_SOURCES:
                shutil.copy(source, work)
            for patch in _patches(kernel):
                apply_patch(patch, Path(work), log, progress)
            init = Path(work, "init")
            sources = sorted(str(path) for path in Path(work).glob("*.c"))
            run([COMPILER, *_FLAGS, "-o", str(init), *sources], progress, log=log)
            loadable = [module for module in kernel.modules if module.exists()]
            files = {f"modules/{module.name}": module.read_bytes() for module in loadable}
            files["modules/order"] = "".join(f"{module.name}\n" for module in loadable).encode()
            files["init"] = init.read_bytes()
            write_initramfs(folder / "initramfs.gz", files)

    return make_entry("initramfs", _initramfs_name(kernel), _initramfs_inputs(kernel), fill)


# --------------------------------------------------------------------------- the dumps


def _command(variant: Variant, kernel: Kernel, initramfs: Entry) -> list[str]:
    command = qemu_command(variant, kernel, initramfs / "initramfs.gz", mode="freeze")
    at = command.index("-append") + 1
    command[at] += f" {_READY}"
    return command


def _inputs(variant: Variant, kernel: Kernel, initramfs: Entry) -> dict[str, str]:
    return {
        "kernel": kernel.entry.name,
        "initramfs": initramfs.name,
        "qemu": program_version(qemu_program(variant.kernel.arch)),
        "command": without_paths(_command(variant, kernel, initramfs), kernel, initramfs),
        "formats": " ".join(variant.formats),
        "check": file_hash(_HERE / ("arm64_crash_check.py" if variant.crash else "arm64_check.py")),
    }


def cached_arm64(variant: Variant) -> Optional[Dump]:
    """The dump of a variant, if there is one that fits what is in the repository now."""
    kernel = cached_arm64_kernel(variant)
    if not kernel:
        return None
    initramfs = find_entry("initramfs", _initramfs_name(kernel), _initramfs_inputs(kernel))
    if not initramfs:
        return None
    entry = find_entry("dumps", variant.name, _inputs(variant, kernel, initramfs))
    return Dump(entry) if entry else None


def make_arm64(variant: Variant, *, fresh: bool = False, seconds: float = 300.0) -> Dump:
    """Builds what is needed, boots, freezes, dumps and checks, unless there is a dump already.

    :param fresh: make a new one anyway
    :param seconds: how long the guest may take to freeze
    :raises LabError: anything failed, or the dump lacks a case in every attempt
    """
    kernel = get_arm64_kernel(variant)
    initramfs = _make_initramfs(kernel)
    inputs = _inputs(variant, kernel, initramfs)

    def fill(folder: Path) -> None:
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

    return Dump(make_entry("dumps", variant.name, inputs, fill, fresh=fresh))


def _try(
    variant: Variant,
    kernel: Kernel,
    initramfs: Entry,
    inputs: dict[str, str],
    folder: Path,
    seconds: float,
) -> list[str]:
    """Makes a dump in ``folder`` and returns what is wrong with it."""
    dump = Dump(folder)
    dump.core.unlink(missing_ok=True)
    with Progress(f"dumping {variant.name}") as progress:
        formats = []
        with Machine(_command(variant, kernel, initramfs), dump.log) as machine:
            if variant.crash:
                _wait_for(_last_words(variant.crash, variant.kdump), machine, progress, seconds)
                machine.command("stop")
                machine.dump(dump.core)
            elif variant.silent:
                _wait_in_silence(machine, dump.core, progress, seconds)
            else:
                machine.wait_for(SHEET_LINE, progress, seconds)
                machine.command("stop")
                machine.dump(dump.core)
            for name in sorted(set(variant.formats) & machine.dump_formats()):
                path = Path(f"{dump.core}.{name}")
                machine.dump(path, name)
                path.chmod(0o644)
                formats.append(name)
            console = machine.console()
        dump.core.chmod(0o644)
        progress.update("checking the dump")
        prog = drgn.Program()
        prog.set_core_dump(dump.core)
        sheet = None
        if variant.crash:
            faults = faults_of_arm64_crash(variant.crash, console)
        else:
            try:
                sheet = read_whole_sheet(prog)
            except SheetError as e:
                return [str(e)]
            faults = faults_of_arm64(variant, sheet, console)
    about = describe(variant, kernel, inputs, prog, sheet, console)
    about["formats"] = formats
    dump.about.write_text(json.dumps(about, indent=1) + "\n")
    return faults
