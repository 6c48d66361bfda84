# SPDX-License-Identifier: LGPL-2.1-or-later
"""Makes the dumps of arm64 kernels that Debian built: fetches, builds modules, boots, freezes, dumps, checks.

As :mod:`.stock` and :mod:`.dump` do for x86; but these and what they build from are inputs of every
dump of x86, so what arm64 needs is apart. The modules are the oracle of arm64/ and the helper of
kernel/, the workload is that of user/; patches/workload-arm64.patch changes what of these is of x86.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Optional

import drgn

from .arch import cross_prefix, making_for, qemu_program
from .arm64_check import faults_of_arm64
from .arm64_crash_check import faults_of_arm64_crash
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
from .stock import _OF_NO_USE
from .stock_packages import Unpacked, find_unpacked, get_unpacked
from .variants import StockKernel, Variant, kernel_name

__all__ = ("cached_arm64", "cached_arm64_kernel", "get_arm64_kernel", "make_arm64")

_HERE = Path(__file__).parent
_PATCH = _HERE / "patches" / "workload-arm64.patch"
_PATCH_16K = _HERE / "patches" / "workload-16k.patch"
_MODULE_SOURCES = (
    *sorted((_HERE / "arm64").iterdir()),
    *(_HERE / "kernel" / name for name in ("helper.c", "lookup.h", "sheet.h")),
)
_CRASH_PATCH = _HERE / "patches" / "crash-arm64.patch"
_CRASH_SOURCES = (_HERE / "arm64_crash" / "Kbuild", _HERE / "crash_module" / "crash.c")
_MODULES = ("lab_oracle", "lab_helper")
_USER_SOURCES = tuple(sorted((_HERE / "user").iterdir()))
_FLAGS = ("-O2", "-Wall", "-Wextra", "-static", "-pthread", "-s")
_ATTEMPTS = 3
"""Which tasks are preempted where is chance, so a dump may lack a case."""
_CROSS = cross_prefix("aarch64")
_COMPILER = f"{_CROSS}gcc"
_READY = "log_buf_len=4M"
"""The call traces of all tasks stay in the kernel's log."""


def _stock(variant: Variant) -> StockKernel:
    assert isinstance(variant.kernel, StockKernel)  # those of arm64 are
    return variant.kernel


# ----------------------------------------------------------------- the kernel, its modules


def _kernel_inputs(kernel: StockKernel, unpacked: Unpacked) -> dict[str, str]:
    require((*STOCK, *ARM64))
    return {
        "packages": unpacked.packages,
        "early": " ".join(kernel.early_modules),
        "modules": file_hash(*_MODULE_SOURCES, _PATCH),
        "gcc": program_version(_COMPILER),
    }


def _as_kernel(entry: Entry, kernel: StockKernel, unpacked: Unpacked) -> Kernel:
    modules = tuple(entry / f"{name}.ko" for name in (*kernel.early_modules, *_MODULES))
    return Kernel(entry, entry / "vmlinuz", modules, unpacked.packages.split(", ")[0])


def cached_arm64_kernel(variant: Variant) -> Optional[Kernel]:
    """The kernel of a variant, if it was fetched and its modules were built."""
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
    """The kernel of a variant, fetched and its modules built if need be."""
    kernel = _stock(variant)
    require((*STOCK, *ARM64))
    name = kernel_name(kernel)
    unpacked = get_unpacked(kernel)

    def fill(folder: Path) -> None:
        with Progress(f"building modules for {name}") as progress:
            shutil.copy2(unpacked.image, folder / "vmlinuz")
            shutil.copy2(unpacked.config, folder / "config")
            for module in kernel.early_modules:
                if unpacked.early_module(module).exists():
                    shutil.copy2(unpacked.early_module(module), folder)
            _compile(unpacked, _MODULE_SOURCES, _PATCH, folder, progress)

    inputs = _kernel_inputs(kernel, unpacked)
    found = _as_kernel(make_entry("kernels", name, inputs, fill), kernel, unpacked)
    return found.with_module(_crash_module(kernel, found)) if variant.crash else found


def _crash_inputs(kernel: Kernel) -> dict[str, str]:
    return {"kernel": kernel.entry.name, "sources": file_hash(*_CRASH_SOURCES, _CRASH_PATCH)}


def _crash_module(kernel: StockKernel, fetched: Kernel) -> Path:
    """The module that crashes, built if need be."""
    name = kernel_name(kernel)

    def fill(folder: Path) -> None:
        with Progress(f"building a module for {name}") as progress:
            _compile(get_unpacked(kernel), _CRASH_SOURCES, _CRASH_PATCH, folder, progress)

    return make_entry("modules", name, _crash_inputs(fetched), fill) / "lab_crash.ko"


def _compile(
    unpacked: Unpacked, sources: Sequence[Path], patch: Path, folder: Path, progress: Progress
) -> None:
    """Builds modules and puts the .ko files, stripped, into ``folder``."""
    log = folder / "build.log"
    make = ["make", "-C", str(unpacked.headers), f"CC={_COMPILER}", *_OF_NO_USE]
    with tempfile.TemporaryDirectory(prefix="lab-modules-") as work, making_for("aarch64"):
        for source in sources:
            shutil.copy(source, work)
        _apply(patch, Path(work), log, progress)
        run([*make, f"M={work}", "modules"], progress, log=log)
        for module in Path(work).glob("*.ko"):
            run([f"{_CROSS}strip", "--strip-debug", str(module)], progress, log=log)
            shutil.copy(module, folder)


def _apply(patch: Path, folder: Path, log: Path, progress: Progress) -> None:
    """Applies those parts of a patch that are for files in ``folder``."""
    parts = patch.read_text().split("--- a/")[1:]
    wanted = [part for part in parts if (folder / part.split("\n", 1)[0]).exists()]
    (folder / patch.name).write_text("".join(f"--- a/{part}" for part in wanted))
    run(
        ["patch", "-p1", "--fuzz=0", "-d", str(folder), "-i", patch.name],
        progress,
        log=log,
    )


# ------------------------------------------------------------------------- the initramfs


def _patches(kernel: Kernel) -> tuple[Path, ...]:
    """What of the workload is changed, in this order."""
    return (_PATCH, _PATCH_16K) if "-16k" in kernel.source else (_PATCH,)


def _initramfs_inputs(kernel: Kernel) -> dict[str, str]:
    return {
        "workload": file_hash(*_USER_SOURCES, *_patches(kernel)),
        "flags": " ".join(_FLAGS),
        "gcc": program_version(_COMPILER),
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
                _apply(patch, Path(work), log, progress)
            init = Path(work, "init")
            sources = sorted(str(path) for path in Path(work).glob("*.c"))
            run([_COMPILER, *_FLAGS, "-o", str(init), *sources], progress, log=log)
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
