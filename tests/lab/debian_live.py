# SPDX-License-Identifier: LGPL-2.1-or-later
"""Boots a guest of arm64 or x86-32 with Python, drgn and this project in it, and has it look at itself.

As :mod:`.live` does for x86-64, which is an input of every such run: what the others need is apart.
"""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Optional

from .arch import Arch
from .arm64 import _initramfs_inputs, _initramfs_name
from .arm64 import _make_initramfs as _make_arm64_initramfs
from .arm64_modules import WORKLOAD_PATCH, compile_arm64_modules
from .cache import Entry, file_hash, find_entry, make_entry
from .debian_root import PACKAGES, DebianRoot, cached_debian_root, get_debian_root
from .dump import (
    SHEET_LINE,
    _open_core,
    _wait_in_silence,
    get_kernel,
    keep_for_a_look,
    kernel_if_cached,
)
from .errors import LabError
from .guest import cached_initramfs, make_initramfs
from .initramfs import join_initramfs
from .kernel import Kernel
from .live import (
    _ENDED,
    _FREEZE_SECONDS,
    _PROJECT,
    _SECONDS,
    LiveRun,
    _audits,
    _command,
    _inputs,
    _programs,
    _project_files,
    _remove_others,
    _scripts,
    cached_live,
    make_live,
)
from .packages import ARM64, BOOT, require
from .qemu import Machine, second_console
from .root import archive_of_folder
from .run import Progress, say
from .sheet import read_whole_sheet
from .stock_packages import get_unpacked
from .storm import STORM_SOURCES
from .variants import StockKernel, Variant, kernel_name

__all__ = ("audits_of", "cached_live_of", "make_live_of")

_SLOWER = {"aarch64": 5}
"""How many times as long an audit takes as on x86-64, under emulation."""


def audits_of(variant: Variant) -> int:
    """How many audits there are in a storm."""
    return int(_audits()) // _SLOWER.get(variant.kernel.arch, 1)


def _of_machine(variant: Variant) -> Variant:
    """The guest with its number of audits on its command line; the first that is named there holds."""
    return replace(variant, append=(*variant.append, f"live.audits={audits_of(variant)}"))


def _second_console(arch: Arch, path: Path) -> list[str]:
    """Words for the command line: what the guest writes to /dev/ttyS1 goes to a file."""
    if arch != "aarch64":
        return second_console(path)
    # The machine has no port of this kind, and the first that it is given is ttyS0.
    first = ["-chardev", "null,id=first", "-device", "pci-serial,chardev=first"]
    second = ["-chardev", f"file,id=second,path={path}", "-device", "pci-serial,chardev=second"]
    return [*first, *second]


def _inputs_of(
    variant: Variant, kernel: Kernel, initramfs: Entry, root: DebianRoot
) -> dict[str, str]:
    return {
        **_inputs(variant, kernel, initramfs, root.entry),
        "runner_of_others": file_hash(Path(__file__)),
    }


def cached_live_of(variant: Variant) -> Optional[LiveRun]:
    """What was found, on whatever machine, if this project was run on this kernel."""
    if variant.kernel.arch == "x86_64":
        return cached_live(variant)
    return _cached(_of_machine(variant))


def make_live_of(variant: Variant, *, fresh: bool = False) -> LiveRun:
    """Builds what is needed, boots, and waits until the program in the guest has ended.

    :param fresh: run it again anyway
    :raises LabError: the guest failed, or the program in it; what they said is kept
    """
    if variant.kernel.arch == "x86_64":
        return make_live(variant, fresh=fresh)
    return _make(_of_machine(variant), fresh=fresh)


def _cached(variant: Variant) -> Optional[LiveRun]:
    kernel = kernel_if_cached(variant)
    initramfs = _cached_initramfs(variant, kernel) if kernel else None
    root = cached_debian_root(variant.kernel.arch)
    if not kernel or not initramfs or not root:
        return None
    entry = find_entry("live", variant.name, _inputs_of(variant, kernel, initramfs, root))
    return LiveRun(entry) if entry else None


def _make(variant: Variant, *, fresh: bool) -> LiveRun:
    require((*BOOT, *(ARM64 if variant.kernel.arch == "aarch64" else ())))
    kernel = get_kernel(variant)
    initramfs = _make_initramfs(variant, kernel)
    root = get_debian_root(variant.kernel.arch)

    modules = [_storm_module(variant, kernel)] if variant.live == "storm.py" else []

    def fill(folder: Path) -> None:
        run = LiveRun(folder)
        try:
            with tempfile.TemporaryDirectory() as work:
                whole = Path(work, "initramfs")
                parts = (
                    (initramfs / "initramfs.gz").read_bytes(),
                    root.archive.read_bytes(),
                    _project(root, modules, folder / "build.log"),
                )
                join_initramfs(whole, parts)
                _run(variant, run, kernel, _command(variant, kernel, whole))
        except LabError:
            kept = keep_for_a_look(variant, folder)
            say(f"{variant.name}: what the guest said is kept in {kept.entry}")
            raise

    inputs = _inputs_of(variant, kernel, initramfs, root)
    run = LiveRun(make_entry("live", variant.name, inputs, fill, fresh=fresh))
    _remove_others(variant, run)
    return run


def _cached_initramfs(variant: Variant, kernel: Kernel) -> Optional[Entry]:
    if variant.kernel.arch == "aarch64":
        return find_entry("initramfs", _initramfs_name(kernel), _initramfs_inputs(kernel))
    return cached_initramfs(kernel, variant.kernel.arch)


def _make_initramfs(variant: Variant, kernel: Kernel) -> Entry:
    if variant.kernel.arch == "aarch64":
        return _make_arm64_initramfs(kernel)
    return make_initramfs(kernel, variant.kernel.arch).parent


def _storm_module(variant: Variant, built: Kernel) -> Path:
    """The module that comes and goes, built if need be."""
    kernel = variant.kernel
    assert isinstance(kernel, StockKernel)  # there is a storm on arm64 alone, and those are
    unpacked = get_unpacked(kernel)
    name = f"storm-{kernel_name(kernel)}"
    inputs = {"kernel": built.entry.name, "sources": file_hash(*STORM_SOURCES)}

    def fill(folder: Path) -> None:
        with Progress(f"building {name}") as progress:
            # The patch has nothing for these files.
            compile_arm64_modules(unpacked.headers, STORM_SOURCES, WORKLOAD_PATCH, folder, progress)

    return make_entry("modules", name, inputs, fill) / "lab_storm.ko"


def _project(root: DebianRoot, modules: list[Path], log: Path) -> bytes:
    """An archive of the project, compiled for the guest, its programs and its modules."""
    with tempfile.TemporaryDirectory() as work, Progress("compiling the project") as progress:
        folder = Path(work)
        contrib = folder / "live" / "contrib"
        files = {folder / PACKAGES / p.relative_to(_PROJECT.parent): p for p in _project_files()}
        files |= {contrib.parent / path.name: path for path in (*_programs(), *modules)}
        files |= {contrib / path.name: path for path in _scripts()}
        for target, source in files.items():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
        root.compile(folder, progress, log)
        return archive_of_folder(folder)


def _run(variant: Variant, run: LiveRun, kernel: Kernel, command: list[str]) -> None:
    arch = variant.kernel.arch
    with (
        Progress(f"running {variant.live} in {variant.name}") as progress,
        Machine([*command, *_second_console(arch, run.found)], run.log) as machine,
    ):
        ended = machine.wait_for(_ENDED, progress, _SECONDS)
        if int(ended[1]):
            raise LabError(f"{variant.live} ended with status {ended[1]}{machine.tail()}")
        if variant.frozen:
            if variant.silent:
                _wait_in_silence(machine, run.core, progress, _FREEZE_SECONDS)
            else:
                machine.wait_for(SHEET_LINE, progress, _FREEZE_SECONDS)
                machine.command("stop")
                machine.dump(run.core)
            run.core.chmod(0o644)
            read_whole_sheet(_open_core(run.core, arch, kernel.vmlinux))
