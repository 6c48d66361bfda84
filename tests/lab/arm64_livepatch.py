# SPDX-License-Identifier: LGPL-2.1-or-later
"""The same as :mod:`.livepatch` on an arm64 kernel that was built here.

Its modules and its init are those, changed by patches/livepatch-arm64.patch. Two things differ: there are no
NMIs, so the guest waits for its power button; and a thread writes to the console, which is held with the
machine, so that the guest has come to a moment shows in the kernel's log, in the dump itself.
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Optional

import drgn

from .arch import qemu_program
from .arm64 import cached_arm64_kernel, get_arm64_kernel
from .arm64_built import arm64_headers
from .arm64_modules import COMPILER, apply_patch, compile_arm64_modules
from .cache import Entry, file_hash, find_entry, make_entry
from .dump import _log_in, describe, keep_for_a_look, without_paths
from .errors import LabError
from .initramfs import write_initramfs
from .kernel import Kernel

# livepatch.py and livepatch_check.py are inputs of every such dump: what only this needs is not to change them.
from .livepatch import (
    _ATTEMPTS,
    _FLAGS,
    _HERE,
    _LOADED_FIRST,
    _MODULE_SOURCES,
    _PATCHES,
    _USER_SOURCES,
    MOMENTS,
    LivepatchDump,
    _core_name,
    _module_name,
    _read_sheet,
)
from .livepatch_check import EXPECTED, _spinners, _unexpected
from .livepatch_sheet import LivepatchSheet
from .packages import program_version
from .qemu import Machine, qemu_command
from .run import Progress, run, say
from .sheet import SheetError
from .variants import BuiltKernel, Variant

__all__ = ("cached_arm64_livepatch", "make_arm64_livepatch")

_PATCH = _HERE / "patches" / "livepatch-arm64.patch"
_BETWEEN_LOOKS_SECONDS = 5.0
_HELD = r"LAB-ANSWERS {moment} ([0-9a-f]+) tasks \d+ left_out \d+"
_EXPECTED = {
    # Behind a call that does not return lies what ftrace writes to, and then the next function.
    "stalled": {**EXPECTED["stalled"], "w-off": "done"},
}


def _built(variant: Variant) -> BuiltKernel:
    assert isinstance(
        variant.kernel, BuiltKernel
    )  # the only arm64 kernel that live patches are for
    return variant.kernel


def _module_inputs(kernel: Kernel) -> dict[str, str]:
    return {"kernel": kernel.entry.name, "sources": file_hash(*_MODULE_SOURCES, _PATCH)}


def _initramfs_inputs(kernel: Kernel, modules: Entry) -> dict[str, str]:
    return {
        "init": file_hash(*_USER_SOURCES, _PATCH),
        "flags": " ".join(_FLAGS),
        "gcc": program_version(COMPILER),
        "kernel": kernel.entry.name,
        "modules": modules.name,
        "builder": file_hash(_HERE / "initramfs.py"),
    }


def _build_modules(variant: Variant, kernel: Kernel) -> Entry:
    """Builds the modules, unless that was done before; returns the folder with the .ko files."""
    name = _module_name(variant.kernel)

    def fill(folder: Path) -> None:
        with Progress(f"building {name}") as progress:
            headers = arm64_headers(_built(variant), folder / "build.log", progress)
            compile_arm64_modules(headers, _MODULE_SOURCES, _PATCH, folder, progress)

    return make_entry("modules", name, _module_inputs(kernel), fill)


def _make_initramfs(variant: Variant, kernel: Kernel, modules: Entry) -> Entry:
    """Folder of ``initramfs.gz``, with the modules and the init of a guest with live patches."""

    def fill(folder: Path) -> None:
        log = folder / "build.log"
        with Progress("making the initramfs") as progress, tempfile.TemporaryDirectory() as work:
            for source in _USER_SOURCES:
                beside = Path(work, source.parent.name)
                beside.mkdir(exist_ok=True)
                shutil.copy(source, beside)
            apply_patch(_PATCH, Path(work, "livepatch_user"), log, progress)
            init = Path(work, "init")
            sources = sorted(str(path) for path in Path(work).glob("*/*.c"))
            run([COMPILER, *_FLAGS, "-o", str(init), *sources], progress, log=log)
            files = {
                f"modules/{module.name}": module.read_bytes() for module in modules.glob("*.ko")
            }
            files["modules/order"] = "".join(f"{name}\n" for name in _LOADED_FIRST).encode()
            files["init"] = init.read_bytes()
            write_initramfs(folder / "initramfs.gz", files)

    name = _module_name(variant.kernel)
    return make_entry("initramfs", name, _initramfs_inputs(kernel, modules), fill)


def _inputs(variant: Variant, kernel: Kernel, initramfs: Entry) -> dict[str, str]:
    command = qemu_command(variant, kernel, initramfs / "initramfs.gz", mode="freeze")
    return {
        "kernel": kernel.entry.name,
        "initramfs": initramfs.name,
        "qemu": program_version(qemu_program(variant.kernel.arch)),
        "command": without_paths(command, kernel, initramfs),
        "check": file_hash(
            _HERE / "livepatch_check.py", _HERE / "livepatch_sheet.py", Path(__file__)
        ),
    }


def cached_arm64_livepatch(variant: Variant) -> Optional[LivepatchDump]:
    """The dumps of a variant, if there are some that fit what is in the repository now."""
    kernel = cached_arm64_kernel(variant)
    if not kernel:
        return None
    name = _module_name(variant.kernel)
    modules = find_entry("modules", name, _module_inputs(kernel))
    if not modules:
        return None
    initramfs = find_entry("initramfs", name, _initramfs_inputs(kernel, modules))
    if not initramfs:
        return None
    entry = find_entry("dumps", variant.name, _inputs(variant, kernel, initramfs))
    return LivepatchDump(entry) if entry else None


def make_arm64_livepatch(
    variant: Variant, *, fresh: bool = False, seconds: float = 300.0
) -> LivepatchDump:
    """Builds what is needed, boots, dumps and checks, unless there are dumps already.

    :param fresh: make new ones anyway
    :param seconds: how long the guest may take to each moment
    :raises LabError: anything failed, or a dump lacks a case in every attempt
    """
    kernel = get_arm64_kernel(variant)
    modules = _build_modules(variant, kernel)
    initramfs = _make_initramfs(variant, kernel, modules)
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
        faults = []
        for moment, address in addresses.items():
            try:
                sheet = _read_sheet(dump.core_of(moment), address)
            except SheetError as e:
                faults.append(str(e))
            else:
                faults += [f"{moment}: {f}" for f in _faults(variant, sheet)]
        prog = _opened(dump.core)
        said = _log_in(prog, kernel)
        dump.dmesg.write_text(said)
        faults += re.findall(r"(?:BUG: |WARNING: |Oops: ).*", said)
        about = {
            **describe(variant, kernel, inputs, prog, None, dump.log.read_text(errors="replace")),
            "moments": {
                moment: {"core": _core_name(moment), "address": hex(address)}
                for moment, address in addresses.items()
            },
        }
        dump.about.write_text(json.dumps(about, indent=1) + "\n")
    return faults


def _faults(variant: Variant, sheet: LivepatchSheet) -> list[str]:
    """Cases that the dump of a moment lacks."""
    if sheet.moment not in _EXPECTED:
        return ["a transition is under way"] if sheet.patch else []
    # As with frame pointers of x86, registers of kernel mode make a stack unreliable.
    like = replace(variant, unwinder="frame_pointer")
    return [*_unexpected(sheet, _EXPECTED[sheet.moment]), *_spinners(like, sheet)]


def _opened(core: Path) -> drgn.Program:
    prog = drgn.Program()
    prog.set_core_dump(core)
    return prog


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
            core = dump.core_of(moment)
            addresses[moment] = _dump_at(moment, machine, kernel, core, progress, seconds)
            core.chmod(0o644)
            if moment != moments[-1]:
                machine.command("cont")
                machine.command("system_powerdown")
    return addresses


def _dump_at(
    moment: str, machine: Machine, kernel: Kernel, core: Path, progress: Progress, seconds: float
) -> int:
    """Dumps the machine until it is held at a moment; returns where the answers lie."""
    limit = time.monotonic() + seconds
    while True:
        time.sleep(_BETWEEN_LOOKS_SECONDS)
        machine.check()
        machine.show(progress)
        machine.command("stop")
        core.unlink(missing_ok=True)
        machine.dump(core)
        said = re.search(_HELD.format(moment=moment), _said(core, kernel))
        if said:
            return int(said[1], 16)
        if time.monotonic() > limit:
            raise LabError(
                f"the guest is not held at {moment} after {seconds:.0f} s{machine.tail()}"
            )
        machine.command("cont")


def _said(core: Path, kernel: Kernel) -> str:
    """The kernel's log; empty of a machine that has not begun to tell of itself."""
    try:
        prog = _opened(core)
    except ValueError:
        return ""  # no VMCOREINFO yet
    return _log_in(prog, kernel)
