# SPDX-License-Identifier: LGPL-2.1-or-later
"""Boots a variant, has it freeze itself, and keeps the dump if it is good for a test."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional, Union

import drgn
from drgn.helpers.linux.printk import get_dmesg

from drgn_tools import open_program

from .arch import Arch, making_for, qemu_program
from .cache import Entry, cache_dir, file_hash, find_entry, make_entry
from .check import faults_of
from .crash import faults_of_crash
from .crowd import crowd_archive, crowd_inputs
from .errors import LabError
from .formats import make_dump_files, program_of_formats
from .guest import cached_initramfs, make_initramfs
from .initramfs import join_initramfs
from .kernel import Kernel, build_crash_module, build_kernel, cached_crash_module, cached_kernel
from .makedumpfile import get_makedumpfile
from .packages import BOOT, program_version, require
from .qemu import Machine, qemu_command, shared_folder
from .run import Progress, say
from .sheet import Sheet, SheetError, find_sheet, read_whole_sheet
from .stock import (
    build_stock_crash_module,
    cached_stock_crash_module,
    cached_stock_kernel,
    get_stock_kernel,
)
from .variants import BuiltKernel, Crash, Variant

__all__ = (
    "SHEET_LINE",
    "Dump",
    "cached_dump",
    "describe",
    "get_kernel",
    "keep_for_a_look",
    "kernel_if_cached",
    "make_dump",
    "without_paths",
)

_HERE = Path(__file__).parent
SHEET_LINE = re.compile(r"LAB-SHEET ([0-9a-f]+) tasks \d+ left_out \d+ bytes ")
_SAVED = re.compile(r"LAB-VMCORE \d+\r?\n")
_NMI_WANTED = re.compile(r"LAB-NMI\r?\n")
_SILENCE_SECONDS = 5.0
"""Between two looks at the memory of a machine that does not say when it is frozen."""
_ATTEMPTS = 3
"""Which tasks are preempted where is chance, so a dump may lack a case."""


@dataclass(frozen=True)
class Dump:
    """A vmcore with the answer sheet in it."""

    entry: Entry

    @property
    def core(self) -> Path:
        """The ELF vmcore."""
        return self.entry / "core"

    @property
    def log(self) -> Path:
        """All that the guest said on its console."""
        return self.entry / "core.log"

    @property
    def said(self) -> Path:
        """What the kernel printed: the console, or its own log where the dump has more of it."""
        return self.dmesg if self.dmesg.exists() else self.log

    @property
    def dmesg(self) -> Path:
        """The log that lies in the dump, of a machine that a crash kernel dumped."""
        return self.entry / "core.dmesg"

    @property
    def about(self) -> Path:
        """How it was made (see describe())."""
        return self.entry / "core.json"

    def read_about(self) -> dict[str, Any]:
        """Content of ``about``."""
        about: dict[str, Any] = json.loads(self.about.read_text())
        return about

    def copy_to(self, folder: Path, name: str) -> Path:
        """Copies to ``folder``/``name``.core, .log, .json and, if there is one, .vmlinux."""
        folder.mkdir(parents=True, exist_ok=True)
        files = {"core": self.core, "log": self.log, "json": self.about}
        vmlinux = self.read_about()["vmlinux"]
        if vmlinux:
            files["vmlinux"] = Path(vmlinux)
        for suffix, source in files.items():
            part = folder / f"{name}.{suffix}.part"
            try:
                shutil.copyfile(source, part)
                part.replace(folder / f"{name}.{suffix}")
            finally:
                part.unlink(missing_ok=True)
        return folder / f"{name}.core"


def kernel_if_cached(variant: Variant) -> Optional[Kernel]:
    """The kernel of a variant, if there is one already."""
    if variant.kernel.arch == "aarch64":
        from .arm64 import cached_arm64_kernel  # it imports this module

        return cached_arm64_kernel(variant)
    if isinstance(variant.kernel, BuiltKernel):
        kernel = cached_kernel(variant.kernel)
        if not kernel or not variant.crash:
            return kernel
        module = cached_crash_module(variant.kernel, kernel)
        return kernel.with_module(module) if module else None
    kernel = cached_stock_kernel(variant.kernel)
    if not kernel or not variant.crash:
        return kernel
    module = cached_stock_crash_module(variant.kernel, kernel)
    return kernel.with_module(module) if module else None


def get_kernel(variant: Variant) -> Kernel:
    """The kernel of a variant, built or fetched if need be."""
    if variant.kernel.arch == "aarch64":
        from .arm64 import get_arm64_kernel  # it imports this module

        return get_arm64_kernel(variant)
    if isinstance(variant.kernel, BuiltKernel):
        with making_for(variant.kernel.arch):
            kernel = build_kernel(variant.kernel)
            if not variant.crash:
                return kernel
            return kernel.with_module(build_crash_module(variant.kernel, kernel))
    with making_for(variant.kernel.arch):
        kernel = get_stock_kernel(variant.kernel)
        if not variant.crash:
            return kernel
        return kernel.with_module(build_stock_crash_module(variant.kernel, kernel))


def _inputs(variant: Variant, kernel: Kernel, initramfs: Entry) -> dict[str, str]:
    require(BOOT)
    command = qemu_command(variant, kernel, initramfs / "initramfs.gz", mode="freeze")
    return {
        **(crowd_inputs() if variant.crowd else {}),
        "kernel": kernel.entry.name,
        "initramfs": initramfs.name,
        "qemu": program_version(qemu_program(variant.kernel.arch)),
        "formats": f"{variant.formats} {program_of_formats(variant.formats, variant.kernel.arch)}",
        "command": without_paths(command, kernel, initramfs),
        "check": file_hash(_HERE / ("crash.py" if variant.crash else "check.py")),
    }


def without_paths(command: list[str], kernel: Kernel, initramfs: Entry) -> str:
    """The command line as a part of a key: not where the cache is."""
    folders = (f"{kernel.entry}/", f"{initramfs}/")
    text = " ".join(f"'{word}'" if " " in word else word for word in command)
    for folder in folders:
        text = text.replace(folder, "")
    return text


def cached_dump(variant: Variant) -> Optional[Dump]:
    """The dump of a variant, if there is one that fits what is in the repository now."""
    if variant.kernel.arch == "aarch64":
        from .arm64 import cached_arm64  # it imports this module

        return cached_arm64(variant)
    kernel = kernel_if_cached(variant)
    initramfs = cached_initramfs(kernel, variant.kernel.arch) if kernel else None
    if not kernel or not initramfs:
        return None
    entry = find_entry("dumps", variant.name, _inputs(variant, kernel, initramfs))
    return Dump(entry) if entry else None


def make_dump(variant: Variant, *, fresh: bool = False, seconds: float = 300.0) -> Dump:
    """Builds what is needed, boots, freezes, dumps and checks, unless there is a dump already.

    :param fresh: make a new one anyway
    :param seconds: how long the guest may take to freeze
    :raises LabError: anything failed, or the dump lacks a case in every attempt
    """
    if variant.kernel.arch == "aarch64":
        from .arm64 import make_arm64  # it imports this module

        return make_arm64(variant, fresh=fresh, seconds=seconds)
    require(BOOT)
    kernel = get_kernel(variant)
    initramfs = make_initramfs(kernel, variant.kernel.arch)
    if variant.formats:
        get_makedumpfile(variant.kernel.arch)
    inputs = _inputs(variant, kernel, initramfs.parent)

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


def keep_for_a_look(variant: Variant, folder: Path) -> Dump:
    """Moves a dump that is not good enough to where nobody takes it for a good one."""
    failed = cache_dir() / "failed" / variant.name
    shutil.rmtree(failed, ignore_errors=True)
    shutil.copytree(folder, failed)
    return Dump(failed)


def _try(
    variant: Variant,
    kernel: Kernel,
    initramfs: Path,
    inputs: dict[str, str],
    folder: Path,
    seconds: float,
) -> list[str]:
    """Makes a dump in ``folder`` and returns what is wrong with it."""
    dump = Dump(folder)
    dump.core.unlink(missing_ok=True)
    with Progress(f"dumping {variant.name}") as progress:
        address = None
        formats: list[str] = []
        with tempfile.TemporaryDirectory() as shared:
            if variant.crowd:
                archive = crowd_archive(folder / "build.log", progress)
                whole = Path(shared, "initramfs")
                join_initramfs(whole, (initramfs.read_bytes(), archive))
                initramfs = whole
            command = qemu_command(variant, kernel, initramfs, mode="freeze")
            if variant.kdump:
                _share(Path(shared), kernel, initramfs)
                command += shared_folder(Path(shared))
            with Machine(command, dump.log) as machine:
                if variant.crash:
                    last_words = _last_words(variant.crash, variant.kdump)
                    _wait_for(last_words, machine, progress, seconds)
                elif variant.silent:
                    _wait_in_silence(machine, dump.core, progress, seconds)
                else:
                    frozen = machine.wait_for(SHEET_LINE, progress, seconds)
                    address = int(frozen[1], 16)
                if variant.kdump:
                    machine.wait_for(_SAVED, progress, seconds, panics=True)
                    shutil.copyfile(Path(shared, "vmcore"), dump.core)
                else:
                    progress.update("writing the dump")
                    machine.command("stop")
                    machine.dump(dump.core)
                    for name in sorted(set(variant.formats) & machine.dump_formats()):
                        path = Path(f"{dump.core}.{name}")
                        machine.dump(path, name)
                        path.chmod(0o644)
                        formats.append(name)
                console = machine.console()
        dump.core.chmod(0o644)
        formats += make_dump_files(
            dump.core, variant.kernel.arch, variant.formats, folder / "formats.log", progress
        )
        progress.update("checking the dump")
        prog = _open_core(dump.core, variant.kernel.arch, kernel.vmlinux)
        sheet = None
        if variant.crash:
            if variant.kdump:
                # In an NMI or a double fault it is not written to the console at once, and
                # the crash kernel is started before it is.
                dump.dmesg.write_text(_log_in(prog, kernel))
            faults = faults_of_crash(variant.crash, dump.said.read_text(errors="replace"))
        else:
            try:
                sheet = read_whole_sheet(prog, address)
            except SheetError as e:
                return [str(e)]
            faults = faults_of(variant, sheet, prog, console)
    about = describe(variant, kernel, inputs, prog, sheet, console)
    about["formats"] = formats
    dump.about.write_text(json.dumps(about, indent=1) + "\n")
    return faults


def _open_core(core: Path, arch: Arch, vmlinux: Path) -> drgn.Program:
    """Open a dump to read its sheet: with drgn alone, where it can read the memory.

    :param vmlinux: With DWARF; need not exist
    """
    if arch == "i386":
        return open_program(core=core, symbols=[vmlinux] if vmlinux.exists() else [])
    prog = drgn.Program()
    prog.set_core_dump(core)
    return prog


def _log_in(prog: drgn.Program, kernel: Kernel) -> str:
    """The kernel's log, as the dump has it."""
    prog.load_debug_info([kernel.vmlinux])
    return get_dmesg(prog).decode("utf-8", "replace")


def _share(folder: Path, kernel: Kernel, initramfs: Path) -> None:
    """What the guest loads as its crash kernel, and where that writes to."""
    shutil.copyfile(kernel.image, folder / "bzImage")
    shutil.copyfile(initramfs, folder / "initramfs.gz")


def _last_words(crash: Crash, kdump: bool) -> re.Pattern[str]:
    return _SAVED if kdump else re.compile(f"{crash.last_words}.*\n")


def _wait_for(
    last_words: re.Pattern[str], machine: Machine, progress: Progress, seconds: float
) -> None:
    """Waits for the machine's last words, and sends the NMI that it may die of."""
    first = re.compile(f"{_NMI_WANTED.pattern}|{last_words.pattern}")
    found = machine.wait_for(first, progress, seconds, panics=True)
    if _NMI_WANTED.fullmatch(found[0]):
        machine.command("inject-nmi")
        machine.wait_for(last_words, progress, seconds, panics=True)


def _wait_in_silence(machine: Machine, core: Path, progress: Progress, seconds: float) -> None:
    """Waits until there is a sheet in memory, of a kernel that cannot say so any more."""
    limit = time.monotonic() + seconds
    while True:
        time.sleep(_SILENCE_SECONDS)
        machine.check()
        machine.show(progress)
        machine.command("stop")
        machine.dump(core)
        if _has_sheet(core):
            return
        if time.monotonic() > limit:
            raise LabError(f"the guest is not frozen after {seconds:.0f} s{machine.tail()}")
        machine.command("cont")
        core.unlink()


def _has_sheet(core: Path) -> bool:
    prog = drgn.Program()
    try:
        prog.set_core_dump(core)
    except ValueError:
        return False  # no VMCOREINFO: qemu_fw_cfg is not loaded yet
    try:
        find_sheet(prog)
    except SheetError:
        return False
    return True


def describe(
    variant: Variant,
    kernel: Kernel,
    inputs: dict[str, str],
    prog: drgn.Program,
    sheet: Optional[Sheet],
    console: str,
) -> dict[str, Union[str, int, list[str], dict[str, str], None]]:
    """What ``core.json`` says of a dump, from what its kernel and its console say."""
    vmcoreinfo = prog["VMCOREINFO"].string_().decode("ascii", "replace")
    fields = dict(line.split("=", 1) for line in vmcoreinfo.splitlines() if "=" in line)
    return {
        "variant": variant.name,
        "what": variant.what,
        "group": variant.group,
        "crash": variant.crash.name if variant.crash else None,
        "sheet_address": hex(sheet.address) if sheet else None,
        "tasks": len(sheet.tasks) if sheet else None,
        "unwinder": variant.unwinder,
        "release": fields.get("OSRELEASE"),
        "build_id": fields.get("BUILD-ID"),
        "source": kernel.source,
        "vmlinux": str(kernel.vmlinux) if kernel.vmlinux.exists() else None,
        "skipped": re.findall(r"LAB-SKIPPED (.*)", console),
        "inputs": inputs,
    }
